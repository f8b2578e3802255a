"""The sampling process on a simulated powercap tree: energies are last minus first, to the tick."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from perun_hpc.config.user import load, settings
from perun_hpc.data_model.data import Metric, MetricType
from perun_hpc.monitoring.orders import Orders, Signals
from perun_hpc.monitoring.results import host_node, read_summary, run_node
from perun_hpc.monitoring.sampling_process import sample
from perun_hpc.report.formats import text

RANGE_UJ = 262_143_328_850


class Machine:
    """A simulated machine with one package and its dram."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._package = root / "sys/class/powercap/intel-rapl:0"
        self._dram = root / "sys/class/powercap/intel-rapl:0:0"
        for zone, name in ((self._package, "package-0"), (self._dram, "dram")):
            zone.mkdir(parents=True)
            (zone / "name").write_text(name)
            (zone / "max_energy_range_uj").write_text(str(RANGE_UJ))
            (zone / "constraint_0_max_power_uw").write_text(str(10**10))  # anything that these tests do is plausible
        (root / "sys/class/powercap/perun_simulated").touch()
        self.set(package=0, dram=0)

    def set(self, **values: object) -> None:
        for name, value in values.items():
            # In place: the reader keeps the file open.
            file = (self._package if name == "package" else self._dram) / "energy_uj"
            file.write_text(f"{value}\n")


class Run:
    """The sampling process' work in a thread of this process."""

    def __init__(self, machine: Machine, directory: Path, period_ns: int = 10_000_000) -> None:
        self.directory = directory
        directory.mkdir()
        self.rank_server = directory.with_name("s") / "d"  # the rank server takes its directory away when it closes
        self.rank_server.parent.mkdir()
        rank_server, root = str(self.rank_server), str(machine.root)
        orders = Orders(
            str(directory), "r", "host", period_ns, ("powercap",), (), (), (), (), rank_server, os.getppid(), root=root
        )
        self._signals = Signals(*(threading.Event() for _ in range(4)), queue.Queue())  # type: ignore[arg-type]
        self._thread = threading.Thread(target=sample, args=(orders, self._signals))
        self._thread.start()
        assert self._signals.ready.wait(60)

    def stop(self) -> dict:
        self._signals.stop.set()
        self._thread.join(60)
        path, state, error = self._signals.queue.get(timeout=30)
        assert (path, state, error) == (str(self.directory), "complete", "")
        return read_summary(self.directory)

    def rows(self) -> None:
        """Give it time for a few rows."""
        time.sleep(0.1)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "machine")


def base(summary: dict, domain: str) -> int:
    (column,) = (i for i, sensor in enumerate(summary["sensors"]) if sensor["domain"] == domain)
    return summary["results"][column]["base"]


def test_fault_5_a_run_shorter_than_a_period_is_whole(machine, tmp_path):
    machine.set(package=1_000, dram=7)
    run = Run(machine, tmp_path / "run", period_ns=3_600 * 10**9)
    machine.set(package=251_000, dram=57)
    summary = run.stop()
    assert (base(summary, "package-0"), base(summary, "dram-0"), summary["rows"]) == (250_000, 50, 0)


def test_fault_1_idle_and_a_final_burst_are_last_minus_first(machine, tmp_path):
    run = Run(machine, tmp_path / "run")
    run.rows()
    machine.set(package=1_234_567)
    assert base(run.stop(), "package-0") == 1_234_567


def test_a_counter_that_wraps_counts_on(machine, tmp_path):
    machine.set(package=RANGE_UJ - 1_000)
    run = Run(machine, tmp_path / "run")
    run.rows()
    machine.set(package=500)
    summary = run.stop()
    (sensor,) = (sensor for sensor in summary["sensors"] if sensor["domain"] == "package-0")
    assert RANGE_UJ <= sensor["wrap_range"] <= RANGE_UJ + 62
    assert base(summary, "package-0") == sensor["wrap_range"] - RANGE_UJ + 1_500


def test_fault_2_a_failed_read_is_a_gap_that_the_next_reading_covers(machine, tmp_path):
    machine.set(package=1_000_000)
    run = Run(machine, tmp_path / "run")
    run.rows()
    machine.set(package="no number")
    run.rows()
    machine.set(package=1_400_000)
    summary = run.stop()
    assert base(summary, "package-0") == 400_000
    assert any("no number" in why for result in summary["results"] for why in result["whys"])


