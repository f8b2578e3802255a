"""perun-launch: the command it becomes cannot tell the difference, but for what the launcher needs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from perun_hpc.wire.message import Message, decode, encode

from .sandbox import Sandbox

STEP = {
    "PATH": "/usr/bin:/bin",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "PERUN_JOB": "4711.1",
    "PERUN_STEP": "0",
    "PERUN_OPTIONS": "period=1s",
}
"""What Slurm and the plugin give to a rank."""

NOBODY = "perun: no agent on this node: this step runs without measurement\n"

SHOW = """
import json, os, resource, signal, sys
print(json.dumps({
    "argv": open("/proc/self/cmdline").read(), "env": dict(os.environ), "pid": os.getpid(), "cwd": os.getcwd(),
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
    "status": [line for line in open("/proc/self/status") if line.startswith(("Sig", "Shd", "Umask"))],
    "stdin": sys.stdin.read(),
}))
"""


class Agent:
    """Answers one rank and remembers what it said."""

    def __init__(self, sandbox: Sandbox, reply: bytes) -> None:
        self.listener = sandbox.listen()
        self.reply = reply
        self.message: Message | None = None
        self.peer_pid: int | None = None
        self.thread = threading.Thread(target=self._answer)
        self.thread.start()

    def _answer(self) -> None:
        peer, _ = self.listener.accept()
        with peer:
            self.peer_pid = int.from_bytes(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)
            self.message = decode(peer.recv(40000))
            peer.send(self.reply)

    def close(self) -> None:
        self.thread.join(20)
        self.listener.close()


def launch(sandbox: Sandbox, argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    env = {**STEP, **options.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run(
        [sandbox.libexec / "perun-launch", *argv], env=env, capture_output=True, text=True, timeout=20, **options
    )  # type: ignore[call-overload, no-any-return]


def install_launcher(sandbox: Sandbox) -> str:
    inject = sandbox.prefix / "lib" / "python3.99" / "site-packages" / "perun_hpc" / "inject" / "path"
    inject.mkdir(parents=True)
    return str(inject)


def plain(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if not name.startswith("PERUN_")}


def test_the_rank_is_registered_and_the_launcher_put_in(sandbox: Sandbox) -> None:
    inject = install_launcher(sandbox)
    agent = Agent(sandbox, encode("ok", {"period_ms": "100", "resolution_ms": "10000"}))
    done = launch(sandbox, ["/usr/bin/python3", "-I", "-c", SHOW], input="input")
    agent.close()
    seen = json.loads(done.stdout)
    assert agent.message == Message(
        "rank-start",
        {
            "job_id": "4711",
            "restart_count": "1",
            "step_id": "0",
            "rank": "3",
            "local_rank": "0",
            "ntasks": "4",
            "nnodes": "2",
            "command": "/usr/bin/python3",
            "options": "period=1s",
        },
    )
    assert done.stderr == ""
    assert seen["pid"] == agent.peer_pid  # the same process: the agent watches the rank itself
    assert seen["stdin"] == "input"
    assert seen["env"] == {
        **plain(STEP),
        "LC_CTYPE": seen["env"].get("LC_CTYPE", "C.UTF-8"),
        "PYTHONPATH": inject,
        "PERUN_PID": str(seen["pid"]),
        "PERUN_SOCKET": str(sandbox.run_dir / "agent.sock"),
        "PERUN_PERIOD_MS": "100",
        "PERUN_RESOLUTION_MS": "10000",
        "PERUN_JOB": "4711.1",
        "PERUN_STEP": "0",
        "PERUN_RANK": "3",
        "PERUN_LOCAL_RANK": "0",
        "PERUN_NTASKS": "4",
        "PERUN_NNODES": "2",
        "PERUN_OPTIONS": "period=1s",
    }


@pytest.mark.parametrize("former", ["", "/a", "/a:/b"])
def test_a_former_pythonpath_is_kept(sandbox: Sandbox, former: str) -> None:
    inject = install_launcher(sandbox)
    agent = Agent(sandbox, encode("ok", {}))
    done = launch(sandbox, ["env"], env={"PYTHONPATH": former})
    agent.close()
    lines = done.stdout.splitlines()
    assert f"PYTHONPATH={inject}:{former}".removesuffix(":") in lines
    assert f"PERUN_ORIG_PYTHONPATH={former}" in lines


@pytest.mark.parametrize("agent", ["none", "silent", "refusing", "speaking otherwise"])
def test_whatever_the_agent_says_the_rank_gets_the_launcher_and_all_else_is_as_without_us(
    sandbox: Sandbox, agent: str
) -> None:
    """The ranks of a host must not differ in whether they take part in what they do together."""
    inject = install_launcher(sandbox)
    command = ["/usr/bin/python3", "-I", "-c", SHOW, "a b", "", "'\"\\$"]
    bare = subprocess.run(command, env=plain(STEP), capture_output=True, text=True, input="x", check=True)
    replies = {"refusing": encode("error", {"reason": "full"}), "speaking otherwise": b"garbage"}
    with contextlib.ExitStack() as stack:
        if agent in replies:
            stack.callback(Agent(sandbox, replies[agent]).close)
        elif agent == "silent":
            stack.enter_context(sandbox.listen())
        done = launch(sandbox, command, input="x")
    expected, seen = json.loads(bare.stdout), json.loads(done.stdout)
    ours = {
        "PYTHONPATH": inject, "PERUN_PID": str(seen["pid"]), "PERUN_JOB": "4711.1", "PERUN_STEP": "0",
        "PERUN_RANK": "3", "PERUN_LOCAL_RANK": "0", "PERUN_NTASKS": "4", "PERUN_NNODES": "2",
        "PERUN_OPTIONS": "period=1s",
    }  # fmt: skip
    if agent == "silent":  # it may still take the rank
        ours |= {"PERUN_SOCKET": str(sandbox.run_dir / "agent.sock"), "PERUN_LATE": "1"}
    expected["env"].update(ours)
    for one in (expected, seen):
        one["status"] = [line for line in one["status"] if not line.startswith("SigQ")]  # other processes' too
    assert {**seen, "pid": 0} == {**expected, "pid": 0}
    what = "is measured once it does" if agent == "silent" else "runs without measurement"
    assert done.stderr.endswith(f": this step {what}\n")
    assert done.stderr.count("\n") == 1


def test_the_order_of_the_environment_is_kept(sandbox: Sandbox) -> None:
    bare = subprocess.run(["/usr/bin/env"], env=plain(STEP), capture_output=True, text=True, check=True)
    assert launch(sandbox, ["env"]).stdout == bare.stdout


def test_signals_are_inherited_as_they_were(sandbox: Sandbox) -> None:
    def change() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM, signal.SIGUSR2])

    show = ["grep", "-E", "^(Sig[^Q]|Shd)", "/proc/self/status"]  # SigQ counts other processes', too
    bare = subprocess.run(show, env=plain(STEP), capture_output=True, text=True, preexec_fn=change, check=True)
    assert launch(sandbox, show, preexec_fn=change).stdout == bare.stdout


def test_the_command_may_be_in_the_environment(sandbox: Sandbox) -> None:
    done = launch(sandbox, ["-c", 'echo "$0" "$@"', "zero", "one two"], env={"PERUN_ARGV0": "sh"})
    assert done.stdout == "zero one two\n"
    done = launch(sandbox, ["-c", "echo $0"], env={"PERUN_ARGV0": "sh"})
    assert done.stdout == "/usr/bin/sh\n"  # as slurmstepd starts it: with the path that it has found
    assert "PERUN" not in launch(sandbox, [], env={"PERUN_ARGV0": "env"}).stdout


def test_only_one_rank_of_a_node_tells_the_user(sandbox: Sandbox) -> None:
    assert launch(sandbox, ["true"], env={"SLURM_LOCALID": "1"}).stderr == ""


def test_a_refusal_is_told(sandbox: Sandbox) -> None:
    agent = Agent(sandbox, encode("error", {"reason": "no session for job 4711"}))
    done = launch(sandbox, ["env"])
    agent.close()
    assert done.stderr == "perun: no session for job 4711: this step runs without measurement\n"
    assert "PERUN" not in done.stdout


def test_the_user_is_told_which_options_do_not_count(sandbox: Sandbox) -> None:
    install_launcher(sandbox)
    agent = Agent(sandbox, encode("ok", {"period_ms": "100", "note": "--perun: option 'x' is not known"}))
    done = launch(sandbox, ["true"])
    agent.close()
    assert (done.returncode, done.stderr) == (0, "perun: --perun: option 'x' is not known\n")


@pytest.mark.parametrize("reply", [b"garbage", b"perun2\0ok\0", b""])
def test_a_damaged_reply_means_bare(sandbox: Sandbox, reply: bytes) -> None:
    agent = Agent(sandbox, reply)
    done = launch(sandbox, ["env"])
    agent.close()
    assert done.returncode == 0
    assert "PERUN" not in done.stdout


def test_a_silent_agent_is_given_up(sandbox: Sandbox) -> None:
    with sandbox.listen():
        done = launch(sandbox, ["env"])
    assert done.stderr == "perun: the agent does not answer: this step is measured once it does\n"
    assert "PERUN" not in done.stdout


def test_a_rank_whose_agent_answers_late_knows_where_it_is(sandbox: Sandbox) -> None:
    install_launcher(sandbox)
    with sandbox.listen() as listener:
        begin_s = time.monotonic()
        done = launch(sandbox, ["env"], env={"PERUN_LATE": "no"})
        assert time.monotonic() - begin_s < 10
        peer, _ = listener.accept()
        with peer:
            assert decode(peer.recv(40000)).verb == "rank-start"
    ours = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("PERUN_"))
    assert (ours["PERUN_SOCKET"], ours["PERUN_LATE"]) == (str(sandbox.run_dir / "agent.sock"), "1")
    assert ours.keys().isdisjoint({"PERUN_PERIOD_MS", "PERUN_RESOLUTION_MS"})
    (sandbox.run_dir / "agent.sock").unlink()
    agent = Agent(sandbox, encode("ok", {"period_ms": "100", "resolution_ms": "10000"}))
    assert "PERUN_LATE" not in launch(sandbox, ["env"], env={"PERUN_LATE": "1"}).stdout
    agent.close()


def test_the_kill_switch_means_bare(sandbox: Sandbox) -> None:
    (sandbox.root / "etc" / "disable").touch()
    done = launch(sandbox, ["env"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "PERUN" not in done.stdout


@pytest.mark.parametrize("missing", ["PERUN_JOB", "PERUN_STEP", "SLURM_PROCID", "SLURM_NTASKS"])
def test_an_incomplete_environment_means_bare(sandbox: Sandbox, missing: str) -> None:
    with sandbox.listen():
        env = {name: value for name, value in STEP.items() if name != missing}
        done = subprocess.run(
            [sandbox.libexec / "perun-launch", "env"], env=env, capture_output=True, text=True, timeout=20
        )
    assert done.returncode == 0
    assert "PERUN" not in done.stdout


def test_the_prefix_may_lie_elsewhere_than_the_launcher(sandbox: Sandbox, tmp_path: Path) -> None:
    inject = tmp_path / "lib" / "python3.99" / "site-packages" / "perun_hpc" / "inject" / "path"
    inject.mkdir(parents=True)
    (sandbox.root / "etc" / "prefix").write_text(f"{tmp_path}\n")
    assert f"PYTHONPATH={inject}" in launch(sandbox, ["env"]).stdout.splitlines()
    (sandbox.root / "etc" / "prefix").chmod(0o666)
    assert "PYTHONPATH" not in launch(sandbox, ["env"]).stdout


def install_launchers(prefix: Path, *versions: str) -> dict[str, str]:
    """Launchers of several interpreters in one prefix; their directories, by the interpreters' names."""
    made = {name: prefix / "lib" / name / "site-packages" / "perun_hpc" / "inject" / "path" for name in versions}
    for directory in made.values():
        directory.mkdir(parents=True)
    return {name: str(directory) for name, directory in made.items()}


