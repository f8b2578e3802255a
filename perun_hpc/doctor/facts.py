"""What is known of a host when its checks are made: read once, by `gather`, before any check says a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from perun_hpc.doctor.findings import Role
from perun_hpc.slurm.conf import PLACE, Config, PlugLine


@dataclass(frozen=True)
class Unread:
    """Why a fact is missing.

    Attributes
    ----------
    why : in words.
    root : only root can read it.
    by : the key of the check that says so already, where one does.
    """

    why: str
    root: bool = False
    by: str = ""


@dataclass(frozen=True)
class Place:
    """A file or directory, as a child saw it within a second.

    Attributes
    ----------
    problem : why nothing else is known: it is not there, it hangs, it may not be looked at.
    missing : that is because it is not there.
    kind : `file`, `directory` or `other`.
    owner : the name of its owner, or the number where it has no name here.
    runs : it can be executed, by root; what a file system that is mounted noexec has cannot.
    elf : it is a program for a processor, not a script.
    writes : whether the service user can write there; None where nobody could try.
    open_to : the first directory or file on the way to it that others than root can write.
    network : the kind of the file system, where that is another machine's; else empty.
    lists : whether that file system has access control lists; None where nobody can say.
    free_b, size_b : space on its file system, as users have it.
    free_files : part of the files that its file system has left; None where it does not count them.
    """

    path: str
    problem: str = ""
    missing: bool = False
    kind: str = "file"
    real: str = ""
    mode: int = 0
    uid: int = 0
    owner: str = "root"
    runs: bool = True
    elf: bool = False
    head: str = ""
    writes: bool | None = None
    open_to: str = ""
    network: str = ""
    lists: bool | None = None
    free_b: int = 1 << 40
    size_b: int = 1 << 40
    free_files: float | None = None


@dataclass(frozen=True)
class Node:
    """A node as Slurm has it: a partition that it is in, the version of its slurmd, the reason that stands at it."""

    name: str
    host: str
    state: str
    version: str
    partition: str
    reason: str


@dataclass(frozen=True)
class Said:
    """What a program said: its exit code and the last line of its errors."""

    code: int
    out: str
    error: str = ""


@dataclass(frozen=True)
class Policy:
    """What the policy says for this host, as far as checks ask for it."""

    path: str
    missing: bool = False
    mistakes: tuple[str, ...] = ()
    digest: str = ""
    archive: str = ""
    collector: str = ""
    tls: Mapping[str, str] = field(default_factory=dict)
    ledger: str = ""
    slurmdbd: str = "off"
    deadline_ns: int = 500_000_000
    service_user: str = "perun"
    static_known: bool = False
    late_s: float = 780.0
    wait_s: float = 1020.0
    partitions: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    listen: str = ""
    slurm_figures: bool = False
    shared_s: float = 10.0
    named: tuple[str, ...] = ()
    """Who is named in figures for monitoring, where anybody serves some."""


@dataclass(frozen=True)
class EnergyPlugin:
    """The file of `acct_gather_energy/perun` that this host's daemons load, or would load where slurm.conf does not
    name it yet and the policy wants it; what is wrong with it."""

    path: str = ""
    problem: str = ""
    leftovers: tuple[str, ...] = ()
    """Keys of other energy plugins in acct_gather.conf, which Slurm takes for mistakes now."""


@dataclass(frozen=True)
class Hooks:
    """The files that Slurm's Prolog and Epilog come to on this host."""

    prolog: tuple[Place, ...] = ()
    epilog: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Agent:
    """The node's agent: `answer` is its status; without one `silent` says why, `listens` whether somebody holds its
    socket, `jobs` which run here by Slurm."""

    answer: Mapping[str, str] | None = None
    silent: str = ""
    listens: bool = False
    jobs: tuple[str, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Collector:
    """What the archive says of the collector, cluster by cluster: what is wrong with its sweeps, and what it could not
    take."""

    sweeps: tuple[str, ...] = ()
    backlog: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    runs_as: tuple[int, ...] = ()
    wake: bool = True


@dataclass(frozen=True)
class Meters:
    """The files of the poller of meters outside the nodes, what is wrong with them, which credentials lie here, and
    what is wrong with its unit."""

    mistakes: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    unit: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Facts:
    """All of it. What was not read stands in `unread` by the field's name."""

    host: str = "n1"
    node: str = "n1"
    roles: frozenset[Role] = frozenset()
    version: str = ""
    now_s: float = 0.0
    config: Config = field(default_factory=Config)
    local: Config = field(default_factory=Config)
    conf_path: str = PLACE
    nodes: tuple[Node, ...] = ()
    partitions: tuple[str, ...] = ()
    munge: Said = field(default_factory=lambda: Said(0, ""))
    clock_off_s: float = 0.0
    plugstack: tuple[PlugLine, ...] = ()
    plugstack_path: str = "/etc/slurm/plugstack.conf"
    flag: Said = field(default_factory=lambda: Said(0, ""))
    plugin: Place | None = None
    launcher: Place | None = None
    energy: EnergyPlugin = field(default_factory=EnergyPlugin)
    slurm_figures: str = ""
    """Why the figures that the agent keeps for that plugin are blanks; empty where they count, or nobody wants any."""
    hooks: Hooks = field(default_factory=Hooks)
    hook_runs: Said = field(default_factory=lambda: Said(0, ""))
    wake_hook: Place | None = None
    prefix: str = "/opt/perun-hpc"
    trusted: tuple[Place, ...] = ()
    off: str = ""
    users: Mapping[str, int | None] = field(default_factory=dict)
    spool: Place | None = None
    archive: Place | None = None
    units: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    starts: Said = field(default_factory=lambda: Said(0, ""))
    agent: Agent = field(default_factory=Agent)
    sensors: Sequence[tuple[str, str, str]] = ()
    inbox: tuple[int, float] = (0, 0.0)
    static_days: float = 0.0
    policy: Policy = field(default_factory=lambda: Policy("/etc/perun/policy.yaml"))
    reached: str = ""
    scraped: str = ""
    """Why nobody gets the site's figures for monitoring; empty where they are served."""
    certificates: tuple[tuple[str, str], ...] = ()
    collector: Collector = field(default_factory=Collector)
    ledger: str = ""
    audit: tuple[str, ...] = ()
    meters: Meters = field(default_factory=Meters)
    meters_say: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Why nothing is heard of the poller; the devices that it has not read for long."""
    dbd: str = ""
    admin: str = "operator"
    unread: Mapping[str, Unread] = field(default_factory=dict)
