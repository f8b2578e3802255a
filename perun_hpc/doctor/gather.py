"""Reads what the checks want to know of this host, each thing within a deadline; what cannot be read is said."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from perun_hpc._version import __version__
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.outbox.parsing import USER as READER
from perun_hpc.archive.stream import Munge
from perun_hpc.backend.base import host_name
from perun_hpc.data_model import codec
from perun_hpc.doctor import energy, look, meters, services
from perun_hpc.doctor.facts import EnergyPlugin, Facts, Hooks, Meters, Node, Place, Policy, Said, Unread
from perun_hpc.doctor.findings import Role
from perun_hpc.errors import AccessError, PerunError, UnavailableError
from perun_hpc.slurm import conf, hook
from perun_hpc.slurm.cluster import partitions
from perun_hpc.slurm.command import attempt

SLURM_S = 10.0
"""How long a command of Slurm's may take."""
START_S = 20.0
"""How long the agent's interpreter may take to start."""
AGENT = AgentPaths(Path("/run/perun"), Path("/var/spool/perun"))
DISABLE = Path("/etc/perun/disable")
PREFIX_FILE = "/etc/perun/prefix"
CONFS = (conf.PLACE, "/run/slurm/conf/slurm.conf", "/usr/local/etc/slurm.conf")
"""Where slurm.conf is looked for where $SLURM_CONF does not say: the second is a configless node's."""
PLUGIN = "perun_spank.so"
UNITS = ("perun-agent", "perun-collect")
PROPERTIES = "LoadState,ProtectSystem,ReadWritePaths,StateDirectory,PrivateNetwork"
_NOW = re.compile(r"sdiag output at .*\((\d+)\)")


