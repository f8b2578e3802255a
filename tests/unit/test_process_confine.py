"""What a process takes from itself: the kernel keeps to it, and what the kernel refuses is told."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from perun_hpc.process import confine

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
needs_list = pytest.mark.skipif(os.uname().machine not in confine.NUMBERS, reason="no list for this machine")


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_of_system_calls_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("no headers of the kernel here")
    text = HEADERS[machine].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    assert {name: known.get(name, of) for name, of in confine.NUMBERS[machine].items()} == confine.NUMBERS[machine]
    listed = {*confine.KERNEL, *confine.EXECUTE, *confine.NETWORK, *confine.OTHERS, *confine.ATTRIBUTES}
    assert listed - confine.NUMBERS[machine].keys() <= {"fork", "vfork", "chmod", "chown", "lchown"}


HEAD = """
import ctypes, errno, json, os, socket, subprocess, sys, threading
from perun_hpc.process import confine
libc = ctypes.CDLL(None, use_errno=True)

def code(work):
    try:
        work()
    except OSError as error:
        return error.errno
    return 0

def by_number(name, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(confine.NUMBERS[os.uname().machine][name], *arguments) < 0 else 0
"""


def told(script: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", HEAD + script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: dict[str, int] = json.loads(done.stdout)
    return answer


@needs_list
def test_calls_on_the_list_are_refused_to_the_process_and_what_it_executes() -> None:
    found = told("""
confine.gain_nothing()
confine.deny(confine.KERNEL)
again = "import os; os._exit(0 if open('/proc/self/status').read().count('Seccomp:\\t2') else 1)"
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
print(json.dumps({
    **{name: by_number(name, -1, 0, 0, 0, 0) for name in confine.KERNEL},
    "unshare(1)": subprocess.run(["unshare", "-U", "true"], stderr=subprocess.DEVNULL).returncode,
    "clone": by_number("clone", 0x10000000 | 17, 0, 0, 0, 0),
    "executed": subprocess.run([sys.executable, "-c", again]).returncode,
    "socket": code(socket.socket),
}))""")
    assert {name: found[name] for name in confine.KERNEL} == dict.fromkeys(confine.KERNEL, errno.EPERM)
    assert found["unshare(1)"] != 0 and found["clone"] == errno.EPERM
    assert (found["executed"], found["socket"]) == (0, 0)


@needs_list
def test_a_process_without_network_programs_and_others_has_none() -> None:
    found = told("""
ours, theirs = socket.socketpair()
confine.gain_nothing()
confine.deny((*confine.EXECUTE, *confine.NETWORK, *confine.OTHERS, *confine.ATTRIBUTES))
print(json.dumps({
    "inet": code(socket.socket),
    "unix": code(lambda: socket.socket(socket.AF_UNIX)),
    "execute": code(lambda: os.execv("/bin/true", ["true"])),
    "fork": code(os.fork),
    "signal": code(lambda: os.kill(os.getppid(), 0)),
    "mode": code(lambda: os.chmod(".", 0o755)),
    "owner": code(lambda: os.chown(".", -1, -1)),
    "given": code(lambda: ours.send(b"x")),
}))""")
    refused = ("inet", "unix", "execute", "fork", "signal", "mode", "owner")
    assert found == {**dict.fromkeys(refused, errno.EPERM), "given": 0}


@pytest.mark.skipif(bool(confine.attempt({"": confine.check_write_only})), reason="a kernel without Landlock")
def test_a_process_that_keeps_to_places_writes_nowhere_else(tmp_path: Path) -> None:
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("before")
    found = told(f"""
from pathlib import Path
base = Path({str(tmp_path)!r})
confine.gain_nothing()
confine.write_only((base / "inside", Path("/dev/null")))
ways = {{
    "make": lambda at: (at / "new").write_text("x"),
    "write": lambda at: (at / "file").open("r+").close(),
    "rename": lambda at: (at / "file").rename(at / "other"),
    "link": lambda at: (at / "link").symlink_to("file"),
    "remove": lambda at: (at / "other" if (at / "other").exists() else at / "file").unlink(),
    "directory": lambda at: (at / "directory").mkdir(),
}}
print(json.dumps({{name: [code(lambda: way(base / at)) for at in ("inside", "outside")] for name, way in ways.items()}}
    | {{"read": code((base / "outside/file").read_text), "null": code(lambda: Path("/dev/null").write_text("x"))}}))""")
    assert (found.pop("read"), found.pop("null")) == (0, 0)
    assert found == {way: [0, errno.EACCES] for way in found}


STATUS = "{k: int(v, 16) for k, v in (l.split() for l in open('/proc/self/status') if l.startswith('Cap'))}"


@needs_root
def test_capabilities_are_gone_for_good_also_for_a_program_of_roots() -> None:
    found = told(f"""
confine.bound_capabilities((confine.DAC_OVERRIDE,))
confine.hold_capabilities((confine.DAC_OVERRIDE,))
executed = subprocess.run([sys.executable, "-c", "import json; print(json.dumps({STATUS}))"], capture_output=True)
print(json.dumps({{"here": {STATUS}, "executed": json.loads(executed.stdout)}}))""")
    one = {"CapInh:": 0, "CapPrm:": 2, "CapEff:": 2, "CapBnd:": 2, "CapAmb:": 0}
    assert found == {"here": one, "executed": one}


@needs_root
def test_what_the_kernel_refuses_is_named_and_the_rest_is_done() -> None:
    found = told("""
confine.hold_capabilities(())  # whoever does not hold CAP_SETPCAP bounds nothing
print(json.dumps(confine.attempt({
    "bounded": lambda: confine.bound_capabilities(()),
    "no new": confine.gain_nothing,
    "unknown": lambda: confine.deny(()) if os.uname().machine in confine.NUMBERS else None,
})))""")
    assert found == {"bounded": os.strerror(errno.EPERM)}


def test_a_machine_without_a_list_is_told_so() -> None:
    with pytest.raises(OSError, match="no list of the system calls of riscv64"):
        confine.program("riscv64", confine.KERNEL)
