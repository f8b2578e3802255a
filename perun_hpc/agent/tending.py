"""The sources of readings over time: children are tended, the policy's choice is followed, GPUs are let go of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.outbox.losses import NOT_THERE, Losses
from perun_hpc.agent.sources.choice import Choice
from perun_hpc.agent.sources.finding import Listing, listing, outline
from perun_hpc.agent.sources.node import DCGM, Node, Snapshot
from perun_hpc.agent.sources.root_helper import RootHelper
from perun_hpc.agent.sources.workers import Worker
from perun_hpc.backend import mirrors
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.sensor import Reading
from perun_hpc.process.log import guard, log

GPU_BACKENDS = ("nvml", "amdsmi", DCGM)
LOOK_NS = 9_500_000_000
"""So long after they were listed the kernel's directories are again, for sensors that came or went: each second look,
which may come a little early.
"""
WHOLE_NS = 60_000_000_000
"""How often all below them is listed where they look as before, and everything is read."""
AGAIN_NS = 600_000_000_000
"""How often a sensor is tried again that was there and did not measure."""


class Sources:
    """Keeps the node's readers as the policy and the hardware ask."""

    def __init__(
        self,
        node: Node,
        policy: PolicyKeeper,
        register: Register,
        meter: Meter,
        root_helper: RootHelper,
        listed: Mapping[str, Listing],
    ) -> None:
        """`listed` holds the files of readings that there were before `node` opened them, by backend."""
        self._node = node
        self._root_helper = root_helper
        self._listed = dict(listed)
        self._asked: dict[str, Listing] = {}
        self._outlines: dict[str, frozenset[tuple[str, int]]] = {}
        self._look_ns = self._whole_ns = 0
        self._again_ns: dict[str, int] = {}
        self._sought: set[str] = set()
        self._seen: Mapping[str, Reading] = {}
        self._policy = policy
        self._register = register
        self._meter = meter

    def tend(self, now_ns: int) -> None:
        """About once a second: start, ask and watch the children; account the sensors that one has just found."""
        self._look_for_partitions(now_ns)
        allowed = self._policy.site().sensors.backends if self._policy.settled else ()
        for worker in self._node.workers:
            chosen = worker.name in allowed or (self._policy.settled and not allowed)
            if worker.name in GPU_BACKENDS and self._lets_go():
                worker.release(None, "no job ran")
            elif worker.wanted_back and not self._register.live:
                self._give_back(worker)
            elif chosen and guard(f"the {worker.name} process", partial(worker.tend, now_ns)):
                self._meter.account_anew()
        if self._policy.settled and self._node.lacks_estimate:
            self._meter.account_anew()
        self._meter.poll()
        self._find(now_ns)

    @property
    def want_looks(self) -> bool:
        """Whether there is something to tend each second."""
        return bool(self._node.workers or self._node.gauges.sensors or self._asked) or self._node.lacks_estimate

    def _look_for_partitions(self, now_ns: int) -> None:
        """Have the vendor's library say anew what there is where a job holds what it did not name.

        MIG instances are made and removed while the library is open, as whoever partitions GPUs for each job does it.
        """
        holders = [one for one in self._node.workers if one.gpus and not one.starting]
        if not holders:
            return
        unknown = set(self._meter.gpus_not_known())
        for name in sorted(unknown - self._sought):
            for worker in self._node.workers:
                if worker in holders or worker.name == DCGM:
                    worker.release(now_ns, f"it looks for {name}")
        self._sought = unknown

    def _find(self, now_ns: int) -> None:
        """Have files of readings opened that are others than before; account what was found."""
        if now_ns >= self._look_ns:
            self._look_ns = now_ns + LOOK_NS
            for one in self._meter.look_for_silence(now_ns):
                log(one)
            whole = now_ns >= self._whole_ns or self._some_fail()
            if whole:
                self._whole_ns = now_ns + WHOLE_NS
            for backend, before in self._listed.items():
                now = self._listing(backend, whole)
                again = now_ns >= self._again_ns.get(backend, 0) and self._node.waits_for(backend)
                if now != before or again or (backend == "powercap" and self._looks_mirrored()):
                    self._again_ns[backend] = now_ns + AGAIN_NS
                    self._asked[backend] = now
                    self._root_helper.look_for(backend)
        while self._asked and (found := self._root_helper.findings.take()) is not None:
            backend, opened = found
            now = self._asked.pop(backend, frozenset())
            others, self._listed[backend] = now != self._listed[backend], now
            renewed = self._node.renew(backend, opened)
            self._meter.account_anew(anew=renewed.anew)
            if others:
                log(f"{backend}: its files are others than before; {len(opened.sensors)} sensors are there now")
            for why in renewed.mirrors:
                log(f"{backend}: {why}")
                for session in self._register.live.values():
                    session.note(f"{why}; until then it was counted twice")

    def _listing(self, backend: str, whole: bool) -> Listing:
        """The files of readings that there are; as before where the directory looks so, and not the `whole` is wanted.

        With a hundred zones a listing takes a millisecond.
        """
        before, now = self._outlines.get(backend), outline(self._node.root, backend)
        self._outlines[backend] = now
        same = now == before and not whole and backend not in self._asked
        return self._listed[backend] if same else listing(self._node.root, backend)

    def _some_fail(self) -> bool:
        """Whether something is not read now: its file may be there again any moment."""
        last = self._meter.last
        return last is not None and any(one.ticks is None for one in last.readings.values())

    def _looks_mirrored(self) -> bool:
        """Whether what was read since the last look says that zones are to be held against each other again."""
        before, now = self._seen, self._meter.last.readings if self._meter.last else {}
        self._seen = now
        return mirrors.look_again(self._node.sensors, self._node.missing, before, now)

    def choose(self) -> None:
        """Account the sensors that the policy names, as often as it says."""
        choice = Choice.of(self._policy.site())
        if choice == self._node.choice and self._meter.keeps_pace:
            self._meter.parametrise()
            return
        self._meter.account_anew(choice)
        for one in self._node.not_there:
            log(f"{one.what}: {one.why}: {one.remedy}")

    def note_losses(self, snapshot: Snapshot, losses: Losses) -> None:
        """Note which sensors gave nothing at a reading, and what a backend looked for in vain."""
        resting = {sensor.id for worker in self._node.workers if worker.resting for sensor in worker.sensors}
        watched = [sensor for sensor in self._node.sensors if sensor.id not in resting]
        losses.note_readings(watched, snapshot.readings, snapshot.busy_ns)
        losses.follow(NOT_THERE, {one.what: f"{one.why}: {one.remedy}" for one in self._node.unread if one.lacks})

    def release_gpus(self) -> None:
        """Let go of all GPUs, for a reset; the next job's start takes them again."""
        self._meter.end_interval()
        for worker in self._node.workers:
            if worker.name in GPU_BACKENDS:
                worker.release(None, "the GPUs were released")

    def _give_back(self, worker: Worker) -> None:
        """Let go of GPUs that are wanted back: a job's own processes have gone, and the next one takes them again."""
        log(f"{worker.name} is let go of: {worker.wanted_back}")
        self._meter.end_interval()
        worker.release(None, worker.wanted_back)

    def close(self) -> None:
        """Close every reader and end every child."""
        self._node.close()

    def _lets_go(self) -> bool:
        """Whether the GPUs are nobody's now, by the policy; a job's start takes them again."""
        return (
            self._policy.settled and not self._register.live and self._policy.site().sensors.gpu_release == "when-idle"
        )
