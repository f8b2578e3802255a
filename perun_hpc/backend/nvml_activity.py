"""How busy MIG instances are, by NVML's GPM (GPU performance monitoring)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from perun_hpc.backend.base import Clock
from perun_hpc.data_model.sensor import Reading

UPDATE_NS = 100_000_000


class Activity:
    """SM activity of MIG instances, each the mean since its reading before; NVML's GPM shows it from Hopper on.

    Two samples nearer than `UPDATE_NS` show too little: the reading before stands.
    """

    def __init__(self, library: Any, handle: Any, numbers: Sequence[int], clock: Clock) -> None:
        """`numbers` are those of the GPU instances."""
        self._library, self._handle, self._numbers, self._clock = library, handle, numbers, clock
        self._samples: dict[int, list[Any]] = {}
        self._readings: dict[int, Reading] = {}

    def ask(self) -> list[Reading]:
        """One reading per instance; a gap at the first time."""
        return [self._one(number) for number in self._numbers]

    def _one(self, number: int) -> Reading:
        library, now, before = self._library, self._clock(), self._readings.get(number)
        if before is not None and now - before.mono_ns < UPDATE_NS:
            return before
        samples = self._samples.setdefault(number, [])
        try:
            if len(samples) < 2:
                samples.append(library.nvmlGpmSampleAlloc())
            else:
                samples.reverse()
            library.nvmlGpmMigSampleGet(self._handle, number, samples[-1])
            reading = Reading(None, now, "first sample") if len(samples) < 2 else self._between(samples, now)
        except library.NVMLError as error:
            self._free(number)
            reading = Reading(None, now, str(error))
        self._readings[number] = reading
        return reading

    def _between(self, samples: Sequence[Any], now: int) -> Reading:
        library = self._library
        wanted = library.c_nvmlGpmMetricsGet_t()
        wanted.version, wanted.numMetrics = library.NVML_GPM_METRICS_GET_VERSION, 1
        wanted.sample1, wanted.sample2 = samples
        wanted.metrics[0].metricId = library.NVML_GPM_METRIC_SM_UTIL
        (found, *_) = library.nvmlGpmMetricsGet(wanted).metrics
        if found.nvmlReturn != library.NVML_SUCCESS or not math.isfinite(found.value):
            return Reading(None, now, "the library shows no activity")
        return Reading(round(10 * found.value), now)

    def _free(self, number: int) -> None:
        for sample in self._samples.pop(number, ()):
            with contextlib.suppress(self._library.NVMLError):
                self._library.nvmlGpmSampleFree(sample)

    def close(self) -> None:
        """Give the samples back."""
        for number in list(self._samples):
            self._free(number)
