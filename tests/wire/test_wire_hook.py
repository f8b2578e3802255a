"""The hooks: whatever the agent does, they exit 0 and lose no message that could be kept."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from perun_hpc.slurm.hook import Places, run
from perun_hpc.wire.message import decode, encode

from .sandbox import JOB, SLURM, Sandbox


def put_agent(sandbox: Sandbox, script: str) -> None:
    """Install something in the interpreter's place."""
    python = sandbox.prefix / "bin" / "python"
    python.write_text("#!/bin/sh\n" + script)
    python.chmod(0o755)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)
    return path.read_text()


def test_the_job_reaches_the_agent(sandbox: Sandbox) -> None:
    with sandbox.listen() as listener:
        process = sandbox.start("prolog")
        peer, _ = listener.accept()
        with peer:
            message = decode(peer.recv(40000))
            assert process.poll() is None  # it waits until the agent has taken its reading
            peer.send(encode("ok", {}))
            assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0
    assert message.verb == "job-start"
    assert dict(message.fields) == {
        "job_id": "4711",
        "restart_count": "1",
        "uid": "2001",
        "user": "alice",
        "nodelist": "n[1-2]",
        "node": "n1",
        "hook_mono_ns": message.fields["hook_mono_ns"],
    }
    assert int(message.fields["hook_mono_ns"]) <= time.monotonic_ns()
    assert list(sandbox.inbox.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "on_node"), [("4", "4"), ("72(x2)", "72"), ("72(x2),36", None), ("", None), ("x", None)]
)
def test_the_cpus_of_the_node_are_named_if_all_nodes_have_as_many(
    sandbox: Sandbox, given: str, on_node: str | None
) -> None:
    sandbox.run("prolog", SLURM_JOB_CPUS_PER_NODE=given)
    (message,) = sandbox.kept()
    assert message.get("cpus_on_node") == on_node
    assert message.get("cpus_per_node") == given


@pytest.mark.parametrize(
    "name", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL"]
)
def test_gpus_are_told_by_slurms_numbers_and_by_the_vendors_names(sandbox: Sandbox, name: str) -> None:
    """Of MIG instances SLURM_JOB_GPUS holds places in Slurm's own list; what they are stands beside it."""
    uuids = "MIG-0f2a,GPU-77"
    sandbox.run("prolog", **{"SLURM_JOB_GPUS": "3,7", name: uuids})
    (message,) = sandbox.kept()
    assert (message.get("gpus"), message.get("gpu_names")) == ("3,7", uuids)


def test_lists_that_are_too_long_together_cost_the_last_of_them_not_the_message(sandbox: Sandbox) -> None:
    lists = {"SLURM_NODELIST": "n" * 16000, "CUDA_VISIBLE_DEVICES": "M" * 16000}
    sandbox.run("epilog", SLURM_JOB_GPUS="0", SLURM_JOB_EXIT_CODE="256", **lists)
    (message,) = sandbox.kept()
    assert (message.get("nodelist"), message.get("gpus")) == ("n" * 16000, "0")
    assert (message.get("gpu_names"), message.get("exit_code")) == (None, "256")


def test_the_epilog_tells_the_end(sandbox: Sandbox) -> None:
    with sandbox.listen() as listener:
        process = sandbox.start("epilog", SLURM_JOB_EXIT_CODE="256", SLURM_JOB_EXIT_CODE2="1:0")
        peer, _ = listener.accept()
        with peer:
            message = decode(peer.recv(40000))
            peer.send(encode("ok", {}))
            assert process.communicate(timeout=20) == ("", "")
    assert (message.verb, message.get("exit_code"), message.get("exit_code2")) == ("job-end", "256", "1:0")


def test_without_an_agent_and_without_python_the_message_is_kept(sandbox: Sandbox) -> None:
    line = sandbox.run("prolog")
    assert line.count("\n") == 1
    assert "4711" in line
    (message,) = sandbox.kept()
    assert (message.verb, message.get("job_id")) == ("job-start", "4711")
    assert sandbox.inbox.stat().st_mode & 0o777 == 0o700
    (path,) = sandbox.inbox.iterdir()
    assert path.name.endswith("-job-start-4711-1.msg")
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_python_it_does_not_wait_for_an_agent_that_cannot_come(sandbox: Sandbox) -> None:
    (sandbox.run_dir / "hook.conf").write_text("deadline_ms=5000\n")
    began_s = time.monotonic()
    line = sandbox.run("prolog")
    assert time.monotonic() - began_s < 2  # not the 4 s of the deadline
    assert "the agent cannot be started (No such file or directory)" in line
    assert len(sandbox.kept()) == 1


def test_an_interpreter_that_may_not_run_is_named(sandbox: Sandbox) -> None:
    (sandbox.prefix / "bin" / "python").write_text("#!/bin/sh\n")
    assert "the agent cannot be started (Permission denied)" in sandbox.run("prolog")


