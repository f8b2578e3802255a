"""`PerunMonitor` and `@perun`: every status is reached, exceptions reach the caller after the data was saved."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty

import pytest

from perun_hpc.backend.backend import Backend
from perun_hpc.comm import Comm
from perun_hpc.config.user import load
from perun_hpc.data_model.data import DataNode, MetricType, NodeType
from perun_hpc.errors import PerunError
from perun_hpc.inject import regions
from perun_hpc.monitoring import monitor as monitor_module
from perun_hpc.monitoring.application import Application
from perun_hpc.monitoring.monitor import (
    DEFAULT_SENSORS,
    PERUN_MP_START_METHOD,
    Assigned,
    MonitorStatus,
    PerunMonitor,
)
from perun_hpc.monitoring.results import round_of
from perun_hpc.report.formats.readings import series

CHEAP = {"estimate": Assigned("estimate"), "procstat": Assigned("procstat")}


@pytest.fixture
def monitored(tmp_path):
    """Make a monitor of an application; closed at the end."""
    made = []

    def make(app, sensors=CHEAP, is_binary=False, config=None, **options) -> PerunMonitor:
        overrides = {"data_out": str(tmp_path / "out"), "app_name": "app", "sampling_period": 0.05, **(config or {})}
        parser = load(environ={}, home=tmp_path, directory=tmp_path, overrides=overrides)
        monitor = PerunMonitor(Application(app, parser, is_binary, **options), Comm(None, {}), {}, sensors, parser)
        made.append(monitor)
        return monitor

    yield make
    for monitor in made:
        monitor.close()


def test_a_fresh_monitor_is_in_setup_and_has_what_is_documented(monitored):
    assert PERUN_MP_START_METHOD == "spawn"
    monitor = monitored(lambda: None)
    assert monitor.status is MonitorStatus.SETUP
    for name in ("sp_ready_event", "start_event", "stop_event", "close_event"):
        assert not getattr(monitor, name).is_set()
    assert (monitor.queue, monitor.perunSP) == (None, None)
    for name in ("_app", "_comm", "_l_sensors_config", "_backends", "_config"):
        assert hasattr(monitor, name)
    monitor.close()
    assert monitor.status is MonitorStatus.CLOSED


def test_a_good_run_returns_processing_its_tree_and_the_result(monitored):
    seen = []
    region = regions.monitor("inside")

    def app(x):
        seen.append((monitor.status, monitor.perunSP.is_alive(), monitor.sp_ready_event.is_set()))
        with region:
            return x + 1

    monitor = monitored(app, args=(41,))
    status, node, result = monitor.run_application("r")
    assert (status, result) == (MonitorStatus.PROCESSING, 42)
    assert seen == [(MonitorStatus.RUNNING, True, True)]
    assert isinstance(node, DataNode)
    assert node.type is NodeType.RUN
    (host,) = node.nodes.values()
    assert [(r.name, r.calls) for r in host.regions] == [("inside", 1)]
    assert node.value(MetricType.ENERGY) > 0
    assert (monitor.queue, monitor.perunSP) == (None, None)
    assert not multiprocessing.active_children()


def test_ready_is_said_only_once_the_sampler_has_read(monitored):
    statuses = []

    class Watching(PerunMonitor):
        def __setattr__(self, name, value):
            if name == "status":
                statuses.append((value, self.sp_ready_event.is_set() if hasattr(self, "sp_ready_event") else False))
            super().__setattr__(name, value)

    plain = monitored(lambda: None)
    monitor = Watching(plain._app, plain._comm, {}, CHEAP, plain._config)
    monitor.run_application("r")
    monitor.close()
    assert [status for status, _ in statuses] == [
        MonitorStatus.SETUP, MonitorStatus.READY, MonitorStatus.RUNNING, MonitorStatus.PROCESSING, MonitorStatus.CLOSED
    ]  # fmt: skip
    assert dict(statuses)[MonitorStatus.READY] is True


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("mine"), KeyboardInterrupt()], ids=repr)
def test_what_the_application_raises_reaches_the_caller_after_the_data_was_saved(monitored, error):
    def app():
        raise error

    monitor = monitored(app)
    with pytest.raises(type(error)) as caught:
        monitor.run_application("r")
    assert caught.value is error
    assert monitor.status is MonitorStatus.SCRIPT_ERROR
    assert monitor.data is not None
    assert list((monitor.directory.path / "0").glob("*/node.json"))


def test_a_clean_systemexit_is_no_error_but_still_raised(monitored):
    monitor = monitored(sys.exit)
    with pytest.raises(SystemExit):
        monitor.run_application("r")
    assert monitor.status is MonitorStatus.PROCESSING


def test_a_failing_command_is_a_script_error_with_its_exit_code(monitored):
    status, node, code = monitored("false", is_binary=True).run_application("r")
    assert (status, code) == (MonitorStatus.SCRIPT_ERROR, 1)
    assert node is not None


def test_a_missing_command_is_file_not_found(monitored):
    for app in ("missing.py", "no-such-command"):
        monitor = monitored(app)
        assert monitor.run_application("r") == (MonitorStatus.FILE_NOT_FOUND, None, None)
        assert monitor.run_application("r", record=False) == (MonitorStatus.FILE_NOT_FOUND, None, None)


def test_without_recording_nothing_is_started_or_written(monitored, tmp_path):
    monitor = monitored(lambda: (monitor.status, monitor.perunSP))
    assert monitor.run_application("r", record=False) == (
        MonitorStatus.PROCESSING, None, (MonitorStatus.RUNNING, None)
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_sampler_that_does_not_start_is_sp_error_and_the_application_runs(monitored, capfd):
    ran = []
    monitor = monitored(lambda: ran.append(monitor.status), sensors={"x": Assigned("no-such-backend")})
    status, node, _ = monitor.run_application("r")
    assert (status, node) == (MonitorStatus.SP_ERROR, None)
    assert ran == [MonitorStatus.SP_ERROR]
    assert "no-such-backend" in capfd.readouterr().err


def test_a_sampler_that_is_killed_is_sp_error_and_the_result_is_kept(monitored):
    def app():
        monitor.perunSP.kill()
        return "result"

    monitor = monitored(app)
    assert monitor.run_application("r") == (MonitorStatus.SP_ERROR, None, "result")


def test_fault_19_readings_are_stored_as_they_come_and_memory_does_not_grow(monitored):
    seen = []

    def app():
        (directory,) = (monitor.directory.path / "0").iterdir()
        for _ in range(2):
            time.sleep(1.5)
            stored_b = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            status = (Path("/proc") / str(monitor.perunSP.pid) / "status").read_text()
            seen.append((stored_b, int(status.split("VmRSS:")[1].split()[0])))

    monitor = monitored(app, config={"sampling_period": 0.01})
    status, node, _ = monitor.run_application("r")
    assert status is MonitorStatus.PROCESSING
    ((early_b, early_kib), (late_b, late_kib)) = seen
    assert late_b > early_b > 0
    assert late_kib - early_kib < 1024
    (host,) = node.nodes.values()
    assert host.metadata["rows"] > 100


def test_data_that_cannot_be_worked_up_are_perun_error_and_stay(monitored):
    def app():
        directory = next((monitor.directory.path / "0").iterdir())
        (directory / "node.json").mkdir()
        return 5

    monitor = monitored(app)
    status, _, result = monitor.run_application("r")
    assert (status, result) == (MonitorStatus.PERUN_ERROR, 5)
    assert list((monitor.directory.path / "0").glob("*/summary.json"))


def test_a_rank_that_owns_no_sensor_starts_no_sampler(monitored):
    seen = []
    monitor = monitored(lambda: seen.append(monitor.perunSP), sensors={})
    status, node, _ = monitor.run_application("r")
    assert (status, node, seen) == (MonitorStatus.PROCESSING, None, [None])


def test_rounds_of_one_monitor_are_kept_side_by_side(monitored):
    monitor = monitored(lambda: None)
    for run_id, number in (("r", "0"), ("", "1"), ("r", "2")):
        _, node, _ = monitor.run_application(run_id)
        assert (node.id, round_of(node)) == (run_id or number, number)
    assert monitor.directory.path.name == "r"
    assert sorted(p.name for p in monitor.directory.path.iterdir()) == ["0", "1", "2"]


def test_the_configuration_s_run_id_names_the_directory_and_the_caller_s_the_tree(monitored):
    monitor = monitored(lambda: None, config={"run_id": "mine"})
    _, node, _ = monitor.run_application("0")
    assert (node.id, monitor.directory.path.name) == ("0", "mine")


def test_readings_of_a_run_of_any_id_are_found(monitored):
    monitor = monitored(lambda: time.sleep(0.2))
    _, node, _ = monitor.run_application("any")
    found = list(series(node, monitor.directory.path))
    assert {one.round for one in found} == {"any"}
    assert all(len(one.raw.values) > 2 for one in found)


def test_a_closed_monitor_runs_nothing(monitored):
    ran = []
    monitor = monitored(lambda: ran.append(1))
    monitor.close()
    for record in (True, False):
        with pytest.raises(PerunError, match="make a new PerunMonitor"):
            monitor.run_application("r", record)
    assert (ran, monitor.status) == ([], MonitorStatus.CLOSED)


def test_a_directory_that_cannot_be_made_is_perun_error_and_the_application_runs(monitored, tmp_path, capfd):
    (tmp_path / "out").write_text("a file")
    monitor = monitored(lambda: "result")
    assert monitor.run_application("r") == (MonitorStatus.PERUN_ERROR, None, "result")
    assert "cannot write results to" in capfd.readouterr().err


def test_a_directory_that_goes_away_is_perun_error_and_the_result_is_kept(monitored):
    def app():
        home = monitor.directory.path.parent
        home.rename(home.with_name("gone"))
        home.write_text("a file")
        return "result"

    monitor = monitored(app)
    status, _, result = monitor.run_application("r")
    assert (status, result) == (MonitorStatus.PERUN_ERROR, "result")


class _Fails(Comm):
    """Ranks that cannot be asked for anything."""

    talks = True

    def gather_host(self, mine, timeout_s):
        raise RuntimeError("ours")


def test_whatever_fails_in_perun_is_perun_error_and_the_result_is_kept(monitored, capfd):
    region = regions.monitor("inside")

    def app():
        with region:
            return "result"

    plain = monitored(app)
    broken = PerunMonitor(plain._app, _Fails(None, {}), {}, CHEAP, plain._config)
    assert broken.run_application("r") == (MonitorStatus.PERUN_ERROR, None, "result")
    assert "(RuntimeError: ours)" in capfd.readouterr().err
    broken.close()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()], ids=repr)
def test_what_ends_a_coroutine_or_a_generator_leaves_a_status_and_the_data(monitored, error):
    def app():
        raise error

    monitor = monitored(app)
    with pytest.raises(type(error)):
        monitor.run_application("r")
    assert monitor.status is MonitorStatus.SCRIPT_ERROR
    assert monitor.data is not None
    assert monitor.perunSP is None


def test_events_queue_and_process_have_the_methods_of_multiprocessing_s(monitored):
    seen = []

    def names(of) -> set[str]:
        return {name for name in dir(of) if not name.startswith("_")}

    def app():
        process, queue = monitor.perunSP, monitor.queue
        event = multiprocessing.Event()
        theirs = multiprocessing.Queue()
        seen.append(names(event) - names(monitor.stop_event))
        seen.append(names(theirs) - names(queue))
        seen.append(names(multiprocessing.Process()) - names(process) - {"authkey"})
        theirs.close()
        assert (process.ident, process.daemon, queue.empty(), queue.full()) == (process.pid, True, True, False)
        with pytest.raises(Empty):
            queue.get_nowait()
        with pytest.raises(Empty):
            queue.get(True, 0.01)
        with pytest.raises(ValueError, match="still runs"):
            process.close()
        process.terminate()
        assert multiprocessing.connection.wait([process.sentinel], 10)
        process.join()
        process.close()

    monitor = monitored(app)
    assert monitor.run_application("r")[0] is MonitorStatus.SP_ERROR
    assert seen == [set(), set(), set()]


@pytest.mark.parametrize(
    "assigned",
    [
        {"estimate": ("estimate",), "procstat": ()},
        {"a": ("estimate", ()), "b": ("procstat", ["procstat:memory:data"])},
        {"estimate:cpu:energy": ("estimate", "cpu", "J"), "RAM_USAGE": ("psutil", "ram", "B")},
        {"RAM_USAGE": ("psutil", "ram"), "estimate:cpu:energy": ("estimate", "cpu", "J", None, 1)},
        {"estimate": ("estimate", {"estimate:cpu:energy"})},
    ],
)
def test_sensors_are_assigned_by_any_tuple(monitored, assigned):
    status, node, _ = monitored(lambda: None, sensors=assigned).run_application("r")
    assert status is MonitorStatus.PROCESSING
    sensors = {sensor.id for sensor in node.walk(NodeType.SENSOR)}
    assert "estimate:cpu:energy" in sensors
    assert not any("CPU_USAGE" in name or name.startswith("psutil:cpu") for name in sensors)
    assert ("psutil:memory:data" in sensors) == ("RAM_USAGE" in assigned)


def test_an_unknown_sensor_is_one_line(monitored, capfd):
    assigned = {"estimate": ("estimate", ("estimate:cpu:energy",)), "NO_SUCH": ("psutil", "cpu", "%")}
    status, _, _ = monitored(lambda: None, sensors=assigned).run_application("r")
    assert status is MonitorStatus.PROCESSING
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "NO_SUCH" in line]
    assert line.startswith("perun: warning: nothing here matches ")


def test_the_module_has_a_log():
    assert monitor_module.log is logging.getLogger("perun_hpc.monitoring.monitor")
    with pytest.raises(AttributeError):
        _ = monitor_module.no_such_name


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "perun_hpc", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.startswith("perun ")


def test_a_backend_lists_what_it_finds_and_can_be_closed_twice():
    backend = Backend("estimate")
    assert (backend.id, bool(backend.description)) == ("estimate", True)
    assert list(backend.visible_sensors()) == ["estimate:cpu:energy"]
    assert backend.readers()[0].read()[0].ticks > 0
    backend.close()
    backend.close()


DECORATED = """
from perun_hpc import perun, monitor, register_callback
print("module runs once")

