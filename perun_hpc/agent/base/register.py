"""Which job runs are on this node: the live ones, those that wait for their record, those that are done."""

from __future__ import annotations

from perun_hpc.agent.base.session import Session
from perun_hpc.data_model.job import SessionKey

LATELY_NS = 60_000_000_000
"""So long after a run's end another word of its end is not news."""
MOST_DONE = 4096
"""Names of ended runs that are kept: they are written before a hook has its answer, and a word comes twice soon."""


class Register:
    """The node's sessions, and the names under which they are shipped; plain data, for those who serve them.

    Attributes
    ----------
    live : sessions between their start and their end.
    ended : sessions whose boundary record is still to be written.
    over : runs that a hook's message has ended already, while the message of their start is being read.
    done : when ended sessions ended (monotonic), by name; 0 before this boot.
    unheard : those of `done` whose end no hook has reported: cut off by a boot, given up, set aside.
    home : the names of the cluster and of the node, as Slurm gave them last.
    cpus : how many logical CPUs the node has now.
    strangers : whether jobs that are none of `live` have processes here: no hook reported them, or it is over.
    """

    def __init__(self, node: str, cpus: int) -> None:
        self.live: dict[SessionKey, Session] = {}
        self.ended: list[Session] = []
        self.over: set[SessionKey] = set()
        self.done: dict[str, int] = {}
        self.unheard: set[str] = set()
        self.home = ("", node)
        self._node = node
        self.cpus = cpus
        self.strangers = False

    def name_of_node(self, session: Session) -> str:
        """The node's name as Slurm gave it to the job."""
        return session.job.get("node", self._node)

    def alone(self, session: Session) -> bool:
        """Whether the job has the node for itself, by what Slurm gave it: then it may see all that the node does.

        Its cpuset shows nothing: where Slurm confines no job each may run everywhere (ConstrainCores=no).
        """
        if len(self.live) > 1 or self.strangers:
            return False
        return session.exclusive or 0 < self.cpus <= session.cpus_on_node

    def holds_node(self, session: Session) -> bool:
        """Whether the job is charged with the whole node, as far as that is known."""
        return session.exclusive or (len(self.live) == 1 and 0 < self.cpus <= _given(session))

    def replaced(self, session: Session) -> bool:
        """Whether jobs that came later hold CPUs that they could not have beside this one."""
        later = [one for one in self.live.values() if one.start.mono_ns > session.start.mono_ns]
        return bool(later) and 0 < self.cpus < sum(_given(one) for one in (session, *later))

    def other_run(self, key: SessionKey) -> Session | None:
        """A live session of another run of the same job."""
        return next((one for one in self.live.values() if one.key.job_id == key.job_id), None)

    def run_before(self, key: SessionKey, sluid: str | None, hook_ns: int) -> Session | None:
        """The live session that is over, as a run of the job begins at `hook_ns`: a node has one of a job at a time.

        One of the same name is another run only by Slurm's own name of it (SLUID, 25.11 on): else it is the same word
        said twice.
        """
        held = self.live.get(key)
        if held is None:
            return self.other_run(key)
        known = held.job.get("sluid")
        later = hook_ns > held.start.mono_ns - held.start.late_ns
        return held if sluid and known and sluid != known and later else None

    def ended_lately(self, key: SessionKey, hook_ns: int) -> bool:
        """Whether this run has a record already, or another run of the job ended just now."""
        prefix = f"{key.job_id}."
        others = [end_ns for name, end_ns in self.done.items() if name.startswith(prefix)]
        return key.name in self.done or any(hook_ns - end_ns < LATELY_NS for end_ns in others)

    def late_epilog(self, key: SessionKey, hook_ns: int) -> bool:
        """Whether the end of a run of which nothing is known is that of the job's last run, whose end nobody reported.

        Slurm has the Epilog run once a node is back from a boot, or when whatever held it up is over, and says the next
        run's count if it puts the job into the queue again. From now on the last run has ended at `hook_ns`.
        """
        ends = {name: end_ns for name, end_ns in self.done.items() if name.startswith(f"{key.job_id}.")}
        late = [name for name in ends if name in self.unheard and ends[name] == max(ends.values())]
        for name in late:
            self.unheard.discard(name)
            self.done[name] = hook_ns
        return bool(late)

    def forget_before(self, horizon_ns: int) -> None:
        """Drop the names of sessions that ended earlier (monotonic), and of the eldest where there are too many."""
        newest = sorted(self.done.items(), key=lambda one: one[1])[-MOST_DONE:]
        self.done = {name: end_ns for name, end_ns in newest if end_ns > horizon_ns}
        self.unheard &= self.done.keys()


def _given(session: Session) -> int:
    """How many of the node's CPUs the job holds."""
    return max(len(session.cpus), session.cpus_on_node)
