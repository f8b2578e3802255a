"""Run the matrix of programs and faults, keep its cells, write its table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict

from devcluster.site import CHECKOUT
from tests.faults.ground import own_ground, teller
from tests.faults.matrix import AIM_S, FAULTS, PROGRAMS, Cell, prepared, under

KEPT = CHECKOUT / "build" / "faults" / "matrix.json"
PAGE = CHECKOUT / "docs" / "faults.md"
MARKS = "<!-- from here: python -m tests.faults matrix --write -->\n", "<!-- to here: the matrix -->\n"
Cells = dict[tuple[str, str], Cell]


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    top = argparse.ArgumentParser(prog="python -m tests.faults matrix", description=__doc__)
    top.add_argument("faults", nargs="*", metavar="FAULT", help=f"which faults (default: all): {', '.join(FAULTS)}")
    top.add_argument("--cluster", default="faults", metavar="NAME", help="the cluster's name on this machine")
    top.add_argument("--keep", action="store_true", help="leave the cluster up, use it if it is up")
    top.add_argument("--write", action="store_true", help="write the newest cells into docs/faults.md")
    return top


def main(arguments: list[str]) -> int:
    """Try every program under the faults named; 1 if a step did not end as without perun."""
    words = parser().parse_args(arguments)
    unknown = [name for name in words.faults if name not in FAULTS]
    if unknown:
        print(f"no fault {', '.join(unknown)}: {', '.join(FAULTS)}", file=sys.stderr)
        return 64
    say = teller()
    tried = _try(words.faults or list(FAULTS), words.cluster, words.keep, say)
    cells = _kept()
    print(markdown(cells))
    if words.write:
        head, _, rest = PAGE.read_text().partition(MARKS[0])
        PAGE.write_text(head + MARKS[0] + markdown(cells) + MARKS[1] + rest.partition(MARKS[1])[2])
    return 0 if all(cell.as_without for cell in tried.values()) else 1


def _try(faults: list[str], cluster: str, keep: bool, say: Callable[[str], None]) -> Cells:
    cells: Cells = {}
    with own_ground(cluster, keep, say) as ground, prepared(ground) as field:
        for fault in faults:
            with under(field, fault) as way:
                for program in PROGRAMS:
                    cell = cells[fault, program] = field.cell(fault, program, way)
                    _keep(cells)
                    say(f"{fault}, {program}: {told(cell)} {' | '.join(cell.said)}")
                    if not cell.as_without:
                        say(f"  {cell}")
    return cells


def _keep(fresh: Cells) -> None:
    """What is tried replaces what was kept of it; the rest stays."""
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps([asdict(cell) for cell in {**_kept(), **fresh}.values()], indent=1))


def _kept() -> Cells:
    if not KEPT.exists():
        return {}
    cells = [Cell(**one) for one in json.loads(KEPT.read_text())]
    return {(cell.fault, cell.program): cell for cell in cells}


def told(cell: Cell) -> str:
    """One cell in a few words: by how many seconds the flag made the step longer, or what went wrong."""
    if cell.perun_s is None:
        return "neither ends" if cell.plain_s is None else "does not end"
    if cell.plain_s is None:
        return "ends only with perun"
    if not cell.same:
        return f"differs: exit code {cell.code}, {cell.plain_code} without"
    failed = f" (exit code {cell.code} with and without)" if cell.code else ""
    return f"{cell.perun_s - cell.plain_s:+.1f}{failed}"


def markdown(cells: Mapping[tuple[str, str], Cell]) -> str:
    """One row per fault, one column per program, then what became of the nodes and of the job beside."""
    head = ("fault", *PROGRAMS, "nodes lost", "job beside", "said")
    lines = [head, ("---",) * len(head)]
    for fault in FAULTS:
        row = {program: cells[fault, program] for program in PROGRAMS if (fault, program) in cells}
        if row:
            bad = {state for cell in row.values() for state in cell.bad_nodes}
            beside = {cell.beside for cell in row.values() if cell.beside}
            said = {line.removeprefix("perun: ") for cell in row.values() for line in cell.said}
            lines.append(
                (
                    fault,
                    *(told(row[program]) if program in row else "-" for program in PROGRAMS),
                    ", ".join(sorted(bad)) or "0",
                    "; ".join(sorted(beside)) or "untouched",
                    "; ".join(sorted(said)) or "nothing",
                )
            )
    added = [cell.perun_s - cell.plain_s for cell in cells.values() if cell.same and cell.perun_s and cell.plain_s]
    same = sum(cell.as_without for cell in cells.values())
    late = sum(seconds > AIM_S for seconds in added)
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if added:
        text += f"\n{same} of {len(cells)} cells as without perun; of {len(added)} that ended alike the flag added "
        text += f"more than {AIM_S:.0f} s to {late}, {max(added):.1f} s at most.\n"
    return text
