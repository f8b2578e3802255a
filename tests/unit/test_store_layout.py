"""Names, types and borders of the store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.data_model.sensor import Kind
from perun_hpc.data_model.units import Quantity
from perun_hpc.errors import DataError
from perun_hpc.store import job_store, layout
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.soak.store_data import START, sensor, sensors

S = layout.NS_PER_S
DAY = 86_400


def test_equal_nodes_have_equal_arrays_whatever_their_gpus_are_called() -> None:
    def node(first: str, second: str) -> tuple[layout.Array, ...]:
        made = [
            sensor(f"gpu-{uuid}", q, Kind.GAUGE)
            for uuid in (first, second)
            for q in (Quantity.POWER, Quantity.FREQUENCY)
        ]
        return layout.arrays([replace(item, host=first, device=item.domain) for item in made])

    one, other = node("GPU-aaaa", "GPU-bbbb"), node("GPU-cccc", "GPU-0000")
    assert [channel.name for channel in one[0].channels] == ["gpu-0", "gpu-1"]
    assert layout.signature(one) == layout.signature(other)
    assert layout.signature(one) != layout.signature(layout.arrays(sensors(3)))


def test_channels_of_one_domain_and_quantity_are_told_apart() -> None:
    power = sensor("node", Quantity.POWER, Kind.GAUGE)
    made = (power, replace(power, backend="ipmi"), replace(power, backend="ipmi", id="third"))
    names = [channel.name for channel in layout.arrays(made)[0].channels]
    assert names == ["synthetic:node", "ipmi:node", "ipmi:node#1"]


def test_every_quantity_has_a_form_and_no_name_is_taken_twice() -> None:
    assert {(quantity, kind) for quantity in Quantity for kind in Kind} == set(layout.FORMS)
    names = [form.name for form in layout.FORMS.values()]
    assert len(names) == len(set(names))
    assert not {"time", "node", layout.OFFSET, *layout.TABLES} & set(names)


@pytest.mark.parametrize("period_ns", [S // 100, S // 10, S, 10 * S, 60 * S, 3600 * S])
def test_nodes_agree_on_the_origin_without_talking(period_ns: int) -> None:
    origin = layout.origin_tick(period_ns, START * S)
    assert origin % layout.shard_rows(period_ns) == 0
    assert 0 <= START * S // period_ns - origin <= layout.shard_rows(period_ns) + layout.EARLY_NS // period_ns
    assert layout.chunk_rows(period_ns) * period_ns >= 60 * S


@given(
    st.from_regex(r"\A[a-z0-9][a-z0-9.-]{0,60}\Z"),
    st.sampled_from(["", "hw-0a1b2c3d", "rate-10ms", "rate-10ms-0a1b2c3d"]),
    st.sampled_from(["running", "complete", "partial"]),
    st.integers(-1, 2**60),
    st.integers(-1, 2**60),
    st.text(max_size=200),
)
def test_a_mark_is_a_file_name_and_comes_back(
    node: str, group: str, state: str, first: int, last: int, why: str
) -> None:
    mark = layout.Mark(node, group, state, first, last, why)
    assert "/" not in mark.name and "\0" not in mark.name and len(mark.name.encode()) < 255
    again = layout.Mark.parse(mark.name)
    assert again is not None
    assert again[:5] == mark[:5]


@pytest.mark.parametrize("name", ["../x", "a/b", "", "n1\n", "\n", "n~1"])
def test_a_node_whose_name_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="node's name"):
        layout.Plan("c", "1", 0, ("n1", name), START * S, S)


def test_other_names_are_no_marks() -> None:
    assert layout.Mark.parse("n1~~complete~1") is None
    assert layout.Mark.parse("n1~~complete~a~b~") is None


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[]", b'{"schema": "perun.trace/2"}', b'{"schema": "perun.trace/1"}', b"\xff"]
)
def test_a_damaged_plan_is_refused(damage: bytes) -> None:
    with pytest.raises(DataError, match=r"layout\.json"):
        layout.Plan.from_json(damage, "layout.json")


@pytest.mark.parametrize("name", ["start_ns", "period_ns"])
@pytest.mark.parametrize("value", [1e9, True, "1000000000", None, -1, 1 << 63])
def test_a_plan_whose_times_are_no_whole_numbers_is_refused(name: str, value: object) -> None:
    described = {**json.loads(layout.Plan("c", "1", 0, ("n1",), START * S, S).to_json()), name: value}
    with pytest.raises(DataError, match=r"layout\.json"):
        layout.Plan.from_json(json.dumps(described).encode(), "layout.json")


def test_energy_steps_resolve_a_milliwatt() -> None:
    steps = {layout.period_label(p): layout.energy_step_uj(p) for p in (S // 1000, S // 100, S // 10, S, 3600 * S)}
    assert steps == {"1ms": 1, "10ms": 10, "100ms": 100, "1s": 1000, "1h": 1000}


@pytest.mark.parametrize(
    ("period_ns", "ticks"),
    [
        (S, [0, 1, 599, 600, DAY - 1, DAY, 3 * DAY, 30 * DAY]),
        (S // 100, [0, 5999, 6000, 864_000, 100 * DAY]),
        (3600 * S, [0, 1, 700, 720]),
        (10 * S, [0]),
    ],
)
def test_any_length_any_period(tmp_path: Path, period_ns: int, ticks: list[int]) -> None:
    first = START * S // period_ns
    store = NodeStore.open(
        tmp_path / "s",
        cluster="c",
        job_id="1",
        restart_count=0,
        node="n1",
        sensors=sensors(2),
        period_ns=period_ns,
        start_ns=START * S,
        sync_ns=None,
    )
    for tick in ticks:
        store.append(first + tick, [tick + 7, 2 * tick])
    store.seal()
    ship(tmp_path / "s", tmp_path / "j", ("n1",))
    assert job_store.finalise(tmp_path / "j", ("n1",), START * S + 40 * DAY * S).state == "complete"
    data = job_store.open_job(tmp_path / "j")
    assert data.sizes["time"] == ticks[-1] + 1
    values = data.energy.sel(node="n1", energy_channel="package-0")
    for tick in ticks:
        assert float(values[tick]) == pytest.approx((tick + 7) * 1e-6)
        assert values.time[tick] == np.datetime64((first + tick) * period_ns, "ns")
    assert int(values.notnull().sum()) == len(ticks)


def test_a_clock_far_ahead_or_behind_does_not_stretch_the_store(tmp_path: Path) -> None:
    for node, start in (("n1", START), ("n2", START + 900 * DAY), ("n3", START - 900 * DAY)):
        store = NodeStore.open(
            tmp_path / node,
            cluster="c",
            job_id="1",
            restart_count=0,
            node=node,
            sensors=sensors(2),
            period_ns=S,
            start_ns=start * S,
            sync_ns=None,
        )
        for index in range(10):
            store.append(start + index, [index, index])
        store.seal()
        ship(tmp_path / node, tmp_path / "j", ("n1", "n2", "n3"))
    job_store.finalise(tmp_path / "j", (), (START + 60) * S)
    data = job_store.open_job(tmp_path / "j")
    assert data.sizes["time"] == 10
    assert float(data.energy.sel(node="n1").values[0, 9]) == pytest.approx(9e-6)
    assert "clock" in str(data.node_status.values[2])
