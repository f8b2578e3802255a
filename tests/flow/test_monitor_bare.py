"""Whatever goes wrong before a program's first line or after its last one: it runs, and its exit code counts."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.comm import run_key

PERUN = [sys.executable, "-m", "perun_hpc.cli.main"]
MARKED = "from perun_hpc import monitor\n@monitor('work')\ndef work(): pass\nwork()\n"
PROGRAM = MARKED + "import sys\nprint('ran')\nsys.exit(3)\n"
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, namespaces, other users")


def start(directory: Path, *command: str | bytes, env: dict[str, str] | None = None, **options) -> subprocess.Popen:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PERUN", "PYTHONPATH", "PMI", "OMPI", "SLURM"))}
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    environ = {**plain, "HOME": str(directory), **(env or {})}
    return subprocess.Popen(command, cwd=directory, env=environ, **options)


def run(directory: Path, *command: str | bytes, **options) -> tuple[int, str, str]:
    process = start(directory, *command, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, os.fsdecode(out or b""), os.fsdecode(err or b"")


def app(directory: Path, text: str = PROGRAM) -> str:
    (directory / "app.py").write_text(text)
    return "app.py"


def calls(directory: Path) -> list[int]:
    """The ranks that recorded the region, in the one run that was kept."""
    (path,) = directory.glob("perun_results/*/*/run.json")
    (one,) = json.loads(path.read_text())["nodes"].values()
    found = [region for host in one["nodes"].values() for region in host["regions"] if region["name"] == "work"]
    return sorted(region["rank"] for region in found)


# Where the ranks meet.


@pytest.mark.parametrize("place", ["missing", "long", "a file", "relative", "empty"])
def test_a_tmpdir_that_will_not_do_is_passed_over(tmp_path: Path, place: str) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    named = {"missing": "/no/such/directory", "long": str(long), "a file": __file__, "relative": "none", "empty": ""}
    code, out, err = run(tmp_path, *PERUN, "monitor", app(tmp_path), env={"TMPDIR": named[place]})
    assert (code, out) == (3, "ran\n"), err
    assert calls(tmp_path) == [0]
    assert not any(long.iterdir())


COVER = str(Path(__file__).parents[1] / "cover.sh")


@as_root
@pytest.mark.parametrize("how", ["ro", "full"])
def test_where_no_directory_will_do_the_ranks_meet_without_one(tmp_path: Path, how: str) -> None:
    """The test's own directory lies where nothing is covered."""
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        app(directory)
        command = [*PERUN, "monitor", "app.py"]
        code, out, err = run(directory, COVER, how, "/tmp /dev/shm", *command, env={"TMPDIR": "/tmp"})
        assert (code, out) == (3, "ran\n"), err
        assert calls(directory) == [0]
    finally:
        shutil.rmtree(directory)


def ranks(directory: Path, count: int, *before: str, env: dict[str, str], **options) -> list[tuple[int, str, str]]:
    """Start the program as ranks of one Open MPI launch, as its launcher sets the environment."""
    started = []
    for rank in range(count):
        place = {"RANK": rank, "SIZE": count, "LOCAL_RANK": rank, "LOCAL_SIZE": count}
        numbers = {f"OMPI_COMM_WORLD_{name}": str(number) for name, number in place.items()}
        command = [*before, *PERUN, "monitor", "app.py"]
        started.append(start(directory, *command, env={**numbers, **env}, **options))
    ended = []
    for process in started:
        out, err = process.communicate(timeout=120)
        ended.append((process.returncode, out.decode(), err.decode()))
    return ended