def test_a_silent_agent_is_given_up_and_the_message_kept(sandbox: Sandbox) -> None:
    (sandbox.run_dir / "hook.conf").write_text("deadline_ms=2000\n")  # on a busy machine 400 ms end in the alarm
    with sandbox.listen():
        assert "did not answer" in sandbox.run("prolog")
        assert "did not answer" in sandbox.run("epilog")
    assert [message.verb for message in sandbox.kept()] == ["job-start", "job-end"]


def test_a_full_queue_is_given_up_and_the_message_kept(sandbox: Sandbox) -> None:
    with sandbox.listen() as listener:
        listener.listen(0)
        first = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first.connect(str(sandbox.run_dir / "agent.sock"))
        sandbox.run("prolog")
        first.close()
    assert len(sandbox.kept()) == 1


@pytest.mark.parametrize("reply", [b"garbage", b"perun2\0ok\0", b"x" * 60000, b"perun1\0ok\0key\0"])
def test_a_garbage_reply_keeps_the_message(sandbox: Sandbox, reply: bytes) -> None:
    with sandbox.listen() as listener:
        process = sandbox.start("prolog")
        peer, _ = listener.accept()
        with peer:
            peer.recv(40000)
            peer.send(reply)
            assert process.communicate(timeout=20)[1].count("\n") == 1
    assert process.returncode == 0
    assert len(sandbox.kept()) == 1


def test_a_refused_message_is_not_kept(sandbox: Sandbox) -> None:
    with sandbox.listen() as listener:
        process = sandbox.start("prolog")
        peer, _ = listener.accept()
        with peer:
            peer.recv(40000)
            peer.send(encode("error", {"reason": "no"}))
            assert "refused" in process.communicate(timeout=20)[1]
    assert process.returncode == 0
    assert list(sandbox.inbox.iterdir()) == []


def test_a_leaving_agent_is_tried_again(sandbox: Sandbox) -> None:
    with sandbox.listen() as listener:
        process = sandbox.start("prolog")
        peer, _ = listener.accept()
        peer.recv(40000)
        peer.close()
        peer, _ = listener.accept()
        with peer:
            assert decode(peer.recv(40000)).verb == "job-start"
            peer.send(encode("ok", {}))
            assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0


def test_the_kill_switch_comes_first(sandbox: Sandbox) -> None:
    (sandbox.root / "etc" / "disable").touch()
    with sandbox.listen() as listener:
        assert sandbox.run("prolog") == ""
        assert sandbox.run("epilog") == ""
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not sandbox.inbox.exists()


OFF = "# Nodes\n# off n10\n# off n1\n# off n1.cluster\n"


@pytest.mark.parametrize("hook", ["C", "Python"])
@pytest.mark.parametrize(("node", "off"), [("n1", True), ("n10", True), ("n", False), ("n11", False), ("", False)])
def test_a_node_in_the_list_beside_slurm_conf_is_off(sandbox: Sandbox, hook: str, node: str, off: bool) -> None:
    (sandbox.root / "etc" / "perun.off").write_text(OFF)
    env = {**JOB, "SLURM_CONF": f"{sandbox.root}/etc/slurm.conf", "SLURMD_NODENAME": node}
    if hook == "C":
        sandbox.run("prolog", **env)
    else:
        with (sandbox.run_dir / "start.lock").open("w") as lock:  # somebody starts one: it would be this machine's
            fcntl.flock(lock, fcntl.LOCK_EX)
            run("prolog", env, Places(sandbox.root / "etc", sandbox.run_dir, sandbox.root / "spool"))
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert sandbox.inbox.exists() != off


@pytest.mark.parametrize("number", [n for n in signal.Signals if n not in (signal.SIGKILL, signal.SIGSTOP)])
def test_no_signal_makes_it_fail(sandbox: Sandbox, number: signal.Signals) -> None:
    with sandbox.listen() as listener:
        process = sandbox.start("prolog")
        peer, _ = listener.accept()
        with peer:
            peer.recv(40000)
            process.send_signal(number)
            process.communicate(timeout=20)
    assert process.returncode == 0
    assert [message.get("job_id") for message in sandbox.kept()] == ["4711"]
    assert len(list(sandbox.inbox.iterdir())) == 1


def test_what_a_signal_handler_reads_is_of_the_type_that_c_grants_it() -> None:
    """Of objects that change under it a handler may read only those of `volatile sig_atomic_t`."""
    sources = {path.name: path.read_text() for path in (SLURM / "hooks").glob("*.c")}
    flags = {name: re.findall(r"^static volatile (\w+) \w+", text, re.MULTILINE) for name, text in sources.items()}
    assert {name: types for name, types in flags.items() if types} == {"inbox.c": ["sig_atomic_t"]}


