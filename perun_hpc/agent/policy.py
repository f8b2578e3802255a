"""The policy as the agent holds it: compiled by a short-lived child, so that the agent never parses YAML or waits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.agent.spool import read_json, write_json

if TYPE_CHECKING:
    import subprocess

    from perun_hpc.config.resolve import JobSettings


class PolicyKeeper:
    """The last good compiled policy, and the child that compiles a newer one."""

    def __init__(self, source: Path, compiled: Path, kept: Path, node: str) -> None:
        """`compiled` is where the child puts its result, `kept` a copy of it that survives a reboot."""
        self.source = source
        self._node = node
        self._compiled = compiled
        self._kept = kept
        self._policy: Mapping[str, Any] = read_json(compiled) or read_json(kept) or {}
        self._site: JobSettings | None = None
        self._seen: tuple[int, int] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._looked = False
        self.refused: str | None = None
        """Why the newest file does not rule; None while it does."""

    @property
    def service_user(self) -> str:
        """Whom the agent shall become; asked before the first edge reading, so not by resolving all settings."""
        return str(self._policy.get("site", {}).get("values", {}).get("agent.service_user", "perun"))

    @property
    def names_sensors(self) -> bool:
        """Whether the last good policy says which sensors count, which the agent must know before its first reading."""
        keys = ("sensors.backends", "sensors.include", "sensors.exclude", "sensors.files", "energy.package_max_uw")
        entries = (self._policy.get("site", {}), *self._policy.get("nodes", {}).values())
        return any(key in entry.get("values", {}) for entry in entries for key in keys)

    @property
    def settled(self) -> bool:
        """Whether the file was looked at and no newer one is being compiled."""
        return self._looked and self._child is None

    def check(self) -> None:
        """Start compiling if the file changed since the last look."""
        if self._child is not None:
            return
        self._looked = True
        import subprocess  # not before the first edge reading: a prolog waits for it

        try:
            status = self.source.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            return
        if stamp != self._seen:
            self._seen = stamp
            command = [sys.executable, "-I", "-m", "perun_hpc.config.compile", str(self.source), str(self._compiled)]
            try:
                self._child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
            except OSError as error:
                self.refused = f"cannot compile {self.source}: {error}"

    def poll(self) -> bool:
        """Take over what the child made; True when it has just ended."""
        if self._child is None or self._child.poll() is None:
            return False
        assert self._child.stderr is not None
        words = self._child.stderr.read(4096).decode("utf-8", "replace").strip()
        self._child.stderr.close()
        self.refused = words.splitlines()[0] if self._child.returncode and words else None
        if self._child.returncode == 0:
            self._policy = read_json(self._compiled) or self._policy
            self._site = None
            with contextlib.suppress(OSError):  # a full spool: this one rules all the same
                write_json(self._kept, self._policy)
        self._child = None
        return True

    def site(self) -> JobSettings:
        """The settings of this node under the policy that rules now."""
        if self._site is None:
            from perun_hpc.config.resolve import JobFacts, resolve

            self._site = resolve(self._policy, JobFacts(node=self._node))
        return self._site

    def settings(self, job: Mapping[str, str], node: str, options: str | None) -> JobSettings:
        """The settings of one job; `options` is the text of the flag that it was submitted with, None without one."""
        from perun_hpc.config.resolve import JobFacts, resolve

        facts = JobFacts(job.get("partition", ""), node, job.get("account", ""), job.get("user", ""), options)
        return resolve(self._policy, facts)