class Gatherer:
    """Fills the facts in, in the order in which they rest on each other."""

    def __init__(self, wake: Path, roles: Collection[Role] = (), audit: bool = True) -> None:
        """`wake` is the collector's socket, `roles` what this host is for where somebody says so; `audit`: run it."""
        self._wake = wake
        self._audit = audit
        self._known: dict[str, Any] = {"host": host_name(), "node": host_name(), "version": __version__}
        self._unread: dict[str, Unread] = {}
        self._roles = frozenset(roles)
        self._user: pwd.struct_passwd | None = None

    def facts(self) -> Facts:
        """Read everything that this host's roles ask for."""
        self._known["now_s"] = time.time()
        self._take("policy", self._policy)
        self._slurm()
        roles = self._roles = self._roles or self._find_roles()
        self._known["roles"] = roles
        self._accounts()
        self._flag()
        if Role.COMPUTE in roles:
            self._hooks()
            self._node()
        self._places()
        if Role.CONTROLLER in roles:
            self._wake_hook()
        if Role.COLLECTOR in roles:
            self._collector()
        if Role.METERS in roles:
            self._meters()
        return Facts(**self._known, unread=self._unread)

    # ------------------------------------------------------------------------------------------------------ the frame

    def _take(self, name: str, read: Callable[[], Any], by: str = "") -> bool:
        """Read one fact; what fails is kept as unread. Whether it is there."""
        try:
            self._known[name] = read()
        except (PerunError, OSError) as error:
            self._unread[name] = Unread(str(error), isinstance(error, AccessError), by)
        return name in self._known

    def _without(self, why: Unread, *names: str) -> None:
        for name in names:
            self._unread.setdefault(name, why)

    @property
    def _policy_now(self) -> Policy:
        found: Policy = self._known.get("policy") or Policy("")
        return found

    @property
    def _config(self) -> conf.Config:
        found: conf.Config = self._known.get("config") or conf.Config()
        return found

    # --------------------------------------------------------------------------------------------------------- policy

    def _policy(self) -> Policy:
        path = str(services.policy_path())
        try:
            found = look.Look(partial(services.read_policy, self._known["node"])).answer(5.0)
        except UnavailableError as error:
            return Policy(path, mistakes=(f"{path}: {error}",))
        return codec.decode(Policy, found)

    # ---------------------------------------------------------------------------------------------------------- Slurm

    def _slurm(self) -> None:
        self._known["munge"] = _munge()
        needs = ("config", "nodes", "partitions", "clock_off_s")
        if self._known["munge"].code > 0:
            self._without(Unread("munge does not work", by="munge"), *needs)
        elif not self._take("config", lambda: conf.shown(_asked("scontrol", "show", "config")), "slurmctld"):
            self._without(Unread("slurmctld does not answer", by="slurmctld"), *needs)
        else:
            self._take("nodes", _nodes)
            self._take("partitions", _partitions)
            self._take("clock_off_s", _clock_off_s)
        mine = [one.name for one in self._known.get("nodes", ()) if host_name() in (one.host.split(".")[0], one.name)]
        self._known["node"] = mine[0] if mine else host_name()
        named = os.environ.get("SLURM_CONF") or self._config.one("SLURM_CONF")
        paths = {path: path for path in (named, *CONFS) if path}
        seen = look.places(paths, None)
        path = next((path for path in paths if not seen[path].missing), named or CONFS[0])
        self._known["conf_path"] = path
        self._take("local", lambda: conf.written(path, look.texts))
        named = self._config.one("PlugStackConfig") or str(Path(path).parent / "plugstack.conf")
        self._known["plugstack_path"] = named
        self._take("plugstack", lambda: conf.plugstack(named, look.texts))
        if "config" in self._known and (energy.in_use(self._config) or self._policy_now.slurm_figures):
            looked = look.Look(partial(energy.plugin, self._config))
            self._take("energy", lambda: codec.decode(EnergyPlugin, looked.answer()))

    def _find_roles(self) -> frozenset[Role]:
        """What this host is for, by what Slurm says, what runs here and what lies here."""
        running, host = services.running(), host_name()
        names = {one.split("(")[0].split(".")[0] for one in self._config.all("SlurmctldHost")}
        found = set()
        if host in names or "slurmctld" in running.names:
            found.add(Role.CONTROLLER)
        if "slurmd" in running.names or any(
            host in (one.host.split(".")[0], one.name) for one in self._known.get("nodes", ())
        ):
            found.add(Role.COMPUTE)
        if running.collectors or services.collects_here(self._policy_now, self._wake):
            found.add(Role.COLLECTOR)
        if meters.are_here():
            found.add(Role.METERS)
        return frozenset(found or {Role.LOGIN})

    # ------------------------------------------------------------------------------------------ accounts and the flag

    def _accounts(self) -> None:
        users: dict[str, int | None] = {}
        for name in (self._policy_now.service_user, READER):
            try:
                users[name] = pwd.getpwnam(name).pw_uid
            except KeyError:
                users[name] = None
        self._known["users"] = users
        with contextlib.suppress(KeyError):
            self._user = pwd.getpwnam(self._policy_now.service_user)

    def _flag(self) -> None:
        ours = [line for line in self._known.get("plugstack", ()) if Path(line.plugin).name == PLUGIN]
        named = look_prefix(ours[-1].argument("prefix") if ours else "")
        self._known["prefix"] = named
        if not ours:
            return
        folder = self._config.one("PluginDir").split(":")[0] or "/usr/lib/slurm"  # of a name that is not absolute
        plugin = look.places({"it": str(Path(folder) / ours[-1].plugin)}, None)["it"]
        tree = Path("/", *Path(plugin.real or plugin.path).parts[:-3])
        beside = tree / "libexec/perun/perun-launch"
        launchers = look.places({"a": str(beside), "b": f"{named}/libexec/perun/perun-launch"}, None)
        self._known["plugin"] = plugin
        fit = [one for one in launchers.values() if not one.problem and one.runs]
        self._known["launcher"] = fit[0] if fit else launchers["b"]
        if not fit and any(one.problem and not one.missing for one in launchers.values()):
            self._unread["flag"] = Unread("the plugin's own file system does not answer", by="launcher")
        elif plugin.problem:
            self._unread["flag"] = Unread(f"{plugin.path}: {plugin.problem}", by="plugin-file")
        else:
            self._take("flag", lambda: _said("srun", "--help"))

    # -------------------------------------------------------------------------------------------------- compute nodes

    def _hooks(self) -> None:
        beside = Path(self._known["conf_path"]).parent  # a configless Slurm sends what has no absolute name
        found = {
            name: tuple(place for value in self._config.all(name) for place in look.matching(str(beside / value), None))
            for name in ("Prolog", "Epilog")
        }
        hooks = self._known["hooks"] = Hooks(found["Prolog"], found["Epilog"])
        if "config" in self._unread:
            self._without(self._unread["config"], "hooks", "hook_runs")
        ours = next((one for one in hooks.prolog if services.is_ours(one) and one.elf and one.runs), None)
        if ours is not None:
            self._take("hook_runs", lambda: _run(["perun-doctor"], 5.0, executable=ours.path))

    def _node(self) -> None:
        prefix = self._known["prefix"]
        trusted = [f"{prefix}/{name}" for name in ("bin", "lib", "libexec/perun")]
        trusted += [one.path for one in (*self._known["hooks"].prolog, *self._known["hooks"].epilog)]
        trusted += [self._known["plugin"].path] if "plugin" in self._known else []
        self._known["trusted"] = tuple(look.places({path: path for path in trusted}, None).values())
        self._take("off", lambda: look.Look(partial(_off, self._known["conf_path"], self._known["node"])).answer())
        python, isolated = f"{prefix}/bin/python", f"{prefix}/libexec/perun/isolated.py"
        line = [python, "-I", "-S", isolated, "perun_hpc.agent", "--started-by-nobody"]
        self._take("starts", lambda: _run(line, START_S))
        jobs: tuple[str, ...] = ()
        if "config" in self._known:
            with contextlib.suppress(UnavailableError):
                jobs = tuple(_asked("squeue", "-h", "-w", self._known["node"], "-t", "R", "-o", "%A").split())
        agent = self._known["agent"] = services.agent(jobs)
        if os.geteuid() != 0:
            self._without(Unread("only root may look", root=True), "sensors", "inbox", "static_days", "slurm_figures")
            return
        if self._policy_now.slurm_figures and services.has_been_here(agent, self._policy_now):
            self._take("slurm_figures", lambda: energy.figures(AGENT.slurm_figures, time.monotonic_ns()))
        if agent.answer is None:
            self._take("sensors", lambda: services.missing_sensors(self._known["node"]))
        self._take("inbox", lambda: services.inbox(AGENT.inbox, time.time()))
        if not self._policy_now.static_known:
            self._take(
                "static_days", lambda: look.Look(partial(services.static_days, AGENT, time.time())).answer(), "spool"
            )

    def _places(self) -> None:
        """Spool and archive, and what listens for hand-overs."""
        wanted = {}
        if Role.COMPUTE in self._roles:
            wanted["spool"] = str(AGENT.spool)
        reads = Role.METERS in self._roles or Role.COLLECTOR in self._roles
        if self._policy_now.archive and (not self._policy_now.collector or reads):
            wanted["archive"] = self._policy_now.archive
        self._known.update(look.places(wanted, self._user))
        if Path("/run/systemd/system").is_dir():
            self._take("units", lambda: {unit: _unit(unit) for unit in UNITS})
        if self._policy_now.collector and Role.COMPUTE in self._roles:
            self._reach()
        if self._policy_now.tls:
            self._certificates()

    def _as_service(self, work: Callable[[], Any]) -> Callable[[], Any] | None:
        """The work as the service user, who alone reads the key; None where we cannot become that user."""
        user = self._user
        return look.as_user(user, work) if user is not None and os.geteuid() in (0, user.pw_uid) else None

    def _reach(self) -> None:
        policy = self._policy_now
        shown = self._as_service(partial(services.reach, policy, True)) if policy.tls else None
        work = shown or partial(services.reach, policy, False)
        self._take("reached", lambda: look.Look(work).answer(2 * services.HANDSHAKE_S))

    def _certificates(self) -> None:
        if work := self._as_service(partial(services.certificates, self._policy_now.tls, time.time())):
            self._take("certificates", lambda: tuple((one[0], one[1]) for one in look.Look(work).answer()))
        else:
            who = f"only root and {self._policy_now.service_user} may look"
            self._without(Unread(who, root=True), "certificates")

    # --------------------------------------------------------------------------------------- controller and collector

    def _wake_hook(self) -> None:
        named = self._config.one("EpilogSlurmctld")
        if named:
            self._known["wake_hook"] = look.places({"it": named}, None)["it"]

    def _collector(self) -> None:
        policy, user = self._policy_now, self._user
        if policy.listen:
            self._take("scraped", lambda: look.Look(partial(services.scrape, policy.listen)).answer(5.0))
        archive: Place | None = self._known.get("archive")
        if policy.mistakes:
            unread = Unread("the policy cannot be read", by="policy")
            self._without(unread, "collector", "ledger", "audit", "dbd", "admin")
            return
        if user is None or os.geteuid() not in (0, user.pw_uid):
            why = f"only root and {policy.service_user} may look"
            self._without(Unread(why, root=True), "collector", "ledger", "audit", "dbd", "admin")
            return
        if archive is None or archive.problem:
            self._without(Unread("the archive cannot be looked at", by="archive"), "collector", "audit")
        else:
            work = partial(services.collector, policy, self._wake, time.time())
            self._take("collector", lambda: services.decoded(look.Look(look.as_user(user, work)).answer(10.0)))
        if "config" in self._unread:
            self._without(self._unread["config"], "dbd", "admin", "audit")
        elif self._config.one("AccountingStorageType").endswith("/none") or not self._config.one(
            "AccountingStorageType"
        ):
            self._known["dbd"] = "" if policy.slurmdbd == "off" else "Slurm keeps no accounts (AccountingStorageType)"
        else:
            try:
                self._known["admin"] = _admin_level(policy.service_user)
            except UnavailableError as error:
                self._known["dbd"] = str(error)
                self._without(Unread("slurmdbd does not answer", by="slurmdbd"), "admin", "audit")
        ledger = look.Look(look.as_user(user, partial(services.ledger, policy.ledger)))
        if self._take("ledger", lambda: ledger.answer(15.0)) and not self._known["ledger"]:
            if self._audit and "audit" not in self._unread:
                self._take("audit", lambda: services.audit(user, self._config.one("ClusterName"), policy.archive))
        else:
            self._without(Unread("the ledger cannot be opened", by="ledger"), "audit")

    # --------------------------------------------------------------------------------------------- meters' service host

    def _meters(self) -> None:
        if os.geteuid() != 0:
            self._without(Unread("only root may look", root=True), "meters", "meters_say")
            return
        found = None
        if self._take("meters", lambda: codec.decode(Meters, look.Look(meters.files).answer(5.0))):
            found = self._known["meters"]
            if Path("/run/systemd/system").is_dir():
                shown = _unit("perun-meters", "LoadState,ActiveState,SubState")
                self._known["meters"] = replace(found, unit=meters.unit(shown))
        archive: Place | None = self._known.get("archive")
        if archive is None or archive.problem:
            why = "the policy names none (store.archive)" if archive is None else f"{archive.path}: {archive.problem}"
            self._without(Unread(f"the archive: {why}", by="archive"), "meters_say")
            return
        cluster = found.cluster if found else ""
        work = partial(meters.readings, self._policy_now.archive, cluster, time.time())
        asked = look.Look(self._as_service(work) or work)
        self._take("meters_say", lambda: tuple(tuple(some) for some in asked.answer(10.0)))


