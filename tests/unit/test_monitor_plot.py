"""`perun plot`: what is drawn is what was read."""

from __future__ import annotations

import numpy as np
import pytest

from perun_hpc.data_model.data import DataNode, DeviceType, NodeType, RawData
from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.errors import NotFoundError
from perun_hpc.report import plot
from perun_hpc.report.formats.readings import series

S = 1_000_000_000


def sensor(name: str, component: str, quantity: Quantity = Quantity.ENERGY) -> Sensor:
    return Sensor(
        id=f"powercap:{name}:energy", host="h", backend="powercap", device=name, domain=name, component=component,
        kind=Kind.COUNTER if quantity is Quantity.ENERGY else Kind.GAUGE, quantity=quantity, unit="uJ",
    )  # fmt: skip


def tree(*rounds: dict[Sensor, list[int | None]], times: tuple[int, ...] = (0, 1, 2, 4)) -> DataNode:
    """A run whose sensors gave these values at 0, 1, 2 and 4 s."""
    whole = DataNode("r", NodeType.MULTI_RUN, metadata={"app": "a$b"})
    for number, columns in enumerate(rounds):
        group = DataNode("cpu", NodeType.DEVICE_GROUP, device_type=DeviceType.CPU)
        for one, values in columns.items():
            raw = RawData(tuple(at * S for at in times), tuple(values), one.base_unit)
            group.nodes[one.id] = DataNode(one.id, NodeType.SENSOR, metadata={"sensor": one.to_json()}, raw_data=raw)
        host = DataNode("h", NodeType.NODE, nodes={"cpu": group})
        whole.nodes[str(number)] = DataNode(str(number), NodeType.RUN, nodes={"h": host})
    return whole


PACKAGES = {
    sensor("package-0", "cpu"): [0, 10_000_000, 30_000_000, 50_000_000],
    sensor("package-1", "cpu"): [0, 1_000_000, 2_000_000, 4_000_000],
    sensor("dram-0", "dram"): [0, 5_000_000, None, 5_000_000],
}


def test_power_is_the_difference_of_readings_over_their_time(tmp_path):
    parts = plot.components(list(series(tree(PACKAGES), tmp_path)))
    assert parts["cpu"].watts.tolist() == [11, 21, 11]
    assert parts["dram"].watts.tolist() == [5, 0, 0]
    assert parts["cpu"].times_s.tolist() == [0, 1, 2, 4]


def test_a_failed_reading_is_bridged_and_the_rest_is_not_known():
    (one,) = series(tree({sensor("package-0", "cpu"): [None, 0, None, 30_000_000]}), None)
    watts = plot.power_of(one, np.array([0.0, 1, 2, 4]))
    assert np.isnan(watts[0])
    assert watts[1:].tolist() == [10, 10]
    (one,) = series(tree({sensor("package-0", "cpu"): [None, 7, None, None]}), None)
    assert np.isnan(plot.power_of(one, np.array([0.0, 1, 2, 4]))).all()


def test_a_meter_is_not_drawn_upon_its_parts(tmp_path):
    with_meter = {**PACKAGES, sensor("psys", "node"): [0, 100_000_000, 200_000_000, 300_000_000]}
    assert list(plot.components(list(series(tree(with_meter), tmp_path)))) == ["cpu", "dram"]
    alone = {sensor("psys", "node"): [0, 100_000_000, 200_000_000, 300_000_000]}
    assert plot.components(list(series(tree(alone), tmp_path)))["node"].watts.tolist() == [100, 100, 50]


def test_one_round_is_stacked_by_component_and_several_stand_beside_each_other(tmp_path):
    power, _ = plot.draw(tree(PACKAGES), tmp_path).axes
    assert [text.get_text() for text in power.get_legend().get_texts()] == ["CPU", "memory"]
    assert power.get_ylabel() == "power / W (measured)"
    power, _ = plot.draw(tree(PACKAGES, PACKAGES), tmp_path).axes
    assert [text.get_text() for text in power.get_legend().get_texts()] == ["round 0", "round 1"]


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_picture_is_written_in_the_format_of_its_name(tmp_path, suffix, begins):
    plot.write(tree(PACKAGES), tmp_path, tmp_path / f"x{suffix}")
    assert (tmp_path / f"x{suffix}").read_bytes().startswith(begins)
    assert [path.name for path in tmp_path.iterdir()] == [f"x{suffix}"]


def test_a_run_without_readings_of_power_is_one_line(tmp_path):
    memory = {sensor("memory", "dram", Quantity.DATA): [1, 2, 3, 4]}
    with pytest.raises(NotFoundError, match="no readings of power"):
        plot.draw(tree(memory), tmp_path)
