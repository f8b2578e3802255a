"""`perun monitor` as a user meets it: the faults of perun 1.0.0 in running an application, each as a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PERUN = [sys.executable, "-m", "perun_hpc.cli.main"]


@pytest.fixture
def run(tmp_path):
    """Run `perun ARGS` in a directory of its own; stdin closed, HOME empty."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PERUN", "PYTHONPATH", "PMI", "SLURM"))}
    environ["HOME"] = str(tmp_path)

    def start(*args: str, **options) -> subprocess.CompletedProcess[str]:
        options.setdefault("timeout", 60)
        environ_of_run = {**environ, **options.pop("env", {})}
        command = [*PERUN, *args]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environ_of_run,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def popen(*args: str) -> subprocess.Popen[str]:
        # As from a terminal, also where the tests themselves run in the background and ignore signals.
        line = ["env", "--default-signal", *PERUN, *args]
        return subprocess.Popen(
            line, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    start.popen = popen
    start.environ = environ
    return start


def script(tmp_path: Path, text: str, name: str = "app.py") -> str:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def trees(tmp_path: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(tmp_path.glob("perun_results/*/*/run.json"))]


def regions(tree: dict) -> dict[str, dict]:
    return {
        region["name"]: region
        for run in tree["nodes"].values()
        for host in run["nodes"].values()
        for region in host.get("regions", ())
    }


MARKED = "from perun_hpc import monitor\n@monitor('work')\ndef work(): pass\nwork(); work()\n"


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("sys.exit('text')", 1), ("1/0", 1), ("os._exit(4)", 4)]
)
def test_fault_11_the_script_s_own_exit_ends_the_run_at_once_with_its_data(run, tmp_path, end, code):
    app = script(tmp_path, f"{MARKED}import sys, os\n{end}\n")
    done = run("monitor", app)
    assert done.returncode == code
    (tree,) = trees(tmp_path)
    assert regions(tree)["work"]["calls"] == 2
    assert tree["metadata"]["status"] == ("PROCESSING" if code == 0 else "SCRIPT_ERROR")


def test_fault_11_a_missing_script_or_command_is_an_error_and_leaves_nothing(run, tmp_path):
    for program in ("missing.py", "./missing", "no-such-command-anywhere"):
        done = run("monitor", program)
        assert done.returncode == 66
        assert len(done.stderr.splitlines()) == 1
        assert "does not exist" in done.stderr
    assert not (tmp_path / "perun_results").exists()


def test_fault_12_a_binary_keeps_its_exit_code_and_results_go_where_they_belong(run, tmp_path):
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    program = directory / "prog"
    program.write_text("#!/bin/sh\necho $# arguments; exit 7\n")
    program.chmod(0o755)
    for options in ((), ("-b",)):
        done = run("monitor", *options, str(program), "a b", "")
        assert (done.returncode, done.stdout) == (7, "2 arguments\n")
    assert [path.name for path in directory.iterdir()] == ["prog"]
    assert len(trees(tmp_path)) == 2


