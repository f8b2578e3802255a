"""`perun verify MONTH`: a sealed month's sums again from its evidence; exits 1 where anything is not as sealed."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perun_hpc.accounting import manifest as sealed
from perun_hpc.accounting.audit import Finding
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.month import Sums, digest_of
from perun_hpc.accounting.signing import fingerprint, verified
from perun_hpc.accounting.statement import Revision, revisions
from perun_hpc.accounting.verify import Verdict, differences_from_ledger, verify
from perun_hpc.archive.places import Archive
from perun_hpc.cli.where import places, present
from perun_hpc.data_model.record import CARBON
from perun_hpc.data_model.wording import count
from perun_hpc.errors import DataError, NotFoundError, UsageError
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import Style, style_for, wrapped

MOST = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("month", metavar="MONTH", help="a sealed month, as in 2026-11")
    parser.add_argument(
        "--signers", type=Path, metavar="FILE", help="who may have signed: allowed signers as of ssh-keygen(1)"
    )
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive, or a copy of it")
    parser.add_argument(
        "--ledger",
        nargs="?",
        const="",
        metavar="URL",
        help="compare with the ledger, too, to the microjoule (default: the policy's collect.ledger)",
    )
    parser.add_argument("--json", action="store_true", help="print manifest, sums and faults as JSON")


def check_month(text: str) -> str:
    """Return a month as it was given; `UsageError` for what is none."""
    if not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", text) or text.startswith("0000"):
        raise UsageError(f"{text[:20]!a} is no month: write it like 2026-11")
    return text


def run(args: argparse.Namespace) -> int:
    """Verify; 1 where something is not as it was sealed."""
    where = places(args)
    month, archive = check_month(args.month), present(where.archive)
    found = verify(archive, month)
    known = list(revisions(archive, month)) if not any(one.where == "factors" for one in found.faults) else []
    signed, unsigned = _signature(sealed.manifest_file(archive, month), args.signers)
    for path, _ in known:
        unsigned += _signature(path, args.signers)[1]
    faults = [*found.faults, *unsigned]
    in_ledger = ""
    if args.ledger is not None:
        ledger = open_ledger(where.ledger or "")
        try:
            sum_uj, wrong = differences_from_ledger(archive, found, ledger)
        finally:
            ledger.close()
        faults += wrong
        in_ledger = f"The ledger has {sum_uj} uJ of what was sealed: {count(len(wrong), 'difference')}."
    if args.json:
        about: dict[str, Any] = {"revisions": [asdict(one) for _, one in known]}
        about |= {"faults": [asdict(one) for one in faults], "late": found.late, "late_uj": found.late_uj}
        about |= {"ledger_uj": sum_uj} if in_ledger else {}
        print(json.dumps({"manifest": asdict(found.manifest), "signature": signed, **about}, indent=1))
        return 1 if faults else 0
    style = style_for(sys.stdout)
    print("\n".join(_said(archive, month, found, signed, style)))
    if known:
        print("\n".join(stated(known[-1][1])))
    if in_ledger:
        print("\n".join(wrapped(in_ledger, 0)))
    if faults:
        print(style.warn("Not as it was sealed"))
        for one in faults[:MOST]:
            off = "" if one.off_uj is None else f" (off by {one.off_uj:+d})"
            print("\n".join(wrapped(f"{one.where}: {one.what}{off}", 4, "  - ")))
        if len(faults) > MOST:
            print(f"  and {len(faults) - MOST} more: perun verify {month} --json")
        return 1
    print("\n".join(wrapped("The sums are those that were sealed, to the microjoule, from the evidence alone.", 0)))
    return 0


def _signature(path: Path, signers: Path | None) -> tuple[str, list[Finding]]:
    """Return what there is to say of a file's signature, and what is wrong with it."""
    if signers is not None and not signers.is_file():
        raise NotFoundError(f"{signers} is not there: write a line with name and public key for each signer")
    try:
        if signers is not None:
            return f"signed by {verified(path, signers)}", []
        return f"signed by the key {fingerprint(path)}; whose that is was not checked (--signers FILE)", []
    except DataError as error:
        faulty = signers is not None or path.with_name(f"{path.name}.sig").exists()
        return str(error), [Finding(path.name, str(error))] if faulty else []


