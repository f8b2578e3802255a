"""The DCGM backend against a shared library with libdcgm's ABI, loaded through the same dlopen as the real one."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from perun_hpc.backend.gpus import instance_of
from tests.vendor_stubs import STUBS, built, read

TWO = "instance GPU-a 1 0 4\ninstance GPU-a 2 0 5\n"
SOCKET = "/run/nv-hostengine.sock"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dcgm")
    built(STUBS / "dcgm.c", directory / "libdcgm.so.4")
    return directory


@pytest.fixture
def engine(library, tmp_path):
    def run(text, reads=2, fails=False):
        config = tmp_path / "config"
        config.write_text(text)
        done, log = read("dcgm", library, config, reads, address=SOCKET)
        assert (done.returncode != 0) == fails, done.stderr
        return json.loads(done.stdout or "null"), log, done.stderr

    return run


def test_every_value_is_the_one_that_the_engine_held(engine):
    seen, log, _ = engine(f"{TWO}value 4 1002 0.25\nvalue 5 1002 0.913\n")
    first, second = seen["sensors"]
    assert (first["domain"], instance_of(first["id"]), instance_of(second["id"])) == ("gpu-GPU-a", "1/0", "2/0")
    assert first["quantity"] == "utilisation"
    rows = [[ticks for ticks, *_ in row] for row in seen["rows"]]
    assert rows == [[250, 913]] * 2
    served = {(line[1], int(line[3])) for line in log if line[0] == "value"}
    assert served == {("4", 250), ("5", 913)}
    assert log[0][0] == SOCKET
    assert [line[0] for line in log[-2:]] == ["dcgmDisconnect", "dcgmShutdown"]


def test_where_nobody_collects_the_busy_sms_the_engines_activity_stands(engine):
    seen, _, _ = engine(f"{TWO}value 4 1001 0.5\nvalue 5 1001 0.1\nvalue 5 1002 0.05\n")
    assert [ticks for ticks, *_ in seen["rows"][-1]] == [500, 50]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "nobody watches field 1002 or 1001"),
        ("status 4 1002 -14\nstatus 4 1001 -14\n", "no value yet"),
        ("status 4 1002 -45\nstatus 4 1001 -45\n", "is not there any more"),
        ("status 4 1002 -99\nstatus 4 1001 -99\n", "DCGM's error -99"),
        ("value 4 1002 blank\n", "no value yet"),
        ("value 4 1002 1.7\n", "1.7 is no share"),
        ("value 4 1002 -0.2\n", "-0.2 is no share"),
        ("value 4 1002 nan\n", "nan is no share"),
        ("value 4 1002 0.5 300\n", "frozen"),
    ],
)
def test_what_is_no_activity_is_a_gap_with_its_reason_and_costs_the_other_nothing(engine, said, why):
    seen, _, _ = engine(f"{TWO}value 5 1002 0.5\n{said}" + ("status 4 1001 -16\n" if "value" in said else ""))
    (ticks, _, error), (other, *_) = seen["rows"][-1]
    assert ticks is None
    assert why in error
    assert other == 500


def test_a_reading_has_the_time_at_which_the_engine_collected_it(engine):
    before_ns = time.monotonic_ns()
    seen, _, _ = engine(f"{TWO}value 4 1002 0.5 20\nvalue 5 1002 0.5\n", reads=1)
    (_, old_ns, _), (_, new_ns, _) = seen["rows"][0]
    assert old_ns < before_ns < new_ns
    assert 19e9 < new_ns - old_ns < 21e9


def test_a_little_more_than_all_of_the_time_is_all_of_it(engine):
    seen, _, _ = engine(f"{TWO}value 4 1002 1.004\nvalue 5 1002 1\n")
    assert [ticks for ticks, *_ in seen["rows"][-1]] == [1000, 1000]


def test_compute_instances_of_one_gpu_instance_share_what_is_known_of_it(engine):
    seen, _, _ = engine("instance GPU-a 3 0 9\ninstance GPU-a 3 1 9\nvalue 9 1002 0.4\n")
    assert [instance_of(one["id"]) for one in seen["sensors"]] == ["3/0", "3/1"]
    assert [ticks for ticks, *_ in seen["rows"][-1]] == [400, 400]


def test_no_engine_and_no_instances_are_told_apart(engine):
    seen, _, _ = engine("refused\n")
    ((what, why, _),) = seen["missing"]
    assert (what, seen["sensors"]) == ("activity of MIG instances", [])
    assert SOCKET in why
    assert "connection is not valid" in why
    nothing, log, _ = engine("")
    assert (nothing["sensors"], nothing["missing"]) == ([], [])
    assert log[-1][0] == "dcgmShutdown"


def test_an_engine_that_ends_ends_the_reader(engine, tmp_path):
    _, _, said = engine(f"{TWO}gone\n", fails=True)
    assert "DcgmError" in said


def test_without_the_library_the_reason_says_what_to_install(tmp_path):
    from perun_hpc.backend import dcgm

    def load(name):
        raise OSError(name)

    (missing,) = dcgm.discover(load=load).missing
    assert "libdcgm.so.4" in missing.why
    assert "datacenter-gpu-manager" in missing.remedy
