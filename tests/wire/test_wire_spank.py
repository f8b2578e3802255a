"""The plugin under a harness with fake spank_* functions, as Slurm 22.05 and as 23.11 and later."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from perun_hpc.wire.message import Message, decode, encode

from .sandbox import Sandbox
from .test_wire_launch import STEP

BATCH_STEP = 0xFFFFFFFB
EXTERN_STEP = 0xFFFFFFFC
INTERACTIVE_STEP = 0xFFFFFFFA

CONTAINER = "{}/test_container.so"

COMMANDS = [
    pytest.param(["sh"], id="one word"),
    pytest.param(["/bin/sh", "-c", "echo $0"], id="absolute"),
    pytest.param(["sh", "-c", "a b  'c' \"d\" \\ $e `f`\n", "", "--", "-x"], id="quoting"),
    pytest.param(["sh", "--perun"], id="our word as an argument"),
    pytest.param(["sh", "0"], id="a number as the argument"),
    pytest.param(["sh", "\udcff\udcfe"], id="no utf-8"),
    pytest.param(["sh", *("x" * 1000 for _ in range(100))], id="long"),
]


@dataclass(frozen=True)
class Seen:
    """What the harness showed."""

    argv: list[str]
    env: dict[str, str]
    job: list[str]
    log: list[str]
    stderr: str


@dataclass(frozen=True)
class Harness:
    """One fake Slurm."""

    sandbox: Sandbox
    prepends: bool

    @property
    def launcher(self) -> str:
        return str(self.sandbox.libexec / "perun-launch")

    def __call__(
        self,
        argv: list[str],
        option: str = "+",
        context: str = "remote",
        step: int = 0,
        arguments: str | None = None,
        env: dict[str, str] | None = None,
        stack: str = "{perun}",
    ) -> Seen:
        program = self.sandbox.built / ("harness-prepend" if self.prepends else "harness")
        plugin = self.sandbox.built / "perun_spank.so"
        done = subprocess.run(
            [
                program,
                stack.format(perun=plugin, container=CONTAINER.format(self.sandbox.built)),
                context,
                option,
                str(step),
                arguments or f"prefix={self.sandbox.prefix}",
                *argv,
            ],
            env={"PATH": "/usr/bin:/bin", "ASAN_OPTIONS": "detect_leaks=0", **(env or {})},
            capture_output=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr.decode()
        words = os.fsdecode(done.stdout).split("\0")[:-1]
        return Seen(
            [word[1:] for word in words if word[0] == "A"],
            dict(word[1:].split("=", 1) for word in words if word[0] == "E"),
            [word[1:] for word in words if word[0] == "J"],
            [word[1:] for word in words if word[0] == "L"],
            os.fsdecode(done.stderr),
        )

    def is_bare(self, seen: Seen, argv: list[str]) -> bool:
        return seen.argv == argv and not any(name.startswith("PERUN_") for name in seen.env)


@pytest.fixture(params=[False, True], ids=["22.05", "23.11"])
def harness(sandbox: Sandbox, request: pytest.FixtureRequest) -> Harness:
    return Harness(sandbox, request.param)


@pytest.mark.parametrize("argv", COMMANDS)
def test_the_launcher_comes_before_the_command(harness: Harness, argv: list[str]) -> None:
    seen = harness(argv, option="=period=1s")
    if harness.prepends:
        assert seen.argv == [harness.launcher, *argv]
        assert "PERUN_ARGV0" not in seen.env
    else:
        assert seen.argv == [harness.launcher, *argv[1:]]
        assert seen.env["PERUN_ARGV0"] == argv[0]
    assert seen.env["PERUN_JOB"] == "4711.2"
    assert seen.env["PERUN_STEP"] == "0"
    assert seen.env["PERUN_OPTIONS"] == "period=1s"
    assert seen.log == []


@pytest.mark.parametrize("argv", COMMANDS)
@pytest.mark.parametrize("option", ["-", "=off", "=regions=off,off", "=off,period=1s", "=" + "x" * 5000])
def test_without_the_flag_nothing_changes(harness: Harness, argv: list[str], option: str) -> None:
    assert harness.is_bare(harness(argv, option=option), argv)


@pytest.mark.parametrize("context", ["local", "allocator"])
@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("-", []),
        ("+", ["SPANK_PERUN=="]),
        ("=off", ["SPANK_PERUN==off"]),
        ("=period=1s,notrace", ["SPANK_PERUN==period=1s,notrace"]),
        ("=" + "x" * 5000, []),
    ],
)
def test_prolog_and_epilog_are_told_of_the_flag(harness: Harness, context: str, option: str, told: list[str]) -> None:
    assert harness(["sh"], option=option, context=context).job == told
    assert harness(["sh"], option=option, context="remote").job == []
    assert harness(["sh"], option=option, context=context, arguments="nonsense").job == []


@pytest.mark.parametrize("option", ["=regions=off", "=offset=1", "=", "=(null)", "+"])
def test_only_the_word_off_turns_it_off(harness: Harness, option: str) -> None:
    assert harness(["sh"], option=option).argv[0] == harness.launcher


@pytest.mark.parametrize("step", [BATCH_STEP, EXTERN_STEP, INTERACTIVE_STEP, 0xFFFFFFFD, 0xFFFFFFF0])
def test_only_ordinary_steps_are_wrapped(harness: Harness, step: int) -> None:
    assert harness.is_bare(harness(["sh"], step=step), ["sh"])


@pytest.mark.parametrize("context", ["local", "allocator"])
def test_other_contexts_leave_the_command_alone(harness: Harness, context: str) -> None:
    assert harness.is_bare(harness(["sh", "x"], context=context), ["sh", "x"])


RANK = {"SLURM_PROCID": "3", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}
FROM_OUTSIDE = "perun: the launcher is not seen here (a container?): this step {}\n"


@contextlib.contextmanager
def agent(sandbox: Sandbox) -> Iterator[list[Message]]:
    """Answers one rank in the agent's place."""
    said: list[Message] = []
    listener = sandbox.listen()

    def answer() -> None:
        with contextlib.suppress(TimeoutError), listener:
            peer, _ = listener.accept()
            with peer:
                said.append(decode(peer.recv(40000)))
                peer.send(encode("ok", {"period_ms": "100"}))

    thread = threading.Thread(target=answer)
    thread.start()
    yield said
    thread.join(30)