def injected(sandbox: Sandbox) -> str | None:
    """The launcher's directory that a command gets."""
    lines = launch(sandbox, ["env"]).stdout.splitlines()
    return next((line.removeprefix("PYTHONPATH=") for line in lines if line.startswith("PYTHONPATH=")), None)


VERSIONS = ("python3.9", "python3.10", "python3.11", "python3.12", "python3.13t", "python3.100")
"""More than one, so that no order in which a directory is read gives each of them."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("depth", [1, 3])
def test_of_several_interpreters_the_launcher_is_that_of_the_prefixs_own(
    sandbox: Sandbox, tmp_path: Path, version: str, depth: int
) -> None:
    """Hooks start the agent with PREFIX/bin/python: what an older interpreter has left there may be another release."""
    made = install_launchers(sandbox.prefix, *VERSIONS)
    python = sandbox.prefix / "bin" / "python"
    if depth == 1:
        python.symlink_to(f"/usr/bin/{version}")
    else:
        python.symlink_to("python3")
        (python.parent / "python3").symlink_to(tmp_path / "python3.8")  # a link's name does not tell what it leads to
        (tmp_path / "python3.8").symlink_to(version)
        (tmp_path / version).touch()
    assert injected(sandbox) == made[version]


@pytest.mark.parametrize("version", ["python3.9", "python3.100"])
@pytest.mark.parametrize("line", ["version = 3.{}.2", "version_info = 3.{}.2.final.0"])
def test_an_interpreter_that_was_copied_is_named_by_its_configuration(
    sandbox: Sandbox, version: str, line: str
) -> None:
    made = install_launchers(sandbox.prefix, "python3.9", "python3.10", "python3.100")
    (sandbox.prefix / "bin" / "python").touch()
    minor = version.removeprefix("python3.")
    (sandbox.prefix / "pyvenv.cfg").write_text(f"home = /usr/bin\n{line.format(minor)}\n")
    assert injected(sandbox) == made[version]


@pytest.mark.parametrize("python", ["no link", "in a circle", "of a version that has none"])
def test_which_of_several_is_meant_is_not_guessed(sandbox: Sandbox, python: str) -> None:
    made = install_launchers(sandbox.prefix, "python3.9", "python3.10")
    named = sandbox.prefix / "bin" / "python"
    if python == "no link":
        named.touch()
    else:
        named.symlink_to("python" if python == "in a circle" else "/usr/bin/python3.99")
    assert injected(sandbox) is None
    Path(made["python3.9"]).rmdir()
    assert injected(sandbox) == made["python3.10"]  # the only one there is


def test_only_directories_of_interpreters_are_looked_at(sandbox: Sandbox) -> None:
    install_launchers(sandbox.prefix, "python3", "python3.", "python3.11-old", "python3.x", "python3.11tt")
    assert injected(sandbox) is None


@pytest.mark.parametrize("prefix", ["hanging", "missing"])
def test_where_the_prefix_does_not_answer_the_command_runs(sandbox: Sandbox, hanging: Path, prefix: str) -> None:
    install_launcher(sandbox)
    (sandbox.root / "etc" / "prefix").write_text(f"{hanging if prefix == 'hanging' else sandbox.root / 'missing'}\n")
    agent = Agent(sandbox, encode("ok", {}))
    done = launch(sandbox, ["/usr/bin/python3", "-I", "-c", SHOW], input="")
    agent.close()
    bare = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", SHOW], env=plain(STEP), capture_output=True, text=True, input="", check=True
    )
    seen, expected = json.loads(done.stdout), json.loads(bare.stdout)
    for one in (expected, seen):
        one["status"] = [line for line in one["status"] if not line.startswith("SigQ")]  # other processes' too
    assert {**seen, "pid": 0} == {**expected, "pid": 0}
    assert agent.message is not None and agent.message.get("outside") == "prefix"
    assert done.stderr == (
        "perun: the installation is not there or does not answer: this step is measured from outside, without regions\n"
    )


def test_where_a_hook_is_stuck_in_the_prefix_no_process_of_a_job_follows(sandbox: Sandbox, hanging: Path) -> None:
    """Of several that look at once only the first can be killed; a job whose processes cannot be costs the node."""
    (sandbox.root / "etc" / "prefix").write_text(f"{hanging}\n")
    sandbox.run("prolog")
    begin = len(looking(sandbox))
    done = launch(sandbox, ["env"])
    assert (done.returncode, "PERUN" in done.stdout) == (0, False)
    assert begin == len(looking(sandbox)) == 1
    inject = install_launcher(sandbox)
    stuck = int(looking(sandbox)[0])
    with contextlib.suppress(ProcessLookupError):
        while True:  # until its first process has reaped it
            os.kill(stuck, signal.SIGKILL)
            time.sleep(0.01)
    (sandbox.root / "etc" / "prefix").unlink()
    lines = launch(sandbox, ["env"]).stdout.splitlines()
    assert f"PYTHONPATH={inject}" in lines  # the mark that the dead one has left does not count


def looking(sandbox: Sandbox) -> list[str]:
    """The processes of the sandbox's programs."""
    return [path.name for path in Path("/proc").glob("[0-9]*") if executable(path).startswith(str(sandbox.root))]


