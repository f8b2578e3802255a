"""Prolog and Epilog in Python: the documented slower fallback of ``slurm/hooks/perun_hook.c``, with its semantics.

Called by ``slurm/hooks/fallback/perun-hook.sh`` with the hook's name. Some forty milliseconds of interpreter start
instead of one; everything else is the same: kill switch, deadline, start of the agent, inbox, exit 0.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from perun_hpc.errors import PerunError, UnavailableError
from perun_hpc.slurm import conf
from perun_hpc.wire.client import request
from perun_hpc.wire.message import encode

DEADLINE_DEFAULT_MS, DEADLINE_MIN_MS, DEADLINE_MAX_MS = 500, 50, 5000
INBOX_MAX_FILES = 4096
VALUE_MAX, SUM_MAX = 16 * 1024, 28 * 1024
"""How long one value may be, and all together; one that is too much is left out."""
RETRY_S = 0.003

MODULE = "perun_hpc.slurm.hook"
VERBS = {"prolog": "job-start", "epilog": "job-end"}

#: Key of the message and the variables of Slurm that may hold it; the first that is set counts.
JOB_KEYS = {
    "job_id": ("SLURM_JOB_ID", "SLURM_JOBID"),
    "uid": ("SLURM_JOB_UID",),
    "gid": ("SLURM_JOB_GID",),
    "user": ("SLURM_JOB_USER",),
    "account": ("SLURM_JOB_ACCOUNT",),
    "partition": ("SLURM_JOB_PARTITION",),
    "node": ("SLURMD_NODENAME",),
    "cluster": ("SLURM_CLUSTER_NAME",),
    "nodelist": ("SLURM_JOB_NODELIST", "SLURM_NODELIST"),
    "num_nodes": ("SLURM_JOB_NUM_NODES",),
    "cpus_per_node": ("SLURM_JOB_CPUS_PER_NODE",),
    "gpus": ("SLURM_JOB_GPUS",),
    "gpu_names": ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL"),
    "het_job_id": ("SLURM_HET_JOB_ID",),
    "het_offset": ("SLURM_HET_JOB_OFFSET",),
    "sluid": ("SLURM_JOB_SLUID",),
    "start_time": ("SLURM_JOB_START_TIME",),
    "end_time": ("SLURM_JOB_END_TIME",),
    "exclusive": ("SLURM_JOB_EXCLUSIVE",),
    "flag": ("SPANK_PERUN",),
    "exit_code": ("SLURM_JOB_EXIT_CODE",),
    "exit_code2": ("SLURM_JOB_EXIT_CODE2",),
    "derived_ec": ("SLURM_JOB_DERIVED_EC",),
}


@dataclass(frozen=True)
class Places:
    """The directories of the run time."""

    etc: Path = Path("/etc/perun")
    run: Path = Path("/run/perun")
    spool: Path = Path("/var/spool/perun")


def switched_off(env: Mapping[str, str]) -> bool:
    """Whether this node is in the list that `perun off` writes beside slurm.conf."""
    listed = conf.place(env).parent / "perun.off"
    try:
        return f"# off {env.get('SLURMD_NODENAME')}" in listed.read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return False


def compose(env: Mapping[str, str], mono_ns: int) -> dict[str, str]:
    """The fields of a hook's message, from Slurm's environment."""
    fields: dict[str, str] = {}
    sum_b = 0
    for key, names in JOB_KEYS.items():
        value = next((env[name] for name in names if name in env), None)
        length_b = 0 if value is None else len(os.fsencode(value))
        size_b = len(key) + length_b + 2
        if value is not None and length_b <= VALUE_MAX and sum_b + size_b <= SUM_MAX:
            fields[key] = value
            sum_b += size_b
    cpus = env.get("SLURM_JOB_CPUS_PER_NODE", "").partition("(")[0]
    if cpus.isdecimal() and "," not in env["SLURM_JOB_CPUS_PER_NODE"]:
        fields["cpus_on_node"] = cpus
    fields["restart_count"] = env.get("SLURM_JOB_RESTART_COUNT", env.get("SLURM_RESTART_COUNT", "0"))
    fields["hook_mono_ns"] = str(mono_ns)
    return fields


def settings(path: Path) -> dict[str, str]:
    """The lines ``key=value`` of hook.conf; nothing unless the file is our own and nobody else's to write."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {}
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return {}
        lines = os.fsdecode(file.read(8192)).split("\n")  # the policy's path may be of any bytes
    return dict(line.split("=", 1) for line in lines if "=" in line)


def deadline_ms(text: str | None) -> int:
    """The deadline that hook.conf names, the default if it is none."""
    number = int(text) if text is not None and text.isascii() and text.isdecimal() else 0
    return number if DEADLINE_MIN_MS <= number <= DEADLINE_MAX_MS else DEADLINE_DEFAULT_MS


def make_run_directory(path: Path) -> None:
    """Make the run directory if it is missing; against the umask, users must reach the agent's socket in it."""
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o755)