def test_a_container_of_slurms_own_is_measured_from_outside(harness: Harness) -> None:
    env = {**RANK, "SLURM_CONTAINER": "/some/long/path/of/a/bundle"}
    with agent(harness.sandbox) as said:
        seen = harness(["sh"], env=env, option="=period=1s")
    assert harness.is_bare(seen, ["sh"])
    assert seen.stderr == FROM_OUTSIDE.format("is measured from outside, without regions")
    assert [(one.verb, dict(one.fields)) for one in said] == [
        (
            "rank-start",
            {
                "job_id": "4711", "restart_count": "2", "step_id": "0", "rank": "3", "local_rank": "0", "ntasks": "4",
                "nnodes": "2", "command": "sh", "options": "period=1s", "outside": "container",
            },
        )
    ]  # fmt: skip


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a root of its own")


@as_root
def test_behind_a_container_plugin_the_rank_is_measured_from_outside(harness: Harness, tmp_path: Path) -> None:
    env = {**RANK, "TEST_CONTAINER": str(tmp_path)}
    with agent(harness.sandbox) as said:
        seen = harness(["sh"], env=env, stack="{container}:{perun}")
    assert harness.is_bare(seen, ["sh"])
    assert seen.stderr == FROM_OUTSIDE.format("is measured from outside, without regions")
    assert [(one.verb, one.get("rank"), one.get("outside")) for one in said] == [("rank-start", "3", "container")]
    other = harness(["sh"], env={**env, "SLURM_LOCALID": "1"}, stack="{container}:{perun}")
    assert (harness.is_bare(other, ["sh"]), other.stderr) == (True, "")


