"""What the node has learnt, kept by the archive: handed over now and then, and asked for when the spool is new.

The agent leaves its figures in the spool, the shipping child hands them over. In a spool that holds no word of it
(`AgentPaths.learnt_asked`) the child asks first, so that a node which has just lost everything takes nothing away from
what the archive keeps; what it is given it leaves in the spool, where the agent takes it up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from perun_hpc import files
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.archive.learnt import Learnt
from perun_hpc.errors import DataError
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import log

EVERY_NS = 600 * 1_000_000_000
"""So often what was learnt anew goes to the archive, at most."""


class Keeper(Protocol):
    """Keeps what a node has learnt. OSError or PerunError where it cannot be reached."""

    def keep_learnt(self, learnt: Learnt, cluster: str, node: str) -> None:
        """Keep it in place of what the node handed over before."""

    def learnt_of(self, cluster: str, node: str, machine: str = "") -> Learnt | None:
        """What the node handed over last, and what most nodes of its machine have; None where nothing can be used."""


class Keeping:
    """The agent's end, in the spool; `machine` says what the figures are learnt on."""

    def __init__(self, paths: AgentPaths, register: Register, meter: Meter, machine: Callable[[], str], clock: Clock):
        self._paths = paths
        self._register = register
        self._meter = meter
        self._machine = machine
        self._clock = clock
        self._due_ns = clock.mono_ns()
        self._asked = self._said = False
        self._again_ns = clock.mono_ns() + EVERY_NS

    def note(self) -> bool:
        """An interval has ended; True where the archive is to be asked.

        That is once, and again every ten minutes as long as static power is not known: others may have learnt it.
        """
        self.take()
        self._say_machine()
        if self._clock.mono_ns() >= self._due_ns:
            self.write()
        if not self._register.home[0]:
            return False
        if self._clock.mono_ns() >= self._again_ns and self._meter.guesses:
            self._again_ns = self._clock.mono_ns() + EVERY_NS
            self._paths.learnt_asked.unlink(missing_ok=True)
            self._asked = False
        wants = not self._asked and not self._paths.learnt_asked.exists()
        self._asked = self._asked or wants
        return wants

    def _say_machine(self) -> None:
        """Leave in the spool, once, what is to be asked for."""
        if not self._said:
            files.write_new(self._paths.learnt_machine, self._machine().encode(), durable=False)
            self._said = True

    def write(self) -> None:
        """Leave in the spool what was learnt, where it is news."""
        self._say_machine()
        learning = self._meter.learning
        if learning.news:
            files.write_new(self._paths.learnt, Learnt(self._machine(), learning.known).encode(), durable=False)
            learning.news = False
            self._due_ns = self._clock.mono_ns() + EVERY_NS

    def take(self) -> None:
        """Take up what the archive gave."""
        if not self._paths.learnt_given.exists():
            return
        try:
            given = Learnt.read(self._paths.learnt_given)
        finally:
            self._paths.learnt_given.unlink()
        if given.machine != self._machine():
            log(f"what the archive keeps was learnt on another machine ({given.machine}): this one begins anew")
            return
        self._meter.learning.add(given.static, self._clock.real_ns())
        self._meter.learning.typical_uw = dict(given.typical_uw)
        self._meter.parametrise()
        if given.static:
            log(f"static power of {len(given.static)} domains was learnt before: the archive kept it")


def ship_learnt(paths: AgentPaths, to: Keeper, cluster: str, node: str) -> None:
    """Ask for what the archive keeps, once in the life of a spool or when it is due; then hand over what is new."""
    if not paths.learnt_asked.exists():
        known = paths.learnt_machine.exists()
        given = to.learnt_of(cluster, node, paths.learnt_machine.read_text() if known else "")
        if given is not None:
            files.write_new(paths.learnt_given, given.encode(), durable=False)
        if known:  # until the agent has said which machine this is, it is asked again
            paths.learnt_asked.touch()
    if paths.learnt.exists() and not paths.learnt_given.exists():
        try:
            learnt = Learnt.read(paths.learnt)
        except DataError:
            log(f"{paths.learnt} is damaged: the agent writes it again")
        else:
            to.keep_learnt(learnt, cluster, node)
        paths.learnt.unlink(missing_ok=True)
