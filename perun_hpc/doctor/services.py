"""What daemons and their files say: policy, agent, sensors, spool, collector, ledger."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc.accounting.backlog import Backlog, last_sweep
from perun_hpc.accounting.backlog import look as look_at_backlog
from perun_hpc.accounting.site import site_of
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.outbox.losses import NOT_CONFINED
from perun_hpc.agent.sources.choice import Choice
from perun_hpc.agent.sources.workers import open_in_child, present
from perun_hpc.archive.handover import address, sender
from perun_hpc.archive.places import Archive, clusters
from perun_hpc.archive.refused import lately_refused
from perun_hpc.backend import catalog
from perun_hpc.config import policy as site_policy
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.resolve import JobFacts, resolve
from perun_hpc.data_model import codec
from perun_hpc.data_model.wording import count
from perun_hpc.doctor import look
from perun_hpc.doctor.facts import Agent, Collector, Place, Policy
from perun_hpc.energy.static import StaticPower
from perun_hpc.errors import NotFoundError, PerunError, UnavailableError
from perun_hpc.process.clock import MACHINE
from perun_hpc.report.backlog import troubles, waiting
from perun_hpc.report.losses import losses
from perun_hpc.slurm import hostlist
from perun_hpc.wire.client import AGENT_SOCKET, connect, request

AGENT_S = 2.0
HANDSHAKE_S = 5.0
SOON_S = 30 * 86_400
"""Certificates that end within this time are named."""
SENSORS_S = 10.0
YOUNG_S = 10.0
"""Beside two of the node's moments: so long a young agent may have no figures yet."""
AUDIT_S = 60.0
AUDIT_AGAIN_S = 5.0
_EMPTY = Backlog((), (), (), ())


# ------------------------------------------------------------------------------------------------------------- policy


def policy_path() -> Path:
    """Where the site's policy lies."""
    return site_policy.locate()


def read_policy(node: str) -> Any:
    """What the policy says for a node, as a `Policy` in JSON; its mistakes are a part of that."""
    path = str(policy_path())
    try:
        loaded = site_policy.in_force()
        compiled = compile_policy(loaded)
        site = site_of(compiled, resolve(compiled, JobFacts()))
    except site_policy.PolicyError as error:
        return codec.encode(Policy(path, mistakes=tuple(map(str, error.mistakes))))
    except PerunError as error:
        return codec.encode(Policy(path, mistakes=(str(error),)))
    here = resolve(compiled, JobFacts(node=node))
    return codec.encode(
        Policy(
            path,
            missing=loaded.source == "default",
            digest=str(compiled["hash"]),
            archive=str(site.archive),
            collector=here.store.collector,
            tls=here.store.tls or {},
            ledger=site.ledger,
            slurmdbd=site.slurmdbd,
            deadline_ns=here.hooks.deadline_ns,
            service_user=here.agent.service_user,
            static_known=isinstance(here.energy.package_static_uw, int),
            slurm_figures=here.metrics.slurm,
            shared_s=here.privacy.shared_resolution_ns / 1e9,
            late_s=site.late_s,
            wait_s=site.deadline_s + 2 * site.sweep_s + 60,
            partitions=tuple(sorted({*loaded.partitions, *here.monitor.partitions})),
            listen=here.metrics.listen,
            named=here.metrics.labels if here.metrics.textfile or here.metrics.listen else (),
            nodes=tuple(sorted({name for text in (*loaded.nodes, here.monitor.canaries) for name in _names(text)})),
        )
    )


def _names(text: str) -> tuple[str, ...]:
    with contextlib.suppress(ValueError):
        return hostlist.expand(text)
    return ()


# -------------------------------------------------------------------------------------------------------- what runs


@dataclass(frozen=True)
class Running:
    """Names of the processes here, by the programs that they were started as, and whose collectors they are."""

    names: frozenset[str]
    collectors: tuple[int, ...]