@as_root
def test_before_a_container_plugin_the_command_stays_what_it_is(harness: Harness, tmp_path: Path) -> None:
    """Whether the root will be another one is not known yet: nothing that has to be found there is put into argv."""
    inject = harness.sandbox.prefix / "lib/python3.99/site-packages/perun_hpc/inject/path"
    inject.mkdir(parents=True)
    env = {**RANK, "TEST_CONTAINER": str(tmp_path), "PYTHONPATH": "/a::/b", "PERUN_LATE": "1"}
    with agent(harness.sandbox) as said:
        seen = harness(["sh", "-c", "exit"], env=env, stack="{perun}:{container}")
    assert (seen.argv, seen.stderr) == (["sh", "-c", "exit"], "")
    assert [(one.verb, one.get("rank")) for one in said] == [("rank-start", "3")]
    assert (seen.env["PYTHONPATH"], seen.env["PERUN_ORIG_PYTHONPATH"]) == (f"{inject}:/a::/b", "/a::/b")
    assert seen.env["PERUN_SOCKET"] == str(harness.sandbox.run_dir / "agent.sock")
    assert (seen.env["PERUN_RANK"], seen.env["PERUN_PERIOD_MS"]) == ("3", "100")
    assert seen.env["PERUN_PID"].isdigit()
    assert "PERUN_LATE" not in seen.env


@as_root
def test_before_a_container_plugin_an_agent_that_is_late_may_still_take_the_rank(
    harness: Harness, tmp_path: Path
) -> None:
    inject = harness.sandbox.prefix / "lib/python3.99/site-packages/perun_hpc/inject/path"
    inject.mkdir(parents=True)
    with harness.sandbox.listen() as listener:
        seen = harness(["sh"], env={**RANK, "TEST_CONTAINER": str(tmp_path)}, stack="{perun}:{container}")
        peer, _ = listener.accept()
        with peer:
            assert decode(peer.recv(40000)).verb == "rank-start"
    assert (seen.argv, seen.stderr) == (["sh"], "")
    assert (seen.env["PYTHONPATH"], seen.env["PERUN_LATE"]) == (str(inject), "1")
    assert seen.env["PERUN_SOCKET"] == str(harness.sandbox.run_dir / "agent.sock")
    assert seen.env.keys().isdisjoint({"PERUN_PERIOD_MS", "PERUN_RESOLUTION_MS"})


@as_root
@pytest.mark.parametrize("trusted", [True, False])
def test_the_prefix_that_the_plugin_takes_is_the_one_that_perun_launch_takes(
    harness: Harness, tmp_path: Path, trusted: bool
) -> None:
    """A node's file names it for hooks and launcher: a task that the plugin registers gets no other release."""
    named, argument = (
        base / "lib/python3.99/site-packages/perun_hpc/inject/path"
        for base in (tmp_path / "file", tmp_path / "argument")
    )
    for inject in (named, argument):
        inject.mkdir(parents=True)
    file = harness.sandbox.root / "etc" / "prefix"
    file.write_text(f"{tmp_path / 'file'}\n")
    file.chmod(0o644 if trusted else 0o666)
    launchers = [base / "libexec/perun/perun-launch" for base in (tmp_path / "file", tmp_path / "argument")]
    for launcher in launchers:
        launcher.parent.mkdir(parents=True)
        shutil.copy(harness.launcher, launcher)
    where = f"prefix={tmp_path / 'argument'}"
    with agent(harness.sandbox):
        seen = harness(["sh"], env=RANK, stack="{perun}:{container}", arguments=where)
    assert seen.env["PYTHONPATH"] == str(named if trusted else argument)
    wrapped = harness(["sh", "x"], arguments=where)
    assert wrapped.argv[0] == str(launchers[0] if trusted else launchers[1])
    bare = subprocess.run([wrapped.argv[0], "env"], env={**STEP, **RANK}, capture_output=True, text=True, timeout=20)
    assert f"PYTHONPATH={seen.env['PYTHONPATH']}" in bare.stdout.splitlines()