def test_fault_12_a_binary_s_environment_is_untouched(run, tmp_path):
    done = run("monitor", "-b", "env")
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert not any(name.startswith(("PERUN", "PYTHONPATH")) for name in names)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_fault_13_a_signal_reaches_the_application_and_the_data_are_saved(run, tmp_path, number):
    app = script(tmp_path, f"{MARKED}import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    process = run.popen("monitor", app)
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == -number
    (tree,) = trees(tmp_path)
    assert regions(tree)["work"]["calls"] == 2
    assert no_process_of(tmp_path)


def processes_of(directory: Path) -> list[int]:
    """The processes that run in a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == directory:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def no_process_of(directory: Path, seconds: float = 10) -> bool:
    """Whether all processes that run in a directory are gone, soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not processes_of(directory):
            return True
        time.sleep(0.05)
    return False


def test_fault_13_a_handler_of_the_application_runs_once_and_decides(run, tmp_path):
    app = script(
        tmp_path,
        "import signal, sys, time\n"
        "def handle(n, f): print('checkpoint', flush=True); sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, handle)\nprint('up', flush=True)\ntime.sleep(60)\n",
    )
    process = run.popen("monitor", app)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (9, "checkpoint\n")


def test_fault_13_killing_the_monitor_leaves_no_sampler_and_a_readable_run(run, tmp_path):
    app = script(tmp_path, f"{MARKED}import time\nprint('up', flush=True)\ntime.sleep(3)\n")
    process = run.popen("monitor", "--sampling-period", "0.1", app)
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=30)
    assert no_process_of(tmp_path, 20)
    done = run("export", "json", "-o", "out.json")
    assert done.returncode == 0, done.stderr
    tree = json.loads((tmp_path / "out.json").read_text())
    assert next(iter(tree["nodes"].values()))["metadata"]["state"] == "partial"


