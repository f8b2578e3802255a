"""Dataclasses as JSON and back: what comes back is what went, and all else is refused, with the field's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.backend.gpus import Gpu, Partition
from perun_hpc.data_model import codec
from perun_hpc.data_model.data import Metric, MetricType, RawData, Region
from perun_hpc.data_model.sensor import Sensor
from perun_hpc.energy.static import StaticPower


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Part:
    name: str
    share: float
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Whole:
    number: int
    yes: bool
    parts: tuple[Part, ...]
    pair: tuple[int, str]
    words: list[str]
    by_day: Mapping[int, dict[str, int]]
    either: int | str | None
    free: Any = None
    more: list[Part] = field(default_factory=list)


GOOD = Whole(
    1, True, (Part("a", 0.5),), (1, "x"), ["w"], {3: {"k": 4}}, "t", [{"n": None}], [Part("b", 1.0, Colour.BLUE)]
)
texts = st.text(max_size=3)
parts = st.builds(Part, texts, st.floats(allow_nan=False), st.sampled_from(Colour))
wholes = st.builds(
    Whole, st.integers(), st.booleans(), st.lists(parts, max_size=3).map(tuple), st.tuples(st.integers(), texts),
    st.lists(texts, max_size=3),
    st.dictionaries(st.integers(), st.dictionaries(texts, st.integers(), max_size=2), max_size=2),
    st.none() | st.integers() | texts, st.none() | texts, st.lists(parts, max_size=2),
)  # fmt: skip
sensors = st.builds(
    Sensor, **{name: texts for name in ("id", "host", "backend", "device", "domain", "component", "unit")},
    scale_den=st.integers(1, 9), max_uw=st.none() | st.integers(),
)  # fmt: skip
metrics = st.builds(Metric, value=st.floats(allow_nan=False), type=st.sampled_from(MetricType))
values = st.one_of(
    wholes, sensors, metrics,
    st.builds(Gpu, minor=st.none() | st.integers(), slices=st.none(), partitions=st.tuples(st.builds(Partition))),
    st.builds(Region, metrics=st.dictionaries(st.sampled_from(MetricType), metrics, max_size=2)),
    st.builds(RawData), st.builds(StaticPower),
)  # fmt: skip


@given(values)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    text = json.dumps(codec.encode(value), allow_nan=True)
    back = codec.decode(type(value), json.loads(text))
    assert back == value or "NaN" in text
    assert codec.wrong(back) == []


def test_what_a_later_version_wrote_beside_is_passed_over_and_what_has_a_usual_value_may_be_missing() -> None:
    data = {**codec.encode(GOOD), "new": [1]}
    del data["more"]
    del data["parts"][0]["colour"]
    found = codec.decode(Whole, data)
    assert (found.more, found.parts) == ([], GOOD.parts)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", "1"), ("number", True), ("number", 1.0), ("number", None), ("yes", 1), ("parts", {}),
        ("parts", "ab"),
        ("parts", [1]), ("parts", [{"name": "a"}]), ("parts", [{"name": "a", "share": 1, "colour": "green"}]),
        ("parts", [{"name": "a", "share": "x"}]), ("pair", [1]), ("pair", [1, "x", 2]), ("pair", ["x", 1]),
        ("words", [1]),
        ("by_day", []), ("by_day", {"x": {}}), ("by_day", {"1": {"k": "v"}}), ("either", 1.5), ("either", []),
        ("more", None),
    ],
)  # fmt: skip
def test_what_is_of_another_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(codec.MISFITS):
        codec.decode(Whole, {**codec.encode(GOOD), key: value})


def test_what_is_missing_or_wrong_is_named() -> None:
    data = codec.encode(GOOD)
    with pytest.raises(TypeError, match="parts: share: expected float, got 'x'"):
        codec.decode(Whole, {**data, "parts": [{"name": "a", "share": "x"}]})
    del data["number"]
    with pytest.raises(KeyError, match=r"Whole\.number is missing"):
        codec.decode(Whole, data)
    with pytest.raises(TypeError, match="an object for Whole"):
        codec.decode(Whole, [])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda one: st.lists(one, max_size=3) | st.dictionaries(texts, one, max_size=3),
    )
)
def test_whatever_json_comes_there_is_a_value_or_one_of_the_misfits(data: object) -> None:
    for kind in (Whole, Sensor, Gpu, Region):
        for value in (data, {**codec.encode(GOOD), "free": data, "either": data}):
            try:
                found = codec.decode(kind, value)
            except codec.MISFITS:
                continue
            assert codec.wrong(found) == []
