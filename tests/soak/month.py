"""A simulated month of 200 nodes, sealed, copied, verified and tampered with: `python -m tests.soak month`, or with
other numbers `python -m tests.soak.month NODES FLIPS SEED`. See `tests.simulated_site`.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from perun_hpc.accounting import statement
from perun_hpc.accounting import verify as verifying
from perun_hpc.accounting.balance import Balance, draw_up
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.manifest import manifest_file
from perun_hpc.accounting.node_events import Slurm
from perun_hpc.accounting.signing import sign, verified
from perun_hpc.accounting.statement import Embodied
from perun_hpc.archive.places import Archive
from perun_hpc.energy.footprint import constant
from perun_hpc.errors import DataError
from perun_hpc.slurm.events import parse_events
from tests.simulated_site import BEGIN, CLUSTER, END, MONTH, SEALED_S, Site, make_site

NODES, FLIPS, SEED = 200, 200, 1


def main(arguments: list[str]) -> int:
    """Run it and print the rows of the table; 1 if something does not close, or a byte was not missed."""
    numbers = [int(argument) for argument in arguments]
    nodes, flips, seed = [*numbers, *(NODES, FLIPS, SEED)[len(numbers) :]]
    logging.disable(logging.CRITICAL)
    os.environ["TZ"] = "UTC"
    time.tzset()
    with tempfile.TemporaryDirectory(prefix="perun-month-") as name:
        site = make_site(Path(name), nodes, seed)
        faults = [*_balance(site, nodes), *_sealed(site, nodes), *_touched(site, flips, seed)]
    for fault in faults:
        print(fault, file=sys.stderr, flush=True)
    return int(bool(faults))


def _row(size: str, checked: str, faults: list[str], result: str) -> list[str]:
    print(f"| month: {size} | {checked} | {f'{len(faults)} faults' if faults else result} |", flush=True)
    return faults


def _balance(site: Site, nodes: int) -> list[str]:
    known = {one.name: frozenset({"IDLE"}) for one in site.nodes}
    slurm = Slurm(parse_events(site.events), known)
    made = draw_up(site.archive, MONTH, (float(BEGIN), float(END)), slurm, site.meters)
    faults = [*made.findings, *_open(made)]
    for (source, target), joules in site.truth_j.items():
        amount = made.edge(source, target)
        if amount.low_uj is None or amount.high_uj is None or not amount.low_uj <= joules * 1e6 <= amount.high_uj:
            faults.append(f"{source} to {target}: {joules} J is not in {amount}")
    kinds = {kind: sum(one.kind == kind for one in site.nodes) for kind in ("steady", "nightly", "cloud", "late")}
    lost = sum(one.lost_s < END for one in site.nodes)
    said = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    hours = made.hours
    return _row(
        f"the balance | {nodes} nodes ({said}; {lost} of them lost on the way), {len(site.jobs)} jobs, "
        f"{len(site.meters)} meters",
        f"every whole is its parts; what was really drawn by each of {len(site.truth_j)} parts lies in its bounds; "
        f"{(hours.observed or 0) * 100:.1f} % of the time in which nodes were on observed, "
        f"{hours.off_s / 3600:.0f} node-hours off",
        faults,
        "all close, and hold",
    )


def _open(made: Balance) -> Iterator[str]:
    for whole in ("facility", "nodes", "jobs"):
        parts = sum(one.amount.energy_uj or 0 for one in made.edges if one.source == whole)
        energy_uj = next(one.amount.energy_uj for one in made.edges if one.target == whole)
        if parts != energy_uj:
            yield f"{whole}: {energy_uj} uJ, its parts {parts}"


def _sealed(site: Site, nodes: int) -> list[str]:
    begin_s = time.monotonic()
    manifest = verifying.seal(site.archive, MONTH, SEALED_S)
    factors = {"carbon_location": constant(300.0, "made up", "2025-01-01", "operational")}
    found = verifying.verify(site.archive, MONTH)
    embodied = {node: Embodied(1500.0, 1000.0, 2200.0, 5 * 31_536_000, "made up", "2025-01-01") for node in found.nodes}
    statement.state(site.archive, manifest, found.records, found.nodes, factors, embodied, SEALED_S, "1")
    shutil.copytree(site.archive.root, site.root / "copy")
    copy = verifying.verify(Archive(site.root / "copy", CLUSTER), MONTH)
    seconds = time.monotonic() - begin_s
    faults = [f"{one.where}: {one.what}" for one in copy.faults]
    faults += [f"sealed with {text}" for text in manifest.findings]
    site.deliver_late()
    late = verifying.verify(site.archive, MONTH)
    faults += [f"late: {one.where}: {one.what}" for one in late.faults]
    if not any(f"nodes/{name}/" in path for name in site.late for path in late.late):
        faults.append("the late nodes' evidence is not named")
    ledger = open_ledger(site.ledger)
    sum_uj, wrong = verifying.differences_from_ledger(site.archive, late, ledger)
    ledger.close()
    faults += [f"ledger: {one.where}: {one.what}" for one in wrong]
    if sum_uj != manifest.sums.recorded_uj:
        faults.append(f"the ledger has {sum_uj} uJ, the records {manifest.sums.recorded_uj}")
    return _row(
        f"sealed, copied, verified | {nodes} nodes, {found.files} files of evidence, {seconds:.0f} s",
        f"all sums again, from the copy alone; {len(late.late)} files that came later, of {len(site.late)} "
        "nodes, named and in no sum; the ledger's sums",
        faults,
        f"{sum_uj} uJ in both, no difference",
    )


def _touched(site: Site, flips: int, seed: int) -> list[str]:
    """Change one byte after the other in a copy, of any file that was sealed, and see that its file is named."""
    dice, faults = random.Random(seed), []
    small = make_site(_emptied(site.root / "small"), 6, seed)
    manifest = verifying.seal(small.archive, MONTH, SEALED_S)
    found = verifying.verify(small.archive, MONTH)
    factors = {"carbon_location": constant(300.0, "made up", "2025-01-01", "operational")}
    stated = statement.state(small.archive, manifest, found.records, found.nodes, factors, {}, SEALED_S, "1")
    signed, signers = _signed(site.root, manifest_file(small.archive, MONTH), *filter(None, [stated]))
    files = sorted(path for part in ("months", "nodes") for path in (small.archive.base / part).rglob("*")
                   if path.is_file() and path.suffix != ".sig")  # fmt: skip
    files += sorted(small.archive.jobs.glob("*/boundary/*.json"))
    for _ in range(flips):
        path = dice.choice(files)
        before = path.read_bytes()
        at = dice.randrange(len(before))
        path.write_bytes(before[:at] + bytes([before[at] ^ 1 << dice.randrange(8)]) + before[at + 1 :])
        named: list[str] = []
        try:
            named += [f"{one.where} {one.what}" for one in verifying.verify(small.archive, MONTH).faults]
            for one in signed:
                verified(one, signers)
        except DataError as error:
            named.append(str(error))
        name = path.relative_to(small.archive.base).as_posix() if path.parent.parent.name != "months" else path.name
        if not any(name in text for text in named):
            faults.append(f"byte {at} of {name} ({before[at]!r}) was not missed: {named[:3]}")
        path.write_bytes(before)
    return _row(
        f"touched | {flips} times one bit of a sealed file, of 6 nodes",
        "node ledgers, boundary records with their readings at the edges, lists of days, signed manifest and factors",
        faults,
        "each file named",
    )


def _signed(root: Path, *paths: Path) -> tuple[tuple[Path, ...], Path]:
    """Sign files; returns them, and the file that says who may."""
    key, signers = root / "key", root / "signers"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "x", "-f", key], check=True)
    signers.write_text(f"energy@site.example {key.with_suffix('.pub').read_text()}")
    for path in paths:
        sign(path, key)
    return paths, signers


def _emptied(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