def test_the_watchdog_ends_a_hook_that_is_stuck(sandbox: Sandbox) -> None:
    # While it is stopped only the kernel's timer runs on.
    with sandbox.listen() as listener:
        process = sandbox.start("prolog")
        peer, _ = listener.accept()
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        process.send_signal(signal.SIGCONT)
        said = process.communicate(timeout=20)
        peer.close()
    assert process.returncode == 0
    assert said == ("", "")  # it ended at the deadline's alarm, not by giving up in good order
    assert [message.verb for message in sandbox.kept()] == ["job-start"]


@pytest.mark.parametrize(
    "text", ["deadline_ms=-1\n", "deadline_ms=999999\n", "\0\0\0", "x" * 9000, "deadline_ms=1e3\n"]
)
def test_garbage_in_the_settings_means_the_default(sandbox: Sandbox, text: str) -> None:
    (sandbox.run_dir / "hook.conf").write_text(text)
    with sandbox.listen():
        assert "did not answer" in sandbox.run("prolog")
    assert len(sandbox.kept()) == 1


@pytest.mark.parametrize(
    ("prefix", "files"), [pytest.param("", 4096, id="messages"), pytest.param("stale-", 4097, id="files of others")]
)
def test_the_inbox_is_bounded_and_only_messages_fill_it(sandbox: Sandbox, prefix: str, files: int) -> None:
    sandbox.inbox.mkdir(mode=0o700)
    for number in range(4096):
        (sandbox.inbox / f"{prefix}{number}.msg").touch()
    sandbox.run("prolog")
    assert len(list(sandbox.inbox.iterdir())) == files


def test_the_inbox_is_not_a_link(sandbox: Sandbox) -> None:
    elsewhere = sandbox.root / "spool" / "elsewhere"
    elsewhere.mkdir()
    sandbox.inbox.symlink_to(elsewhere)
    sandbox.run("prolog")
    assert list(elsewhere.iterdir()) == []


def test_an_agent_is_started_detached_and_clean(sandbox: Sandbox) -> None:
    seen = sandbox.root / "spool" / "seen"
    put_agent(
        sandbox,
        f'{{ echo "$@"; env; echo "session $(cut -d" " -f6 /proc/$$/stat) pid $$"; ls -l /proc/$$/fd; pwd; '
        f"echo end; }} > {seen}.new; mv {seen}.new {seen}\n",
    )
    (sandbox.run_dir / "hook.conf").write_text("deadline_ms=400\npolicy=/etc/perun/other.yaml\n")
    sandbox.run("prolog", PYTHONPATH="/evil", LD_PRELOAD="", PERUN_POLICY="/evil.yaml")
    text = wait_for(seen)
    assert text.startswith(f"-I -S {sandbox.libexec}/isolated.py perun_hpc.agent\n")
    assert "evil" not in text
    assert "SLURM" not in text
    assert "PERUN_POLICY=/etc/perun/other.yaml\n" in text
    assert "\n/\n" in text
    session = next(line for line in text.splitlines() if line.startswith("session"))
    assert session.split()[1] != session.split()[3] != "1"  # in a session that it does not lead: no terminal ever
    assert "socket:" not in text
    assert "pipe:" not in text


def test_two_prologs_start_one_agent(sandbox: Sandbox) -> None:
    count = sandbox.root / "spool" / "count"
    put_agent(sandbox, f"echo started >> {count}\nexec sleep 1\n")
    hooks = [sandbox.start("prolog", SLURM_JOB_ID=str(number)) for number in range(8)]
    for hook in hooks:
        hook.communicate(timeout=20)
        assert hook.returncode == 0
    assert count.read_text() == "started\n"
    assert len(sandbox.kept()) == 8


def test_an_agent_that_starts_in_time_gets_the_message(sandbox: Sandbox) -> None:
    (sandbox.run_dir / "hook.conf").write_text("deadline_ms=5000\n")
    ready = sandbox.root / "spool" / "ready"
    put_agent(sandbox, f"echo up > {ready}\n")
    process = sandbox.start("prolog")
    wait_for(ready)
    with sandbox.listen() as listener:
        peer, _ = listener.accept()
        with peer:
            assert decode(peer.recv(40000)).verb == "job-start"
            peer.send(encode("ok", {}))
        assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0


def test_the_epilog_starts_an_agent_only_if_there_is_something_to_close(sandbox: Sandbox) -> None:
    started = sandbox.run_dir / "started"
    put_agent(sandbox, f"echo up > {started}\n")
    sandbox.run("epilog")
    assert [message.verb for message in sandbox.kept()] == ["job-end"]
    assert not started.exists()
    sandbox.run("epilog")  # now the inbox holds a message
    wait_for(started)


