"""Run the fault suite."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.faults import figures, matrix_run
from tests.faults.catalogue import FAULTS
from tests.faults.ground import own_ground, teller
from tests.faults.measure import Result, measure
from tests.faults.table import hooks, markdown

CHECKOUT = Path(__file__).resolve().parents[2]
KEPT = CHECKOUT / "build" / "faults"
PAGE = CHECKOUT / "docs" / "faults.md"
MARK = "<!-- below: python -m tests.faults --write -->\n"


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    top = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    top.add_argument("names", nargs="*", metavar="NAME", help=f"which faults (default: all): {' '.join(FAULTS)}")
    top.add_argument("--jobs", type=int, default=100, metavar="N", help="jobs under each fault (default 100)")
    top.add_argument("--control", action="store_true", help="with perun switched off: what Slurm does by itself")
    top.add_argument("--cluster", default="faults", metavar="NAME", help="the cluster's name on this machine")
    top.add_argument("--keep", action="store_true", help="leave the cluster up, use it if it is up")
    top.add_argument("--write", action="store_true", help="write the newest result of every fault into docs/faults.md")
    return top


def main() -> int:
    """Try the faults; 1 if one of them cost anything that it must not cost."""
    words = parser().parse_args()
    unknown = [name for name in words.names if name not in FAULTS]
    if unknown:
        print(f"no fault {' '.join(unknown)}: {' '.join(FAULTS)}", file=sys.stderr)
        return 64
    say = teller()
    harmed = []
    KEPT.mkdir(parents=True, exist_ok=True)
    with own_ground(words.cluster, words.keep, say) as ground:
        for name in words.names or FAULTS:
            say(f"{name}: {words.jobs} jobs{' without perun' if words.control else ''}")
            result = measure(ground, FAULTS[name], words.jobs, words.control)
            _path(name, words.control).write_text(json.dumps(asdict(result), indent=1))
            for line in _lines(result):
                say(f"  {line}")
            if not words.control and harm(result):
                harmed.append(name)
    results = [found for name in FAULTS if (found := _kept(name, False)) is not None]
    controls = {name: found for name in FAULTS if (found := _kept(name, True)) is not None}
    print(markdown(results, controls))
    if words.write:
        head, _, former = PAGE.read_text().partition(MARK)
        PAGE.write_text(head + MARK + markdown(results, controls, former))
    if harmed:
        say(f"harm was done under: {' '.join(harmed)}")
    return 1 if harmed else 0


def harm(result: Result) -> bool:
    """Whether a fault cost a job, a node or a lasting loss; what Slurm itself loses does not count here."""
    lasting = result.recovered_s is None or result.absent > 0 or result.flagged_unnamed > 0
    if FAULTS[result.name].of_slurm:
        return lasting
    jobs = result.failed + result.beside_failed + result.requeued + len(result.errors) + len(result.bad_nodes)
    return bool(lasting or jobs or result.hook_failures)


def _path(name: str, control: bool) -> Path:
    return KEPT / f"{name}{'.control' if control else ''}.json"


def _kept(name: str, control: bool) -> Result | None:
    path = _path(name, control)
    return Result(**json.loads(path.read_text())) if path.exists() else None


def _lines(result: Result) -> list[str]:
    """What one result says, for the screen."""
    return [
        f"jobs {result.jobs}+{result.beside}, failed {result.failed}+{result.beside_failed}, "
        f"requeued {result.requeued}, bad nodes {result.bad_nodes}, {result.seconds:.0f} s",
        f"hooks {hooks(result)} ms, {result.hook_failures} failed",
        f"records: {result.complete} complete, {result.partial} partial, {result.missing} missing, "
        f"{result.absent} absent; {result.flagged_unseen} of {result.flagged} flagged steps unseen, "
        f"{result.flagged_unnamed} of them without a word",
        *(f"said {count} times: {text}" for text, count in result.said.items()),
        *(f"error: {text}" for text in result.errors[:5]),
        *(f"audit: {text}" for text in result.audit[:5]),
        f"recovered: {result.recovered_s}",
    ]


if __name__ == "__main__":
    OTHERS = {"matrix": matrix_run.main, "figures": figures.main}
    sys.exit(OTHERS[sys.argv[1]](sys.argv[2:]) if sys.argv[1:2] and sys.argv[1] in OTHERS else main())
