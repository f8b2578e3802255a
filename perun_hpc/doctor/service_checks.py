"""What controller and collector must have: sweeps, a ledger that closes, slurmdbd's right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perun_hpc.doctor.facts import Facts
from perun_hpc.doctor.findings import Check, Fault, Role, Severity

CRITICAL, WARNING = Severity.CRITICAL, Severity.WARNING
COLLECTOR = frozenset({Role.COLLECTOR})
NAMED = 3
OPERATORS = ("operator", "administrator")


def _runs(facts: Facts) -> Iterator[Fault]:
    for line in facts.collector.sweeps:
        cause = "owner" if "Permission denied" in line else ""
        names = {"user": facts.policy.service_user, "archive": facts.policy.archive}
        yield Fault("perun collect", line, names, cause)


def _backlog(facts: Facts) -> Iterator[Fault]:
    for line in facts.collector.backlog:
        yield Fault("perun collect", line)


def _waiting(facts: Facts) -> Iterator[Fault]:
    for line in facts.collector.waiting:
        yield Fault("perun collect", line)


def _user(facts: Facts) -> Iterator[Fault]:
    wanted = facts.users.get(facts.policy.service_user)
    if wanted is not None and any(uid != wanted for uid in facts.collector.runs_as):
        what = f"runs as another user than {facts.policy.service_user}: what it writes no agent can change"
        names = {"user": facts.policy.service_user, "archive": facts.policy.archive}
        yield Fault("perun collect", what, {**names, "ledger": _directory(facts.policy.ledger)})


def _directory(url: str) -> str:
    """Where an SQLite ledger lies; another one's URL."""
    file = url.removeprefix("sqlite:///")
    return str(Path(file).parent) if file.startswith("/") else url


def _ledger(facts: Facts) -> Iterator[Fault]:
    if facts.ledger:
        cause = "" if facts.policy.ledger.startswith("sqlite:") else "server"
        names = {"user": facts.policy.service_user, "directory": _directory(facts.policy.ledger)}
        yield Fault("ledger", f"{facts.policy.service_user} cannot keep it: {facts.ledger}", names, cause)


def _closes(facts: Facts) -> Iterator[Fault]:
    for line in facts.audit[:NAMED]:
        yield Fault("perun audit", line)
    if len(facts.audit) > NAMED:
        yield Fault("perun audit", f"{len(facts.audit) - NAMED} more findings")


def _dbd(facts: Facts) -> Iterator[Fault]:
    if facts.dbd:
        yield Fault("slurmdbd", facts.dbd)


def _operator(facts: Facts) -> Iterator[Fault]:
    private = bool(facts.config.words("PrivateData"))
    if not facts.dbd and facts.admin not in OPERATORS and (facts.policy.slurmdbd != "off" or private):
        has = f"is no operator but {facts.admin}" if facts.admin not in ("", "none") else "is no operator"
        lacks = "cannot write AdminComment" if facts.policy.slurmdbd != "off" else "cannot ask about users' jobs"
        yield Fault("slurmdbd", f"{facts.policy.service_user} {has}: it {lacks}", {"user": facts.policy.service_user})


def _wake_hook(facts: Facts) -> Iterator[Fault]:
    hook = facts.wake_hook
    if hook is not None and (hook.problem or not hook.runs):
        why = hook.problem or f"it cannot be executed (mode {hook.mode:04o}, or mounted noexec)"
        yield Fault(hook.path, f"EpilogSlurmctld: {why}; slurmctld logs an error for every job", {"path": hook.path})


def _wake(facts: Facts) -> Iterator[Fault]:
    hook = facts.wake_hook
    ours = hook is not None and "/libexec/perun/" in f"{hook.path} {hook.real}"
    if ours and Role.COLLECTOR in facts.roles and facts.collector.runs_as and not facts.collector.wake:
        what = "is not there: EpilogSlurmctld knocks in vain, and records come with the next sweep only"
        yield Fault("/run/perun-collect/wake", what, {"user": facts.policy.service_user})


def _scraped(facts: Facts) -> Iterator[Fault]:
    if facts.scraped and facts.collector.runs_as:
        yield Fault(facts.policy.listen, f"no figures for monitoring: {facts.scraped}")


HIDDEN_BY = {"account": {"accounts", "usage"}, "user": {"users", "usage", "jobs"}, "job": {"jobs"}}
"""Words of PrivateData that hide whom figures name (slurm.conf(5))."""


def _named(facts: Facts) -> Iterator[Fault]:
    private = facts.config.words("PrivateData")
    for label in facts.policy.named:
        if hides := sorted(HIDDEN_BY[label] & private):
            what = f"names every {label} to whoever reads figures: PrivateData={','.join(hides)} hides that"
            yield Fault("metrics.labels", what, {"label": label})


CHECKS = (
    Check("collector-runs", COLLECTOR, CRITICAL, "the last sweep was in time and succeeded", ("collector",), _runs,
          {"": "systemctl restart perun-collect; perun collect --status", "owner": "chown -R {user}: {archive}"}),
    Check("collector-backlog", COLLECTOR, WARNING, "nothing was refused, set aside or is damaged", ("collector",),
          _backlog, "perun collect --status says which file lets it in"),
    Check("collector-waiting", COLLECTOR, WARNING, "no record waits longer than collect.deadline", ("collector",),
          _waiting, "perun collect --status; see the collector's log"),
    Check("collector-user", COLLECTOR, WARNING, "the collector runs as the service user", ("collector", "users"), _user,
          "stop it, start it as {user}; chown -R {user}: {archive} {ledger}"),
    Check("ledger", COLLECTOR, CRITICAL, "the service user can open and write the ledger", ("ledger",), _ledger,
          {"": "install -d -o {user} -g {user} -m 0750 {directory}; chown -R {user}: {directory}",
           "server": "see the database server, and the service user's ~/.pgpass"}),
    Check("ledger-closes", COLLECTOR, CRITICAL, "perun audit finds nothing today", ("audit",), _closes,
          "perun audit --domains"),
    Check("slurmdbd", COLLECTOR, WARNING, "slurmdbd answers", ("dbd",), _dbd,
          "systemctl status slurmdbd; sacctmgr show cluster; or collect: {{slurmdbd: off}} in the policy"),
    Check("operator", COLLECTOR, WARNING, "the service user is an operator of slurmdbd where it must be",
          ("dbd", "admin"), _operator, "sacctmgr -i add user {user} account=root adminlevel=operator"),
    Check("epilogslurmctld", frozenset({Role.CONTROLLER}), WARNING, "what EpilogSlurmctld names can be executed",
          ("config",), _wake_hook, "chmod 755 {path}; or take EpilogSlurmctld out of slurm.conf"),
    Check("wake", COLLECTOR, WARNING, "EpilogSlurmctld reaches the collector", ("collector", "config"), _wake,
          "install -d -o {user} -m 0755 /run/perun-collect; restart perun collect"),
    Check("figures", COLLECTOR, WARNING, "the collector serves figures where metrics.listen says",
          ("scraped", "collector"), _scraped, "restart perun collect; its log says why it cannot listen there"),
    Check("figures-names", frozenset({Role.COLLECTOR, Role.COMPUTE}), WARNING,
          "figures for monitoring name nobody whom Slurm hides", ("config", "policy"), _named,
          "take {label} out of metrics.labels; or let nobody but you reach the figures (docs/monitoring.md)"),
)  # fmt: skip