def _said(archive: Archive, month: str, found: Verdict, signed: str, style: Style) -> list[str]:
    made = found.manifest
    lines = [
        style.bold(f"{month} of {made.cluster}, sealed {q.moment(made.sealed_s * 10**9)} by perun {made.perun_version}")
    ]
    lines += [f"  {name:<11} {uj:>26} uJ  {q.energy(uj)}" for name, uj in _parts(made.sums)]
    for account, uj in made.accounts.items():
        lines += wrapped(f"account {account or '(none)'}: {uj} uJ", 4, "  - ")
    if made.unrecorded:
        lines += wrapped(
            f"{q.energy(sum(made.unrecorded.values()))} went to {count(len(made.unrecorded), 'job')} that had left no "
            "record when the month was sealed.", 0
        )  # fmt: skip
    if made.findings:
        lines += wrapped(f"Sealed with {count(len(made.findings), 'finding')}: they stand in manifest.json.", 0)
    if found.late:
        late = f"Came or grew after the seal, and in no sum: {count(len(found.late), 'file')}"
        lines += wrapped(f"{late} ({found.late_uj} uJ of records): {', '.join(found.late[:3])}.", 0)
    if found.moved:
        lines += wrapped(f"{count(found.moved, 'file')} moved since, with their content as it was.", 0)
    lines += wrapped(f"{count(found.files, 'file')} of evidence; {signed}.", 0)
    return [*lines, f"sha256 {digest_of(sealed.manifest_file(archive, month))}  manifest.json"]


def stated(one: Revision) -> list[str]:
    """Return what a revision of a month's factors says, a line for each figure: none is the sum of others."""
    lines = [f"Factors, revision {one.revision}:"]
    for name, figures in (("jobs", one.jobs), ("others", one.others)):
        least = "at least " if figures.lower_bound else ""
        carbon = [
            f"{q.mass(mg / 1000)}{_within(figures.u.get(figure))} CO2e ({CARBON[figure]})"
            for figure, mg in figures.co2_mg.items()
        ]
        cost = figures.cost_millicents
        price = [] if cost is None else [q.money(cost / 1e5, one.factors["price"].note)]
        lines += wrapped(f"{name}: {least}{', '.join([*carbon, *price]) or 'nothing stated'}", 4, "  - ")
    lines += [
        line
        for name, factor in one.factors.items()
        for line in wrapped(f"{name}: {factor.source}, {factor.date} ({factor.note or 'constant'})", 6, "    ")
    ]
    made = one.embodied
    if made is not None:
        parts = [f"{account or '(none)'} {q.mass(mg / 1000)}" for account, mg in made.accounts.items()]
        whole = f"{q.mass(made.total / 1000)} (from {q.mass(made.low / 1000)} to {q.mass(made.high / 1000)})"
        text = f"embodied, in no figure above: {whole} of {count(made.nodes, 'node')}: {', '.join([*parts, ''])}idle "
        lines += wrapped(f"{text}{q.mass(made.idle / 1000)}", 4, "  - ")
        if made.without:
            lines += wrapped(f"{count(made.without, 'node')} without a figure", 4, "  - ")
    return lines


def _within(u: float | None) -> str:
    """The bounds of a figure (k=2), relative; empty where a factor states none."""
    return "" if u is None else f" +/- {200 * u:.1f} %"


def _parts(sums: Sums) -> list[tuple[str, int]]:
    names = ("counted", "jobs", "idle", "system", "unknown", "unobserved", "estimated", "recorded")
    return [(name, getattr(sums, f"{name}_uj")) for name in names]