@pytest.mark.parametrize("stack", ["{perun}:{container}", "{container}:{perun}"])
def test_beside_a_plugin_that_acts_on_tasks_srun_leaves_the_text_of_multi_prog_alone(
    harness: Harness, stack: str
) -> None:
    """Slurm 22.05 executes what stands there: the task's root may not have it."""
    argv = as_file(harness.sandbox, MULTI_PROG)
    assert harness(argv, context="local", stack=stack).argv == argv


@as_root
def test_what_srun_left_alone_beside_such_a_plugin_has_the_launcher_by_its_environment(harness: Harness) -> None:
    if harness.prepends:
        pytest.skip("there slurmstepd itself puts the launcher in")
    inject = harness.sandbox.prefix / "lib/python3.99/site-packages/perun_hpc/inject/path"
    inject.mkdir(parents=True)
    argv = ["multi.conf", MULTI_PROG]
    with agent(harness.sandbox) as said:
        seen = harness(argv, env=RANK, stack="{container}:{perun}")
    assert (seen.argv, seen.env["PYTHONPATH"]) == (argv, str(inject))
    assert [one.verb for one in said] == ["rank-start"]


def test_without_an_agent_a_container_runs_bare(harness: Harness) -> None:
    seen = harness(["sh"], env={**RANK, "SLURM_CONTAINER": "/bundle"})
    assert harness.is_bare(seen, ["sh"])
    assert seen.stderr == FROM_OUTSIDE.format("runs without measurement")


@as_root
def test_the_kill_switch_of_the_host_holds_in_a_container(harness: Harness, tmp_path: Path) -> None:
    (harness.sandbox.root / "etc" / "disable").touch()
    seen = harness(["sh"], env={**RANK, "TEST_CONTAINER": str(tmp_path)}, stack="{container}:{perun}")
    assert (harness.is_bare(seen, ["sh"]), seen.stderr) == (True, "")


def test_a_missing_launcher_means_bare(harness: Harness) -> None:
    Path(harness.launcher).unlink()
    assert harness.is_bare(harness(["sh"]), ["sh"])


def test_the_launcher_on_the_nodes_own_disk_is_the_one_beside_the_plugin(
    harness: Harness, hanging: Path, tmp_path: Path
) -> None:
    """Then a prefix that is gone, or hangs, is not touched before the launcher looks at it."""
    plugin, launcher = tmp_path / "lib/perun/perun_spank.so", tmp_path / "libexec/perun/perun-launch"
    for path in (plugin, launcher):
        path.parent.mkdir(parents=True)
    shutil.copy(harness.sandbox.built / "perun_spank.so", plugin)
    shutil.copy(harness.launcher, launcher)
    seen = harness(["sh", "x"], stack=str(plugin), arguments=f"prefix={hanging}")
    assert seen.argv == ([str(launcher), "sh", "x"] if harness.prepends else [str(launcher), "x"])


def test_a_launcher_on_a_file_system_that_hangs_means_bare(harness: Harness, hanging: Path) -> None:
    seen = harness(["sh"], arguments=f"prefix={hanging}", env=RANK)
    assert harness.is_bare(seen, ["sh"])
    argv = as_file(harness.sandbox, MULTI_PROG)
    assert harness.is_bare(harness(argv, context="local", arguments=f"prefix={hanging}"), argv)


def test_the_kill_switch_means_bare(harness: Harness) -> None:
    (harness.sandbox.root / "etc" / "disable").touch()
    assert harness.is_bare(harness(["sh"]), ["sh"])


@pytest.mark.parametrize(("node", "off"), [("n1", True), ("n11", False)])
def test_a_node_in_the_list_beside_slurm_conf_is_off(harness: Harness, node: str, off: bool) -> None:
    etc = harness.sandbox.root / "etc"
    (etc / "perun.off").write_text("# Nodes\n# off n1\n")
    seen = harness(["sh"], env={"SLURM_CONF": f"{etc}/slurm.conf", "SLURMD_NODENAME": node})
    assert harness.is_bare(seen, ["sh"]) == off


