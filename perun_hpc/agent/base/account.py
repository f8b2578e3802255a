"""What a session was given of one energy domain: it is booked here, interval by interval, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perun_hpc.data_model.sensor import worst
from perun_hpc.energy.uncertainty import SHARING_ERROR

if TYPE_CHECKING:
    from perun_hpc.energy.attribute import Share

#: Methods that give a job what a counter counted, without a model.
UNMODELLED = frozenset({"exclusive", "holder", "unheld"})


@dataclass(kw_only=True)
class Pace:
    """How fast a GPU could work: sums of what was seen, each with the time (ns) for which that was seen.

    The clock (kHz) counts for the time of work, the power limit in force (uW) and the brakes for all of it: `capped_ns`
    its clock was held down by its power limit, `slowed_ns` by heat or by the hardware's own brake.
    """

    clock_khz_ns: int = 0
    clock_ns: int = 0
    limit_uw_ns: int = 0
    limit_ns: int = 0
    braked_ns: int = 0
    capped_ns: int = 0
    slowed_ns: int = 0

    def clock(self, khz: int, worked_ns: int) -> None:
        """It worked for so much longer at this clock."""
        self.clock_khz_ns += khz * worked_ns
        self.clock_ns += worked_ns

    def limit(self, uw: int, more_ns: int) -> None:
        """This limit was in force for so much longer."""
        self.limit_uw_ns += uw * more_ns
        self.limit_ns += more_ns

    def brake(self, more_ns: int, capped: bool, slowed: bool) -> None:
        """For so much longer it is known what held the clock down, if anything."""
        self.braked_ns += more_ns
        self.capped_ns += more_ns if capped else 0
        self.slowed_ns += more_ns if slowed else 0

    def pace(self) -> dict[str, int]:
        """The means, and the times with a brake, as a record holds them; what was never seen is not there."""
        return {
            **({"clock_khz": round(self.clock_khz_ns / self.clock_ns)} if self.clock_ns else {}),
            **({"limit_mw": round(self.limit_uw_ns / self.limit_ns / 1000)} if self.limit_ns else {}),
            **(
                {"braked_ns": self.braked_ns, "capped_ns": self.capped_ns, "slowed_ns": self.slowed_ns}
                if self.braked_ns
                else {}
            ),
        }


@dataclass
class DomainAccount(Pace):
    """The sums so far; all in uJ and ns.

    `static_doubt_uj` is what the energy is wrong by where static power is by its standard uncertainty (signed),
    `sharing_doubt_uj` and `others_doubt_uj` the standard uncertainties of its sharing out for the watts of the
    session's own work and of the others' (`energy.uncertainty.Split`).
    """

    component: str
    scope: str
    provenance: str
    method: str
    node_uj: int | None = None
    energy_uj: int = 0
    static_uj: int = 0
    dynamic_uj: int = 0
    idle_uj: int = 0
    suspended_uj: int = 0
    modelled_uj: int = 0
    covered_ns: int = 0
    gap_ns: int = 0
    parted_ns: int = 0
    """Of `gap_ns`, that in intervals of which the session was there for a part: what it used is not only its share."""
    idle_ns: int | None = None
    busy_ns: int = 0
    watched_ns: int = 0
    mem_peak_b: int | None = None
    static_doubt_uj: int = 0
    sharing_doubt_uj: int = 0
    others_doubt_uj: int = 0
    peak_uw: int = 0
    """Highest mean power of the whole domain between two readings, allowing for their age."""
    method_uj: int = 0
    """What `method` is ahead of the other models by, in energy that was shared out by them."""
    before_uw: int = 0
    """Its mean power in the interval before the session's first one; 0: not known."""

    def cover(
        self, present_ns: int, gap: bool, method: str, provenance: str, total_uj: int, whole: bool = False
    ) -> None:
        """An interval in which the session was there so long (`whole`: all the time).

        `total_uj` is what all had of the domain in it.
        """
        self.covered_ns += present_ns
        self.gap_ns += present_ns if gap else 0
        self.parted_ns += present_ns if gap and not whole else 0
        if self.method in UNMODELLED:
            self.method, self.method_uj = method, 0
        if provenance != self.provenance:
            self.provenance = worst((self.provenance, provenance))
        self.node_uj = (self.node_uj or 0) + total_uj

    def give(self, share: Share, method: str) -> None:
        """The session's share of that interval."""
        self.energy_uj += share.energy_uj
        self.static_uj += share.static_uj
        self.dynamic_uj += share.dynamic_uj
        self.idle_uj += share.held_idle_uj
        self.suspended_uj += share.suspended_uj
        if method not in UNMODELLED:
            self.modelled_uj += share.energy_uj
            self._count(method, max(0, share.energy_uj))

    def _count(self, method: str, energy_uj: int) -> None:
        """Keep the model by which more than half was shared out: a short interval at an edge may have another one."""
        if method == self.method:
            self.method_uj += energy_uj
        elif energy_uj > self.method_uj:
            self.method, self.method_uj = method, energy_uj - self.method_uj
        else:
            self.method_uj -= energy_uj

    def doubt(self, static_uj: int, sharing_uj: int, others_uj: int) -> None:
        """What the session's share of that interval is wrong by: of two intervals alike, since the job is the same."""
        self.static_doubt_uj += static_uj
        self.sharing_doubt_uj += sharing_uj
        self.others_doubt_uj += others_uj

    def doubt_all(self) -> None:
        """An agent left it that kept no doubts: its dynamic part is as doubtful as beside others' without end."""
        self.sharing_doubt_uj = round(SHARING_ERROR.get(self.method, 1.0) * abs(self.dynamic_uj))

    def begin_after(self, power_uw: int) -> None:
        """What the whole domain drew before the session's first interval; 0: nobody knows."""
        self.before_uw = power_uw

    def see_power(self, power_uw: int) -> None:
        """The mean power of the whole domain in an interval."""
        if power_uw > self.peak_uw:
            self.peak_uw = power_uw

    def uncover(self) -> None:
        """The domain's counter has shown nothing all the time."""
        self.covered_ns = 0

    def use(self, busy_ns: int, watched_ns: int) -> None:
        """Its utilisation was seen for so much longer, and was that much of it."""
        self.busy_ns += busy_ns
        self.watched_ns += watched_ns

    def fill(self, memory_b: int) -> None:
        """So much of the device's own memory was in use."""
        self.mem_peak_b = max(self.mem_peak_b or 0, memory_b)

    def hold_idle(self, more_ns: int) -> None:
        """The session held the domain idle for so much longer; 0: it is known how long, from now on."""
        self.idle_ns = (self.idle_ns or 0) + more_ns