class Waiting:
    """A message written beside its place in the inbox before anything can go wrong; then kept or dropped at once.

    By the inbox's descriptor, as the C hook does it, and not by `files`: a directory that is put in its place meanwhile
    gets nothing of root's.
    """

    def __init__(self, inbox: Path, name: str, packet: bytes) -> None:
        """Write it, unless the inbox is full or not our own."""
        self._name, self._temporary = name, f".{os.getpid()}.tmp"
        self._directory = -1
        make_run_directory(inbox.parent)
        with contextlib.suppress(FileExistsError):
            inbox.mkdir(mode=0o700)
        directory = os.open(inbox, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(directory)
        with os.scandir(directory) as entries:
            full = sum(_is_ours(entry.name) for entry in entries) >= INBOX_MAX_FILES
        if full or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._temporary, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(packet)
        self._directory = directory

    def keep(self) -> None:
        """Leave it to the next agent."""
        if self._directory >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def drop(self) -> None:
        """Take it away: an agent has it."""
        if self._directory >= 0:
            os.unlink(self._temporary, dir_fd=self._directory)


def start_agent(run: Path, policy: str | None, cgroups: Path = Path("/sys/fs/cgroup")) -> bool:
    """Start the agent in a session and cgroups of its own; False while another one starts or ends."""
    make_run_directory(run)
    lock = os.open(run / "start.lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # kept until this process and what it started have ended
    except BlockingIOError:
        os.close(lock)
        return False
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    if policy is not None and policy.startswith("/"):
        env["PERUN_POLICY"] = policy
    agent = subprocess.Popen(
        [*_interpreter(), "perun_hpc.agent"],
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        umask=0o022,
        pass_fds=(lock,),
    )
    roots = [cgroups] if (cgroups / "cgroup.controllers").exists() else list(cgroups.iterdir())
    for root in roots:
        with contextlib.suppress(OSError):
            (root / "cgroup.procs").write_text(str(agent.pid))
    return True


def _interpreter() -> list[str]:
    """The command line of this very process up to its module: what it may not load the agent may not, either."""
    words = sys.orig_argv
    return [sys.executable, *words[1 : words.index(MODULE)]] if MODULE in words else [sys.executable, "-I", "-m"]


def _is_ours(name: str) -> bool:
    """Whether it is the name of a message or session, as `slurm/hooks/inbox.c` recognises these."""
    return "0" <= name[0] <= "9"


def deliver(places: Places, verb: str, fields: Mapping[str, str], policy: str | None, deadline_s: float) -> str | None:
    """Send the message, starting an agent if there is none; the agent's refusal, None if it accepted.

    Raises UnavailableError when the deadline (CLOCK_MONOTONIC) has passed without an answer.
    """
    may_start = verb == "job-start" or any(
        directory.is_dir() and any(_is_ours(path.name) for path in directory.iterdir())
        for directory in (places.run / "inbox", places.spool / "sessions")
    )
    started = False
    while True:
        try:
            left_s = max(deadline_s - time.monotonic(), 1e-3)
            reply = request(verb, fields, timeout_s=left_s, path=str(places.run / "agent.sock"))
            return None if reply.verb == "ok" else reply.get("reason", "")
        except UnavailableError:
            if not may_start or time.monotonic() + RETRY_S >= deadline_s:
                raise
        if not started:
            started = start_agent(places.run, policy)
        time.sleep(RETRY_S)


def _leave(number: int, frame: FrameType | None) -> None:
    for message in _waiting:
        message.keep()
    os._exit(0)


_waiting: list[Waiting] = []
"""What a signal must not lose."""


def run(name: str, env: Mapping[str, str], places: Places) -> None:
    """Be the hook of that name; says one line if something went wrong."""
    mono_ns = time.monotonic_ns()
    verb = next((verb for end, verb in VERBS.items() if name.endswith(end)), None)
    if verb is None or (places.etc / "disable").exists() or switched_off(env):
        return
    conf = settings(places.run / "hook.conf")
    limit_s = deadline_ms(conf.get("deadline_ms")) / 1e3
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    fields = compose(env, mono_ns)
    texts = (fields.get(key, "0") for key in ("job_id", "restart_count"))
    digits = [text if text.isascii() and text.isdecimal() else "0" for text in texts]
    message = Waiting(places.run / "inbox", f"{mono_ns:020}-{verb}-{digits[0]}-{digits[1]}.msg", encode(verb, fields))
    _waiting.append(message)
    try:
        why = deliver(places, verb, fields, conf.get("policy"), mono_ns / 1e9 + limit_s * 0.8)
        message.drop()
    except PerunError as error:
        why = str(error)
        message.keep()
    if why is not None:
        print(f"perun {name}: job {fields.get('job_id', '?')}: {why}", file=sys.stderr)


def main() -> None:
    """Run with the real directories; every way out is exit 0."""
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _leave)
    os.umask(0o077)
    try:
        run(sys.argv[1], os.environ, Places())
    except Exception as error:  # the job comes first
        print(f"perun hook: {error!r}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
