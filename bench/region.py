"""What regions cost: working up 10^5 calls over 10^5 readings of 50 sensors, and marking one call; beside perun 1.0.0.

The peer's work grows with calls x sensors x readings; it is measured with fewer calls and multiplied, which stands with
the figure.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from bench import peers
from bench.result import Result, medians
from perun_hpc.energy import region_arrays

ROUNDS = 3
CALLS, READINGS, SENSORS = 100_000, 100_000, 50
PEER_CALLS = 20
MARKS = 200_000

PEER_PROCESS = f"""
import time
import numpy as np
from perun.data_model.data import DataNode, NodeType, RawData, Region
from perun.data_model.measurement_type import Magnitude, MetricMetaData, Unit
from perun.data_model.sensor import DeviceType
from perun.processing import processRegionsWithSensorData
second = MetricMetaData(Unit.SECOND, Magnitude.ONE, np.dtype("float32"), 0, 1e9, -1)
watt = MetricMetaData(Unit.WATT, Magnitude.ONE, np.dtype("float32"), 0, 1e9, -1)
rng = np.random.default_rng(1)
times = np.arange({READINGS}) * 0.01
sensors = {{
    str(i): DataNode(str(i), NodeType.SENSOR, deviceType=DeviceType.CPU,
                     raw_data=RawData(times, rng.random({READINGS}), second, watt))
    for i in range({SENSORS})
}}
group = DataNode("cpu", NodeType.DEVICE_GROUP, nodes=sensors, deviceType=DeviceType.CPU)
run = DataNode("run", NodeType.RUN, nodes={{
    "host": DataNode("host", NodeType.NODE, metadata={{"mpi_ranks": [0]}}, nodes={{"cpu": group}})}})
events = np.sort(rng.random(2 * {PEER_CALLS}) * times[-1])
region = Region("region", {{0: events}})
begin = time.perf_counter()
processRegionsWithSensorData([region], run)
print(time.perf_counter() - begin)
"""
PEER_MARK = f"""
import time
from perun import monitor
@monitor("region")
def marked(): pass
def plain(): pass
def cost(function):
    begin = time.perf_counter()
    for _ in range({MARKS}): function()
    return time.perf_counter() - begin
cost(marked)
print((cost(marked) - cost(plain)) / {MARKS} * 1e6)
"""
OUR_MARK = PEER_MARK.replace(
    "from perun import monitor", "from perun_hpc.inject.regions import monitor, recorder\nrecorder.open()"
)


def run() -> Iterator[Result]:
    """Yield `region.seconds.1e5` and `region.mark_us`."""
    peer = str(peers.python("perun"))
    taken = medians({"ours": _process_s, "theirs": lambda: _python(peer, PEER_PROCESS)}, ROUNDS)
    factor = CALLS // PEER_CALLS
    yield Result(
        "region.seconds.1e5",
        taken["ours"],
        "s",
        f"perun 1.0.0, {PEER_CALLS} x {factor}",
        taken["theirs"] * factor,
        n=ROUNDS,
    )
    marks = medians(
        {"ours": lambda: _python(sys.executable, OUR_MARK), "theirs": lambda: _python(peer, PEER_MARK)}, ROUNDS
    )
    yield Result("region.mark_us", marks["ours"], "us", "perun 1.0.0", marks["theirs"], n=ROUNDS)


def _process_s() -> float:
    rng = np.random.default_rng(1)
    times_ns = np.arange(READINGS, dtype=np.int64) * 10_000_000
    columns = np.cumsum(rng.integers(0, 1000, (SENSORS, READINGS)), axis=1).astype(float)
    starts = rng.integers(0, times_ns[-1], CALLS)
    ends = starts + rng.integers(1, 20_000_000, CALLS)
    begin_s = time.perf_counter()
    region_arrays.Readings(times_ns, columns).used(region_arrays.union(starts, ends))
    return time.perf_counter() - begin_s


def _python(interpreter: str, code: str) -> float:
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])
