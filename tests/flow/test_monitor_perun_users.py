"""What somebody who comes from perun 1.0.0 expects of `perun monitor`, its files and its callbacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

PERUN = [sys.executable, "-m", "perun_hpc.cli.main"]
MARKED = "from perun_hpc import monitor\n@monitor('work')\ndef work(): pass\nwork(); work()\n"
LIVE = (
    "from perun_hpc import register_live_callback\n"
    "def make():\n    return lambda values: print('{0} %s\\n' % sorted(values.items()), end='', flush=True)\n"
    "register_live_callback(make, '{0}')\n"
)
"""What it prints is written at once: callbacks are called in a thread beside the program, which prints as well."""


@pytest.fixture
def perun(tmp_path):
    """Run `perun ARGS` in a directory of its own."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PERUN", "PYTHONPATH", "PMI", "SLURM"))}

    def start(*args: str, code: int = 0, **options) -> subprocess.CompletedProcess[str]:
        env = {**environ, "HOME": str(tmp_path), **options.pop("env", {})}
        done = subprocess.run(
            [*PERUN, *args], cwd=tmp_path, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )
        assert done.returncode == code, done.stderr
        return done

    return start


def script(tmp_path: Path, text: str = "pass\n", name: str = "app.py") -> str:
    (tmp_path / name).write_text(text)
    return name


def stored(tmp_path: Path, app: str, run_id: str) -> dict:
    return json.loads((tmp_path / "perun_results" / app / run_id / "run.json").read_text())


def test_a_run_leaves_its_text_beside_and_says_where_everything_is(perun, tmp_path):
    done = perun("monitor", "-i", "r", script(tmp_path))
    text = (tmp_path / "perun_results" / "app_r.txt").read_text()
    assert text.rstrip("\n") in done.stderr
    assert done.stderr.splitlines()[-1] == "perun: kept in perun_results/app/r, this text in perun_results/app_r.txt"


def test_a_text_of_that_name_stays_and_the_run_is_kept(perun, tmp_path):
    (tmp_path / "perun_results").mkdir()
    (tmp_path / "perun_results" / "app_r.txt").write_text("mine")
    done = perun("monitor", "-i", "r", script(tmp_path))
    assert (tmp_path / "perun_results" / "app_r.txt").read_text() == "mine"
    assert "exists already and is not overwritten" in done.stderr
    assert stored(tmp_path, "app", "r")["id"] == "r"


def test_several_runs_of_an_application_are_summed_and_compared(perun, tmp_path):
    app = script(tmp_path)
    assert "was run" not in perun("monitor", "-i", "a", app).stderr
    perun("monitor", "-i", "b", app)
    perun("monitor", "-n", "other", app)
    said = perun("monitor", "-i", "c", app).stderr
    runs = [stored(tmp_path, "app", name) for name in "abc"]
    joules = sum(one["metrics"]["energy"]["stats"]["sum"] for one in runs)
    bound = 2 * sum(run["metrics"]["energy"]["uncertainty"] for one in runs for run in one["nodes"].values())
    found = re.search(r"app was run 3 times here, in total (at most )?([\d.]+) (m?)J ", said)
    assert found is not None, said
    assert bool(found[1]) == (joules < bound)
    expected = joules + bound if found[1] else joules
    assert float(found[2]) / (1000 if found[3] else 1) == pytest.approx(expected, rel=0.01)
    assert re.search(r"Beside the 2 runs before: [+-][\d.]+ % energy, ", said)


