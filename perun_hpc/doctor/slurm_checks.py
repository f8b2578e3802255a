"""What Slurm must be and say: its version, its flags, its plugins, the option `--perun`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from perun_hpc.doctor.energy import in_use
from perun_hpc.doctor.facts import Facts
from perun_hpc.doctor.findings import ANY, Check, Fault, Role, Severity
from perun_hpc.slurm.conf import prolog_flags, release

OLDEST = (22, 5)
WANTED = ("Alloc", "Contain", "DeferBatch")
NO_TIMEOUT_S = 65533
"""From here on Slurm means that there is none: 65534 and 65535."""
HOOK_SPARE_S = 4
"""Beside its deadline a hook needs time to be started, on a busy node."""
CLOCK_S = 2.0
CONTAINERS = ("pyxis", "shifter", "enroot", "charliecloud", "sarus", "singularity", "apptainer")
COMPARED = ("Prolog", "Epilog")
CRITICAL, WARNING = Severity.CRITICAL, Severity.WARNING
ON_NODES = frozenset({Role.COMPUTE})


def _munge(facts: Facts) -> Iterator[Fault]:
    absent = facts.munge.code < 0
    needed = facts.config.one("AuthType") in ("", "auth/munge") or bool(facts.policy.collector and not facts.policy.tls)
    if facts.munge.code > 0 or (absent and "config" not in facts.unread and needed):
        what = f"no credential can be made and checked here: {facts.munge.error}"
        yield Fault("munge", what, cause="absent" if absent else "")


def _slurmctld(facts: Facts) -> Iterator[Fault]:
    unread = facts.unread.get("config")
    if unread is not None and unread.by == "slurmctld":
        yield Fault("slurmctld", f"does not answer: {unread.why}")


def _version(facts: Facts) -> Iterator[Fault]:
    if facts.config.version < OLDEST:
        yield Fault("slurmctld", f"Slurm {facts.config.one('SLURM_VERSION')}: perun needs 22.05 or newer")


def _versions(facts: Facts) -> Iterator[Fault]:
    own = facts.config.version
    others: dict[str, list[str]] = {}
    for node in facts.nodes:
        if release(node.version) not in (own, (0, 0)):
            others.setdefault(node.version, []).append(node.name)
    for version, names in sorted(others.items()):
        shown = f"slurmd {version} on {_some(names)}, slurmctld {facts.config.one('SLURM_VERSION')}"
        yield Fault("slurmd", f"{shown}: a plugin that was built for one of them is skipped by the other")


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _hook(facts: Facts, key: str) -> Iterator[Fault]:
    if not facts.config.all(key):
        yield Fault(
            facts.conf_path, f"{key} is not set: no node reports {_WORDS[key]} of a job", {"prefix": facts.prefix}
        )


_WORDS = {"Prolog": "the start", "Epilog": "the end"}


def _prolog(facts: Facts) -> Iterator[Fault]:
    yield from _hook(facts, "Prolog")


def _epilog(facts: Facts) -> Iterator[Fault]:
    yield from _hook(facts, "Epilog")


def _flags(facts: Facts) -> list[str]:
    there = prolog_flags(facts.config)
    return [flag for flag in WANTED if flag.lower() not in there]


def _all_flags(facts: Facts) -> dict[str, str]:
    """The flags that the site has, in its words, with those that perun wants."""
    has = [word for word in facts.config.one("PrologFlags").split(",") if word]
    low = {word.lower() for word in has}
    return {"flags": ",".join([*has, *(flag for flag in WANTED if flag.lower() not in low)])}


def _alloc(facts: Facts) -> Iterator[Fault]:
    lacking = _flags(facts)
    if "Alloc" in lacking:
        what = f"PrologFlags lacks {', '.join(lacking)}: jobs start before the Prolog has run on all their nodes"
        yield Fault(facts.conf_path, what, _all_flags(facts))


def _contain(facts: Facts) -> Iterator[Fault]:
    if "Contain" in _flags(facts) and "Alloc" not in _flags(facts):
        what = "PrologFlags lacks Contain: a node without a step has no cgroup of the job, so its CPU time is not known"
        yield Fault(facts.conf_path, what, _all_flags(facts))


def _defer_batch(facts: Facts) -> Iterator[Fault]:
    if "DeferBatch" in _flags(facts) and "Alloc" not in _flags(facts):
        what = "PrologFlags lacks DeferBatch: a batch script starts when the first node's Prolog is done"
        yield Fault(facts.conf_path, what, _all_flags(facts))


def _timeout(facts: Facts) -> Iterator[Fault]:
    least_s = math.ceil(facts.policy.deadline_ns / 1e9) + HOOK_SPARE_S
    for key in ("PrologEpilogTimeout", "PrologTimeout", "EpilogTimeout"):
        match = re.match(r"\d+", facts.config.one(key))
        if match and 0 < int(match[0]) < min(least_s, NO_TIMEOUT_S):
            what = f"{key}={match[0]}: on a busy node Slurm may drain the node before a hook has given up by itself"
            yield Fault(facts.conf_path, what, {"setting": f"{key}={least_s}"})


def _proctrack(facts: Facts) -> Iterator[Fault]:
    kind = facts.config.one("ProctrackType")
    if kind != "proctrack/cgroup":
        what = f"ProctrackType={kind}: jobs have no cgroup, so which CPU time is whose is not known"
        yield Fault(facts.conf_path, what)


def _task_plugin(facts: Facts) -> Iterator[Fault]:
    if "task/cgroup" not in facts.config.words("TaskPlugin"):
        has = facts.config.one("TaskPlugin") or "(none)"
        what = f"TaskPlugin={has} lacks task/cgroup: jobs are not kept to their cores"
        plugins = ",".join(filter(None, ("task/cgroup", *sorted(facts.config.words("TaskPlugin") - {"task/none"}))))
        yield Fault(facts.conf_path, what, {"plugins": plugins})


def _constrain(facts: Facts) -> Iterator[Fault]:
    shown = facts.config.one("ConstrainCores").lower()
    if "task/cgroup" in facts.config.words("TaskPlugin") and shown in ("no", "false"):
        what = "ConstrainCores=no: jobs share cores that Slurm gave to one of them, so their shares are less exact"
        yield Fault(str(Path(facts.conf_path).parent / "cgroup.conf"), what)


def _cgroup_plugin(facts: Facts) -> Iterator[Fault]:
    kind = facts.config.one("CgroupPlugin").lower()
    if kind in ("disabled", "cgroup/disabled"):
        where = str(Path(facts.conf_path).parent / "cgroup.conf")
        yield Fault(where, "CgroupPlugin=disabled: jobs have no cgroup, so which CPU time is whose is not known")


def _local(facts: Facts) -> Iterator[Fault]:
    if not facts.local.values:
        return  # no file here: a client of a configless Slurm asks slurmctld
    for key in COMPARED:
        there = facts.config.all(key)
        here = facts.local.all(key)[-max(1, len(there)) :]  # where Slurm takes one line it is the last
        if set(here) != set(there):
            yield _differs(facts, key, ",".join(here), ",".join(there))
    if (flags := prolog_flags(facts.local)) != (runs := prolog_flags(facts.config)):
        yield _differs(facts, "PrologFlags", ",".join(sorted(flags)), ",".join(sorted(runs)))


def _differs(facts: Facts, key: str, here: str, there: str) -> Fault:
    return Fault(facts.conf_path, f"says {key}={here or '(nothing)'}, slurmctld runs with {there or '(nothing)'}")


def _clock(facts: Facts) -> Iterator[Fault]:
    if abs(facts.clock_off_s) > CLOCK_S:
        way = "behind" if facts.clock_off_s > 0 else "ahead of"
        what = f"{abs(facts.clock_off_s):.0f} s {way} slurmctld's: times of nodes and jobs do not fit together"
        yield Fault("clock", what)


def _drained(facts: Facts) -> Iterator[Fault]:
    everywhere = Role.CONTROLLER in facts.roles
    for node in facts.nodes:
        mine = everywhere or node.name == facts.node
        if mine and "drain" in node.state.lower() and re.search(r"(pro|epi)log", node.reason, re.IGNORECASE):
            yield Fault(f"node {node.name}", f"Slurm drained it: {node.reason}", {"node": node.name})


def _names(facts: Facts) -> Iterator[Fault]:
    for name in facts.policy.partitions:
        if name not in facts.partitions:
            yield Fault(facts.policy.path, f"names the partition {name}, which the cluster does not have")
    nodes = {one.name for one in facts.nodes}
    lost = [name for name in facts.policy.nodes if name not in nodes]
    if lost:
        yield Fault(facts.policy.path, f"names nodes that the cluster does not have: {_some(lost)}")


def _plugstack(facts: Facts) -> Iterator[Fault]:
    if facts.plugin is None:
        what = "has no line for perun_spank.so: --perun is an unknown option"
        yield Fault(facts.plugstack_path, what, {"prefix": facts.prefix})


def _ours(facts: Facts) -> Iterator[tuple[int, str, str]]:
    """Place in the list, where it stands, and the word before our plugin."""
    for at, line in enumerate(facts.plugstack):
        if Path(line.plugin).name == "perun_spank.so":
            yield at, f"{line.file}:{line.number}", line.how


def _required(facts: Facts) -> Iterator[Fault]:
    for _, where, how in _ours(facts):
        if how == "required":
            what = "the plugin is required: where it cannot be loaded no job starts, and slurmd does not either"
            yield Fault(where, what, {"file": where.rpartition(":")[0]})


def _order(facts: Facts) -> Iterator[Fault]:
    for at, where, _ in _ours(facts):
        later = [line.plugin for line in facts.plugstack[at + 1 :] if any(c in line.plugin for c in CONTAINERS)]
        if later:
            what = f"stands before {', '.join(later)}, which starts containers: perun does not see them"
            yield Fault(where, what)


def _plugin_file(facts: Facts) -> Iterator[Fault]:
    if facts.plugin is not None and facts.plugin.problem:
        what = f"the plugin that {facts.plugstack_path} names: {facts.plugin.problem}"
        yield Fault(facts.plugin.path, what, {"prefix": facts.prefix})


def _plugin_loads(facts: Facts) -> Iterator[Fault]:
    if facts.plugin is not None and not facts.plugin.problem and "--perun" not in facts.flag.out:
        why = f": {facts.flag.error}" if facts.flag.error else ""
        what = f"srun of Slurm {facts.config.one('SLURM_VERSION')} does not load it{why}"
        yield Fault(facts.plugin.path, what, {"prefix": facts.prefix})


def _launcher(facts: Facts) -> Iterator[Fault]:
    launcher = facts.launcher
    if facts.plugin is not None and launcher is not None and (launcher.problem or not launcher.runs):
        why = launcher.problem or "it cannot be executed"
        what = f"the plugin puts it before commands: {why}; --perun measures nothing"
        yield Fault(launcher.path, what, {"prefix": facts.prefix})


def _energy_file(facts: Facts) -> Iterator[Fault]:
    if not in_use(facts.config):
        return
    if facts.energy.problem:
        what = f"{facts.energy.problem}: slurmd and slurmctld will not start again, steps are cancelled"
        yield Fault(facts.energy.path, what, {"prefix": facts.prefix})
    if facts.energy.leftovers:
        keys = ", ".join(facts.energy.leftovers)
        what = f"{keys}: keys of an energy plugin that is not loaded end slurmctld as it starts"
        yield Fault(str(Path(facts.conf_path).with_name("acct_gather.conf")), what, cause="leftovers")


def _energy_ready(facts: Facts) -> Iterator[Fault]:
    if in_use(facts.config) or not facts.policy.slurm_figures:
        return
    before = "before slurm.conf names acct_gather_energy/perun"
    if facts.energy.problem:
        what = f"{facts.energy.problem}: this host needs it for Slurm {facts.config.one('SLURM_VERSION')} {before}"
        yield Fault(facts.energy.path, what, {"prefix": facts.prefix})
    if facts.energy.leftovers:
        what = f"{', '.join(facts.energy.leftovers)}: keys of another energy plugin must go {before}"
        yield Fault(str(Path(facts.conf_path).with_name("acct_gather.conf")), what, cause="leftovers")


def _energy_blank(facts: Facts) -> Iterator[Fault]:
    if not in_use(facts.config):
        return
    if "contain" not in prolog_flags(facts.config):
        what = "acct_gather_energy/perun without PrologFlags=Contain: jobs' energies are blank or wrong"
        yield Fault(facts.conf_path, what, cause="contain")
    gather = facts.config.one("JobAcctGatherType")
    if gather.rpartition("/")[2] in ("", "none", "(null)"):
        what = "acct_gather_energy/perun without JobAcctGatherType: nothing asks it for jobs' energies"
        yield Fault(facts.conf_path, what, cause="gather")
    if not facts.policy.slurm_figures:
        yield Fault(facts.policy.path, "metrics.slurm is off, so that Slurm's energies are blank", cause="policy")


_RECONFIGURE = "then scontrol reconfigure"
_FLAGS = "PrologFlags={flags}, " + _RECONFIGURE

CHECKS = (
    Check("munge", ANY, CRITICAL, "munge makes and checks credentials here", ("munge",), _munge,
          {"": "systemctl restart munge; munge -n | unmunge",
           "absent": "install munge, copy /etc/munge/munge.key from the controller, systemctl enable --now munge"}),
    Check("slurmctld", ANY, CRITICAL, "slurmctld answers", (), _slurmctld,
          "on its host: systemctl status slurmctld; scontrol ping", cluster=True),
    Check("slurm-version", ANY, CRITICAL, "Slurm is 22.05 or newer", ("config",), _version,
          "upgrade Slurm", cluster=True),
    Check("slurm-versions", ANY, WARNING, "every slurmd is of slurmctld's release", ("config", "nodes"), _versions,
          "upgrade these nodes, or build the plugin for each release: make -C slurm install", cluster=True),
    Check("prolog", ANY, CRITICAL, "Prolog is set", ("config",), _prolog,
          "Prolog={prefix}/libexec/perun/prolog, " + _RECONFIGURE, cluster=True),
    Check("epilog", ANY, CRITICAL, "Epilog is set", ("config",), _epilog,
          "Epilog={prefix}/libexec/perun/epilog, " + _RECONFIGURE, cluster=True),
    Check("prolog-alloc", ANY, CRITICAL, "PrologFlags has Alloc", ("config",), _alloc, _FLAGS, cluster=True),
    Check("prolog-contain", ANY, WARNING, "PrologFlags has Contain", ("config",), _contain, _FLAGS, cluster=True),
    Check("prolog-deferbatch", ANY, WARNING, "PrologFlags has DeferBatch", ("config",), _defer_batch, _FLAGS,
          cluster=True),
    Check("hook-timeout", ANY, WARNING, "Slurm's timeouts of hooks are longer than the hooks' own deadline",
          ("config", "policy"), _timeout, "{setting} or more, " + _RECONFIGURE, cluster=True),
    Check("proctrack", ANY, WARNING, "ProctrackType is proctrack/cgroup", ("config",), _proctrack,
          "ProctrackType=proctrack/cgroup, then restart slurmctld and every slurmd", cluster=True),
    Check("task-plugin", ANY, WARNING, "TaskPlugin has task/cgroup", ("config",), _task_plugin,
          "TaskPlugin={plugins}, then restart slurmctld and every slurmd", cluster=True),
    Check("constrain-cores", ANY, WARNING, "cgroup.conf has ConstrainCores=yes", ("config",), _constrain,
          "ConstrainCores=yes, then restart every slurmd", cluster=True),
    Check("cgroup-plugin", ANY, WARNING, "Slurm uses cgroups", ("config",), _cgroup_plugin,
          "CgroupPlugin=autodetect, then restart slurmctld and every slurmd", cluster=True),
    Check("slurm-conf", ANY, WARNING, "slurm.conf here says of Prolog, Epilog and PrologFlags what slurmctld runs with",
          ("config", "local"), _local, "make the file the same on all hosts, " + _RECONFIGURE),
    Check("clock", ANY, WARNING, "the clock is slurmctld's within 2 s", ("clock_off_s",), _clock,
          "systemctl restart chronyd (or ntpd, systemd-timesyncd); chronyc tracking"),
    Check("node-drained", frozenset({Role.CONTROLLER, Role.COMPUTE}), CRITICAL,
          "no node is drained because of its Prolog or Epilog", ("nodes",), _drained,
          "see slurmd's log there for the hook that failed; then scontrol update nodename={node} state=resume",
          cluster=True),
    Check("policy-names", ANY, WARNING, "the policy's partitions and nodes exist", ("policy", "nodes", "partitions"),
          _names, "correct the names: sinfo -o '%R %N' lists the cluster's"),
    Check("plugstack", frozenset({Role.COMPUTE, Role.LOGIN}), WARNING, "plugstack.conf names the plugin",
          ("plugstack",), _plugstack, "add: optional {prefix}/lib/perun/perun_spank.so prefix={prefix}"),
    Check("plugin-required", ANY, CRITICAL, "the plugin is optional in plugstack.conf", ("plugstack",), _required,
          "sed -i '/perun_spank/s/^ *required/optional/' {file}"),
    Check("plugin-order", ANY, WARNING, "the plugin stands behind those that start containers", ("plugstack",), _order,
          "move the line to the end"),
    Check("plugin-file", ANY, WARNING, "the plugin's file is there", ("plugstack",), _plugin_file,
          "from the sources: make -C slurm install PREFIX={prefix}; or take the line out of plugstack.conf"),
    Check("plugin-loads", ANY, WARNING, "this Slurm loads the plugin: srun knows --perun", ("plugstack", "flag"),
          _plugin_loads, "{prefix}/libexec/perun/setup takes the package's for this Slurm; else make -C slurm install"),
    Check("energy-plugin", frozenset({Role.COMPUTE, Role.CONTROLLER}), CRITICAL,
          "the energy plugin that slurm.conf names is there and of this Slurm", ("config", "energy"), _energy_file,
          {"": "make -C {prefix}/share/perun/slurm install-energy, with this Slurm's headers; or take "
               "AcctGatherEnergyType out first",
           "leftovers": "take the lines out of acct_gather.conf"}),
    Check("energy-ready", frozenset({Role.COMPUTE, Role.CONTROLLER}), Severity.OK,
          "where the policy has figures for Slurm, the energy plugin is there before slurm.conf names it",
          ("config", "energy", "policy"), _energy_ready,
          {"": "make -C {prefix}/share/perun/slurm install-energy, with this Slurm's headers; till then slurm.conf "
               "stays as it is",
           "leftovers": "take the lines out of acct_gather.conf together with that plugin's AcctGatherEnergyType"}),
    Check("energy-blank", ANY, WARNING, "where slurm.conf names the energy plugin, it has figures to show",
          ("config", "policy"), _energy_blank,
          {"contain": "PrologFlags with Contain, then restart slurmctld and every slurmd",
           "gather": "JobAcctGatherType=jobacct_gather/cgroup, when no job runs",
           "policy": "metrics: {{slurm: true}} in the policy"}, cluster=True),
    Check("launcher", ON_NODES, WARNING, "perun-launch can be executed", ("plugstack",), _launcher,
          "from the sources: make -C slurm install PREFIX={prefix}"),
)  # fmt: skip