@pytest.mark.parametrize("argv", [["no-such-command"], ["/no/such/command"], ["/tmp"], ["/etc/passwd"], [""]])
def test_a_command_that_cannot_run_is_left_to_slurmstepd(harness: Harness, argv: list[str]) -> None:
    assert harness.is_bare(harness(argv), argv)


def test_no_path_at_all_is_left_to_slurmstepd(harness: Harness) -> None:
    assert harness.is_bare(harness(["sh"], env={"PATH": ""}), ["sh"])


@pytest.mark.parametrize("arguments", ["colour=red", "prefix=relative", "prefix=/" + "x" * 5000, "prefix=/x,prefix"])
def test_a_line_that_is_not_understood_warns_and_does_nothing(harness: Harness, arguments: str) -> None:
    seen = harness(["sh"], arguments=arguments)
    assert harness.is_bare(seen, ["sh"])
    assert len(seen.log) == 1
    assert seen.log[0].startswith("perun: plugstack.conf: ")


def test_a_variable_of_the_user_does_not_mislead_the_launcher(harness: Harness) -> None:
    seen = harness(["sh"], env={"PERUN_ARGV0": "/evil", "PERUN_JOB": "1.0", "PERUN_OPTIONS": "evil"})
    assert seen.env.get("PERUN_ARGV0") == (None if harness.prepends else "sh")
    assert (seen.env["PERUN_JOB"], seen.env["PERUN_OPTIONS"]) == ("4711.2", "")


# --multi-prog: srun hands the file's name and its text over as the step's two arguments.

MULTI_PROG = "# ranks\n0 sh -c 'echo \"$0 %t\"' \\\n  0 more\n\n  1-2,5\t./prog %t %o\n* hostname\n"
WRAPPED = "# ranks\n0 {L} sh -c 'echo \"$0 %t\"' \\\n  0 more\n\n  1-2,5\t{L} ./prog %t %o\n* {L} hostname\n"

ODD = [
    pytest.param('"0" hostname\n', id="quoted ranks"),
    pytest.param("0 hostname\nx y\n", id="no ranks"),
    pytest.param("0 hostname\n1\n", id="no command"),
    pytest.param("0 \\\nhostname\n", id="command on the next line"),
    pytest.param("# comment \\\n0 hostname\n1 hostname\n", id="continued comment"),
    pytest.param("0hostname\n1 hostname\n", id="no blank"),
]


def as_file(sandbox: Sandbox, text: str) -> list[str]:
    path = sandbox.run_dir / "multi.conf"
    path.write_text(text)
    return [str(path), text]


def test_srun_puts_the_launcher_into_the_text_where_the_step_cannot(harness: Harness) -> None:
    argv = as_file(harness.sandbox, MULTI_PROG)
    seen = harness(argv, context="local")
    assert seen.argv == [argv[0], MULTI_PROG if harness.prepends else WRAPPED.replace("{L}", harness.launcher)]
    assert seen.log == []


@pytest.mark.parametrize("text", ODD)
def test_an_odd_text_is_left_alone(harness: Harness, text: str) -> None:
    argv = as_file(harness.sandbox, text)
    assert harness.is_bare(harness(argv, context="local"), argv)


def test_a_text_that_only_looks_like_one_is_left_alone(harness: Harness) -> None:
    argv = ["sh", "0 hostname\n1 hostname\n"]
    assert harness.is_bare(harness(argv, context="local"), argv)


def test_the_step_knows_a_text_that_srun_has_wrapped(harness: Harness) -> None:
    text = WRAPPED.replace("{L}", harness.launcher)
    seen = harness(["multi.conf", text], env={"PERUN_ARGV0": "/evil"})
    assert seen.argv[-2:] == ["multi.conf", text]
    assert "PERUN_ARGV0" not in seen.env
    assert seen.env["PERUN_JOB"] == "4711.2"


def test_the_step_leaves_a_text_alone_that_srun_has_left_alone(harness: Harness) -> None:
    argv = ["multi.conf", MULTI_PROG]
    seen = harness(argv)
    if harness.prepends:
        assert seen.argv == [harness.launcher, *argv]
    else:
        assert harness.is_bare(seen, argv)