@pytest.mark.parametrize("format", ["json", "hdf5", "pickle"])
def test_what_was_exported_is_read_back_with_its_readings(perun, tmp_path, format):
    perun("monitor", "--sampling-period", "0.05", "-i", "r", script(tmp_path, MARKED + "import time; time.sleep(0.3)"))
    perun("export", "csv", "-o", "from_run.csv")
    (copy,) = perun("export", format).stdout.splitlines()
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / Path(copy).name
    (tmp_path / copy).rename(moved)
    perun("export", str(moved), "csv", "-o", "from_copy.csv")
    lines = [sorted((tmp_path / f"from_{of}.csv").read_text().splitlines()) for of in ("copy", "run")]
    assert lines[0] == lines[1]
    assert len(lines[1]) > 20
    perun("export", str(moved), "json", "-o", "again.json")
    perun("export", "json", "-o", "first.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "first.json").read_bytes()


def test_an_export_takes_perun_s_order_and_writes_beside_its_input(perun, tmp_path):
    app = script(tmp_path)
    for name in ("one", "two"):
        perun("monitor", "-i", name, app)
    assert perun("export", "perun_results/app", "json").stdout == "perun_results/app_two.json\n"
    assert perun("export", "--id", "one", "perun_results/app", "json").stdout == "perun_results/app_one.json\n"
    assert perun("export", "perun_results/app/one", "csv").stdout == "perun_results/app_one.csv\n"
    assert perun("export", "perun_results/app_two.json", "bench").stdout == "perun_results/app_two.bench.json\n"


def test_a_name_that_is_missing_is_never_written(perun, tmp_path):
    perun("monitor", "-i", "r", script(tmp_path))
    done = perun("export", "missing.json", "csv", code=66)
    assert done.stderr == (
        "perun: missing.json does not exist: name a run's file or directory; the file to write is named by -o\n"
    )
    assert not (tmp_path / "missing.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", b"a,b\n", "cannot be read back"),
        ("x.hdf5", b"no hdf5", "cannot be read"),
        ("x.pkl", b"cos\nsystem\n(S'touch ran'\ntR.", "no part of a run"),
        ("x.pkl", b"cbuiltins\ngetattr\n(cperun_hpc.data_model.data\nDataNode\nS'from_json'\ntR.", "no part of a run"),
        ("x.pkl", b"", "cannot be read"),
        ("x.pkl", b"I1\n.", "holds no run"),
        ("x.json", b"{}", "not of schema"),
    ],
)
def test_a_file_that_is_no_run_is_one_line_and_nothing_in_it_runs(perun, tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    done = perun("export", name, "text", code=65)
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_run_keeps_its_configuration_and_its_machine(perun, tmp_path):
    perun("monitor", "-i", "r", "--emission-factor", "300", "--pue", "1.5", script(tmp_path))
    tree = stored(tmp_path, "app", "r")
    assert tree["metadata"]["post-processing.emissions_factor"] == "300"
    assert (tree["metadata"]["post-processing.pue"], tree["metadata"]["monitor.sampling_period"]) == ("1.5", "1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+[+-]\d\d:\d\d", tree["metadata"]["execution_dt"])
    (host,) = tree["nodes"]["0"]["nodes"].values()
    assert host["metadata"]["machine"]["kernel"] == os.uname().release


def test_a_killed_run_keeps_overhead_pue_and_factors(perun, tmp_path):
    app = script(tmp_path, "import os, time\ntime.sleep(0.3)\nos.kill(os.getppid(), 9)\ntime.sleep(1)\n")
    options = ("--power-overhead", "1000", "--pue", "2", "--price-factor", "10", "--emission-factor", "5")
    perun("monitor", "-i", "r", *options, app, code=-9)
    perun("export", "json", "-o", "out.json")
    tree = json.loads((tmp_path / "out.json").read_text())
    assert tree["metadata"]["status"] == "PERUN_ERROR"
    run = tree["nodes"]["0"]["metrics"]
    runtime, joules = run["runtime"]["value"], run["energy"]["value"]
    assert joules > 2 * 1000 * runtime
    assert run["money"]["value"] == pytest.approx(joules / 3.6e6 * 10, rel=1e-3)
    assert run["co2"]["value"] == pytest.approx(joules / 3.6e6 * 5, rel=1e-3)


CALLBACK = (
    "from perun_hpc import register_callback\n"
    "@register_callback\ndef told(node):\n"
    "    m = {str(k): v.value for k, v in node.metrics.items()}\n"
    "    pue, much = node.metadata['post-processing.pue'], m['energy'] > 2000 * m['runtime']\n"
    "    print(node.id, node.type, pue, much, 'co2' in m)\n"
)


def test_callbacks_get_the_run_by_the_configuration_in_force(perun, tmp_path):
    (tmp_path / "mine.ini").write_text("[post-processing]\nemissions_factor = 100\n")
    options = ("--pue", "2", "--power-overhead", "1000", "-i", "v1.2.3")
    done = perun("-c", "mine.ini", "monitor", *options, script(tmp_path, CALLBACK))
    assert done.stdout == "v1.2.3 multi_run 2 True True\n"


def test_callbacks_of_a_decorated_function_get_the_same(tmp_path):
    text = CALLBACK + (
        "from perun_hpc import perun\n"
        "@perun(pue=2, power_overhead=1000, run_id='v1.2.3', emissions_factor=3)\ndef f(): pass\nf()\n"
    )
    command = [sys.executable, script(tmp_path, text)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "v1.2.3 multi_run 2 True True\n"


def test_live_callbacks_get_plain_values_by_perun_s_names_first_and_last(perun, tmp_path):
    live = script(tmp_path, LIVE.format("live"), "live.py")
    done = perun("monitor", "--live-callback-files", live, script(tmp_path))
    first, last = [dict(eval(line.partition(" ")[2])) for line in done.stdout.splitlines()]
    host = os.uname().nodename
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    usage = f"{host}_CPU_USAGE_0"
    assert usage in last  # the first has it where a hundredth of a second had passed since the sensors were found
    for values in (first, last):
        assert 0 <= values.get(usage, 0) <= 100
        assert memory / 1000 < values[f"{host}_RAM_USAGE"] < memory
        assert all(isinstance(value, float) for value in values.values())
    (kept,) = (json.loads(path.read_text()) for path in tmp_path.glob("perun_results/app/*/0/*/summary.json"))
    (energy,) = [n for n, sensor in enumerate(kept["sensors"]) if sensor["id"].endswith("cpu:energy")]
    name = f"{host}_{kept['sensors'][energy]['id']}"
    ticks = [edge["values"][energy] for edge in kept["edges"]]
    assert [first[name], last[name]] == pytest.approx([tick / 1e6 for tick in ticks])


@pytest.mark.parametrize(
    "how",
    [
        ("--live-callback-files", "a.py", "b.py", "--rounds", "1", "app.py"),
        ("--live_callback_files", "a.py", "b.py", "--", "app.py"),
        ("--live-callback-files", "a.py", "b.py", "app.py"),
        ("--live-callback-files", "a.py b.py", "app.py"),
        ("--live-callback-files", "a.py", "--live-callback-files", "b.py", "app.py"),
    ],
)
def test_several_files_of_live_callbacks(perun, tmp_path, how):
    for name in "ab":
        script(tmp_path, LIVE.format(name), f"{name}.py")
    script(tmp_path, "import sys; print('ran %s\\n' % sys.argv, end='')")
    lines = perun("monitor", *how).stdout.splitlines()
    assert {line.partition(" ")[0] for line in lines} == {"a", "b", "ran"}
    assert "ran ['app.py']" in lines


@pytest.mark.parametrize("arguments", [[], ["--epochs", "3"], ["x"]])
def test_a_program_that_registers_live_callbacks_itself_is_the_program(perun, tmp_path, arguments):
    script(tmp_path, LIVE.format("a"), "a.py")
    app = script(tmp_path, LIVE.format("b") + "import sys; print('ran %s\\n' % sys.argv[1:], end='')\n")
    lines = perun("monitor", "--live-callback-files", "a.py", app, *arguments).stdout.splitlines()
    assert {line.partition(" ")[0] for line in lines} == {"a", "ran"} or arguments == ["x"]


def test_filters_go_by_perun_s_names_beside_ours(perun, tmp_path):
    wanted = "RAM_USAGE ^CPU_USAGE_0$ estimate"
    done = perun("monitor", "-i", "r", "--include-sensors", wanted, script(tmp_path))
    (host,) = stored(tmp_path, "app", "r")["nodes"]["0"]["nodes"].values()
    sensors = sorted(name for group in host["nodes"].values() for name in group["nodes"])
    assert sensors == ["estimate:cpu:energy", "psutil:cpu-0:utilisation", "psutil:memory:data"]
    assert "matches" not in done.stderr


def test_filters_that_match_nothing_are_one_line(perun, tmp_path):
    filters = ("--include-sensors", "RAM_USAGE nosuch", "--exclude-backends", "nvm roc")
    done = perun("monitor", "-f", "json", *filters, script(tmp_path))
    warned = [line for line in done.stderr.splitlines() if "warning" in line]
    assert warned == [
        "perun: warning: nothing here matches exclude_backends: 'roc', include_sensors: 'nosuch':"
        " perun sensors --all lists the names that there are"
    ]
    done = perun("sensors", "--exclude-sensors", "nosuch")
    assert done.stderr.startswith("perun: warning: nothing here matches exclude_sensors: 'nosuch'")


def test_an_invalid_expression_is_one_line_before_the_start(perun, tmp_path):
    done = perun("monitor", "--include-sensors", "CPU[", script(tmp_path, "print('ran')"), code=78)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "regular expression" in done.stderr


@pytest.mark.parametrize("how", ["command", "function"])
def test_a_program_that_sleeps_beside_others_work_has_its_own_part(perun, tmp_path, how):
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        if how == "command":
            perun("monitor", "-n", "app", "-i", "r", "--include-backends", "psutil estimate", "sleep", "0.6")
        else:
            text = (
                "from perun_hpc import perun\nimport time\n"
                "@perun(app_name='app', run_id='r')\ndef f(): time.sleep(0.6)\nf()\n"
            )
            subprocess.run([sys.executable, script(tmp_path, text)], cwd=tmp_path, timeout=60, check=True)
    finally:
        busy.kill()
        busy.wait()
    run = stored(tmp_path, "app", "r")["nodes"]["0"]
    (host,) = run["nodes"].values()
    own = host["metadata"]["own"]
    assert own["cpu_ns"] < 0.2 * own["busy_ns"]
    assert own["energy_j"] < 0.2 * run["metrics"]["cpu_energy"]["value"]
    assert own["provenance"] == "estimated"


def test_runs_are_listed_beside_those_before_them(perun, tmp_path):
    app = script(tmp_path)
    for name in ("a", "b"):
        perun("monitor", "-i", name, app)
    perun("monitor", "-i", "fails", script(tmp_path, "raise SystemExit(3)", "other.py"), code=3)
    rows = [line.split() for line in perun("runs").stdout.splitlines()]
    assert [row[:3] for row in rows[1:4]] == [["other", "fails", "1"], ["app", "b", "1"], ["app", "a", "1"]]
    assert rows[1][-1] == "SCRIPT_ERROR"
    assert "%" in rows[2]
    assert rows[3][-1] == "-"
    assert "app was run 2 times here" in perun("runs", "app", "-N", "1").stdout
    told = json.loads(perun("runs", "app", "--json").stdout)
    assert [one["id"] for one in told] == ["b", "a"]
    energies = [stored(tmp_path, "app", name)["metrics"]["energy"]["stats"]["mean"] for name in "ba"]
    assert [one["energy_j"] for one in told] == energies
    assert told[0]["change"] == pytest.approx(energies[0] / energies[1] - 1)
    assert told[1]["change"] is None
    (tmp_path / "perun_results" / "app" / "a" / "run.json").write_text("torn")
    assert "a/run.json: cannot be read" in perun("runs").stderr


@pytest.mark.parametrize("words", [("runs",), ("runs", "none"), ("plot",), ("plot", "-n", "none")])
def test_where_no_run_is_that_is_one_line(perun, words):
    done = perun(*words, code=66)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "perun monitor first" in done.stderr


def test_a_run_is_drawn_and_nothing_is_overwritten(perun, tmp_path):
    perun("monitor", "-i", "r", "--sampling-period", "0.05", script(tmp_path, "import time; time.sleep(0.3)"))
    assert perun("plot").stdout == "perun_results/app_r.png\n"
    assert (tmp_path / "perun_results" / "app_r.png").read_bytes().startswith(b"\x89PNG")
    assert "exists already" in perun("plot", code=64).stderr
    assert perun("plot", "perun_results/app/r", "-o", "x.svg").stdout == "x.svg\n"
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")
    assert ".png, .svg, .pdf" in perun("plot", "-o", "x.txt", code=64).stderr
    perun("export", "json")
    assert perun("plot", "perun_results/app_r.json", "-o", "again.png").stdout == "again.png\n"


def test_progress_is_for_terminals_alone(tmp_path):
    import pty

    app = script(tmp_path, "print('ran')")
    environ = {**os.environ, "HOME": str(tmp_path)}
    command = [*PERUN, "monitor", "--rounds", "2", app]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert "round 1 of 2" not in done.stderr
    ours, theirs = pty.openpty()
    subprocess.run(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 1 << 16):
            seen += part
    except OSError:  # the other end is closed, and all was read
        pass
    os.close(ours)
    assert b"perun: round 1 of 2" in seen
    assert b"perun: round 2 of 2" in seen


def test_a_long_history_does_not_hold_up_the_end_of_a_run(perun, tmp_path):
    app = script(tmp_path)
    perun("monitor", "-i", "a", app)
    path = tmp_path / "perun_results" / "app" / "a" / "run.json"
    path.write_text(path.read_text() + " " * (16 << 20))
    done = perun("monitor", "-i", "b", app)
    assert "was run" not in done.stderr
    assert "app was run 2 times here" in perun("runs").stdout


def test_a_run_that_still_runs_is_said_to_and_not_counted(perun, tmp_path):
    app = script(tmp_path, "import sys\nprint('up', flush=True)\nsys.stdin.read()\n")
    command = [*PERUN, "monitor", "-i", "long", "--sampling-period", "0.05", app]
    environ = {**os.environ, "HOME": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        running.stdout.readline()
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("perun_results/app/long/0/*/summary.json")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        script(tmp_path, "pass", "app.py")
        assert "was run" not in perun("monitor", "-i", "short", app).stderr
        (row,) = [line.split() for line in perun("runs").stdout.splitlines() if " long " in line]
        assert row[-1] == "RUNNING"
        assert "app was run 1 time here" in perun("runs").stdout
        perun("export", "-i", "long", "text", "-o", "so_far.txt")
        assert "it still runs" in (tmp_path / "so_far.txt").read_text()
        running.stdin.close()
        assert running.wait(30) == 0
    (row,) = [line.split() for line in perun("runs").stdout.splitlines() if " long " in line]
    assert row[-1] != "RUNNING"
