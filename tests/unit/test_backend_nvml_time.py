from __future__ import annotations

from types import SimpleNamespace

from perun_hpc.backend.gpus import Gpu
from perun_hpc.backend.nvml import NvmlGpu

S = 1_000_000_000
GPU = Gpu("GPU-a", "0000:10:00.0", 0, "GPU")


class LibraryError(Exception):
    pass


class Library:
    """pynvml's names as far as one field call needs them; every other call is not supported."""

    NVMLError = LibraryError
    NVML_SUCCESS = 0
    NVML_POWER_SCOPE_GPU, NVML_POWER_SCOPE_MODULE = 0, 1
    NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT = 83, 185, 186
    NVML_VALUE_TYPE_UNSIGNED_INT = 1
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self):
        self.stamp_us = 0

    def nvmlDeviceGetFieldValues(self, handle, fields):
        value = SimpleNamespace(uiVal=7, ullVal=7)
        return [
            SimpleNamespace(nvmlReturn=0, valueType=3, value=value, timestamp=self.stamp_us, fieldId=field)
            for field, _ in fields
        ]

    def __getattr__(self, name):
        def unsupported(*args):
            raise LibraryError(f"{name} is not supported")

        return unsupported


class Clocks:
    """Both clocks of a machine; reading one takes a microsecond, a step moves the real one alone."""

    def __init__(self):
        self.mono = 100 * S
        self.offset = 1_700_000_000 * S

    def monotonic(self):
        self.mono += 1000
        return self.mono

    def real(self):
        self.mono += 1000
        return self.mono + self.offset


def opened():
    clocks, library = Clocks(), Library()
    library.stamp_us = (clocks.mono + clocks.offset) // 1000
    return clocks, library, NvmlGpu(library, GPU, None, 0, clocks.monotonic, clocks.real)


def test_one_time_stamp_is_one_moment_however_often_it_is_read():
    clocks, _, gpu = opened()
    first = gpu.read()[0]
    clocks.mono += 40_000_000
    assert gpu.read()[0].mono_ns == first.mono_ns
    assert clocks.mono - first.mono_ns >= 40_000_000


def test_a_step_of_the_real_clock_moves_no_reading():
    for step_s in (-3600, 3600):
        clocks, library, gpu = opened()
        before = gpu.read()[0]
        clocks.offset += step_s * S
        clocks.mono += S
        library.stamp_us = (clocks.mono + clocks.offset) // 1000
        after = gpu.read()[0]
        assert after.ticks == 7
        assert abs(after.mono_ns - before.mono_ns - S) < 1_000_000


def test_a_stamp_of_the_future_is_taken_as_now():
    clocks, library, gpu = opened()
    library.stamp_us += 5_000_000
    assert gpu.read()[0].mono_ns <= clocks.mono


def test_an_old_stamp_is_a_frozen_value():
    clocks, _, gpu = opened()
    clocks.mono += 61 * S
    reading = gpu.read()[0]
    assert (reading.ticks, reading.error) == (None, "frozen: the value is 61 s old")
