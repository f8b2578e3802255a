"""The checks of `perun doctor` on facts: nothing on healthy ones of three Slurm versions, one key on each break."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perun_hpc._version import __version__
from perun_hpc.doctor.examine import CHECKS, QUICK, UNKNOWN, examine
from perun_hpc.doctor.facts import (
    Agent,
    Collector,
    EnergyPlugin,
    Facts,
    Hooks,
    Meters,
    Node,
    Place,
    Policy,
    Said,
    Unread,
)
from perun_hpc.doctor.findings import Role, Severity
from perun_hpc.slurm.conf import Config, PlugLine, shown, written

CONFIGS = sorted((Path(__file__).parents[1] / "fixtures/slurm_config").glob("*.txt"))
PREFIX = "/opt/perun-hpc"
LINE = PlugLine("/etc/slurm/plugstack.conf", 1, "optional", f"{PREFIX}/lib/perun/perun_spank.so", (f"prefix={PREFIX}",))


def config(**changes: str) -> Config:
    """The configuration of the oldest version, with other values (None would be no value)."""
    values = dict(shown(CONFIGS[0].read_text()).values)
    return Config({**values, **{key.lower(): (value,) for key, value in changes.items()}})


def healthy(running: Config | None = None) -> Facts:
    """A host that is everything at once, and well."""
    running = running or config()
    hook = Place(f"{PREFIX}/libexec/perun/prolog", real=f"{PREFIX}/libexec/perun/prolog", mode=0o755, elf=True)
    epilog = replace(hook, path=f"{PREFIX}/libexec/perun/epilog", real=f"{PREFIX}/libexec/perun/epilog")
    directory = Place("/var/spool/perun", kind="directory", mode=0o711, owner="perun", uid=991, writes=True)
    return Facts(
        roles=frozenset(Role),
        version=__version__,
        config=running,
        local=running,
        nodes=(Node("n1", "n1", "idle", running.one("SLURM_VERSION"), "main", "none"),),
        partitions=("main",),
        plugstack=(LINE,),
        plugin=Place(LINE.plugin, mode=0o644),
        launcher=Place(f"{PREFIX}/libexec/perun/perun-launch", mode=0o755),
        flag=Said(0, "      --perun=options         measure this step"),
        hooks=Hooks((hook,), (epilog,)),
        trusted=(hook, epilog),
        users={"perun": 991, "perun-parse": 990},
        spool=directory,
        archive=replace(directory, path="/shared/perun"),
        starts=Said(64, "", "usage: python ..."),
        agent=Agent({"version": __version__, "uid": "991", "policy": ""}, listens=True),
        policy=Policy("/etc/perun/policy.yaml", archive="/shared/perun", slurmdbd="fill", digest="sha256:1"),
        collector=Collector(runs_as=(991,)),
    )


def found(facts: Facts) -> dict[str, list[str]]:
    """The texts of the findings by their key."""
    keys: dict[str, list[str]] = {}
    for one in examine(facts).findings:
        keys.setdefault(one.key, []).append(f"{one.where}: {one.what} -> {one.remedy}")
    return keys


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_nothing_is_found_on_a_healthy_cluster_of_any_version(path: Path) -> None:
    running = shown(path.read_text())
    assert running.one("SLURM_VERSION") == path.stem
    assert running.all("Prolog") == (f"{PREFIX}/libexec/perun/prolog",)
    assert running.one("PlugStackConfig") == ""
    report = examine(healthy(running))
    assert report.findings == ()
    assert len(report.passed) == len(CHECKS)
    assert report.status is Severity.OK


def place(name: str, **changes: Any) -> dict[str, Any]:
    return {name: replace(getattr(healthy(), name), **changes)}


def policy(**changes: Any) -> dict[str, Any]:
    return {"policy": replace(healthy().policy, **changes)}


def both(**changes: str) -> dict[str, Any]:
    """The configuration in force and in the file."""
    return {"config": config(**changes), "local": config(**changes)}


def agent(**changes: Any) -> dict[str, Any]:
    return {"agent": replace(healthy().agent, **changes)}


USED = {**both(AcctGatherEnergyType="acct_gather_energy/perun"), **policy(slurm_figures=True)}
UNIT = {"LoadState": "loaded", "ProtectSystem": "strict", "ReadWritePaths": "/var/spool/perun -/scratch"}
HOOK = healthy().hooks.prolog[0]
BROKEN: list[tuple[str, Mapping[str, Any], str]] = [
    ("munge", {"munge": Said(1, "", "Failed to access")}, "Failed to access"),
    ("munge", {"munge": Said(-1, "", "not installed")}, "install munge"),
    ("slurm-version", {**both(SLURM_VERSION="21.08.8"), "nodes": ()}, "Slurm 21.08.8"),
    ("slurm-versions", {"nodes": (Node("n9", "n9", "idle", "23.02.1", "main", "none"),)}, "23.02.1 on n9"),
    ("prolog", {**both(Prolog="(null)"), "hooks": Hooks((), (HOOK,))}, "Prolog is not set"),
    ("epilog", {**both(Epilog="(null)"), "hooks": Hooks((HOOK,), ())}, "Epilog=/opt/perun-hpc/libexec/perun/epilog"),
    ("prolog-alloc", both(PrologFlags="Serial"), "PrologFlags=Serial,Alloc,Contain,DeferBatch"),
    ("prolog-contain", both(PrologFlags="Alloc,DeferBatch"), "lacks Contain"),
    ("prolog-deferbatch", both(PrologFlags="Contain"), "PrologFlags=Contain,Alloc,DeferBatch"),
    ("hook-timeout", both(PrologEpilogTimeout="2"), "PrologEpilogTimeout=2"),
    ("hook-timeout", both(PrologTimeout="3 sec"), "PrologTimeout=3"),
    ("proctrack", both(ProctrackType="proctrack/linuxproc"), "proctrack/linuxproc"),
    ("task-plugin", both(TaskPlugin="task/affinity"), "TaskPlugin=task/cgroup,task/affinity"),
    ("constrain-cores", both(ConstrainCores="no"), "/etc/slurm/cgroup.conf"),
    ("cgroup-plugin", both(CgroupPlugin="disabled"), "CgroupPlugin=disabled"),
    ("slurm-conf", {"local": config(PrologFlags="Alloc")}, "says PrologFlags=alloc, slurmctld runs with alloc,contain"),
    ("clock", {"clock_off_s": -31.0}, "31 s ahead of slurmctld's"),
    ("clock", {"clock_off_s": 3.0}, "3 s behind slurmctld's"),
    (
        "node-drained",
        {"nodes": (Node("n2", "n2", "drained", "22.05.8", "main", "Epilog error"),)},
        "scontrol update nodename=n2 state=resume",
    ),
    ("policy-names", policy(partitions=("ghost",)), "the partition ghost"),
    ("policy-names", policy(nodes=("n1", "n77")), "does not have: n77"),
    ("plugstack", {"plugstack": (), "plugin": None}, "optional /opt/perun-hpc/lib/perun/perun_spank.so"),
    ("plugin-required", {"plugstack": (replace(LINE, how="required"),)}, "/etc/slurm/plugstack.conf:1"),
    ("plugin-order", {"plugstack": (LINE, replace(LINE, plugin="/usr/lib/spank_pyxis.so"))}, "spank_pyxis.so"),
    ("plugin-file", place("plugin", problem="it is not there", missing=True), "it is not there"),
    ("plugin-loads", {"flag": Said(0, "", "incompatible version")}, "incompatible version"),
    ("launcher", place("launcher", runs=False), "perun-launch"),
    ("energy-plugin", {**USED, "energy": EnergyPlugin("/p/x.so", "is of Slurm 22.05.7, 22.05.8 runs")}, "22.05.7"),
    ("energy-plugin", {**USED, "energy": EnergyPlugin("/p/x.so", "", ("EnergyIPMIFrequency",))}, "Frequency: keys"),
    (
        "energy-ready",
        {**policy(slurm_figures=True), "energy": EnergyPlugin("/p/x.so", "is not there")},
        "/p/x.so: is not there: this host needs it for Slurm 22.05.8 before slurm.conf names",
    ),
    (
        "energy-ready",
        {**policy(slurm_figures=True), "energy": EnergyPlugin("/p/x.so", "", ("EnergyIPMIFrequency",))},
        "acct_gather.conf: EnergyIPMIFrequency: keys of another energy plugin must go before",
    ),
    (
        "energy-blank",
        both(AcctGatherEnergyType="acct_gather_energy/perun"),
        "metrics: {slurm: true} in the policy",
    ),
    (
        "energy-blank",
        both(AcctGatherEnergyType="acct_gather_energy/perun", JobAcctGatherType="jobacct_gather/none"),
        "JobAcctGatherType=jobacct_gather/cgroup",
    ),
    (
        "policy",
        policy(mistakes=("/etc/perun/policy.yaml:4:3: no such field", "x")),
        "policy.yaml:4:3: no such field (and 1 more)",
    ),
    ("policy-missing", policy(missing=True), "the defaults hold"),
    ("service-user", {"users": {"perun": None, "perun-parse": 990}}, "no account perun"),
    ("reader-user", {"users": {"perun": 991, "perun-parse": None}}, "no account perun-parse"),
    ("switched-off", {"off": "/etc/perun/disable"}, "rm /etc/perun/disable"),
    ("switched-off", {"off": "/etc/slurm/perun.off"}, "perun on n1"),
    ("hook-file", {"hooks": Hooks((replace(HOOK, runs=False, mode=0o644),), (HOOK,))}, "mode 0644"),
    ("hook-file", {"hooks": Hooks((HOOK,), (replace(HOOK, problem="hangs"),))}, "install-node"),
    ("hook-file", {"hooks": Hooks((replace(HOOK, kind="directory"),), (HOOK,))}, "no file"),
    (
        "hook-perun",
        {"hooks": Hooks((Place("/etc/slurm/prolog.sh", head="#!/bin/sh"),), (HOOK,))},
        "/etc/slurm/prolog.sh",
    ),
    ("hook-runs", {"hook_runs": Said(-1, "", "Exec format error")}, "Exec format error"),
    ("hook-disk", {"hooks": Hooks((replace(HOOK, network="nfs4"),), (HOOK,))}, "nfs4"),
    ("hook-writable", {"trusted": (replace(HOOK, open_to="/opt"),)}, "chmod go-w /opt"),
    ("spool", place("spool", problem="it is not there", missing=True), "install -d -o perun -g perun -m 0711"),
    ("spool", place("spool", owner="alice"), "chown -R perun: /var/spool/perun"),
    ("spool", place("spool", writes=False), "cannot write there"),
    ("spool", place("spool", kind="file"), "no directory"),
    ("spool-open", place("spool", mode=0o777), "0777"),
    ("spool-space", place("spool", free_b=1 << 20), "1 MiB are free"),
    ("spool-space", place("spool", free_files=0.001), "0.1% of the inodes"),
    ("agent-starts", {"starts": Said(1, "", "No module named perun_hpc")}, "No module named perun_hpc"),
    ("agent-answers", agent(answer=None, silent="timed out"), "does not answer: timed out"),
    ("agent-answers", agent(answer=None, listens=False, jobs=("7", "8")), "unmeasured: 7, 8"),
    ("agent-version", agent(answer={"version": "0.0.1"}), "version 0.0.1 still runs"),
    ("agent-user", agent(answer={"uid": "0"}), "runs as root"),
    ("agent-policy", agent(answer={"policy": "policy.yaml:1:1: wrong"}), "policy.yaml:1:1: wrong"),
    (
        "power-pmu",
        agent(answer={"power_pmu": "powercap's files are read; no group of power events on CPU 0: not permitted"}),
        "files are read; no group of power events on CPU 0: not permitted",
    ),
    ("agent-losses", agent(lines=(("not-shipped", "not shipped since ..."),)), "ls -ld /shared/perun"),
    ("agent-losses", agent(lines=(("not-there", "not there: x"),)), "sensors: {backends: [...]}"),
    ("sensors", {"sensors": (("ipmi", "no answer", "look"),)}, "ipmi: no answer -> look"),
    ("slurm-figures", {**USED, "slurm_figures": "is stale: x"}, "perun agent reload; half a minute later"),
    ("inbox", {"inbox": (3, 7200.0)}, "3 messages of hooks wait"),
    ("static-power", {"static_days": 12.4}, "after 12 days"),
    ("archive", place("archive", problem="no answer within 1 s"), "no answer within 1 s"),
    ("archive", place("archive", writes=False, owner="root"), "belongs to root"),
    ("archive", place("archive", kind="file"), "no directory"),
    ("archive-open", place("archive", mode=0o777), "0777"),
    ("archive-closed", place("archive", mode=0o700), "0700"),
    ("archive-lists", place("archive", lists=False), "findmnt -T /shared/perun"),
    ("archive-space", place("archive", free_b=1 << 30, size_b=1 << 40), "1.0 GiB are free"),
    ("archive-space", place("archive", free_files=0.0), "0.0% of the inodes"),
    ("unit-archive", {"units": {"perun-agent": UNIT, "perun-collect": {"LoadState": "not-found"}}}, "edit perun-agent"),
    (
        "unit-archive",
        {**policy(collector="head:6871"), "units": {"perun-agent": {"LoadState": "loaded"}, "perun-collect": UNIT}},
        "edit perun-collect",
    ),
    (
        "unit-network",
        {**policy(collector="head:6871"), "units": {"perun-agent": {**UNIT, "PrivateNetwork": "yes"}}},
        "PrivateNetwork=no",
    ),
    ("collector-port", policy(collector="head:6820"), "slurmrestd"),
    ("collector-port", {**both(SlurmctldPort="6860-6880"), **policy(collector="head:6871")}, "slurmctld"),
    ("collector-reached", {**policy(collector="head:6881"), "reached": "Connection refused"}, "open port 6881"),
    ("collector-reached", {**policy(collector="h:6881"), "reached": "no TLS 1.3 is spoken there"}, "store.tls in the"),
    (
        "certificates",
        {
            **policy(collector="head:6881"),
            "certificates": (("/etc/c.pem", "is out of date in 3 days"),),
        },
        "/etc/c.pem: is out of date in 3 days",
    ),
    ("collector-runs", {"collector": Collector(("no sweep since",), runs_as=(991,))}, "no sweep since"),
    (
        "collector-runs",
        {"collector": Collector(("Permission denied: 'x'",), runs_as=(991,))},
        "chown -R perun: /shared",
    ),
    ("collector-backlog", {"collector": Collector((), ("refused: 1",), runs_as=(991,))}, "refused: 1"),
    ("collector-waiting", {"collector": Collector((), (), ("waiting: 1",), (991,))}, "waiting: 1"),
    ("collector-user", {"collector": Collector(runs_as=(991, 0))}, "start it as perun; chown -R perun: /shared/perun"),
    ("ledger", {"ledger": "connection refused", **policy(ledger="postgresql://db/perun")}, "see the database server"),
    (
        "ledger",
        {"ledger": "/l: cannot be written", **policy(ledger="sqlite:////l/db")},
        "install -d -o perun -g perun -m 0750 /l",
    ),
    ("ledger-closes", {"audit": ("n1 package-0: off", "b", "c", "d", "e")}, "2 more findings"),
    ("slurmdbd", {"dbd": "sacctmgr: refused"}, "slurmdbd: off} in the policy"),
    ("operator", {"admin": "none"}, "sacctmgr -i add user perun account=root adminlevel=operator"),
    ("epilogslurmctld", {"wake_hook": Place("/opt/none", problem="it is not there")}, "/opt/none"),
    ("figures", {**policy(listen="127.0.0.1:9871"), "scraped": "Connection refused"}, "restart perun collect"),
    (
        "figures-names",
        {**both(PrivateData="usage,jobs"), **policy(named=("account",))},
        "names every account to whoever reads figures: PrivateData=usage hides that",
    ),
    (
        "wake",
        {"wake_hook": replace(HOOK), "collector": Collector(runs_as=(991,), wake=False)},
        "/run/perun-collect/wake",
    ),
    ("meters-files", {"meters": Meters(mistakes=("/etc/perun/meters.yaml: line 3: unknown key",))}, "line 3"),
    ("meters-credentials", {"meters": Meters(credentials=("/etc/x: others can read this credential",))}, "chmod 600"),
    ("meters-apart", {"meters": Meters(held=("/etc/x/bmc",))}, "rm /etc/x/bmc here"),
    ("meters-runs", {"meters": Meters(unit="it does not run (failed, failed)")}, "it does not run"),
    ("meters-runs", {"meters_say": (("the poller has said nothing since 3 hours",), ())}, "since 3 hours"),
    ("meters-read", {"meters_say": ((), ("bmc-n1: n1-power was not read for 2 hours: HTTP 503",))}, "HTTP 503"),
]


@pytest.mark.parametrize(("key", "changes", "text"), BROKEN, ids=[f"{key}-{text[:20]}" for key, _, text in BROKEN])
def test_what_is_broken_is_found_and_nothing_else(key: str, changes: Mapping[str, Any], text: str) -> None:
    texts = found(replace(healthy(), **changes))
    assert set(texts) == {key}
    assert any(text in line for line in texts[key]), texts
    assert not [line for lines in texts.values() for line in lines if re.search(r"\{\w*\}|\{\{", line)]


def test_what_the_energy_plugin_lacks_before_it_is_named_is_no_alarm() -> None:
    lacking = {"energy": EnergyPlugin("/p/x.so", "is not there")}
    report = examine(replace(healthy(), **policy(slurm_figures=True), **lacking))
    assert [one.key for one in report.findings] == ["energy-ready"]
    assert report.status is Severity.OK
    assert examine(replace(healthy(), **lacking)).findings == ()  # a policy without figures for Slurm
    named = examine(replace(healthy(), **USED, **lacking))
    assert [(one.key, one.severity) for one in named.findings] == [("energy-plugin", Severity.CRITICAL)]


def test_figures_of_an_agent_that_is_silent_send_whoever_reads_to_the_agent() -> None:
    facts = replace(healthy(), **USED, **agent(answer=None, silent="timed out"), slurm_figures="is stale: x")
    assert "agent-answers" in found(facts)["slurm-figures"][0]
    assert set(found(facts)) == {"agent-answers", "slurm-figures"}
    assert set(found(replace(facts, off="/etc/perun/disable"))) == {"switched-off"}


def test_every_check_has_a_break() -> None:
    # Only slurmctld is missing above: what it finds is that nothing could be read.
    assert {check.key for check in CHECKS} == {key for key, _, _ in BROKEN} | {"slurmctld"}
    assert len({check.key for check in CHECKS}) == len(CHECKS)


def test_of_a_slurmctld_that_is_silent_one_line_is_said() -> None:
    gone = Unread("scontrol: connection refused", by="slurmctld")
    names = ("config", "nodes", "partitions", "clock_off_s", "hooks", "hook_runs", "dbd", "admin", "audit")
    assert set(found(replace(healthy(), unread=dict.fromkeys(names, gone)))) == {"slurmctld"}


def test_of_munge_that_is_silent_one_line_is_said() -> None:
    gone = Unread("munge does not work", by="munge")
    facts = replace(healthy(), munge=Said(1, "", "no socket"), unread={"config": gone, "nodes": gone})
    assert set(found(facts)) == {"munge"}


def test_what_nobody_explains_is_unknown_and_what_root_must_look_at_is_counted() -> None:
    unread = {"audit": Unread("perun audit took longer than 60 s"), "inbox": Unread("only root", root=True)}
    report = examine(replace(healthy(), unread=unread))
    assert [(one.key, one.where) for one in report.findings] == [(UNKNOWN, "ledger-closes")]
    assert report.status is Severity.UNKNOWN
    assert report.skipped == ("inbox",)


def test_quickly_everything_but_the_audit_is_looked_at() -> None:
    facts = replace(healthy(), audit=("n1: off",))
    assert {check.key for check in CHECKS} - {check.key for check in QUICK} == {"ledger-closes"}
    assert examine(facts, QUICK).findings == ()
    assert examine(facts).status is Severity.CRITICAL


def test_a_role_that_the_host_does_not_have_is_not_looked_at() -> None:
    facts = replace(healthy(), roles=frozenset({Role.LOGIN}), spool=None, collector=Collector(("no sweep",)))
    report = examine(facts)
    assert report.findings == ()
    assert "collector-runs" not in report.passed
    assert "plugstack" in report.passed


def test_a_site_without_munge_may_do_without_it_where_nothing_is_handed_over() -> None:
    facts = replace(healthy(), munge=Said(-1, "", "not installed"), **both(AuthType="auth/slurm"))
    assert found(facts) == {}
    assert set(found(replace(facts, **policy(collector="head:6881")))) == {"munge"}
    assert found(replace(facts, **policy(collector="head:6881", tls={"cert": "c"}))) == {}


def test_a_unit_that_may_write_into_the_archive_is_well() -> None:
    unit = {**UNIT, "ReadWritePaths": "/var/spool/perun -/shared"}
    assert found(replace(healthy(), units={"perun-agent": unit})) == {}
    inside = {**UNIT, "StateDirectory": "perun"}
    facts = replace(healthy(), units={"perun-collect": inside}, **policy(archive="/var/lib/perun/archive"))
    assert found(facts) == {}


def test_a_unit_of_a_role_that_the_host_does_not_have_may_be_as_it_came() -> None:
    fit = {**UNIT, "ReadWritePaths": "/shared/perun"}
    node: dict[str, Any] = {"roles": frozenset({Role.COMPUTE}), "units": {"perun-agent": fit, "perun-collect": UNIT}}
    head: dict[str, Any] = {"roles": frozenset({Role.COLLECTOR}), "units": {"perun-agent": UNIT, "perun-collect": fit}}
    assert found(replace(healthy(), **node)) == {}
    assert found(replace(healthy(), **head)) == {}
    assert set(found(replace(healthy(), **{**head, "roles": frozenset({Role.COMPUTE})}))) == {"unit-archive"}


def test_a_host_without_a_slurm_conf_has_none_that_differs() -> None:
    assert found(replace(healthy(), local=written("/none/slurm.conf", files()))) == {}


def files(**texts: str) -> Any:
    known = {f"/etc/slurm/{name}": text for name, text in texts.items()}
    return lambda pattern: [(path, text) for path, text in known.items() if path == pattern]


def test_a_slurm_conf_is_read_with_what_it_includes() -> None:
    read = files(
        **{
            "slurm.conf": "# Prolog=/no\nprolog=/a Epilog=/b # end\nNodeName=n1 Prolog=/no\nInclude more\nTaskPlugin=x",
            "more": 'PrologFlags="Alloc,\\\nContain"\nInclude more\nProlog=/c\n',
        }
    )
    conf = written("/etc/slurm/slurm.conf", read)
    assert conf.all("Prolog")[0] == "/a"
    assert conf.one("Epilog") == "/b"
    assert conf.words("PrologFlags") == {"alloc", "contain"}
    assert conf.one("TaskPlugin") == "x"


def test_many_silent_devices_are_a_few_lines() -> None:
    silent = tuple(f"bmc-n{n}: not read" for n in range(40))
    assert len(found(replace(healthy(), meters_say=((), silent)))["meters-read"]) == 6


def test_credentials_on_a_service_host_are_where_they_belong() -> None:
    facts = replace(healthy(), roles=frozenset({Role.METERS}), meters=Meters(held=("/etc/perun/credentials/bmc",)))
    assert found(facts) == {}