def test_the_epilog_starts_an_agent_for_an_open_session(sandbox: Sandbox) -> None:
    started = sandbox.run_dir / "started"
    put_agent(sandbox, f"echo up > {started}\n")
    (sandbox.root / "spool" / "sessions" / "4711.1").mkdir(parents=True)
    sandbox.run("epilog")
    wait_for(started)


@pytest.mark.parametrize("mode", [0o666, 0o644])
def test_a_prefix_that_others_could_write_does_not_count(sandbox: Sandbox, mode: int, tmp_path: Path) -> None:
    put_agent(sandbox, f"echo own > {sandbox.run_dir}/started\n")
    foreign = tmp_path / "bin" / "python"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(f"#!/bin/sh\necho foreign > {sandbox.run_dir}/started\n")
    foreign.chmod(0o755)
    file = sandbox.root / "etc" / "prefix"
    file.write_text(f"{foreign.parents[1]}\n")
    file.chmod(mode)
    sandbox.run("prolog")
    assert wait_for(sandbox.run_dir / "started") == ("foreign\n" if mode == 0o644 else "own\n")


def test_the_prefix_may_lie_elsewhere_than_the_hook(sandbox: Sandbox, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    sandbox.prefix.rename(elsewhere)
    local = sandbox.libexec
    local.mkdir(parents=True)
    (local / "prolog").hardlink_to(elsewhere / "libexec" / "perun" / "prolog")
    python = elsewhere / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho up > {sandbox.run_dir}/started\n")
    python.chmod(0o755)
    (sandbox.root / "etc" / "prefix").write_text(f"{elsewhere}\n")
    sandbox.run("prolog")
    wait_for(sandbox.run_dir / "started")
    assert not (sandbox.run_dir / "prefix-asked").exists()


def test_a_prefix_that_hangs_holds_up_one_process_whatever_the_number_of_jobs(sandbox: Sandbox, hanging: Path) -> None:
    (sandbox.root / "etc" / "prefix").write_text(f"{hanging}\n")
    for _ in range(4):
        began_s = time.monotonic()
        sandbox.run("prolog")
        assert time.monotonic() - began_s < 10  # the deadline is 0.4 s; this is a guard
    program = (sandbox.libexec / "prolog").stat()
    waiting = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (process / "exe").stat()
            if (status.st_dev, status.st_ino) == (program.st_dev, program.st_ino):
                waiting.append(process.name)
    assert len(waiting) == 1
    assert len(sandbox.kept()) == 4
    assert (sandbox.run_dir / "prefix-asked").exists()


def test_while_an_agent_ends_the_hook_waits_for_its_turn_to_start_another(sandbox: Sandbox) -> None:
    """As long as a process that a hook started lives, no other one is; then the next is, by the hook that waits."""
    started, go = sandbox.run_dir / "started", sandbox.run_dir / "go"
    (sandbox.run_dir / "hook.conf").write_text("deadline_ms=5000\n")
    put_agent(sandbox, f"echo $$ >> {started}\nuntil [ -e {go} ]; do sleep 0.01; done\n")
    first = sandbox.start("prolog")
    wait_for(started)
    first.kill()
    first.communicate(timeout=20)
    second = sandbox.start("prolog")
    time.sleep(0.3)  # it has its try at the lock every few milliseconds
    assert len(started.read_text().splitlines()) == 1
    go.touch()
    deadline = time.monotonic() + 20
    while len(started.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second.communicate(timeout=20)
    assert second.returncode == 0


def test_on_the_controller_it_only_wakes_a_collector_that_is_there(sandbox: Sandbox) -> None:
    wake = sandbox.root / "run-collect" / "wake"
    assert sandbox.run("epilogslurmctld") == ""
    assert not wake.parent.exists()
    wake.parent.mkdir()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as collector:
            collector.bind(str(wake))
            collector.settimeout(20)
            assert sandbox.run("epilogslurmctld") == ""
            assert collector.recv(100) == b""
        assert sandbox.run("epilogslurmctld") == ""  # a collector that is gone
        wake.unlink()
        wake.touch()  # what older versions had here
        assert sandbox.run("epilogslurmctld") == ""
    finally:
        shutil.rmtree(wake.parent)
    assert not sandbox.inbox.exists()


def test_a_foreign_name_does_nothing(sandbox: Sandbox) -> None:
    (sandbox.libexec / "other").hardlink_to(sandbox.libexec / "prolog")
    assert sandbox.run("other") == ""
    assert not sandbox.inbox.exists()


def test_a_list_of_nodes_too_long_for_a_packet_does_not_cost_the_message(sandbox: Sandbox) -> None:
    sandbox.run("prolog", SLURM_NODELIST="n" * 60000)
    (message,) = sandbox.kept()
    assert message.get("job_id") == "4711"
    assert message.get("nodelist") is None