def look_prefix(named: str) -> str:
    """The installation prefix as hooks and plugin find it: the line of a file, what plugstack.conf says, our own."""
    with contextlib.suppress(UnavailableError):
        for _, text in look.texts(PREFIX_FILE):
            if text.startswith("/"):
                return text.splitlines()[0].rstrip("/")
    return named.rstrip("/") or sys.prefix


def _asked(*command: str) -> str:
    """What a command of Slurm's prints; `UnavailableError` where it fails, `AccessError` where Slurm refuses."""
    done = _said(*command)
    if done.code != 0 and re.search(r"denied|not (allowed|permitted)", done.error, re.IGNORECASE):
        raise AccessError(f"{command[0]}: {done.error}: ask as root")
    if done.code != 0:
        raise UnavailableError(f"{command[0]}: {done.error or f'exit code {done.code}'}")
    return done.out


def _said(*command: str) -> Said:
    done = attempt(command, None, SLURM_S)
    return Said(done.returncode, done.stdout, _last_line(done.stderr))


def _run(command: list[str], patience_s: float, executable: str | None = None) -> Said:
    """Run a program of ours in a child with a deadline: its file system may hang."""

    def work() -> Any:
        done = subprocess.run(
            command,
            executable=executable,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            timeout=patience_s,
            check=False,
        )
        return codec.encode(Said(done.returncode, done.stdout[-1000:], _last_line(done.stderr)))

    try:
        return codec.decode(Said, look.Look(work).answer(patience_s))
    except UnavailableError as error:
        return Said(-1, "", str(error))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()


