"""What one step of a job used on this node, flagged or not, as its cgroup shows it."""

from __future__ import annotations

from dataclasses import dataclass

from perun_hpc.data_model.step_id import FURTHER, number_of


@dataclass
class StepUse:
    """The sums so far; times are wall clock and monotonic, `steps` is above 1 for `FURTHER` alone.

    `closed` once it has its part of all that its job was given while it ran: nothing of it changes any more.
    `read_ns` is what the step's cgroup said last of its CPU time (None: nothing yet), `cpu_ns` what of it was counted,
    `unsure_ns` what is not sure of what was not read any more (k=1); `fresh_ns` and `fresh_unsure_ns` are
    the parts of both that energy has not been shared out by. The doubts are those of `energy.steps.StepShare`; `of_uj`
    is what the whole job used in the stretches in which the step ran.
    """

    name: str
    start_ns: int
    start_mono_ns: int
    end_ns: int | None = None
    end_mono_ns: int | None = None
    settled: bool = True
    closed: bool = False
    held: int | None = None
    read_ns: int | None = None
    cpu_ns: int | None = None
    unsure_ns: int = 0
    fresh_ns: int = 0
    fresh_unsure_ns: int = 0
    energy_uj: int | None = None
    own_uj: int = 0
    others_uj: int = 0
    static_uj: int = 0
    of_uj: int = 0
    steps: int = 1

    @property
    def number(self) -> int:
        """Its number as records hold it."""
        return number_of(self.name)

    @property
    def final(self) -> bool:
        """Whether nothing of it changes any more, and it is a step of its own."""
        return self.closed and self.name != FURTHER

    def finish(self, real_ns: int, mono_ns: int) -> None:
        """Its cgroup is gone; what it used since its last reading is to be settled."""
        self.end_ns, self.end_mono_ns, self.settled = real_ns, mono_ns, False

    def go_on(self) -> None:
        """Its cgroup is there: it has not ended, though its last directory was so late that it seemed to have."""
        if self.end_mono_ns is not None and not self.closed:
            self.end_ns, self.end_mono_ns, self.settled = None, None, True

    def hold(self, cpus: int | None) -> None:
        """Its cgroup says on how many CPUs it is; None: it says nothing."""
        self.held = self.held if cpus is None else cpus

    def read(self, read_ns: int) -> int:
        """Its cgroup says so much CPU time; returns what came to it."""
        more_ns = max(0, read_ns - (self.read_ns or 0))
        self.read_ns = read_ns
        self.work(more_ns)
        return more_ns

    def work(self, cpu_ns: int, unsure_ns: int = 0) -> None:
        """CPU time came to it."""
        self.cpu_ns = (self.cpu_ns or 0) + cpu_ns
        self.unsure_ns += unsure_ns
        self.fresh_ns += cpu_ns
        self.fresh_unsure_ns += unsure_ns

    def give(self, energy_uj: int, own_uj: int, others_uj: int, static_uj: int, of_uj: int) -> None:
        """It was given a part of the job's energy, by the CPU time that came to it meanwhile."""
        self.energy_uj = (self.energy_uj or 0) + energy_uj
        self.own_uj += own_uj
        self.others_uj += others_uj
        self.static_uj += static_uj
        self.of_uj += of_uj
        self.fresh_ns = self.fresh_unsure_ns = 0

    def close(self, until_ns: int) -> None:
        """Energy is shared out up to this moment (monotonic); one that runs on, or may still work, stays open."""
        self.closed = self.settled and self.end_mono_ns is not None and self.end_mono_ns <= until_ns

    def alive_ns(self, from_ns: int, until_ns: int) -> int:
        """How long it ran between two moments (monotonic)."""
        end_ns = until_ns if self.end_mono_ns is None else min(until_ns, self.end_mono_ns)
        return max(0, end_ns - max(from_ns, self.start_mono_ns))

    def is_in(self, from_ns: int, until_ns: int) -> bool:
        """Whether it has a part in what was used between two moments (monotonic)."""
        return self.energy_uj is None or self.fresh_ns > 0 or self.alive_ns(from_ns, until_ns) > 0

    def take_in(self, other: StepUse) -> None:
        """Be the sum of itself and of another one that has ended."""
        self.start_ns = min(self.start_ns, other.start_ns)
        self.end_ns = max(self.end_ns or 0, other.end_ns or 0)
        if other.cpu_ns is not None:
            self.cpu_ns = (self.cpu_ns or 0) + other.cpu_ns
        self.unsure_ns += other.unsure_ns
        if other.energy_uj is not None:
            self.energy_uj = (self.energy_uj or 0) + other.energy_uj
        self.own_uj += other.own_uj
        self.others_uj += other.others_uj
        self.static_uj += other.static_uj
        self.of_uj += other.of_uj
        self.steps += other.steps
