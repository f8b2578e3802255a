"""The policy as a service follows it: a newer file is compiled by a short-lived child, the last valid one stays.

For agent and collector alike: neither waits for a file system that hangs, nor is what YAML needs in the agent. Where
several files are `kept`, the first that holds a policy is the last valid one of the service before.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.files import read_json, write_json
from perun_hpc.process import child
from perun_hpc.process.child import Child
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import log
from perun_hpc.process.ready import readable

if TYPE_CHECKING:
    from perun_hpc.config.resolve import JobSettings

PATIENCE_NS = 60_000_000_000
"""A compiler that takes longer hangs, on a file system maybe: the last valid policy rules, and records go out."""
MAX_COMPILED_B = 64 << 20
"""A policy of the largest size that is read comes to less."""


class PolicyKeeper:
    """The last valid compiled policy, and the child that compiles a newer one."""

    def __init__(
        self,
        source: Path,
        clock: Clock,
        node: str = "",
        kept: Sequence[Path] = (),
        policy: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin with `policy`, else with what is in `kept`, where each newer one is put; `node`: whose `site` is."""
        self.source = source
        self._clock = clock
        self._node = node
        self._kept = kept
        self._policy: Mapping[str, Any] = policy or next(filter(None, map(_sound, kept)), {})
        self._site: JobSettings | None = None
        self._seen: tuple[int, int] | None = None
        self._child: Child | None = None
        self._given_up: list[Child] = []
        self._out = self._words = -1
        self._started_ns = 0
        self._looked = False
        self.refused: str | None = None
        """Why the newest file does not rule; None while it does."""

    @property
    def policy(self) -> Mapping[str, Any]:
        """The last valid policy, as `config.compile` makes it; empty where there has been none."""
        return self._policy

    @property
    def names_sensors(self) -> bool:
        """Whether the last valid policy says which sensors count, which an agent must know before its first reading."""
        keys = ["sensors.backends", "sensors.include", "sensors.exclude", "sensors.files"]
        keys += [f"energy.{one}_max_uw" for one in ("package", "dram", "gpu", "module", "node")]
        keys += ["energy.estimate", "energy.estimate_model"]
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
        except OSError as error:
            if self._seen is not None:
                self._seen = None
                self.refused = f"cannot read policy {self.source}: {error.strerror}"
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
        if code is None:
            self._child.kill()
            self._given_up.append(self._child)
            self.refused = (
                f"cannot compile {self.source}: the compiler did not end within {PATIENCE_NS // 1_000_000_000} s"
            )
        elif code != 0:
            words = os.pread(self._words, 4096, 0).decode("utf-8", "replace").split("\n")
            self.refused = words[0].strip() or f"cannot compile {self.source}: the compiler ended with {code}"
        else:
            self._take_over()
        self._child = None
        os.close(self._out)
        os.close(self._words)
        return True

    def wait(self, most_s: float) -> None:
        """Take over what the child makes, if it makes it within that time."""
        if self._child is None:
            return
        with contextlib.suppress(OSError):  # before Linux 5.3 there is no such call: a later look takes it over
            ends = os.pidfd_open(self._child.pid)
            try:
                readable(ends, most_s)
            finally:
                os.close(ends)
        self.poll()

    def site(self) -> JobSettings:
        """The settings of this node, or of the site, under the policy that rules now."""
        if self._site is None:
            from perun_hpc.config.resolve import JobFacts, resolve

            self._site = resolve(self._policy, JobFacts(node=self._node))
        return self._site

    def settings(self, job: Mapping[str, str], node: str, options: str | None) -> JobSettings:
        """The settings of one job; `options` is the text of the flag that it was submitted with, None without one."""
        from perun_hpc.config.resolve import JobFacts, resolve

        facts = JobFacts(job.get("partition", ""), node, job.get("account", ""), job.get("user", ""), options)
        return resolve(self._policy, facts)

    def _start(self) -> None:
        """Start the compiler; what it says goes into memory, where it never waits for somebody to read it."""
        out = os.memfd_create("policy", os.MFD_CLOEXEC)
        try:
            words = os.memfd_create("mistakes", os.MFD_CLOEXEC)
            try:
                command = ("-I", "-m", "perun_hpc.config.compile", str(self.source), str(os.getpid()))
                self._child = child.execute((sys.executable, *command), out, words)
            except OSError:
                os.close(words)
                raise
        except OSError:
            os.close(out)
            raise
        self._out, self._words, self._started_ns = out, words, self._clock.mono_ns()

    def _take_over(self) -> None:
        """Let what the compiler made rule."""
        try:
            size_b = os.fstat(self._out).st_size
            found = json.loads(os.pread(self._out, size_b, 0)) if size_b <= MAX_COMPILED_B else None
        except (ValueError, RecursionError):
            found = None
        if not found or not _is_policy(found):
            self.refused = f"cannot compile {self.source}: the compiler made no policy of it"
            return
        self.refused = None
        self._policy = found
        self._site = None
        for path in self._kept:
            with contextlib.suppress(OSError):  # a full disk: this one rules all the same
                write_json(path, found)


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
