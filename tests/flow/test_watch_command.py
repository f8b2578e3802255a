"""`perun watch` as a command: with stand-ins for squeue and srun, on a terminal and off it, and as Slurm refuses it."""

from __future__ import annotations

import json
import os
import pty
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from perun_hpc.accounting.running import so_far
from perun_hpc.data_model.record import to_json
from tests.accounting_data import boundary, domain, parsed

PERUN = [sys.executable, "-m", "perun_hpc.cli.main"]
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A PATH that has a queue with one job, and a Slurm in which its node says three words."""
    words = [{"node": "n1", "energy_uj": n * 10**8, "mono_ns": n * 10**9, "resolution_ms": 1000} for n in (1, 2, 3)]
    put(tmp_path / "squeue", f"print('4711|RUNNING|{ME}|1|4711|stencil|x')")
    put(tmp_path / "srun", f"print({chr(10).join(map(json.dumps, words))!r}); print('slurmstepd: no word of a node')")
    return {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONUNBUFFERED": "1", "TERM": "xterm"}


def put(path: Path, code: str) -> None:
    path.write_text(f"#!{sys.executable} -IS\n{code}\n")
    path.chmod(0o755)


def watch(environ: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PERUN, "watch", "4711", *options], env=environ, capture_output=True, text=True, timeout=60)


def test_off_a_terminal_it_is_a_line_each_time(environ: dict[str, str]) -> None:
    done = watch(environ)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    assert "100 W" in done.stdout and "300 J so far" in done.stdout and "\x1b" not in done.stdout
    assert "has ended" in done.stderr


def test_programs_get_json(environ: dict[str, str]) -> None:
    lines = [json.loads(line) for line in watch(environ, "--json").stdout.splitlines()]
    assert [line["power_w"] for line in lines] == [None, 100, 100]


def test_on_a_terminal_it_is_drawn_anew(environ: dict[str, str]) -> None:
    pytest.importorskip("rich")
    parent, child = pty.openpty()
    process = subprocess.Popen([*PERUN, "watch", "4711"], env=environ, stdout=child, stderr=subprocess.PIPE, text=True)
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
    os.close(parent)
    assert process.wait(60) == 0, process.communicate()[1]
    process.communicate()
    text = shown.decode()
    assert "stencil|x" in text and "100 W now, 300 J so far" in text
    assert "\x1b[1A" in text, "the lines before are drawn over"


def test_what_slurm_refuses_is_refused_in_a_line(environ: dict[str, str], tmp_path: Path) -> None:
    said = "srun: error: Unable to create step for job 4711: Access/permission denied"
    put(tmp_path / "srun", f"import sys; sys.exit({said!r})")
    done = watch(environ)
    assert (done.returncode, done.stdout) == (77, "") and done.stderr.count("\n") == 1
    assert "job 4711 is not yours to watch" in done.stderr
    put(tmp_path / "srun", "import sys; sys.exit('srun: error: Unable to create step for job 4711: Invalid option')")
    done = watch(environ)
    assert done.returncode == 69 and "no step of perun's could be started there" in done.stderr


def test_a_step_whose_reader_is_gone_ends(environ: dict[str, str], tmp_path: Path) -> None:
    """Killed or not: srun's stdin ends with whoever watches, and the step's with that."""
    put(
        tmp_path / "srun",
        f'import sys, pathlib; print(\'{{"node": "n1"}}\', flush=True); sys.stdin.read(); '
        f"pathlib.Path({str(tmp_path / 'ended')!r}).touch()",
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        line = ["env", "--default-signal", *PERUN, "watch", "4711", "--json"]
        process = subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert "Traceback" not in said
        deadline = time.monotonic() + 60
        while not (tmp_path / "ended").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (tmp_path / "ended").unlink()


def test_an_array_and_a_job_that_waits_are_named(environ: dict[str, str], tmp_path: Path) -> None:
    put(tmp_path / "squeue", f"print('4713|PENDING|{ME}|1|4711_[8-9]|a'); print('4712|RUNNING|{ME}|1|4711_7|a')")
    assert "has several tasks in the queue: name one, such as 4711_7" in watch(environ).stderr
    put(tmp_path / "squeue", f"print('4711|PENDING|{ME}|1|4711|a')")
    assert "it is PENDING" in watch(environ).stderr
    put(tmp_path / "squeue", "")
    assert watch(environ).returncode == 66
    failing = "import sys; sys.exit('{}')"
    put(tmp_path / "squeue", failing.format("slurm_load_jobs error: Invalid job id specified"))
    assert "not in Slurm's queue" in watch(environ).stderr
    put(tmp_path / "squeue", failing.format("slurm_load_jobs error: Unable to contact slurm controller"))
    said = watch(environ)
    assert said.returncode == 69 and "Unable to contact slurm controller: is slurmctld up?" in said.stderr
    put(tmp_path / "squeue", failing.format("squeue: fatal: Could not establish a configuration source"))
    assert "squeue: fatal: Could not establish a configuration source: this host has" in watch(environ).stderr
    put(tmp_path / "squeue", "")
    assert watch(environ, "--every", "0").returncode == 64


def test_a_heterogeneous_job_is_watched_whole_or_by_component(environ: dict[str, str], tmp_path: Path) -> None:
    """Through the whole job alone, each component by its group, and each is told its own id (srun(1))."""
    rows = [f"4711|RUNNING|{ME}|1|4711+0|a", f"4712|RUNNING|{ME}|2|4711+1|a", f"4713|COMPLETED|{ME}|1|4711+2|a"]
    put(tmp_path / "squeue", f"print({chr(10).join(rows)!r})")
    put(
        tmp_path / "srun", f"import sys; print('{{}}'); open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(sys.argv))"
    )

    def components(job: str) -> list[list[str]]:
        done = subprocess.run([*PERUN, "watch", job], env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        words = (tmp_path / "seen").read_text().split()
        assert words.count("--jobid=4711") == 1
        groups = " ".join(words).split(" : ")
        keep = ("--het-group", "--nodes")
        return [[w for w in one.split() if w.partition("=")[0] in keep] + [one.split()[-1]] for one in groups]

    assert components("4711") == [["--het-group=0", "--nodes=1", "4711"], ["--het-group=1", "--nodes=2", "4712"]]
    assert components("4711+1") == [["--het-group=1", "--nodes=2", "4712"]]


def test_who_is_not_let_into_the_job_sees_what_its_nodes_told_where_that_may_be_read(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """A minute's figures are all that the collector has; it ends when the job has left the queue."""
    directory = tmp_path / "archive" / "c" / "jobs" / "4" / "4711.0"
    directory.mkdir(parents=True)

    def tell(seconds: int) -> None:
        told = boundary(node="n1", seconds=seconds, domains={"package-0": domain("cpu", seconds * 50_000_000)})
        files = directory / "new", directory / "running.json"
        files[0].write_text(to_json(so_far([parsed(told)])))
        files[0].rename(files[1])

    put(tmp_path / "srun", "import sys; sys.exit('srun: error: Unable to create step for job 4711: Access denied')")
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"store: {{archive: {tmp_path / 'archive'}}}\n")
    environ["PERUN_POLICY"] = str(policy)
    line = [*PERUN, "watch", "4711", "--every", "1", "--json"]
    nothing = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=60)
    assert (nothing.returncode, nothing.stdout) == (77, "") and "or they reported nothing yet" in nothing.stderr

    tell(60)
    process = subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    tell(120)
    second = json.loads(process.stdout.readline())
    (directory / "running.json").unlink()
    put(tmp_path / "squeue", "")
    rest, said = process.communicate(timeout=60)
    assert process.returncode == 0 and not rest, said
    assert "this is what its nodes reported last" in said and "job 4711 has ended" in said
    assert [first["energy_j"], second["energy_j"]] == [3000, 6000]
    assert [first["power_w"], second["power_w"]] == [None, pytest.approx(50)]


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone becomes somebody else")
def test_of_roots_environment_a_jobs_user_sees_nothing_but_where_slurm_is(environ: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        open_to_all = Path(name)
        open_to_all.chmod(0o777)
        put(open_to_all / "squeue", "print('4711|RUNNING|nobody|1|4711|stencil')")
        (open_to_all / "srun").write_text(f"#!/bin/sh\nenv > {name}/seen\nid -un >> {name}/seen\necho '{{}}'\n")
        (open_to_all / "srun").chmod(0o755)
        secrets = {"TOKEN": "s3cret", "SLURM_JWT": "s3cret", "SSH_AUTH_SOCK": "/s3cret"}
        done = watch({**environ, **secrets, "SLURM_CONF": "/etc/x", "PATH": f"{name}:{environ['PATH']}"})
        assert done.returncode == 0, done.stderr
        seen = (open_to_all / "seen").read_text()
    assert seen.splitlines()[-1] == "nobody"
    assert "SLURM_CONF=/etc/x" in seen and "USER=nobody" in seen
    assert "s3cret" not in seen
