"""The node's agent: one process, one thread; it takes what needs root, becomes the service user, and serves."""

from __future__ import annotations

import fcntl
import os
import pwd
import selectors
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perun_hpc.agent.admin import Admin
from perun_hpc.agent.base import privilege, spool
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.bounds import Bounds
from perun_hpc.agent.jobs.intake import Intake
from perun_hpc.agent.jobs.runs import Jobs
from perun_hpc.agent.jobs.step_log import StepLog
from perun_hpc.agent.jobs.steps import Steps
from perun_hpc.agent.jobs.use_log import UseLog
from perun_hpc.agent.looks import Looks, signs
from perun_hpc.agent.loop import Loop, Measuring, Rules, Serving, Wake, Work
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.outbox.keeping import Keeping
from perun_hpc.agent.outbox.losses import NOT_CONFINED, Losses
from perun_hpc.agent.outbox.outbox import Outbox
from perun_hpc.agent.outbox.parsing import Reader
from perun_hpc.agent.outbox.progress import Progress
from perun_hpc.agent.outbox.sealing import Sealing
from perun_hpc.agent.outbox.shipping import Shipper
from perun_hpc.agent.policy.applier import PolicyApplier
from perun_hpc.agent.slurm_figures import SlurmFigures
from perun_hpc.agent.sources import machine
from perun_hpc.agent.sources.choice import Choice
from perun_hpc.agent.sources.finding import FILES, Listing, listing
from perun_hpc.agent.sources.node import Node
from perun_hpc.agent.sources.root_helper import RootHelper
from perun_hpc.agent.sources.workers import AS_ROOT, Worker, present
from perun_hpc.agent.survival import Survival
from perun_hpc.agent.tending import Sources
from perun_hpc.agent.textfile import Textfile
from perun_hpc.agent.traces.open_traces import Traces
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.energy.attribute import NodeInput
from perun_hpc.errors import DataError
from perun_hpc.process.clock import MACHINE, Clock
from perun_hpc.process.log import guard, log
from perun_hpc.process.server import Handler, Peer, Server, listen
from perun_hpc.process.watching import Signs
from perun_hpc.wire.message import Message

INLINE = ("powercap", "hwmon", "cray_pm", "procstat")
"""Backends that are read inside the loop; those that can hang live in workers."""


@dataclass(frozen=True)
class Options:
    """What the command line decides."""

    run_dir: Path
    spool: Path
    root: Path
    policy: Path
    foreground: bool = False