def test_a_kill_of_everything_leaves_the_last_sums(run, tmp_path):
    """As Slurm ends a step, and MPI_Abort does: nobody has the time to say anything."""
    app = script(tmp_path, "import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    process = run.popen("monitor", "--sampling-period", "0.1", app)
    process.stdout.readline()
    deadline = time.monotonic() + 50
    while not list(tmp_path.glob("perun_results/*/*/0/*/summary.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    done = run("export", "text", "-o", "out.txt")
    assert done.returncode == 0, done.stderr
    assert "PARTIAL" in (tmp_path / "out.txt").read_text()
    assert "perun was killed" in (tmp_path / "out.txt").read_text()


def plain_and_perun(run, *command: str, cwd: Path):
    plain = subprocess.run(command, cwd=cwd, env=run.environ, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return plain, run("monitor", *command)


UNCHANGED = {
    "main and argv": "import sys; print(__name__, __file__, sys.argv, sys.path[0], __spec__, __package__)",
    "pickle": "import pickle\nclass A: pass\nprint(pickle.loads(pickle.dumps(A())).__class__, pickle.dumps(A))",
    "multiprocessing": (
        "import multiprocessing as mp\n"
        "def f(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn', 'forkserver'):\n"
        "        with mp.get_context(method).Pool(2) as pool: print(pool.map(f, [1, 2, 3]))\n"
    ),
    "children": (
        "import os, subprocess, sys\n"
        "print(sorted(k for k in os.environ if k.startswith(('PERUN', 'PYTHON'))), len(sys.path))\n"
        "print(subprocess.check_output([sys.executable, '-c', 'import sys, os; print(sys.path, len(os.environ))']))\n"
    ),
    "threads and signals": (
        "import threading, signal, os\n"
        "print(threading.active_count())\n"
        "print([signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE)])\n"
        "print(open('/proc/self/status').read().split('SigBlk:')[1].split()[0], len(os.listdir('/proc/self/fd')))\n"
        "print([l for l in open('/proc/self/status') if l.startswith('Threads')])\n"
    ),
    "hooks": (
        "import sys; print(sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile())\n"
        "print('sitecustomize' in sys.modules)\n"
    ),
    "traceback": "def f(): raise ValueError('mine')\ntry: f()\nfinally: print('bye')",
    "syntax error": "def f(:\n",
    "stdin": "import sys; print(repr(sys.stdin.read()))",
    "atexit": "import atexit; atexit.register(print, 'last'); print('first')",
    "forked child": "import os, sys\nif os.fork() == 0: sys.exit(5)\nprint(os.wait()[1] >> 8)",
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_fault_14_a_script_behaves_as_under_plain_python(run, tmp_path, name):
    app = script(tmp_path, UNCHANGED[name])
    plain, measured = plain_and_perun(run, sys.executable, app, "--flag", "a b", cwd=tmp_path)
    assert (measured.returncode, measured.stdout) == (plain.returncode, plain.stdout)
    assert measured.stderr.startswith(plain.stderr)
    as_script = run("monitor", app, "--flag", "a b")
    assert (as_script.returncode, as_script.stdout) == (plain.returncode, plain.stdout)


def test_fault_14_modules_and_relative_imports_work(run, tmp_path):
    script(tmp_path, "value = 5\n", "package/part.py")
    script(
        tmp_path,
        "from .part import value\nimport sys\nprint(__name__, __package__, value, sys.argv[1:])\n",
        "package/__main__.py",
    )
    script(tmp_path, "", "package/__init__.py")
    plain = subprocess.run(
        [sys.executable, "-m", "package", "x"], cwd=tmp_path, capture_output=True, text=True, env=run.environ
    )
    assert plain.stdout == "__main__ package 5 ['x']\n"
    assert run("monitor", "-m", "package", "x").stdout == plain.stdout
    assert run("monitor", sys.executable, "-m", "package", "x").stdout == plain.stdout
    code = run("monitor", sys.executable, "-c", "import sys; print(sys.argv)", "x")
    assert code.stdout == "['-c', 'x']\n"


@pytest.mark.parametrize("flag", ["-I", "-E", "-S", "-s", "-B", "-O"])
def test_fault_14_interpreter_flags_are_respected(run, tmp_path, flag):
    app = script(
        tmp_path,
        "import subprocess, sys; print(sys.flags, len(sys.path))\n"
        "print(subprocess.check_output([sys.executable, '-c', 'import sys; print(sys.path)']))\n",
    )
    plain, measured = plain_and_perun(run, sys.executable, flag, app, cwd=tmp_path)
    if flag in ("-I", "-E", "-S"):  # without site nobody tidies up: the directory stays on the path, unused
        assert measured.returncode == plain.returncode == 0
        assert measured.stdout.split(", ")[:8] == plain.stdout.split(", ")[:8]
    else:
        assert measured.stdout == plain.stdout


def test_fault_14_the_application_s_own_sitecustomize_and_pythonpath_live_on(run, tmp_path):
    script(tmp_path, "import builtins; builtins.mine = 'chained'\n", "custom/sitecustomize.py")
    app = script(
        tmp_path,
        "import os, sys; print(mine, os.environ['PYTHONPATH'], sys.path[1], sys.modules['sitecustomize'].__file__)",
    )
    custom = str(tmp_path / "custom")
    done = run("monitor", app, env={"PYTHONPATH": custom})
    assert done.stdout == f"chained {custom} {custom} {custom}/sitecustomize.py\n"


def test_fault_15_stdout_belongs_to_the_application_and_json_stays_json(run, tmp_path):
    done = run("-l", "DEBUG", "monitor", script(tmp_path, "print('mine')"))
    assert done.stdout == "mine\n"
    assert list(json.loads(run("-l", "DEBUG", "metadata").stdout))


def test_fault_18_an_exception_closes_its_region_and_the_run_is_kept(run, tmp_path):
    app = script(
        tmp_path,
        "from perun_hpc import monitor\n@monitor('fails')\ndef fails(): raise OSError('no')\n"
        "for _ in range(2):\n    try: fails()\n    except OSError: pass\nfails()\n",
    )
    done = run("monitor", app)
    assert done.returncode == 1
    region = regions(trees(tmp_path)[0])["fails"]
    assert (region["calls"], region["raised"], region["open"]) == (3, 3, 0)


def test_fault_18_a_killed_application_leaves_its_regions(run, tmp_path):
    app = script(tmp_path, f"{MARKED}import os\nm = monitor('cut'); m.__enter__()\nos.kill(os.getpid(), 9)\n")
    done = run("monitor", app)
    assert done.returncode in (-9, 137)
    found = regions(trees(tmp_path)[0])
    assert (found["work"]["calls"], found["cut"]["calls"], found["cut"]["open"]) == (2, 1, 1)


def test_fault_20_runs_accumulate_without_being_rewritten(run, tmp_path):
    app = script(tmp_path, "pass")
    run("monitor", "-i", "same", app)
    first = next(tmp_path.glob("perun_results/app/*/run.json"))
    before = (first.stat().st_mtime_ns, first.read_bytes())
    run("monitor", "-i", "same", app)
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before
    assert sorted(p.parent.name for p in tmp_path.glob("perun_results/app/*/run.json")) == ["same", "same-1"]


def test_fault_20_parallel_runs_never_clash(run, tmp_path):
    app = script(tmp_path, "pass")
    processes = [run.popen("monitor", "-i", "SLURM", app) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    for process in processes:
        process.communicate()
    assert len(trees(tmp_path)) == 4
    assert len({tree["id"] for tree in trees(tmp_path)}) == 4


def test_fault_20_json_comes_back_as_it_was(run, tmp_path):
    run("monitor", script(tmp_path, MARKED))
    for source, target in ((), "one.json"), (("one.json",), "two.json"):
        assert run("export", "-o", target, *source, "json").returncode == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_an_export_overwrites_nothing(run, tmp_path):
    run("monitor", "-i", "r", script(tmp_path, "pass"))
    stored = tmp_path / "perun_results" / "app" / "r" / "run.json"
    before = stored.read_bytes()
    (tmp_path / "mine.txt").write_text("mine")
    (summary,) = stored.parent.glob("*/*/summary.json")
    for taken in ("mine.txt", str(summary), str(stored.parent)):
        for name in ("text", "zarr"):
            done = run("export", name, "-o", taken)
            assert (done.returncode, done.stderr.count("\n")) == (64, 1)
            assert "exists already" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert stored.read_bytes() == before


def test_an_export_of_a_stored_runs_own_file_reads_it(run, tmp_path):
    app = script(tmp_path, "pass")
    for name in ("one", "two"):
        run("monitor", "-i", name, app)
    stored = Path("perun_results") / "app" / "one" / "run.json"
    before = (tmp_path / stored).read_bytes()
    (tmp_path / "perun_results" / "app_one.txt").unlink()  # which the run itself left
    done = run("export", str(stored), "text")
    assert (done.returncode, done.stdout) == (0, "perun_results/app_one.txt\n"), done.stderr
    assert "run one" in (tmp_path / "perun_results" / "app_one.txt").read_text()
    assert (tmp_path / stored).read_bytes() == before
    assert run("export", str(stored), "text").returncode == 64  # its copy is there
    assert run("export", "-i", "two", str(stored), "json").returncode == 64  # another one
    assert "must not exist yet" in run("export", "--help").stdout


def test_a_run_that_cannot_be_read_does_not_hide_the_others(run, tmp_path):
    app = script(tmp_path, "pass")
    for name in ("good", "torn"):
        run("monitor", "-i", name, app)
    (tmp_path / "perun_results" / "app" / "torn" / "run.json").write_text("perun: app\n")
    done = run("export", "json", "-o", "out.json")
    assert done.returncode == 0
    assert "torn/run.json: cannot be read" in done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["id"] == "good"


def test_an_export_to_a_place_that_is_none_is_one_line(run, tmp_path):
    run("monitor", script(tmp_path, "pass"))
    for name in ("json", "text", "hdf5", "zarr"):
        done = run("export", name, "-o", "none/x")
        assert (done.returncode, done.stderr.count("\n")) == (66, 1)
        assert "there is no directory none" in done.stderr


def test_every_format_holds_the_run(run, tmp_path):
    app = script(tmp_path, MARKED + "import time; time.sleep(0.35)")
    done = run("monitor", "--sampling-period", "0.1", "-f", "json", app)
    assert done.returncode == 0
    assert json.loads(next(tmp_path.glob("perun_results/app_*.json")).read_text())["metadata"]["app"] == "app"
    for name in ("text", "csv", "hdf5", "pickle", "bench", "zarr"):
        written = run("export", name, "-o", f"out.{name}")
        assert written.returncode == 0, written.stderr
    assert "work" in (tmp_path / "out.text").read_text()
    head, *lines = (tmp_path / "out.csv").read_text().splitlines()
    assert head == "run id,hostname,device_group,sensor,unit,magnitude,timestep,value"
    assert len(lines) > 10
    entries = json.loads((tmp_path / "out.bench").read_text())
    assert all(set(entry) - {"extra"} == {"name", "unit", "value", "range"} for entry in entries)
    import pickle

    import h5py
    import zarr

    with h5py.File(tmp_path / "out.hdf5") as file:
        values = []
        file.visititems(lambda name, item: values.append(item) if name.endswith("/values") else None)
        assert values
        assert all(len(item) == len(item.parent["timesteps"]) > 2 for item in values)
    tree = pickle.loads((tmp_path / "out.pickle").read_bytes())
    assert tree.metadata["app"] == "app"
    (store,) = (tmp_path / "out.zarr").glob("*/*.zarr")
    assert "energy" in dict(zarr.open_group(store, mode="r", path="samples").arrays())


def test_a_stored_run_opens_as_a_tree(run, tmp_path):
    import perun_hpc

    app = script(tmp_path, MARKED + "import time; time.sleep(0.35)")
    done = run("monitor", "--sampling-period", "0.1", app)
    assert done.returncode == 0, done.stderr
    directory = next(tmp_path.glob("perun_results/app/*/run.json")).parent
    tree = perun_hpc.open(directory)
    assert tree.attrs["app"] == "app"
    assert "work" in tree["0/regions"].coords["region"].values
    assert tree["0/samples"].sizes["time"] > 2 and tree["0/samples"].sizes["host"] == 1
    assert float(tree["0"].elapsed_time) > 0.3
    quantity = next(iter(tree["0/samples"].children))
    assert tree[f"0/samples/{quantity}"][quantity].dims == ("host", "sensor", "time")
    assert perun_hpc.open(directory / "run.json").identical(tree)
    assert perun_hpc.open(directory / "0")["samples"].identical(tree["0/samples"])


def test_fault_21_bad_options_are_one_clear_line(run, tmp_path):
    app = script(tmp_path, "pass")
    (tmp_path / ".perun.ini").write_text("[output]\nformt = json\n")
    done = run("monitor", app)
    assert (done.returncode, len(done.stderr.splitlines())) == (78, 1)
    assert "did you mean 'format'" in done.stderr
    (tmp_path / ".perun.ini").unlink()
    for arguments in (
        ("--sampling-period", "-1"),
        ("--format", "yaml"),
        ("--rounds", "0"),
        ("--bench-metrics", "speed"),
    ):
        done = run("monitor", *arguments, app)
        assert (done.returncode, len(done.stderr.splitlines())) == (78, 1), arguments
    assert run("monitor", "--no-such-option", app).returncode == 64


def test_fault_21_emission_factor_and_zeros_on_the_command_line_count(run, tmp_path):
    app = script(tmp_path, "pass")
    run("monitor", "--emission-factor", "0", "--price_factor", "0", app)
    (tree,) = trees(tmp_path)
    metrics = next(iter(tree["nodes"].values()))["metrics"]
    assert (metrics["co2"]["value"], metrics["money"]["value"]) == (0.0, 0.0)


def test_rounds_and_warm_up(run, tmp_path):
    app = script(tmp_path, "print('run')")
    done = run("monitor", "--rounds", "2", "--warmup-rounds", "1", "-n", "mine", "-i", "r", app)
    assert done.stdout == "run\n" * 3
    (tree,) = trees(tmp_path)
    assert (tree["id"], list(tree["nodes"]), tree["metadata"]["app"]) == ("r", ["0", "1"], "mine")
    assert tree["metrics"]["n_runs"]["value"] == 2
    assert set(tree["metrics"]["runtime"]["stats"]) >= {"mean", "std", "max", "min"}


def test_an_estimate_is_marked_as_one(run, tmp_path):
    done = run("monitor", "--include-backends", "estimate procstat", script(tmp_path, "pass"))
    assert "ESTIMATE" in done.stderr
    assert "estimated" in done.stderr
    run_metrics = next(iter(trees(tmp_path)[0]["nodes"].values()))["metrics"]
    assert run_metrics["energy"]["provenance"] == "estimated"
    assert run_metrics["energy"]["value"] > 0


def test_callbacks_are_isolated(run, tmp_path):
    app = script(
        tmp_path,
        "from perun_hpc import register_callback\n"
        "@register_callback\ndef bad(node): raise RuntimeError('mine')\n"
        "@register_callback\ndef good(node): print('got', node.type, node.value('runtime') > 0)\n",
    )
    live = script(
        tmp_path,
        "from perun_hpc import register_live_callback\n"
        "def slow():\n    import time\n    return lambda sample: time.sleep(5)\n"
        "def raising():\n    return lambda sample: 1 / 0\n"
        "register_live_callback(slow, 'slow')\nregister_live_callback(raising, 'raising')\n",
        "live.py",
    )
    done = run("monitor", "--sampling-period", "0.01", "--live-callback-files", live, app)
    assert (done.returncode, done.stdout) == (0, "got multi_run True\n")
    assert "callback 'bad' raised RuntimeError: mine" in done.stderr
    assert len(trees(tmp_path)) == 1


def test_fault_19_work_after_the_end_that_takes_longer_than_every_timeout_loses_nothing(run, tmp_path):
    text = MARKED + (
        "from perun_hpc import register_callback\nimport time\n"
        "register_callback(lambda node: time.sleep(8))\ntime.sleep(0.3)\n"
    )
    done = run("monitor", "--queue-timeout", "6", "--sampling-period", "0.1", script(tmp_path, text))
    assert done.returncode == 0, done.stderr
    (tree,) = trees(tmp_path)
    assert tree["metadata"]["status"] == "PROCESSING"
    assert regions(tree)["work"]["calls"] == 2


def test_windows_tell_their_energy_at_once(run, tmp_path):
    app = script(
        tmp_path,
        "import time, perun_hpc\nwith perun_hpc.window('w') as w:\n    end = time.time() + 0.2\n"
        "    while time.time() < end: pass\nprint(w.energy_uj > 0)\n",
    )
    done = run("monitor", app)
    assert done.stdout == "True\n", done.stderr


def test_showconf_prints_what_is_in_force(run, tmp_path):
    (tmp_path / ".perun.ini").write_text("[output]\napp_name = mine\n")
    assert "app_name = mine" in run("showconf").stdout
    assert "app_name = \n" in run("showconf", "--default").stdout
    assert "sampling_period = 7" in run("showconf", env={"PERUN_SAMPLING_PERIOD": "7"}).stdout


@pytest.mark.parametrize("step", ["-5", "-6", "4294967290"])
def test_in_a_batch_script_or_an_interactive_shell_perun_is_alone(run, tmp_path, step):
    """Slurm says there, too, how many tasks and nodes the job has; 26.05 numbers those steps below zero."""
    job = {"SLURM_JOB_ID": "47", "SLURM_STEP_ID": step, "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    begin = time.monotonic()
    done = run("monitor", script(tmp_path, MARKED), env={**job, "SLURM_NNODES": "2", "PERUN_QUEUE_TIMEOUT": "30"})
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 25  # else it waits for the other node
    (tree,) = trees(tmp_path)
    assert (tree["nodes"]["0"]["metadata"]["state"], tree["metadata"]["source"]) == ("complete", "alone")
