"""`perun policy check | show | explain | schema | budgets`: what the site's policy says, and what it comes to."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

from perun_hpc.config import policy as site
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.json_schema import json_schema
from perun_hpc.config.option import explained
from perun_hpc.config.policy import Policy, PolicyError
from perun_hpc.config.resolve import JobFacts, JobSettings, resolve
from perun_hpc.config.schema import FIELDS
from perun_hpc.errors import AccessError, ConfigError, UsageError
from perun_hpc.slurm.cluster import partitions


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    commands = parser.add_subparsers(dest="action", metavar="ACTION")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    check = add("check", "report every mistake of a policy file")
    check.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="policy files (default: $PERUN_POLICY or /etc/perun/policy.yaml)",
    )
    check.add_argument(
        "--policy-only",
        action="store_true",
        help="leave out the files that it names, the archive and Slurm's partitions: they may not be on this host",
    )
    show = add("show", "print every field with its value and where it was set")
    show.add_argument("--json", action="store_true", help="the compiled policy, as the agent reads it")
    explain = add("explain", "print what holds for one job, and which line decided it")
    for name in ("partition", "node", "account", "user"):
        explain.add_argument(
            f"--{name}", default="", metavar="NAME", help=f"the job's {name} (default: one that no rule names)"
        )
    explain.add_argument("--options", metavar="TEXT", help="what the user wrote after --perun=")
    add("schema", "print the JSON Schema for editors")
    budgets = add("budgets", "print what accounts have used of their energy budgets")
    budgets.add_argument("--ledger", metavar="URL", help="the ledger (default: the policy's collect.ledger)")
    budgets.add_argument(
        "--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)"
    )
    budgets.add_argument("--cluster", default="", metavar="NAME", help="only this cluster (default: all in the ledger)")
    how = budgets.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON, for scripts")
    how.add_argument(
        "--proposals", action="store_true", help="sacctmgr lines that would hold accounts to their budgets"
    )


def run(args: argparse.Namespace) -> int:
    """Run one action; a policy with mistakes is exit code 78."""
    if args.action == "check":
        return max(_check(path, args.policy_only) for path in args.files or [site.locate()])
    if args.action == "schema":
        print(json.dumps(json_schema(), indent=2))
        return 0
    if args.action == "show":
        compiled = compile_policy(site.in_force())
        if args.json:
            print(json.dumps(compiled, indent=1))
        else:
            _print(resolve(compiled, JobFacts()))
        return 0
    if args.action == "explain":
        facts = JobFacts(args.partition, args.node, args.account, args.user, args.options)
        settings = resolve(compile_policy(site.in_force()), facts)
        _print(settings)
        for note in settings.notes:
            print(f"note: {note}")
        print(f"such a job leaves {_leaves(settings, args.options is not None)}")
        return 0
    if args.action == "budgets":
        return _budgets(args)
    raise UsageError("perun policy: say check, show, explain, schema or budgets")


def _leaves(settings: JobSettings, flagged: bool) -> str:
    """What remains of a job under these settings; `flagged`: it was submitted with `--perun`."""
    jobs, store = settings.monitor.jobs, settings.store
    if not settings.monitors(flagged):
        unless = ", unless it, or one of its steps, has --perun" if jobs == "opt-in" else ""
        return f"nothing{unless} (monitor.jobs: {jobs}, {settings.origins['monitor.jobs']})"
    if store.trace == "none":
        return f"a record and no trace (store.trace: none, {settings.origins['store.trace']})"
    least = FIELDS["store.trace_min_duration_ns"].kind.show(store.trace_min_duration_ns)
    if store.trace == "flagged":
        return "a record, and a trace if one of its steps has --perun"
    return f"a record, and a trace if it runs for {least} or one of its steps has --perun"


def _check(path: Path, alone: bool) -> int:
    try:
        checked = site.load(path)
    except PolicyError as error:
        for mistake in error.mistakes:
            print(mistake)
        count = len(error.mistakes)
        print(f"{path}: {count} mistake{'s' if count > 1 else ''}", file=sys.stderr)
        return error.exit_code
    wrong = [] if alone else list(_wrong_series(checked))
    for line in wrong:
        print(line)
    if wrong:
        print(f"{path}: {len(wrong)} of the files that it names cannot be used", file=sys.stderr)
        return ConfigError.exit_code
    doubts = [] if alone else list(_doubts(checked))
    for line in doubts:
        print(f"warning: {line}", file=sys.stderr)
    but = f", {len(doubts)} warning{'s' if len(doubts) > 1 else ''}" if doubts else ""
    print(f"{path}: valid{but}, {compile_policy(checked)['hash']}")
    return 0


def _doubts(checked: Policy) -> Iterator[str]:
    """What the policy names in vain, or this host does not have: the archive, partitions."""
    store = resolve(compile_policy(checked), JobFacts()).store
    if not store.collector and (why := _lacks(store.archive)):
        where = checked.site.origins.get("store.archive", checked.source)
        yield f"{where}: store.archive: {store.archive} {why}"
    if store.tls and not store.collector:
        where = checked.site.origins.get("store.tls", checked.source)
        yield f"{where}: store.tls: nothing is handed over: name store.collector, or leave it out"
    for group in resolve(compile_policy(checked), JobFacts()).privacy.readers:
        if not _is_group(group):
            where = checked.site.origins.get("privacy.readers", checked.source)
            yield f"{where}: privacy.readers: this host has no group '{group}': nobody reads by it"
    known = partitions() if checked.partitions else None
    for name, entry in checked.partitions.items():
        if known is not None and name not in known:
            where = next(iter(entry.origins.values()), checked.source)
            yield f"{where}: partitions: Slurm has no partition '{name}' here: it has {', '.join(sorted(known))}"


def _is_group(name: str) -> bool:
    import grp

    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _lacks(archive: str) -> str:
    """What is wrong with a directory, which may be on a file system that hangs; empty where it is there."""
    from perun_hpc.doctor.look import places

    seen = places({"it": archive}, None)["it"]
    if seen.problem and not seen.missing:
        return f"cannot be looked at: {seen.problem.removeprefix(f'{archive}: ')}"
    there = not seen.missing and seen.kind == "directory"
    return "" if there else "is not there on this host: records would wait on the nodes"


def _wrong_series(checked: Policy) -> Iterator[str]:
    """What the collector could not read of the files that the policy names."""
    from perun_hpc.accounting.footprint import NAMES, stated_factor

    for layer in (checked.site, *checked.partitions.values()):
        for name in NAMES:
            if table := layer.values.get(f"footprint.{name}"):
                try:
                    stated_factor(name, table)
                except ConfigError as error:
                    yield f"{layer.origins[f'footprint.{name}']}: footprint.{name}: {error}"


def _budgets(args: argparse.Namespace) -> int:
    # Imported here: the other actions need no database.
    from perun_hpc.accounting.budgets import budget_use, proposals
    from perun_hpc.cli.sums import sums
    from perun_hpc.report.quantities import percent, watt_hours
    from perun_hpc.report.screen import style_for, table

    compiled = compile_policy(site.in_force())
    today = date.today()
    with sums(args, f"{today.year}-01-01") as seen:
        found = budget_use(seen.ledger, compiled, today, args.cluster)
    if seen.about is not None:  # of other accounts only the own part is known
        found = [one for one in found if one.account in seen.about.accounts]
        if not found:
            raise AccessError("no budget of yours to see: budgets are shown to coordinators of their accounts")
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return 0
    if args.proposals:
        for line in proposals(found, args.cluster):
            print(line)
        return 0
    if not found:
        print("no account has a budget: the policy's accounts: NAME: {budget: {energy: ...}} sets one")
        return 0
    for one in found:
        if one.state != "ok":
            used, granted = watt_hours(one.used_uj), watt_hours(one.budget_uj)
            print(f"{one.state}: account {one.account} used {used} of {granted} since {one.since_day}", file=sys.stderr)
    rows = []
    for one in found:
        part = percent(one.used_uj, one.budget_uj) if one.budget_uj else "-"
        rows.append([one.account, one.since_day, watt_hours(one.used_uj), watt_hours(one.budget_uj), part, one.state])
    head = ["account", "since", "used", "budget", "part", "state"]
    print("\n".join(table(rows, head, [False, False, True, True, True, False], style_for(sys.stdout))))
    return 0


def _print(settings: JobSettings) -> None:
    rows = (
        (field, getattr(getattr(settings, field.section), field.attribute), settings.origins[key])
        for key, field in FIELDS.items()
    )
    print("\n".join(explained(rows)))
