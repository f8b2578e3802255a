"""The policy as the agent holds it: compiled by a short-lived child, so that the agent never parses YAML or waits."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.files import read_json, write_json
from perun_hpc.process import child
from perun_hpc.process.child import Child
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import log

if TYPE_CHECKING:
    from perun_hpc.config.resolve import JobSettings

PATIENCE_NS = 60_000_000_000
"""A compiler that takes longer hangs, on a file system maybe: the last good policy rules, and records go out."""


class PolicyKeeper:
    """The last good compiled policy, and the child that compiles a newer one."""

    def __init__(self, source: Path, compiled: Path, kept: Path, node: str, clock: Clock) -> None:
        """`compiled` is where the child puts its result, `kept` a copy of it that survives a reboot."""
        self.source = source
        self._node = node
        self._compiled = compiled
        self._kept = kept
        self._clock = clock
        self._policy: Mapping[str, Any] = _sound(compiled) or _sound(kept) or {}
        self._site: JobSettings | None = None
        self._seen: tuple[int, int] | None = None
        self._child: Child | None = None
        self._given_up: list[Child] = []
        self._words = -1
        self._started_ns = 0
        self._looked = False
        self.refused: str | None = None
        """Why the newest file does not rule; None while it does."""

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
        try:
            status = self.source.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            return
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._start()
            except OSError as error:
                self.refused = f"cannot compile {self.source}: {error}"

    def poll(self) -> bool:
        """Take over what the child made; True when it has just ended, or was given up."""
        self._given_up = [one for one in self._given_up if one.poll() is None]
        if self._child is None:
            return False
        code = self._child.poll()
        if code is None and self._clock.mono_ns() - self._started_ns < PATIENCE_NS:
            return False
        words = os.pread(self._words, 4096, 0).decode("utf-8", "replace").split("\n")
        os.close(self._words)
        if code is None:
            self._child.kill()
            self._given_up.append(self._child)
            self.refused = (
                f"cannot compile {self.source}: the compiler did not end within {PATIENCE_NS // 1_000_000_000} s"
            )
        elif code != 0:
            self.refused = words[0].strip() or f"cannot compile {self.source}: the compiler ended with {code}"
        else:
            self.refused = None
            self._policy = _sound(self._compiled) or self._policy
            self._site = None
            with contextlib.suppress(OSError):  # a full spool: this one rules all the same
                write_json(self._kept, self._policy)
        self._child = None
        return True

    def _start(self) -> None:
        """Start the compiler; what it says goes into memory, where it never waits for somebody to read it."""
        words = os.memfd_create("policy", os.MFD_CLOEXEC)
        command = [sys.executable, "-I", "-m", "perun_hpc.config.compile", str(self.source), str(self._compiled)]

        def compile_it() -> None:
            null = os.open(os.devnull, os.O_RDWR)
            for number, fd in enumerate((null, null, words)):
                os.dup2(fd, number)
            os.execv(command[0], command)

        try:
            self._child = child.start("policy", compile_it, (words,))
        except OSError:
            os.close(words)
            raise
        self._words, self._started_ns = words, self._clock.mono_ns()

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


def _sound(path: Path) -> dict[str, Any] | None:
    """The compiled policy in a file; None where there is none, or it is no policy: every next agent would end by it."""
    found = read_json(path)
    if found is None or _is_policy(found):
        return found
    log(f"{path}: no compiled policy; it does not count")
    return None


def _is_policy(found: Any) -> bool:
    """Whether it is made of entries, each with values by their keys."""
    if not isinstance(found, dict):
        return False
    layers = [{"site": found.get("site", {})}, *(found.get(one, {}) for one in ("partitions", "nodes", "accounts"))]
    return all(
        isinstance(layer, dict)
        and all(isinstance(entry, dict) and isinstance(entry.get("values", {}), dict) for entry in layer.values())
        for layer in layers
    )
