"""A node for the real agent: a tree that looks like /sys and /proc, an agent process, and a hook's messages to it.

Counters move only when the test moves them, and every value that was served is known, so edges are compared exactly.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perun_hpc.agent import state_log
from perun_hpc.wire.client import request
from perun_hpc.wire.message import Message, encode

RANGE_UJ = 262_143_328_850
ZONES = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram"}
CPUS = 4
USER_HZ = os.sysconf("SC_CLK_TCK")


ALL_BY_WORK = "energy:\n  package_static: 0 W\n"
"""Policy of a node without static power: else half of the least power seen is, once an interval took a second."""


class FakeNode:
    """Directories of one node below `base`, and the agent that runs there."""

    def __init__(
        self,
        base: Path,
        policy: str = "",
        simulated: bool = True,
        cgroup_version: int = 1,
        zones: Mapping[str, str] = ZONES,
    ) -> None:
        self.base = base
        self.cgroup_version = cgroup_version
        self.root, self.run_dir, self.spool = base / "root", base / "run", base / "spool"
        self.archive, self.policy = base / "archive", base / "policy.yaml"
        self.socket = str(self.run_dir / "agent.sock")
        self.agent: subprocess.Popen[bytes] | None = None
        self.zones = zones
        self.counters = dict.fromkeys(zones, 1_000_000)
        self.busy_s = [0.0] * CPUS
        powercap = self.root / "sys/class/powercap"
        powercap.mkdir(parents=True)
        for zone, name in zones.items():
            (powercap / zone).mkdir(parents=True)
            (powercap / zone / "name").write_text(name + "\n")
            (powercap / zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
            # A limit far above real ones: the test moves counters within milliseconds.
            (powercap / zone / "constraint_0_max_power_uw").write_text("10000000000\n")
            (powercap / zone / "energy_uj").touch()
        if simulated:
            (powercap / "perun_simulated").touch()
        for cpu in range(CPUS):
            topology = self.root / f"sys/devices/system/cpu/cpu{cpu}/topology"
            topology.mkdir(parents=True)
            (topology / "physical_package_id").write_text("0\n")
            (topology / "core_id").write_text(f"{cpu}\n")
        kernel = self.root / "proc/sys/kernel/random"
        kernel.mkdir(parents=True)
        self.set_boot("11111111-2222-3333-4444-555555555555")
        (self.root / "etc").mkdir(exist_ok=True)
        (self.root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (self.root / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n")
        self.serve()
        slurms = "cpuacct/slurm" if cgroup_version == 1 else "system.slice/slurmstepd.scope"
        (self.root / "sys/fs/cgroup" / slurms).mkdir(parents=True)  # there since the node's first job
        self.archive.mkdir()
        self.policy.write_text(f"store:\n  archive: {self.archive}\n{policy}")
        self.ruled = bool(policy)

    def set_boot(self, boot_id: str) -> None:
        (self.root / "proc/sys/kernel/random/boot_id").write_text(boot_id + "\n")

    def serve(self, package_uj: int = 0, dram_uj: int = 0, busy_s: dict[int, float] | None = None) -> None:
        """Advance the counters and the CPUs' busy time; files change in place, as the kernel's do."""
        for zone, added in zip(self.zones, (package_uj, dram_uj), strict=False):
            self.counters[zone] = (self.counters[zone] + added) % (RANGE_UJ + 61)
            _put(self.root / "sys/class/powercap" / zone / "energy_uj", f"{self.counters[zone]}\n".ljust(16, "\n"))
        for cpu, seconds in (busy_s or {}).items():
            self.busy_s[cpu] += seconds
        lines = [f"cpu{cpu} {int(seconds * USER_HZ)} 0 0 0 0 0 0 0 0 0" for cpu, seconds in enumerate(self.busy_s)]
        _put(self.root / "proc/stat", "\n".join(["cpu  0 0 0 0 0 0 0 0 0 0", *lines, "intr 0"]).ljust(4096, "\n"))

    def cgroup(self, job_id: int, cpus: str, cpu_s: float, uid: int = 1000) -> None:
        """Make or advance a job's cgroup; `cpus` empty: Slurm confines no job (version 2 only)."""
        if self.cgroup_version == 2:
            directory = self.root / f"sys/fs/cgroup/system.slice/slurmstepd.scope/job_{job_id}"
            directory.mkdir(parents=True, exist_ok=True)
            _put(directory / "cpu.stat", f"usage_usec {int(cpu_s * 1e6)}\n".ljust(40, "\n"))
            _put(directory / "cpuset.cpus", f"{cpus}\n")
            _put(directory / "cpuset.cpus.effective", f"{cpus or f'0-{CPUS - 1}'}\n")
            return
        for controller in ("cpuacct", "cpuset"):
            directory = self.root / f"sys/fs/cgroup/{controller}/slurm/uid_{uid}/job_{job_id}"
            directory.mkdir(parents=True, exist_ok=True)
            if controller == "cpuacct":
                _put(directory / "cpuacct.usage", f"{int(cpu_s * 1e9)}\n".ljust(24, "\n"))
            else:
                _put(directory / "cpuset.cpus", f"{cpus}\n")

    def step(self, job_id: int, name: str, cpu_s: float = 0, cpus: str = "", uid: int = 1000) -> None:
        """Make or advance a step's cgroup; slurmstepd makes the directory first."""
        for top, files in self._of_steps(job_id, uid, cpu_s, cpus).items():
            directory = top / f"step_{name}"
            directory.mkdir(parents=True, exist_ok=True)
            for file, said in files.items():
                _put(directory / file, said)

    def end_step(self, job_id: int, name: str, uid: int = 1000) -> None:
        """Remove a step's cgroup; the job's keeps its CPU time."""
        for top in self._of_steps(job_id, uid, 0, ""):
            shutil.rmtree(top / f"step_{name}")

    def end_cgroup(self, job_id: int, uid: int = 1000) -> None:
        """Remove a job's cgroup; an old descriptor reads nothing then."""
        for top in self._of_steps(job_id, uid, 0, "").keys() | self._of_steps(job_id, uid, 0, "0").keys():
            for file in top.iterdir():
                file.write_bytes(b"")
            shutil.rmtree(top)

    def _of_steps(self, job_id: int, uid: int, cpu_s: float, cpus: str) -> dict[Path, dict[str, str]]:
        """Where a job's steps are, and what stands in their files."""
        usage = f"usage_usec {int(cpu_s * 1e6)}\n".ljust(40, "\n")
        confined = {"cpuset.cpus.effective": f"{cpus}\n"} if cpus else {}
        if self.cgroup_version == 2:
            top = self.root / f"sys/fs/cgroup/system.slice/slurmstepd.scope/job_{job_id}"
            return {top: {"cpu.stat": usage, **confined}}
        tops = {one: self.root / f"sys/fs/cgroup/{one}/slurm/uid_{uid}/job_{job_id}" for one in ("cpuacct", "cpuset")}
        return {
            tops["cpuacct"]: {"cpuacct.usage": f"{int(cpu_s * 1e9)}\n".ljust(24, "\n")},
            tops["cpuset"]: {"cpuset.cpus": f"{cpus}\n"} if cpus else {},
        }

    def freeze(self, job_id: int, frozen: bool, *steps: str, uid: int = 1000) -> None:
        """Make a job's steps, or freeze or thaw them as Slurm does: each by itself."""
        for step in steps or ("batch", "extern"):
            if self.cgroup_version == 2:
                top = self.root / f"sys/fs/cgroup/system.slice/slurmstepd.scope/job_{job_id}"
                file, said = top / f"step_{step}/user/cgroup.events", f"populated 1\nfrozen {int(frozen)}\n"
            else:
                top = self.root / f"sys/fs/cgroup/freezer/slurm/uid_{uid}/job_{job_id}"
                file, said = top / f"step_{step}/freezer.state", "FROZEN\n" if frozen else "THAWED\n"
            file.parent.mkdir(parents=True, exist_ok=True)
            _put(file, said)

    def start(
        self,
        *more: str,
        wait: bool = True,
        within: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> subprocess.Popen[bytes]:
        """Start the agent as the hook does; `within`: a program that executes the rest of its command line.

        Wait until it answers, and until what the test's policy says rules: a child reads it meanwhile.
        """
        before = self._told_to_hooks()
        command = [*within, python, "-I", "-m", "perun_hpc.agent", "--run-dir", str(self.run_dir)]
        command += ["--spool", str(self.spool), "--root", str(self.root), "--policy", str(self.policy), *more]
        self.agent = subprocess.Popen(command, env={**os.environ, **(env or {})})
        if wait:
            until(lambda: self.answers(), "the agent answers")
            until(lambda: not self.ruled or self._told_to_hooks() != before, "the policy rules")
        return self.agent

    def _told_to_hooks(self) -> int | None:
        """Which file it is that an agent writes anew for the hooks once a policy rules it."""
        with contextlib.suppress(FileNotFoundError):
            return (self.run_dir / "hook.conf").stat().st_mtime_ns
        return None

    def answers(self) -> bool:
        try:
            return self.ask("status").verb == "ok"
        except Exception:
            return False

    def stop(self) -> None:
        if self.agent is not None and self.agent.poll() is None:
            self.agent.terminate()
            self.agent.wait(60)
            until(lambda: not self._ships(), "what the agent left to ship has gone", 240)

    def _ships(self) -> bool:
        """Whether a child of the agent's is at work that outlives it."""
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and f"{self.run_dir}\0".encode() in (process / "cmdline").read_bytes():
                    return True
        return False

    def kill(self) -> None:
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait(60)

    def ask(self, verb: str, **fields: str | int) -> Message:
        return request(verb, {key: str(value) for key, value in fields.items()}, timeout_s=30, path=self.socket)

    def job(self, job_id: int, **more: str | int) -> dict[str, str | int]:
        """What a hook says about a job."""
        common: dict[str, str | int] = {"restart_count": 0, "uid": 1000, "gid": 1000, "user": "alice", "node": "n1"}
        named: dict[str, str | int] = {"cluster": "test", "num_nodes": 1, "nodelist": "n1", "account": "physics"}
        return {"job_id": job_id, **common, **named, "hook_mono_ns": time.monotonic_ns(), **more}

    def begin(self, job_id: int, **more: str | int) -> None:
        assert self.ask("job-start", **self.job(job_id, **more)).verb == "ok"

    def end(self, job_id: int, **more: str | int) -> None:
        assert self.ask("job-end", **self.job(job_id, **{"exit_code": "0:0", **more})).verb == "ok"

    def leave(self, verb: str, job_id: int, **more: str | int) -> None:
        """Put a message into the inbox, as a hook does that found no agent."""
        inbox = self.run_dir / "inbox"
        inbox.mkdir(parents=True, exist_ok=True, mode=0o700)
        fields = {key: str(value) for key, value in self.job(job_id, **more).items()}
        name = f"{int(fields['hook_mono_ns']):020d}-{verb}-{job_id}-{fields['restart_count']}.msg"
        (inbox / f".{name}.tmp").write_bytes(encode(verb, fields))
        (inbox / f".{name}.tmp").rename(inbox / name)

    def boundary_path(self, job_id: int, restart_count: int = 0) -> Path:
        return self.archive / "test" / "incoming" / f"{job_id}.{restart_count}" / "n1.json"

    def record(self, job_id: int, restart_count: int = 0) -> dict[str, Any]:
        """The job's boundary record, waited for."""
        path = self.boundary_path(job_id, restart_count)
        until(path.exists, f"the record of job {job_id}", 240)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def ranks_ended(self, job_id: int = 1) -> bool:
        """Whether the agent has seen, and would remember after a kill, the end of all ranks of a job."""
        runs: dict[tuple[str, int], dict[str, Any]] = {}
        for line in (self.spool / f"sessions/{job_id}.0/steps.jsonl").read_text().splitlines():
            known = json.loads(line)
            if isinstance(known, list):
                runs[known[0], known[1]["rank"]] = known[1]
        return all(run["end_ns"] is not None for run in runs.values())

    def state(self) -> dict[str, Any]:
        """What the next agent would go on from."""
        known = state_log.read(self.spool / "node" / "state.json")
        assert known is not None
        return known

    def ledger(self) -> list[dict[str, Any]]:
        """All whole lines of the node ledger; the agent may be writing the last one."""
        files = sorted((self.spool / "node").glob("*.jsonl"))
        written = [line for file in files for line in file.read_text().splitlines(keepends=True)]
        return [json.loads(line) for line in written if line.endswith("\n")]


def until(condition: Any, what: str, seconds: float = 60) -> None:
    """Wait for a condition; fails loudly when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.01)


def _put(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.pwrite(fd, text.encode(), 0)
    os.close(fd)