def test_ranks_find_each_other_without_a_tmpdir(tmp_path: Path) -> None:
    app(tmp_path)
    env = {"TMPDIR": "/no/such", "PMIX_NAMESPACE": f"test-{os.getpid()}"}
    ended = ranks(tmp_path, 2, env=env)
    assert [(code, out) for code, out, _ in ended] == [(3, "ran\n")] * 2, ended
    assert calls(tmp_path) == [0, 1]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that every user sees, with a sticky one in it for temporary files."""
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    (directory / "tmp").mkdir()
    (directory / "home").mkdir()
    directory.chmod(0o755)
    (directory / "tmp").chmod(0o1777)
    os.chown(directory / "home", NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory)


@as_root
@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_another_users_directory_is_not_entered(shared: Path, mode: int) -> None:
    """Who knows the name of the directory, makes it first and listens there: all are measured elsewhere."""
    home, name = shared / "home", f"squat-{os.getpid()}"
    key = run_key({"PMIX_NAMESPACE": name, "OMPI_COMM_WORLD_RANK": "0"})
    taken = shared / "tmp" / f"perun-{NOBODY}-{zlib.crc32(key.encode()):08x}-0"
    taken.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(taken / "rank server"))
        listener.listen(8)
        listener.setblocking(False)
        (taken / "rank server").chmod(0o777)
        taken.chmod(mode)
        app(home)
        env = {"TMPDIR": str(shared / "tmp"), "PMIX_NAMESPACE": name}
        ended = ranks(home, 2, env=env, user=NOBODY, group=NOBODY, extra_groups=[])
        assert [(code, out) for code, out, _ in ended] == [(3, "ran\n")] * 2, ended
        assert calls(home) == [0, 1]
        with pytest.raises(BlockingIOError):
            listener.accept()


@as_root
def test_nobody_tells_another_users_socket_anything(shared: Path) -> None:
    """An abstract socket has no directory: who listens is checked when the connection stands."""
    home, name = shared / "home", f"abstract-{os.getpid()}"
    key = run_key({"PMIX_NAMESPACE": name, "OMPI_COMM_WORLD_RANK": "0"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0perun-{NOBODY}-{zlib.crc32(key.encode()):08x}-0")
        listener.listen(1024)
        app(home)
        env = {"TMPDIR": "/no/such", "PMIX_NAMESPACE": name, "OMPI_COMM_WORLD_RANK": "1"}
        place = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
        options = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        code, out, err = run(home, *PERUN, "monitor", "app.py", env={**env, **place}, **options)
        assert (code, out) == (3, "ran\n"), err
        listener.setblocking(False)
        while True:
            try:
                peer, _ = listener.accept()
            except BlockingIOError:
                break
            with peer:
                assert peer.recv(1) == b""


@as_root
@pytest.mark.parametrize("launcher", ["openmpi", "mpich"])
def test_a_rank_that_is_the_first_process_of_its_pid_namespace_runs(tmp_path: Path, launcher: str) -> None:
    app(tmp_path)
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    if launcher == "openmpi":
        ended = ranks(tmp_path, 2, *inside, env={})
    else:
        ended = []
        for rank in "01":
            env = {"PMI_RANK": rank, "PMI_SIZE": "2", "MPI_LOCALRANKID": rank, "MPI_LOCALNRANKS": "2"}
            ended.append(run(tmp_path, *inside, *PERUN, "monitor", "app.py", env=env))
    assert [(code, out) for code, out, _ in ended] == [(3, "ran\n")] * 2, ended


# Before the start and after the end.


def test_results_that_cannot_be_written_do_not_keep_the_program_from_running(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, *PERUN, "monitor", "--data-out", "app.py/x", app(tmp_path))
    assert (code, out) == (3, "ran\n")
    assert err.count("\n") == 1
    assert "cannot write results" in err
    assert "runs unmeasured" in err


@as_root
def test_a_home_that_cannot_be_looked_into_is_none(shared: Path) -> None:
    app(shared / "home")
    (shared / "root").mkdir(mode=0o700)
    options = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "env": {"HOME": str(shared / "root")}}
    code, out, err = run(shared / "home", *PERUN, "monitor", "app.py", **options)
    assert (code, out) == (3, "ran\n"), err


def test_no_descriptors_left_means_unmeasured(tmp_path: Path) -> None:
    line = f"ulimit -n 11; exec {' '.join(PERUN)} monitor app.py"
    app(tmp_path, "import sys\nprint('ran')\nsys.exit(3)\n")
    code, out, err = run(tmp_path, "sh", "-c", line)
    assert (code, out) == (3, "ran\n"), err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", [b"app\xff.py", "äpp\N{SNOWMAN}.py".encode()])
def test_a_name_of_any_bytes_is_a_name(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text(PROGRAM)
    code, out, err = run(tmp_path, *PERUN, "monitor", name)
    assert (code, out) == (3, "ran\n"), err
    assert calls(tmp_path) == [0]
    code, out, err = run(tmp_path, *PERUN, "export", "json", "-o", "out.json")
    assert code == 0, err


@pytest.mark.parametrize("option", ["-n", "-i"])
def test_a_run_may_be_called_by_any_bytes(tmp_path: Path, option: str) -> None:
    code, out, err = run(tmp_path, *PERUN, "monitor", option, b"a\xfe/b", app(tmp_path))
    assert (code, out) == (3, "ran\n"), err
    assert calls(tmp_path) == [0]


def test_a_directory_with_a_main_module_is_a_script(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__main__.py").write_text(PROGRAM)
    (tmp_path / "true").mkdir()
    (tmp_path / "true" / "__main__.py").write_text("print('not this one')\n")
    assert run(tmp_path, *PERUN, "monitor", "tool")[:2] == (3, "ran\n")
    assert calls(tmp_path) == [0]
    assert run(tmp_path, *PERUN, "monitor", "true")[:2] == (0, "")  # a command on PATH comes first


def test_a_format_that_cannot_be_written_here_is_told_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "h5py.py").write_text("raise ImportError('none here')\n")
    code, out, err = run(tmp_path, *PERUN, "monitor", "-f", "hdf5", app(tmp_path), env={"PYTHONPATH": str(tmp_path)})
    assert (code, out, err.count("\n")) == (69, "", 1)
    assert "h5py" in err
    assert not (tmp_path / "perun_results").exists()


def test_a_format_that_fails_afterwards_leaves_the_exit_code_and_the_run(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, *PERUN, "monitor", "-f", "zarr", "--sampling-period", "60", app(tmp_path))
    assert (code, out, err.count("\n")) == (3, "ran\n", 1)
    assert "perun export" in err
    assert calls(tmp_path) == [0]


@pytest.mark.parametrize("what", ["closed", "its reader is gone"])
def test_a_stderr_that_is_gone_costs_the_words_alone(tmp_path: Path, what: str) -> None:
    app(tmp_path)
    if what == "closed":
        line = f"exec {' '.join(PERUN)} monitor app.py 2>&-"
        code, out, _ = run(tmp_path, "sh", "-c", line)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        code, out, _ = run(tmp_path, *PERUN, "monitor", "app.py", stderr=writer)
        os.close(writer)
    assert (code, out) == (3, "ran\n")


def test_a_killed_monitor_leaves_no_words_on_stderr(tmp_path: Path) -> None:
    app(tmp_path, "import sys\nprint('up', flush=True)\nsys.stdin.read()\n")
    reader, writer = os.pipe()
    with (tmp_path / "err").open("wb") as err:
        process = start(tmp_path, *PERUN, "monitor", "app.py", stdin=reader, stderr=err)
        os.close(reader)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
        process.wait(60)
        os.close(writer)  # the program goes on until its input ends
        assert process.stdout.read() == b""
    deadline_s = time.monotonic() + 60
    while not_ended(tmp_path):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert (tmp_path / "err").read_text() == ""


def not_ended(directory: Path) -> list[str]:
    """The processes that run in a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == directory:
                found.append(entry.name)
        except OSError:
            continue
    return found
