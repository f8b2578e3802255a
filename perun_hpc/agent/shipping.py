"""Handing sealed sessions over to the archive, in a child process: an archive that hangs holds up nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from perun_hpc.agent import regions
from perun_hpc.agent.paths import AgentPaths, safe_name
from perun_hpc.agent.session import SessionKey
from perun_hpc.agent.spool import read_json
from perun_hpc.errors import DataError, PerunError
from perun_hpc.store.files import write_new

PATIENCE_NS = 600 * 1_000_000_000
KEEP_LEDGER_S = 30 * 86_400
BACKOFF_NS = (2_000_000_000, 10_000_000_000, 60_000_000_000, 300_000_000_000)


class Shipper:
    """At most one child that ships; failures are tried again, less and less often."""

    def __init__(self, paths: AgentPaths) -> None:
        self._paths = paths
        self._pid: int | None = None
        self._started_ns = 0
        self._failures = 0
        self.due_ns: int | None = 0
        """When to try next (monotonic); None when nothing waits."""

    @property
    def busy(self) -> bool:
        """Whether a child is at work."""
        return self._pid is not None

    def request(self, mono_ns: int) -> None:
        """Something is ready."""
        self.due_ns = mono_ns

    def is_due(self, mono_ns: int) -> bool:
        """Whether a child should be started now."""
        return self._pid is None and self.due_ns is not None and mono_ns >= self.due_ns

    def start(self, archive: Path, home: tuple[str, str], mono_ns: int) -> None:
        """Fork the child; `home` is the cluster and the node under which the node ledger stands."""
        self.due_ns = None
        self._started_ns = mono_ns
        pid = os.fork()
        if pid == 0:
            _child(self._paths, archive, home)
        self._pid = pid

    def poll(self, mono_ns: int) -> None:
        """Reap the child; kill one that hangs."""
        if self._pid is None:
            return
        if mono_ns - self._started_ns > PATIENCE_NS:
            os.kill(self._pid, signal.SIGKILL)
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0:
            return
        self._pid = None
        if status == 0:
            self._failures = 0
        else:
            wait_ns = BACKOFF_NS[min(self._failures, len(BACKOFF_NS) - 1)]
            self._failures += 1
            self.due_ns = mono_ns + wait_ns


def _ship_trace(directory: Path, job_dir: Path, record: dict[str, Any]) -> None:
    """Put the trace into the job's store; one that cannot go is named in the record, which is the evidence."""
    from perun_hpc.config import hostlist
    from perun_hpc.store import ship as shards

    try:
        job_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        shards.ship(directory, job_dir, list(hostlist.expand(record["nodelist"])))
    except (DataError, ValueError) as error:
        record["trace"] = {**record["trace"], "stored": False, "why": str(error)}


def _child(paths: AgentPaths, archive: Path, home: tuple[str, str]) -> None:
    """The child's whole life: nothing of the parent but its files, no way back into its loop."""
    code = 1
    try:
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_DFL)
        os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)
        code = 0 if ship_all(paths, archive, home) else 1
    except BaseException as error:  # whatever happens, the child ends here
        print(f"shipping failed: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def ship_all(paths: AgentPaths, archive: Path, home: tuple[str, str]) -> bool:
    """Ship every sealed session and the node ledger; True when nothing is left. One failure does not hold up others."""
    done = True
    for directory in sorted(paths.sessions.iterdir()):
        if (directory / "boundary.json").exists():
            try:
                ship(directory, archive)
            except (OSError, PerunError) as error:
                stamp = time.strftime("%FT%T%z")
                print(f"{stamp} cannot ship {directory.name} to {archive}: {error}", file=sys.stderr)
                done = False
    try:
        ship_ledger(paths, archive, *home)
    except (OSError, DataError) as error:
        print(f"{time.strftime('%FT%T%z')} cannot ship the node ledger: {error}", file=sys.stderr)
        done = False
    return done


def ship_ledger(paths: AgentPaths, archive: Path, cluster: str, node: str) -> None:
    """Put every day of the node ledger that has grown into the archive; days long past leave the spool."""
    if not cluster:
        return
    target = archive / safe_name(cluster, "cluster") / "nodes" / safe_name(node, "node")
    target.mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in sorted(paths.node.glob("????-??-??.jsonl")):
        shipped = target / path.name
        known = shipped.read_bytes() if shipped.exists() else b""
        data = _continued(known, path.read_bytes())
        if data != known:
            write_new(shipped, data)
        elif time.time() - path.stat().st_mtime > KEEP_LEDGER_S:
            path.unlink()


def _continued(shipped: bytes, spooled: bytes) -> bytes:
    """What was shipped, continued by the spool: that of a node that lost its disk lacks the beginning of the day."""
    first = spooled[: spooled.find(b"\n") + 1]
    if not first or spooled.startswith(shipped):
        return spooled or shipped
    at = 0 if shipped.startswith(first) else shipped.find(b"\n" + first) + 1
    return shipped[:at] + spooled if at or shipped.startswith(first) else shipped + spooled


def ship(directory: Path, archive: Path) -> None:
    """Put one session's boundary record under its final name, then drop the session's directory; may be repeated."""
    record = read_json(directory / "boundary.json")
    if record is None:
        return
    key = SessionKey.parse(directory.name)
    cluster = archive / safe_name(record["cluster"] or "cluster", "cluster")
    target = cluster / "incoming" / key.name / f"{safe_name(record['node'], 'node')}.json"
    cluster.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # somebody else's, who decides
        cluster.chmod(0o711)  # against the umask: owners of jobs pass through to their own directories
    if not (record["start"]["from"] == "epilog" and target.exists()):
        if record["trace"]["stored"]:
            _ship_trace(directory, cluster / "jobs" / key.name, record)
        record["regions"], problems = regions.of_session(directory, record)
        record["steps"] = regions.with_energies(directory, record)
        if problems:
            record["notes"] = problems[:20]
        target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_new(target, json.dumps(record, separators=(",", ":")).encode())
    import shutil

    shutil.rmtree(directory)