def running(root: Path = Path("/")) -> Running:
    """What /proc shows.

    Not its `comm`: slurmctld and slurmd start anew at a reconfigure (24.05 on) and have the name of their file then,
    which in Debian is slurmctld-wlm.
    """
    names, collectors = set(), []
    for entry in (root / "proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                names.add(Path(os.fsdecode(words[0])).name)
                if b"collect" in words and b"--daemon" in words and any(b"perun" in word for word in words[:3]):
                    collectors.append(entry.stat().st_uid)
    return Running(frozenset(names), tuple(collectors))


def collects_here(
    policy: Policy, wake: Path, places: Callable[[Mapping[str, str], None], Mapping[str, Place]] = look.places
) -> bool:
    """Whether the collector belongs on this host, also while it does not run; `places` looks at the ledger's file."""
    host = policy.collector and address(policy.collector)[0]
    with contextlib.suppress(OSError):
        if Path("/etc/systemd/system/multi-user.target.wants/perun-collect.service").exists() or wake.parent.exists():
            return True
    file = policy.ledger.removeprefix("sqlite:///")
    if file.startswith("/"):
        seen = places({"ledger": file}, None)["ledger"]
        if not seen.problem and not seen.network:  # one on a shared file system lies on every host
            return True
    return bool(host) and host.split(".")[0] == socket.gethostname().split(".")[0]


def is_ours(hook: Place) -> bool:
    """Whether a hook is perun's, or a script that names perun's."""
    return "/libexec/perun/" in f"{hook.path} {hook.real}" or "libexec/perun/" in hook.head


# -------------------------------------------------------------------------------------------------------------- agent


def agent(jobs: tuple[str, ...]) -> Agent:
    """How the node's agent answers."""
    try:
        connect(AGENT_SOCKET, AGENT_S).close()
    except UnavailableError as error:
        return Agent(None, str(error), False, jobs)
    try:
        reply = request("status", {}, timeout_s=AGENT_S)
    except PerunError as error:
        return Agent(None, str(error), True, jobs)
    if reply.verb != "ok":
        return Agent(None, f"it refuses to say how it is: {reply.get('reason', 'no reason given')}", True, jobs)
    entries = [one for one in json.loads(reply.fields.get("losses", "[]")) if one["kind"] != NOT_CONFINED]
    said = tuple((str(one["kind"]), losses([one], time.time())[0]) for one in entries)
    return Agent(dict(reply.fields), "", True, jobs, said)


def has_been_here(agent: Agent, policy: Policy) -> bool:
    """Whether an agent should be here, and has been for so long that the node's own moments have come."""
    if agent.answer is None:
        return agent.listens or bool(agent.jobs)
    return int(agent.answer.get("uptime_ns", "0")) / 1e9 > 2 * policy.shared_s + YOUNG_S


def missing_sensors(node: str) -> tuple[tuple[str, str, str], ...]:
    """What the agent would miss of sensors if it began now: what, why, and what to do."""
    settings = resolve(compile_policy(site_policy.in_force()), JobFacts(node=node))
    choice = Choice.of(settings)
    there = {*present(Path("/")), "powercap", "hwmon", "cray_pm"}
    names = [one.name for one in catalog.BACKENDS if one.name in (choice.backends or there)]
    found = catalog.discover_all(
        names=names,
        opened=lambda name, root: (
            open_in_child(name, root, SENSORS_S, MACHINE)
            if name in ("nvml", "amdsmi", "ipmi")
            else catalog.open_backend(name, root)
        ),
    )
    try:
        counted = choice.sensors(found.sensors)
        lines = [(one.what, one.why, one.remedy) for one in found.missing if one.lacks]
        for reader in (reader for one in found.found.values() for reader in one.readers):
            for sensor, reading in zip(reader.sensors, reader.read()):
                if reading.ticks is None and sensor in counted:
                    lines.append((sensor.id, reading.error or "no value", "see perun sensors"))
        if not catalog.has_power(counted) and "estimate" not in choice.backends and not choice.files:
            lines += _without_sensor(choice)
    finally:
        found.close()
    return tuple(lines)


def _without_sensor(choice: Choice) -> list[tuple[str, str, str]]:
    """What is said of a node on which nothing measures; nothing where the site states what it draws."""
    what, why = "no sensor of the CPUs or the node", "nothing of them was found"
    if choice.estimate is None:
        return [(what, f"{why}, and the policy wants no estimate", "see perun sensors --all")]
    if choice.estimate.whole:
        return []
    remedy = "state what its node type draws (energy.estimate_model of the policy), or see perun sensors --all"
    return [(what, f"{why}: its jobs have a rough estimate, marked as one", remedy)]


def inbox(directory: Path, now_s: float) -> tuple[int, float]:
    """How many messages of hooks wait for an agent, and the age of the oldest in seconds."""
    ages = []
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            if path.name[0].isdigit():
                with contextlib.suppress(FileNotFoundError):
                    ages.append(now_s - path.stat().st_mtime)
    return len(ages), max(ages, default=0.0)


def static_days(paths: AgentPaths, now_s: float) -> float:
    """For how many days the node has been measured without its idle CPU power being known; 0 where it is."""
    learnt: Mapping[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, *codec.MISFITS):  # the agent's to mend, also where it is damaged
        state = json.loads(paths.state.read_bytes())
        learnt = dict(state["static"])
        named = [sensor.partition(":") for sensor in dict(state["readings"])]
        if not any(_is_cpu(domain) for backend, _, domain in named if backend != "estimate"):
            return 0.0  # nothing here counts the CPUs' energy by itself; an estimate's idle power is stated
    for name, bins in learnt.items():
        with contextlib.suppress(*codec.MISFITS):
            if _is_cpu(name) and StaticPower.from_json(bins).estimate_uw() is not None:
                return 0.0
    first_s = now_s
    for path in paths.node.glob("????-??-??.jsonl"):
        with contextlib.suppress(ValueError):
            first_s = min(first_s, time.mktime(time.strptime(path.stem, "%Y-%m-%d")))
    return (now_s - first_s) / 86_400


def _is_cpu(domain: str) -> bool:
    """Whether a domain is CPUs': RAPL's packages, Grace's modules, Cray's or the estimate's node."""
    return domain.startswith(("package", "grace", "cpu"))


def reach(policy: Policy, shows: bool) -> str:
    """Why the collector's port cannot be reached within a second; empty where it can.

    `shows`: this process may read the certificates that `policy` names; then each end must accept the other's.
    """
    where = address(policy.collector)
    try:
        with socket.create_connection(where, 1.0) as plain:
            if policy.tls and shows:
                plain.settimeout(HANDSHAKE_S)
                sender(policy.tls).connect(plain, where[0]).close()
    except (OSError, PerunError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def scrape(listen: str) -> str:
    """Why the site's figures cannot be had where the policy says; empty where they can."""
    host, port = address(listen)
    try:
        with socket.create_connection((host, port), 1.0) as plain:
            plain.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            status = plain.recv(64).partition(b"\r\n")[0].decode("ascii", "replace")
    except OSError as error:
        return error.strerror or str(error)
    return "" if status.split(" ")[1:2] in (["200"], ["503"]) else f"something else answers there: {status!r}"


def certificates(tls: Mapping[str, str], now_s: float) -> list[tuple[str, str]]:
    """What is wrong, or will be within a month, with the files of `store.tls`: the file, and in words."""
    from perun_hpc.archive.certificates import Certificates

    try:
        ends = Certificates.of(tls).ends_s()
    except PerunError as error:
        return [("store.tls", str(error))]
    late = [(path, (end_s - now_s) / 86_400) for path, end_s in ends if end_s - now_s < SOON_S]
    return [
        (str(path), f"is out of date {'in' if left > 0 else 'since'} {count(round(abs(left)), 'day')}")
        for path, left in late
    ]


# ---------------------------------------------------------------------------------------------------------- collector


def collector(policy: Policy, wake: Path, now_s: float) -> Any:
    """What the archive says of the collector, as a `Collector` in JSON."""
    root = Path(policy.archive)
    sweeps, backlog, late = [], [], []
    for name in clusters(root):
        archive = Archive(root, name)
        sweep, found = last_sweep(archive), look_at_backlog(archive)
        sweeps += [f"cluster {name}: {one}" for one in troubles(sweep, _EMPTY, policy.late_s, now_s)]
        oldest = min((one.since_s for one in found.waiting), default=now_s)
        if sweep is None and now_s - oldest > policy.late_s:
            sweeps.append(f"cluster {name}: no sweep has been recorded, and records wait")
        backlog += [f"cluster {name}: {one}" for one in troubles(None, found, policy.late_s, now_s)]
        old = tuple(one for one in found.waiting if now_s - one.since_s > policy.wait_s)
        if old and sweeps == []:
            late.append(f"cluster {name}: {waiting(Backlog(old, (), ()), now_s)}")
    backlog += lately_refused(root, now_s)
    return codec.encode(Collector(tuple(sweeps), tuple(backlog), tuple(late), running().collectors, wake.exists()))


def decoded(found: Any) -> Collector:
    """Inverse of what `collector` returns."""
    return codec.decode(Collector, found)


def ledger(url: str) -> str:
    """Why the service user cannot keep the ledger; empty where it can. Asked as that user."""
    from perun_hpc.accounting.ledger import open_ledger

    file = url.removeprefix("sqlite:///")
    path = Path(file) if file.startswith("/") else None
    if path is not None and not os.access(path.parent, os.W_OK | os.X_OK):
        return f"{path.parent}: cannot be written" if path.parent.exists() else f"{path.parent}: is not there"
    if path is not None and path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return f"{path}: cannot be written"
    try:
        open_ledger(url).close()
    except NotFoundError:
        return ""  # the first sweep makes it
    except PerunError as error:
        return str(error)
    return ""


def audit(user: pwd.struct_passwd, cluster: str, archive: str) -> tuple[str, ...]:
    """What does not close today, as `perun audit` says it twice: what is just on its way is no finding."""
    first = _audit(user, cluster, archive)
    if first:
        time.sleep(AUDIT_AGAIN_S)
        again = set(_audit(user, cluster, archive))
        first = tuple(one for one in first if one in again)
    return first


def _audit(user: pwd.struct_passwd, cluster: str, archive: str) -> tuple[str, ...]:
    command = [sys.executable, "-I", "-m", "perun_hpc.cli.main", "audit", "--json", "--archive", archive]
    command += ["--cluster", cluster] if cluster else []
    as_user: Mapping[str, Any] = (
        {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": os.getgrouplist(user.pw_name, user.pw_gid)}
        if os.geteuid() == 0
        else {}
    )

    def work() -> tuple[int, str, str] | None:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=AUDIT_S,
                check=False,
                stdin=subprocess.DEVNULL,
                **as_user,
            )
        except subprocess.TimeoutExpired:
            return None
        return done.returncode, done.stdout, done.stderr

    # In a child: what is in the middle of a call to a file system that hangs cannot be killed, and would be waited for.
    said = look.Look(work).answer(AUDIT_S + look.PATIENCE_S)
    if said is None:
        raise UnavailableError(f"perun audit took longer than {AUDIT_S:.0f} s: run it by itself, nightly")
    code, output, errors = said
    try:
        found = json.loads(output)["findings"]
    except (ValueError, KeyError) as error:
        lines = errors.strip().splitlines() or [f"exit code {code}"]
        missing = "no ledger here" in lines[-1]
        if missing:
            return ()
        raise UnavailableError(f"perun audit: {lines[-1].removeprefix('perun: ')}") from error
    return tuple(f"{one['where']}: {one['what']}" for one in found if one["where"] != "node ledgers")
