"""The Python hook does what the C one does."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from perun_hpc.slurm.hook import Places, compose, deadline_ms, run, settings
from perun_hpc.wire.message import Message, decode, encode

from .sandbox import JOB, SLURM, Sandbox


def places(sandbox: Sandbox) -> Places:
    return Places(sandbox.root / "etc", sandbox.run_dir, sandbox.root / "spool")


def without_time(message: Message) -> dict[str, str]:
    return {key: value for key, value in message.fields.items() if key != "hook_mono_ns"}


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("prolog", {"SLURM_JOB_CPUS_PER_NODE": "72(x2)", "SLURM_JOB_GPUS": "0,1"}),
        ("prolog", {"SLURM_JOB_CPUS_PER_NODE": "72(x2),36", "SLURM_JOB_ACCOUNT": "é\udcff"}),
        ("prolog", {"SLURM_JOB_GPUS": "1,2", "CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b", "ROCR_VISIBLE_DEVICES": "1,2"}),
        ("epilog", {"SLURM_NODELIST": "n" * 20000, "SLURM_JOB_EXIT_CODE": "256"}),
        ("epilog", {"SLURM_NODELIST": "n" * 16000, "CUDA_VISIBLE_DEVICES": "M" * 12581, "SLURM_JOB_EXIT_CODE": "256"}),
        ("epilog", {"SLURM_NODELIST": "n" * 16000, "CUDA_VISIBLE_DEVICES": "M" * 13000, "SLURM_JOB_EXIT_CODE": "256"}),
    ],
)
def test_both_hooks_keep_the_same_message(sandbox: Sandbox, name: str, env: dict[str, str]) -> None:
    with sandbox.listen():  # an agent that never answers
        sandbox.run(name, **env)
        with_c = sandbox.kept()[0]
        (first,) = sandbox.inbox.iterdir()
        first.unlink()
        (sandbox.run_dir / "hook.conf").write_text("deadline_ms=1000\n")
        child = os.fork()  # the deadline's timer is the process'
        if child == 0:
            try:
                run(name, {**JOB, **env}, places(sandbox))
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    (second,) = sandbox.inbox.iterdir()
    assert first.name.split("-")[1:] == second.name.split("-")[1:]
    with_python = sandbox.kept()[0]
    assert with_python.verb == with_c.verb
    assert without_time(with_python) == without_time(with_c)


def test_a_willing_agent_gets_the_message(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Message] = []

    def answer(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            seen.append(decode(peer.recv(40000)))
            peer.send(encode("ok", {}))

    with sandbox.listen() as listener:
        (sandbox.run_dir / "hook.conf").write_text("deadline_ms=5000\n")
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        child = os.fork()
        if child == 0:
            try:
                run("50-perun-prolog", JOB, places(sandbox))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        thread.join()
    assert seen[0].get("job_id") == "4711"
    assert list(sandbox.inbox.iterdir()) == []


def test_the_kill_switch_comes_first(sandbox: Sandbox) -> None:
    (sandbox.root / "etc" / "disable").touch()
    run("prolog", JOB, places(sandbox))
    assert not sandbox.inbox.exists()


@pytest.mark.parametrize(
    ("text", "expected"), [(None, 500), ("", 500), ("-1", 500), ("49", 500), ("50", 50), ("5001", 500), ("1e3", 500)]
)
def test_garbage_in_the_settings_means_the_default(text: str | None, expected: int) -> None:
    assert deadline_ms(text) == expected


def test_settings_that_others_can_write_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "hook.conf"
    path.write_text("deadline_ms=100\n")
    path.chmod(0o644)
    assert settings(path) == {"deadline_ms": "100"}
    path.chmod(0o666)
    assert settings(path) == {}


def test_a_job_id_is_always_named_with_its_restart() -> None:
    assert compose({"SLURM_JOBID": "7"}, 1) == {"job_id": "7", "restart_count": "0", "hook_mono_ns": "1"}


def test_the_script_exits_with_success_without_python(tmp_path: Path) -> None:
    libexec = tmp_path / "libexec" / "perun"
    libexec.mkdir(parents=True)
    (libexec / "prolog").symlink_to(SLURM / "hooks" / "fallback" / "perun-hook.sh")
    assert subprocess.run([libexec / "prolog"], env=JOB, capture_output=True, timeout=20).returncode == 0


@pytest.mark.parametrize("relative", [False, True])
def test_the_script_finds_python_through_a_directory_of_hooks(tmp_path: Path, relative: bool) -> None:
    prefix = tmp_path / "prefix"
    libexec = prefix / "libexec" / "perun"
    libexec.mkdir(parents=True)
    (libexec / "prolog").symlink_to(SLURM / "hooks" / "fallback" / "perun-hook.sh")
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/seen\n')
    (prefix / "bin" / "python").chmod(0o755)
    directory = tmp_path / "prolog.d"
    directory.mkdir()
    target = Path("../prefix/libexec/perun/prolog") if relative else libexec / "prolog"
    (directory / "50-perun-prolog").symlink_to(target)
    done = subprocess.run([directory / "50-perun-prolog"], env=JOB, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    isolated, *others = (word for word in (tmp_path / "seen").read_text().split() if not word.startswith("-"))
    assert Path(isolated).parent.samefile(libexec)
    assert (Path(isolated).name, *others) == ("isolated.py", "perun_hpc.slurm.hook", "50-perun-prolog")


def test_the_script_says_where_it_must_be_linked(tmp_path: Path) -> None:
    (tmp_path / "prolog").symlink_to(SLURM / "hooks" / "fallback" / "perun-hook.sh")
    done = subprocess.run([tmp_path / "prolog"], env=JOB, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    assert "libexec/perun" in done.stderr
