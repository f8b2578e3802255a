"""What a compute node must have: hooks that run, an agent that answers, sensors, a spool; and any host's policy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from perun_hpc._version import __version__
from perun_hpc.agent.outbox.parsing import USER as READER
from perun_hpc.archive.access import NO_LISTS
from perun_hpc.backend.power_pmu import FILES_READ
from perun_hpc.doctor.facts import Facts, Place
from perun_hpc.doctor.findings import ANY, Check, Fault, Role, Severity
from perun_hpc.doctor.services import is_ours
from perun_hpc.report.quantities import duration

CRITICAL, WARNING = Severity.CRITICAL, Severity.WARNING
ON_NODES = frozenset({Role.COMPUTE})
SPOOL_B = 256 << 20
ARCHIVE_PART = 0.02
FILES_PART = 0.01
INBOX_S = 120.0
STATIC_DAYS = 3.0
FIGURES = "/run/perun/slurm.figures"
USAGE = 64
REMEDIES = {
    "shipping": "see the archive: ls -ld {archive}; tail /var/spool/perun/agent.log",
    "not-shipped": "see the archive: ls -ld {archive}; it is tried again every 5 minutes",
    "set-aside": "read its faults.json; mv it back to /var/spool/perun/sessions/ without that file to try again",
    "not-written": "df /var/spool/perun; make space there",
    "not-read": "perun agent stop; the next job starts one",
    "no-reading": "perun sensors --all; see the kernel's log (dmesg)",
    "not-moving": "see the kernel's log (dmesg); sensors: {{exclude: [...]}} in the policy leaves it out",
    "no-figures": "install -d -o USER -m 0755 that directory, USER the owner of /var/spool/perun",
    "not-there": "do as it says, or name what the node has in the policy: sensors: {{backends: [...]}}",
}


def _policy(facts: Facts) -> Iterator[Fault]:
    mistakes = facts.policy.mistakes
    if mistakes:
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        match = re.match(rf"({re.escape(facts.policy.path)}(?::\d+)*): (.*)", mistakes[0])
        where, what = (match[1], match[2]) if match else (facts.policy.path, mistakes[0])
        yield Fault(where, what + more)


def _policy_there(facts: Facts) -> Iterator[Fault]:
    if facts.policy.missing:
        yield Fault(facts.policy.path, "is not there: the defaults hold, with the archive on this host's own disk")


def _users(facts: Facts) -> Iterator[Fault]:
    name = facts.policy.service_user
    if facts.users.get(name) is None:
        yield Fault("/etc/passwd", f"has no account {name}: the agent would go on as root", {"user": name})


def _reader(facts: Facts) -> Iterator[Fault]:
    if facts.users.get(READER) is None:
        yield Fault("/etc/passwd", f"has no account {READER}: the service user itself parses what users wrote")


def _off(facts: Facts) -> Iterator[Fault]:
    if facts.off:
        remedy = f"perun on {facts.node}" if facts.off.endswith("perun.off") else f"rm {facts.off}"
        yield Fault(facts.off, "perun is switched off on this node: no job is measured", {"command": remedy})


def _broken(place: Place) -> str:
    if place.problem:
        return place.problem
    if place.kind != "file":
        return "it is no file"
    return "" if place.runs else f"it cannot be executed (mode {place.mode:04o}, or mounted noexec)"


def _cause(place: Place) -> str:
    """Whether a place is not there, does not answer, or (empty) is another one than it should be."""
    return "missing" if place.missing else "silent" if place.problem else ""


def _hook_files(facts: Facts) -> Iterator[Fault]:
    for name, places in (("Prolog", facts.hooks.prolog), ("Epilog", facts.hooks.epilog)):
        for place in places:
            if why := _broken(place):
                what = f"{name}: {why}: Slurm drains this node with the next job"
                yield Fault(place.path, what, {"path": place.path, "prefix": facts.prefix}, _cause(place))


def _hooks_ours(facts: Facts) -> Iterator[Fault]:
    for name, places in (("Prolog", facts.hooks.prolog), ("Epilog", facts.hooks.epilog)):
        whole = places and not any(_broken(place) for place in places)
        if whole and not any(is_ours(place) for place in places):
            said = ", ".join(place.path for place in places)
            names = {"prefix": facts.prefix, "name": name.lower(), "key": name}
            yield Fault(facts.conf_path, f"{name} is {said}: perun's is not among them, nor named in them", names)


def _hook_runs(facts: Facts) -> Iterator[Fault]:
    if facts.hook_runs.code != 0:
        ours = next((place.path for place in facts.hooks.prolog if is_ours(place)), "the Prolog")
        why = facts.hook_runs.error or f"exit code {facts.hook_runs.code}"
        yield Fault(ours, f"does not run on this processor: {why}", {"prefix": facts.prefix})


def _hook_disk(facts: Facts) -> Iterator[Fault]:
    for place in (*facts.hooks.prolog, *facts.hooks.epilog, *([facts.plugin] if facts.plugin else ())):
        if place.network and is_ours(place):
            what = f"lies on a file system of another machine ({place.network}): while it hangs no job starts"
            yield Fault(place.path, what, {"prefix": facts.prefix})


def _trusted(facts: Facts) -> Iterator[Fault]:
    for path in sorted({place.open_to for place in facts.trusted if place.open_to}):
        yield Fault(path, "others than root can write there, and root runs what lies in it", {"path": path})


def _spool(facts: Facts) -> Iterator[Fault]:
    place, user = facts.spool, facts.policy.service_user
    if place is None:
        return
    names = {"path": place.path, "user": user}
    if place.problem:
        yield Fault(place.path, f"the spool: {place.problem}", names, _cause(place))
    elif place.kind != "directory":
        yield Fault(place.path, "the spool is no directory", names, "missing")
    elif place.owner not in (user, "root") and facts.users.get(user) is not None:
        yield Fault(place.path, f"belongs to {place.owner}, and the agent runs as whom it belongs to", names, "owner")
    elif place.writes is False and place.owner != "root":
        yield Fault(place.path, f"{user} cannot write there (mode {place.mode:04o}, or mounted read-only)", names)


def _spool_open(facts: Facts) -> Iterator[Fault]:
    if facts.spool is not None and facts.spool.mode & 0o022:
        what = f"mode {facts.spool.mode:04o}: others than the agent can write there"
        yield Fault(facts.spool.path, what, {"path": facts.spool.path})


def _spool_space(facts: Facts) -> Iterator[Fault]:
    place = facts.spool
    if place is None or place.problem:
        return
    if place.free_b < SPOOL_B:
        yield Fault(place.path, f"{place.free_b >> 20} MiB are free", {"path": place.path})
    elif place.free_files is not None and place.free_files < FILES_PART:
        yield Fault(place.path, f"{place.free_files:.1%} of the inodes are free", {"path": place.path})


def _starts(facts: Facts) -> Iterator[Fault]:
    if facts.starts.code != USAGE:
        why = facts.starts.error or f"exit code {facts.starts.code}"
        python = f"{facts.prefix}/bin/python -I -S {facts.prefix}/libexec/perun/isolated.py perun_hpc.agent"
        yield Fault(facts.prefix, f"the agent cannot be started from there: {why}", {"command": f"{python} -h"})


def _answers(facts: Facts) -> Iterator[Fault]:
    agent = facts.agent
    if agent.answer is not None or facts.off:
        return
    if agent.listens:
        yield Fault("agent", f"is there and does not answer: {agent.silent}")
    elif agent.jobs:
        what = f"none runs here, and jobs do, unmeasured: {', '.join(agent.jobs[:4])}"
        yield Fault("agent", what, {"prefix": facts.prefix}, "none")


def _agent_version(facts: Facts) -> Iterator[Fault]:
    running = (facts.agent.answer or {}).get("version", __version__)
    if running != __version__:
        yield Fault("agent", f"version {running} still runs, {__version__} is installed")


def _agent_user(facts: Facts) -> Iterator[Fault]:
    if (facts.agent.answer or {}).get("uid") == "0":
        what = "runs as root, since there is no service user: the collector cannot take what it leaves in the archive"
        yield Fault("agent", what, {"user": facts.policy.service_user, "archive": facts.policy.archive})


def _agent_policy(facts: Facts) -> Iterator[Fault]:
    said = (facts.agent.answer or {}).get("policy")
    if said and not facts.policy.mistakes:
        yield Fault("agent", f"goes on with an older policy: {said.splitlines()[0]}")


def _power_pmu(facts: Facts) -> Iterator[Fault]:
    said = (facts.agent.answer or {}).get("power_pmu", "")
    if said.startswith(FILES_READ):
        yield Fault("agent", f"uses no group of the power PMU, which the policy wants: {said}")


def _losses(facts: Facts) -> Iterator[Fault]:
    for kind, line in facts.agent.lines:
        remedy = REMEDIES.get(kind, "perun agent status; tail /var/spool/perun/agent.log")
        yield Fault("agent", line, {"remedy": remedy.format(archive=facts.policy.archive)})


def _sensors(facts: Facts) -> Iterator[Fault]:
    for what, why, remedy in facts.sensors:
        yield Fault(what, why, {"remedy": remedy})


def _slurm_figures(facts: Facts) -> Iterator[Fault]:
    if facts.slurm_figures and not facts.off:
        cause = "" if facts.agent.answer is not None else "silent"
        yield Fault(FIGURES, f"{facts.slurm_figures}: Slurm shows blanks of this node and its jobs", cause=cause)


def _inbox(facts: Facts) -> Iterator[Fault]:
    count, age_s = facts.inbox
    if age_s > INBOX_S:
        yield Fault("/run/perun/inbox", f"{count} messages of hooks wait, the oldest for {duration(age_s)}")


def _static(facts: Facts) -> Iterator[Fault]:
    if facts.static_days >= STATIC_DAYS:
        what = (
            f"the idle power of its CPUs is not known after {facts.static_days:.0f} days: half an hour of idleness is"
        )
        yield Fault("static power", f"{what} needed to learn it")


def _archive(facts: Facts) -> Iterator[Fault]:
    place, user = facts.archive, facts.policy.service_user
    if place is None:
        return
    names = {"path": place.path, "user": user}
    if place.problem:
        yield Fault(place.path, f"the archive: {place.problem}", names, _cause(place))
    elif place.kind != "directory":
        yield Fault(place.path, "the archive is no directory", names, "missing")
    elif place.writes is False:
        what = f"{user} cannot write there: it belongs to {place.owner}, mode {place.mode:04o}"
        yield Fault(place.path, what, names)


def _archive_open(facts: Facts) -> Iterator[Fault]:
    if facts.archive is not None and facts.archive.mode & 0o002:
        what = f"mode {facts.archive.mode:04o}: every user could put records there"
        yield Fault(facts.archive.path, what, {"path": facts.archive.path})


def _archive_closed(facts: Facts) -> Iterator[Fault]:
    place = facts.archive
    if place is not None and not place.problem and place.kind == "directory" and not place.mode & 0o001:
        what = f"mode {place.mode:04o}: users cannot pass it to their own records, perun report finds nothing"
        yield Fault(place.path, what, {"path": place.path})


def _archive_lists(facts: Facts) -> Iterator[Fault]:
    place = facts.archive
    if place is not None and not place.problem and place.lists is False:
        yield Fault(place.path, f"{NO_LISTS}: users cannot read their records and traces", {"path": place.path})


def _archive_space(facts: Facts) -> Iterator[Fault]:
    place = facts.archive
    if place is None or place.problem or not place.size_b:
        return
    if place.free_b < ARCHIVE_PART * place.size_b and place.free_b < 100 << 30:
        yield Fault(place.path, f"{place.free_b / (1 << 30):.1f} GiB are free", {"path": place.path})
    elif place.free_files is not None and place.free_files < FILES_PART:
        yield Fault(place.path, f"{place.free_files:.1%} of the inodes are free", {"path": place.path})


def _reached(facts: Facts) -> Iterator[Fault]:
    if facts.reached:
        what = f"cannot be reached from here: {facts.reached}; records wait in the spool"
        cause = "tls" if any(word in facts.reached for word in ("certificate", "TLS", "store.tls")) else ""
        yield Fault(facts.policy.collector, what, {"port": facts.policy.collector.rpartition(":")[2]}, cause)


def _unit_archive(facts: Facts) -> Iterator[Fault]:
    archive = facts.policy.archive
    for unit, says in facts.units.items():  # the package brings both to every host
        collects = unit == "perun-collect"
        runs = (Role.COLLECTOR if collects else Role.COMPUTE) in facts.roles
        ships = collects or not facts.policy.collector
        strict = (says.get("LoadState"), says.get("ProtectSystem")) == ("loaded", "strict")
        if not (archive and runs and ships and strict):
            continue
        paths = [word.lstrip("-+") for word in says.get("ReadWritePaths", "").split()]
        paths += [f"/var/lib/{word}" for word in says.get("StateDirectory", "").split()]
        if not any(PurePath(archive).is_relative_to(path) for path in paths):
            what = f"the unit may not write into the archive {archive} (ReadWritePaths={' '.join(paths) or 'none'})"
            yield Fault(f"{unit}.service", what, {"unit": unit, "path": archive})


def _unit_network(facts: Facts) -> Iterator[Fault]:
    says = facts.units.get("perun-agent", {})
    if facts.policy.collector and says.get("LoadState") == "loaded" and says.get("PrivateNetwork") == "yes":
        what = f"the unit has no network (PrivateNetwork=yes), and store.collector is {facts.policy.collector}"
        yield Fault("perun-agent.service", what)


def _port(facts: Facts) -> Iterator[Fault]:
    if not facts.policy.collector:
        return
    port = facts.policy.collector.rpartition(":")[2]
    known = {"6820": "slurmrestd"}
    for key, daemon in (
        ("SlurmctldPort", "slurmctld"),
        ("SlurmdPort", "slurmd"),
        ("AccountingStoragePort", "slurmdbd"),
    ):
        first, _, last = facts.config.one(key).partition("-")
        if first.isdecimal() and int(first) <= int(port) <= int(last if last.isdecimal() else first):
            known[port] = daemon
    if port in known:
        what = f"store.collector is {facts.policy.collector}, and that port is {known[port]}'s"
        yield Fault(facts.policy.path, what, {"host": facts.policy.collector.rpartition(":")[0]})


def _certificates(facts: Facts) -> Iterator[Fault]:
    for where, what in facts.certificates:
        yield Fault(where, what, {"user": facts.policy.service_user})


_MAKE = "install -d -o {user} -g {user} -m 0711 {path}"
_STOP = "perun agent stop; the next job starts one"
_ARCHIVE = frozenset({Role.COMPUTE, Role.COLLECTOR})

CHECKS = (
    Check("policy", frozenset(Role), CRITICAL, "the policy can be read and has no mistake", ("policy",), _policy,
          "perun policy check"),
    Check("policy-missing", frozenset({Role.COMPUTE, Role.COLLECTOR}), WARNING, "there is a policy", ("policy",),
          _policy_there, "copy the nearest of site-configs/ there, set store.archive, perun policy check"),
    Check("service-user", _ARCHIVE, CRITICAL, "the service user has an account", ("users",), _users,
          "useradd --system --home-dir /var/lib/perun --shell /usr/sbin/nologin -u NUMBER {user}, everywhere the same"),
    Check("reader-user", ON_NODES, WARNING, "perun-parse has an account", ("users",), _reader,
          f"useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin {READER}; perun agent stop"),
    Check("switched-off", ON_NODES, WARNING, "perun is not switched off", ("off",), _off, "{command}"),
    Check("hook-file", ON_NODES, CRITICAL, "what Prolog and Epilog name is there and can be executed", ("hooks",),
          _hook_files,
          {"": "chmod 755 {path}; findmnt -T {path} shows whether it is mounted noexec",
           "missing": "from the sources: make -C slurm install PREFIX={prefix}; or correct the name in slurm.conf",
           "silent": "see its file server; hooks belong on the node's disk: make -C slurm install-node"}),
    Check("hook-perun", ON_NODES, CRITICAL, "perun's hooks are among them", ("hooks",), _hooks_ours,
          "ln -s {prefix}/libexec/perun/{name} /etc/slurm/{name}.d/50-perun-{name}, the site's own there too, and "
          "{key}=/etc/slurm/{name}.d/*, then scontrol reconfigure"),
    Check("hook-runs", ON_NODES, CRITICAL, "the hook is a program for this processor", ("hook_runs",), _hook_runs,
          "on a machine of this kind: make -C slurm install PREFIX={prefix}"),
    Check("hook-disk", ON_NODES, WARNING, "hooks and plugin lie on the node's own disk", ("hooks", "plugstack"),
          _hook_disk, "make -C slurm install-node PREFIX={prefix}; then name /usr/local/libexec/perun in slurm.conf"),
    Check("hook-writable", ON_NODES, CRITICAL, "only root can write where hooks, plugin and the agent's code lie",
          ("trusted",), _trusted, "chown root:root {path}; chmod go-w {path}"),
    Check("spool", ON_NODES, CRITICAL, "the spool is there and the service user's", ("spool",), _spool,
          {"": "findmnt -T {path}; mount -o remount,rw its file system; chmod 0711 {path}", "missing": _MAKE,
           "owner": "perun agent stop; chown -R {user}: {path}", "silent": "findmnt -T {path}; dmesg"}),
    Check("spool-open", ON_NODES, CRITICAL, "nobody else can write into the spool", ("spool",), _spool_open,
          "chmod 0711 {path}"),
    Check("spool-space", ON_NODES, WARNING, "the spool's file system has space", ("spool",), _spool_space,
          "df -h {path}; df -i {path}; make space there"),
    Check("agent-starts", ON_NODES, CRITICAL, "the agent can be started from the prefix", ("starts",), _starts,
          "see what it says: {command}"),
    Check("agent-answers", ON_NODES, CRITICAL, "the agent answers, at least while a job runs here", ("agent", "off"),
          _answers,
          {"": "pkill -KILL -f perun_hpc.agent; the next job starts one, which takes up the jobs that run",
           "none": "cd /; setsid -f {prefix}/bin/python -I -S {prefix}/libexec/perun/isolated.py perun_hpc.agent; "
                   "it takes up the jobs that run"}),
    Check("agent-version", ON_NODES, WARNING, "the agent that runs is of the version that is installed", ("agent",),
          _agent_version, _STOP),
    Check("agent-user", ON_NODES, CRITICAL, "the agent does not run as root", ("agent",), _agent_user,
          "make the account; chown {user}: /var/spool/perun; perun agent stop; chown -R {user}: {archive}"),
    Check("agent-policy", ON_NODES, WARNING, "the agent has the policy that lies here", ("agent", "policy"),
          _agent_policy, "perun policy check; perun agent reload"),
    Check("power-pmu", ON_NODES, Severity.OK, "where the policy wants groups of the power PMU, the agent uses some",
          ("agent",), _power_pmu,
          "nothing is lost; see docs/sites.md, RAPL by the power PMU; power_pmu: 'off' in the policy ends the note"),
    Check("agent-losses", ON_NODES, WARNING, "the agent reads every sensor and ships everything", ("agent",), _losses,
          "{remedy}"),
    Check("sensors", ON_NODES, WARNING, "every sensor can be read (while no agent runs)", ("sensors",), _sensors,
          "{remedy}"),
    Check("inbox", ON_NODES, WARNING, "no message of a hook waits", ("inbox",), _inbox,
          "any job on this node starts an agent, which reads them; where it does not: agent-starts, agent-answers"),
    Check("slurm-figures", ON_NODES, WARNING, "where the policy has figures for Slurm, the agent's count",
          ("policy", "agent", "off", "slurm_figures"), _slurm_figures,
          {"": f"perun agent reload; half a minute later, where they still do not: rm -f {FIGURES}; {_STOP}",
           "silent": f"agent-answers; then rm -f {FIGURES}, perun agent stop: the next job starts one"}),
    Check("static-power", ON_NODES, WARNING, "the idle power of the CPUs is known after three days", ("static_days",),
          _static, "say what an idle one draws: nodes: {{n[1-64]: {{energy: {{package_static: 45 W}}}}}}"),
    Check("archive", _ARCHIVE, CRITICAL, "the archive answers, and the service user can write there", ("archive",),
          _archive,
          {"": "chown {user}: {path}; chmod 0711 {path}; findmnt -T {path} shows whether it is mounted read-only",
           "missing": "mount it; where it was never made: " + _MAKE,
           "silent": "see its file server: findmnt -T {path}; records wait on the nodes meanwhile"}),
    Check("archive-open", _ARCHIVE, CRITICAL, "users cannot write into the archive", ("archive",), _archive_open,
          "chmod 0711 {path}"),
    Check("archive-closed", ANY, WARNING, "users can pass the archive to their own records", ("archive",),
          _archive_closed, "chmod 0711 {path}"),
    Check("archive-lists", ANY, WARNING, "the archive's file system has access control lists", ("archive",),
          _archive_lists, "findmnt -T {path}; mount it with acl; where that cannot be: docs/sites.md, Lustre and NFS"),
    Check("archive-space", frozenset({Role.COLLECTOR}), WARNING, "the archive's file system has space", ("archive",),
          _archive_space, "df -h {path}; shorten store.retention or set store.archive_quota; perun ledger retention"),
    Check("unit-archive", _ARCHIVE, CRITICAL, "systemd's units may write into the archive", ("units", "policy"),
          _unit_archive,
          "systemctl edit {unit}: [Service] ReadWritePaths=-{path}; systemctl restart {unit}"),
    Check("unit-network", ON_NODES, CRITICAL, "the agent's unit has a network where it hands over", ("units", "policy"),
          _unit_network,
          "systemctl edit perun-agent: [Service] PrivateNetwork=no RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"),
    Check("collector-port", ANY, WARNING, "store.collector is on no port of Slurm's", ("policy", "config"), _port,
          "store: {{collector: {host}:PORT}} with a free port, such as 6871; restart perun collect"),
    Check("collector-reached", ON_NODES, CRITICAL, "the collector that takes hand-overs can be reached", ("reached",),
          _reached,
          {"": "on its host: systemctl status perun-collect; open port {port} to the nodes",
           "tls": "store.tls in the policy here and there; on both: perun doctor, timedatectl"}),
    Check("certificates", _ARCHIVE, WARNING, "the certificates of store.tls can be used for another 30 days",
          ("certificates",), _certificates,
          "have the site's CA issue it anew; the key belongs to {user}, mode 0600; no restart is needed"),
)  # fmt: skip