def test_the_tree_has_the_sums_overhead_pue_money_and_co2(machine, tmp_path):
    run = Run(machine, tmp_path / "run")
    machine.set(package=3_000_000, dram=1_000_000)
    summary = run.stop()
    host = host_node(run.directory, summary, ())
    assert (host.value(MetricType.ENERGY), host.value(MetricType.CPU_ENERGY), host.value(MetricType.DRAM_ENERGY)) == (
        4,
        3,
        1,
    )
    assert isinstance(energy := host.metrics[MetricType.ENERGY], Metric)
    assert energy.provenance == "simulated"
    overrides = {"pue": 1.5, "price_factor": 0.36, "emissions_factor": 360, "power_overhead": 10}
    chosen = settings(load(environ={}, home=tmp_path, directory=tmp_path, overrides=overrides))
    runtime_s = host.value(MetricType.RUNTIME)
    tree = run_node("0", [host], chosen)
    joules = (4 + 10 * runtime_s) * 1.5
    assert tree.value(MetricType.ENERGY) == pytest.approx(joules)
    assert tree.value(MetricType.MONEY) == pytest.approx(joules / 3.6e6 * 0.36)
    assert tree.value(MetricType.CO2) == pytest.approx(joules / 3.6e6 * 360)
    assert "simulated" in text.summary(_multi(tree), [tree], chosen)


def _multi(tree):
    from perun_hpc.monitoring.results import multi_run_node

    return multi_run_node("r", [tree], {})


def test_a_region_s_energy_lies_between_its_bounds_and_all_of_it_is_the_whole(machine, tmp_path):
    from perun_hpc.inject import rank, regions
    from perun_hpc.wire.client import request

    run = Run(machine, tmp_path / "run")
    regions.recorder.open(calls_b=24 * 1000)
    with contextlib.ExitStack() as former:
        for step in range(
            1, 6
        ):  # each call begins before the one before it ends: however busy the machine, no time is lost
            with contextlib.ExitStack() as call:
                call.enter_context(regions.monitor("step"))
                former.close()
                run.rows()
                machine.set(package=step * 1_000_000)
                former.push(call.pop_all())
    data = regions.snapshot({"PERUN_RANK": "0"})
    regions.recorder.close()
    fd = rank.memory_file("test")
    with open(fd, "wb") as file:  # noqa: PTH123
        file.write(data)
        file.flush()
        assert request("rank-data", {"rank": "0"}, (fd,), path=str(run.rank_server)).verb == "ok"
    run.rows()
    host = host_node(run.directory, run.stop(), ())
    (region,) = host.regions
    energy = region.metrics[MetricType.ENERGY]
    assert region.calls == 5
    assert energy.low <= energy.value <= energy.high
    assert 4.0 <= energy.value <= 5.0
    assert energy.high == 5.0


def test_a_counter_whose_first_reading_is_a_gap_begins_with_the_next(machine, tmp_path):
    """Its rows stood at what the register held, its last reading at what was counted: what was between was negative."""
    from perun_hpc.data_model.sensor import Sensor
    from perun_hpc.monitoring import trace

    machine.set(package="no number", dram=7)
    run = Run(machine, tmp_path / "run")
    run.rows()
    machine.set(package=5_000_000)
    run.rows()
    machine.set(package=5_000_300, dram="no number")
    run.rows()
    summary = run.stop()
    columns = {sensor["domain"]: place for place, sensor in enumerate(summary["sensors"])}
    _, values = trace.read(run.directory, summary, [Sensor.from_json(sensor) for sensor in summary["sensors"]])
    package, dram = values[columns["package-0"]], values[columns["dram-0"]]
    assert np.isnan(package[0]) and np.isnan(dram[-1])
    assert set(package[~np.isnan(package)].tolist()) == {0.0, 300.0}
    assert set(dram[~np.isnan(dram)].tolist()) == {0.0}


def test_the_trace_holds_every_row_and_the_counter_s_values(machine, tmp_path):
    from perun_hpc.data_model.sensor import Sensor
    from perun_hpc.monitoring import trace

    run = Run(machine, tmp_path / "run")
    run.rows()
    machine.set(package=500)
    run.rows()
    summary = run.stop()
    times, values = trace.read(run.directory, summary, [Sensor.from_json(s) for s in summary["sensors"]])
    assert len(times) >= summary["rows"] > 5
    assert (times[1:] > times[:-1]).all()
    (column,) = (i for i, s in enumerate(summary["sensors"]) if s["domain"] == "package-0")
    assert set(values[column].tolist()) == {0.0, 500.0}
    marks = json.loads((run.directory / "job.zarr" / "zarr.json").read_text())["attributes"]
    assert marks["simulated"] is True