@register_callback
def report(node):
    print("callback", node.id)

@monitor("inner")
def inner():
    return 21

@perun(app_name="deco", run_id="r", data_out="out")
def main(factor):
    return inner() * factor

print(main(2))

@perun(app_name="deco", run_id="bad", data_out="out")
def bad():
    raise LookupError("mine")

try:
    bad()
except LookupError as error:
    print("caught", error)
"""


def test_a_decorated_function_in_an_unguarded_script(tmp_path):
    (tmp_path / "app.py").write_text(DECORATED)
    environ = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "module runs once\ncallback r\n42\ncallback bad\ncaught mine\n"
    tree = json.loads((tmp_path / "out/deco/r/run.json").read_text())
    (host,) = tree["nodes"]["0"]["nodes"].values()
    assert host["regions"][0]["name"] == "inner"
    assert json.loads((tmp_path / "out/deco/bad/run.json").read_text())["metadata"]["status"] == "SCRIPT_ERROR"


def test_a_traceback_through_the_decorator_has_one_line_of_ours(tmp_path):
    (tmp_path / "app.py").write_text(
        "from perun_hpc import perun\n@perun(app_name='a')\ndef bad():\n    1 / 0\nbad()\n"
    )
    environ = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    trace = done.stderr[done.stderr.index("Traceback") :]
    assert [line.split('"')[1].rpartition("/")[2] for line in trace.splitlines() if line.startswith("  File")] == [
        "app.py", "decorator.py", "app.py"
    ]  # fmt: skip
    assert trace.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "During handling" not in trace


def test_default_sensors_find_something_anywhere(monitored):
    _, node, _ = monitored(lambda: None, sensors=DEFAULT_SENSORS).run_application("r")
    assert node.value(MetricType.RUNTIME) > 0
    assert node.value(MetricType.ENERGY) is not None