def _munge() -> Said:
    """Whether munge signs and checks a credential here; no word of it where the site has none."""
    try:
        munge = Munge()
        munge.decode(munge.encode(b"perun doctor"))
    except FileNotFoundError:
        return Said(-1, "", "not installed")
    except PerunError as error:
        missing = not any(Path(folder, "munge").exists() for folder in os.get_exec_path())
        return Said(-1 if missing else 1, "", str(error))
    return Said(0, "")


def _nodes() -> tuple[Node, ...]:
    found = {}
    for line in _asked("sinfo", "-h", "-a", "-N", "-o", "%N|%n|%T|%v|%R|%E").splitlines():
        parts = line.split("|", 5)
        if len(parts) == 6:
            found[parts[0]] = Node(*(part.strip() for part in parts))
    return tuple(found.values())


def _unit(name: str, properties: str = PROPERTIES) -> dict[str, str]:
    """What systemd knows of a unit, its drop-in files included."""
    text = _asked("systemctl", "show", f"--property={properties}", f"{name}.service")
    return {key: value for key, _, value in (line.partition("=") for line in text.splitlines())}


def _partitions() -> tuple[str, ...]:
    found = partitions()
    if found is None:
        raise UnavailableError("sinfo does not say which partitions there are")
    return tuple(sorted(found))


def _clock_off_s() -> float:
    """By how much slurmctld's clock is ahead of this host's; 0 where the difference is within sdiag's second."""
    before_s = time.time()
    match = _NOW.search(_asked("sdiag"))
    after_s = time.time()
    if match is None:
        raise UnavailableError("sdiag does not say what time it is for slurmctld")
    then_s = int(match[1])
    return min(0.0, then_s + 1 - before_s) + max(0.0, then_s - after_s)


def _off(conf_path: str, node: str) -> str:
    """Why nothing is measured on this node; empty where it is."""
    if DISABLE.exists():
        return str(DISABLE)
    if hook.switched_off({"SLURM_CONF": conf_path, "SLURMD_NODENAME": node}):
        return str(Path(conf_path).parent / "perun.off")
    return ""


def _admin_level(user: str) -> str:
    """The service user's rights in slurmdbd, in lower case; empty where it does not know that user."""
    line = ("sacctmgr", "-n", "-P", "show", "user", user, "format=user,adminlevel")
    rows = [row.split("|") for row in _asked(*line).splitlines()]
    return next((row[1].lower() for row in rows if len(row) > 1 and row[0] == user), "")