def executable(process: Path) -> str:
    with contextlib.suppress(OSError):
        return str((process / "exe").readlink())
    return ""


def test_the_look_at_the_prefix_leaves_the_command_no_child_and_no_signal(sandbox: Sandbox, hanging: Path) -> None:
    (sandbox.root / "etc" / "prefix").write_text(f"{hanging}\n")
    script = (
        "import os, signal\nprint(signal.SIGCHLD in signal.sigpending())\n"
        "try: os.wait()\nexcept ChildProcessError: print('no child')"
    )
    block = [signal.SIGCHLD]
    done = launch(
        sandbox, ["/usr/bin/python3", "-c", script], preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, block)
    )
    assert done.stdout == "False\nno child\n"


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -TERM $$", -15), ("kill -SEGV $$", -11)])
def test_the_exit_is_the_commands(sandbox: Sandbox, script: str, code: int) -> None:
    assert launch(sandbox, ["sh", "-c", script]).returncode == code


def test_what_cannot_be_executed_fails_as_slurmstepd_says(sandbox: Sandbox, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter -x\n")
    broken.chmod(0o755)
    text = tmp_path / "text"
    text.write_text("echo hello\n")
    text.chmod(0o755)
    cases = {
        "/no/such/command": (2, "execve(): /no/such/command: No such file or directory"),
        "no-such-command": (2, "execve(): no-such-command: No such file or directory"),
        "/etc/passwd": (13, "execve(): /etc/passwd: Permission denied"),
        "/tmp": (13, "execve(): /tmp: Permission denied"),
        str(broken): (2, "execve(): bad interpreter(/no/such/interpreter -x): No such file or directory"),
        str(text): (8, f"execve(): {text}: Exec format error"),
    }
    for command, (code, line) in cases.items():
        done = launch(sandbox, [command])
        assert (done.returncode, done.stderr) == (code, f"{NOBODY}slurmstepd: error: {line}\n")


def test_commands_are_found_as_slurmstepd_finds_them(sandbox: Sandbox, tmp_path: Path) -> None:
    for name in ("x", "sub/x", ".hidden", "d2/tool"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('#!/bin/sh\necho "$0"\n')
        path.chmod(0o755)
    (tmp_path / "d1" / "tool").mkdir(parents=True)
    cases = {
        ("./x", ""): f"{tmp_path}/./x",
        (".hidden", ""): f"{tmp_path}/.hidden",
        ("sub/x", ""): "sub/x",
        ("x", ""): "x",
        ("x", f":{tmp_path}"): f"{tmp_path}/x",
        ("sub/x", f"{tmp_path}"): f"{tmp_path}/sub/x",
        ("tool", f"{tmp_path}/d1:{tmp_path}/d2/"): f"{tmp_path}/d2//tool",
        ("tool", "d1:d2"): "d2/tool",
    }
    for (command, path), expected in cases.items():
        assert launch(sandbox, [command], env={"PATH": path}, cwd=tmp_path).stdout == f"{expected}\n"


def test_without_a_command_it_says_who_calls_it(sandbox: Sandbox) -> None:
    done = launch(sandbox, [])
    assert done.returncode == 64
    assert os.fsencode(done.stderr).startswith(b"perun-launch: no command")