def run(options: Options, clock: Clock = MACHINE) -> int:
    """Be the node's agent until nothing is left to do; returns the exit code. A second agent ends at once."""
    paths = AgentPaths(options.run_dir, options.spool, options.root)
    os.umask(0o027)
    privilege.make_directories(paths)
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    selector = selectors.EpollSelector()  # before the sensors' files: select(2) takes descriptors below 1024 only
    listed = {backend: listing(options.root, backend) for backend in FILES}
    node = Node.open(options.root, INLINE, clock)
    node.workers.extend(Worker(name, options.root, clock) for name in present(options.root))
    listener = listen(paths.socket)
    changes = signs(paths)
    figures = os.open(paths.slurm_figures, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    refused = privilege.refuse_calls() | privilege.what_children_lack()
    root_helper = RootHelper(paths, options.policy, clock)
    user = privilege.service_user(paths.spool)
    reader = _reader(user)
    if user is not None:
        for worker in node.workers:
            if worker.name in AS_ROOT:
                worker.tend(clock.mono_ns())
        privilege.hand_over(paths.spool, user)
        privilege.hand_over(paths.private, user)
        refused |= privilege.become(user)
    elif os.geteuid() == 0:
        refused |= privilege.keep_capabilities(privilege.ROOTS)
    if not options.foreground:
        spool.log_to(paths.log)
    if os.geteuid() == 0:
        log(f"{paths.spool} belongs to no user that the agent could become: it stays root; give it to the service user")
    policy = PolicyKeeper(options.policy, clock, node.name, (paths.policy, paths.policy_kept))
    losses = Losses(clock.real_ns)
    losses.follow(NOT_CONFINED, refused)
    serve(paths, selector, node, listener, changes, figures, root_helper, reader, policy, listed, losses, clock)
    return 0


def _reader(user: pwd.struct_passwd | None) -> Reader | None:
    """The node's reader of what ranks hand over, while we are root."""
    if os.geteuid() != 0:
        return None
    return guard("starting the reader of ranks' data", lambda: Reader(user.pw_uid if user else 0))


def serve(
    paths: AgentPaths,
    selector: selectors.EpollSelector,
    node: Node,
    listener: socket.socket,
    changes: Signs | None,
    figures: int,
    root_helper: RootHelper,
    reader: Reader | None,
    policy: PolicyKeeper,
    listed: Mapping[str, Listing],
    losses: Losses,
    clock: Clock,
) -> None:
    """Put the agent's parts together, go on from where the last agent stopped, and run the loop."""
    if policy.names_sensors:
        node.choose(Choice.of(policy.site()))
    boot_id, machine_id = machine.boot_id(paths.root), machine.machine_id(paths.root)
    topology = partial(machine.topology, paths.root)
    wake = Wake(selector)
    later: list[Callable[[], None]] = []
    cpus = topology(())
    register = Register(node.name, len(cpus.core_of))
    applier = PolicyApplier(policy, register, root_helper)
    ledger = NodeLedger(paths)
    visibility = Visibility(paths, register)
    meter = Meter(node, topology, register, policy, ledger, visibility, clock)
    step_log = StepLog(paths)
    use_log = UseLog(paths)
    if meter.steps.fd is not None:
        selector.register(meter.steps.fd, selectors.EVENT_READ, meter.hear_of_steps)
    survival = Survival(paths, boot_id, register, meter, ledger, step_log, use_log)
    traces = Traces(paths, node, register, visibility, clock)
    most_ranks = machine.allow_files() // 3
    intake = Intake(paths, most_ranks)
    steps = Steps(
        paths,
        selector,
        most_ranks,
        register,
        meter,
        visibility,
        traces,
        applier,
        step_log,
        intake,
        survival.save,
        later,
        clock,
    )
    jobs = Jobs(
        paths,
        boot_id,
        node,
        register,
        meter,
        visibility,
        steps,
        policy,
        applier,
        root_helper,
        survival.save,
        later,
        clock,
    )
    sealing = Sealing(paths, register, meter, traces, applier, step_log, use_log, intake, clock, machine_id)
    sources = Sources(node, policy, register, meter, root_helper, listed)
    admin = Admin(node, register, policy, sources, losses, wake.ask_to_stop, clock)
    verbs = {**jobs.verbs, **steps.verbs, **admin.verbs}
    server = Server(listener, selector, _by_verb(verbs), clock.mono_ns)
    shipper = Shipper(paths, losses, clock, reader)
    progress = Progress(paths, register, visibility, sealing.so_far)
    keeping = Keeping(paths, register, meter, partial(_kind, paths.root, register, cpus), clock)
    outbox = Outbox(register, policy, sealing, progress, keeping, shipper, losses, survival.save, clock)
    bounds = Bounds(paths, register, policy, steps, traces, outbox, wake.ask_to_stop, clock)
    slurm_figures = SlurmFigures(figures, register, meter, visibility.moments, policy, clock)
    looks = Looks(changes, paths, node, policy, register, jobs, meter, sources, outbox, server, slurm_figures, clock)
    loop = Loop(
        Serving(selector, wake, server, root_helper, later, looks),
        Rules(policy, applier, bounds),
        Measuring(
            sources,
            meter,
            visibility,
            traces,
            Textfile(register, meter, policy, losses),
            slurm_figures,
        ),
        Work(register, jobs, steps, intake, survival),
        outbox,
        clock,
    )
    survival.resume(traces, steps)
    jobs.read_inbox()
    loop.run()


def _kind(root: Path, register: Register, cpus: NodeInput) -> str:
    """What machine this is; `cpus` are those of the agent's start, which are read again where they are others now."""
    same = register.cpus == len(cpus.core_of)
    return machine.kind(root, cpus if same else machine.topology(root, ()))


def _by_verb(verbs: dict[str, Handler]) -> Handler:
    def answer(message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        handler = verbs.get(message.verb)
        if handler is None:
            raise DataError(f"verb {message.verb!r} is not known here")
        return handler(message, peer, fds)

    return answer
