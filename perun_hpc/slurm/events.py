"""What Slurm's accounting says of nodes that were not in service: powered down by Slurm, down, or drained.

slurmctld opens an event when a node is powered down (power saving, clouds), once SuspendTimeout is over, and ends it
when it asks for the node again (ResumeProgram); what follows until the node registers is its boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.command import TIMEOUT_S, Runner, run_command

FIELDS = ("NodeName", "Start", "End", "State")
OFF = frozenset({"POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN"})
"""Of a node that Slurm has switched off, or is about to."""
DOWN = frozenset({"DOWN", "FAIL", "ERROR", "NO_RESPOND", "NOT_RESPONDING"})


_MARKS = {"~": "POWERED_DOWN", "%": "POWERING_DOWN", "!": "POWER_DOWN", "#": "POWERING_UP", "*": "NOT_RESPONDING",
          "$": "MAINTENANCE", "@": "REBOOT_REQUESTED", "^": "REBOOT_ISSUED", "-": "PLANNED"}  # fmt: skip


@dataclass(frozen=True)
class NodeEvent:
    """A time in which a node was not in service; epoch seconds, `end_s` None while it lasts."""

    node: str
    start_s: int
    end_s: int | None
    states: frozenset[str]

    @property
    def off(self) -> bool:
        """Whether Slurm had powered the node down."""
        return bool(self.states & OFF)

    @property
    def down(self) -> bool:
        """Whether the node did not answer, or was out of order."""
        return not self.off and bool(self.states & DOWN)


def query_events(
    since_s: int, until_s: int, cluster: str | None = None, runner: Runner = run_command
) -> list[NodeEvent]:
    """Ask sacctmgr for the events of nodes between two epoch times; `UnavailableError` where it has no answer."""
    words = ["sacctmgr", "--noheader", "--parsable2", "show", "event", *([f"cluster={cluster}"] if cluster else [])]
    words += ["event=node", f"start=uts{since_s}", f"end=uts{until_s}", f"format={','.join(FIELDS)}"]
    return parse_events(runner(words, None, TIMEOUT_S))


def parse_events(text: str) -> list[NodeEvent]:
    """Parse what sacctmgr says, a line for each event; lines of whole clusters have no node, and are left out."""
    found = []
    for line in text.splitlines():
        try:
            node, start, end, state = line.split("|")
            if node:
                end_s = int(end) if end.isdigit() and end != "0" else None
                found.append(NodeEvent(node, int(start), end_s, states_of(state)))
        except ValueError as error:
            raise UnavailableError(f"sacctmgr show event: {line[:80]!a} cannot be read: is it Slurm's own?") from error
    return sorted(found, key=lambda one: (one.node, one.start_s))


def states_of(text: str) -> frozenset[str]:
    """Return a node's states: `IDLE+CLOUD+POWERED_DOWN`, or in short `IDLE~` (sinfo(1), NODE STATE CODES)."""
    words = text.upper().split("+")
    marks = {_MARKS[mark] for word in words for mark in word if mark in _MARKS}
    return frozenset({word.rstrip("".join(_MARKS)) for word in words} | marks)


def query_nodes(cluster: str | None = None, runner: Runner = run_command) -> dict[str, frozenset[str]]:
    """Return the nodes that Slurm has by now, each with its states."""
    words: Sequence[str] = ["scontrol", *([f"--clusters={cluster}"] if cluster else []), "--oneliner", "show", "nodes"]
    found = {}
    for line in runner(words, None, TIMEOUT_S).splitlines():
        pairs = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if name := pairs.get("NodeName"):
            found[name] = states_of(pairs.get("State", ""))
    return found
