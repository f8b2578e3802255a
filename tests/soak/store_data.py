"""Synthetic data for the store's tests and benchmarks: what a two-socket node with four GPUs looks like, 40 sensors.

A load that changes every few minutes drives everything. RAPL energy counts in units of 61 uJ (DRAM a fifth of the
package), GPU energy in mJ, the average power of a second varies by 1 %; GPU power in mW varies by 1 %; utilisations are
whole percents with noise, clocks steps of 15 MHz, temperatures whole degrees that follow slowly, memory whole pages; a
network counts packets of 4 KiB, a disk sleeps nine seconds of ten. All from a seeded generator of the standard library:
the same seed gives the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.store.layout import NS_PER_S

START = 1_764_000_000
"""Wall clock, in seconds, at which synthetic jobs start."""


def sensor(domain: str, quantity: Quantity, kind: Kind, component: str = "cpu", wrap: int | None = None) -> Sensor:
    """A sensor in base units."""
    return Sensor(
        id=f"synthetic:{domain}:{quantity}",
        host="",
        backend="synthetic",
        device="",
        domain=domain,
        component=component,
        kind=kind,
        quantity=quantity,
        unit="1",
        wrap_range=wrap,
    )


def sensors(count: int = 40) -> tuple[Sensor, ...]:
    """`count` sensors: 40 is the node described above, more add cores' utilisation and frequency."""
    counter, gauge = Kind.COUNTER, Kind.GAUGE
    made = [
        sensor(f"{part}-{i}", Quantity.ENERGY, counter, wrap=262_144_000_000)
        for part in ("package", "dram")
        for i in (0, 1)
    ]
    made += [sensor(f"gpu-{i}", Quantity.ENERGY, counter, "gpu") for i in range(4)]
    for quantity in (Quantity.POWER, Quantity.UTILISATION, Quantity.FREQUENCY, Quantity.TEMPERATURE, Quantity.DATA):
        made += [sensor(f"gpu-{i}", quantity, gauge, "gpu") for i in range(4)]
    made += [sensor("node", Quantity.POWER, gauge, "node"), sensor("cpu", Quantity.UTILISATION, gauge)]
    made += [sensor(f"package-{i}", Quantity.TEMPERATURE, gauge) for i in (0, 1)]
    made += [sensor("memory", Quantity.DATA, gauge)]
    made += [
        sensor(f"{part}", Quantity.DATA, counter, "net")
        for part in ("net-ib0-in", "net-ib0-out", "disk-in", "disk-out")
    ]
    made += [sensor(f"package-{i}", Quantity.FREQUENCY, gauge) for i in (0, 1)]
    made += [sensor("load", Quantity.COUNT, gauge)]
    core = 0
    while len(made) < count:
        made.append(sensor(f"core-{core // 2}", (Quantity.UTILISATION, Quantity.FREQUENCY)[core % 2], gauge))
        core += 1
    return tuple(made[:count])


def rows(made: tuple[Sensor, ...], count: int, period_ns: int = NS_PER_S, seed: int = 1) -> Iterator[list[int | None]]:
    """`count` rows of raw ticks, one every `period_ns`."""
    random_ = random.Random(seed)
    gauss, seconds = random_.gauss, period_ns / NS_PER_S
    counters = {item.id: random_.randrange(1 << 20) << 12 for item in made}
    level, temperature = 0.7, 60_000
    for index in range(count):
        if index % max(1, round(180 / seconds)) == 0:
            level = random_.uniform(0.1, 1.0)
        temperature += round((35_000 + 40_000 * level - temperature) * min(1.0, seconds / 60))
        row: list[int | None] = []
        for item in made:
            share = 0.2 if item.domain.startswith("dram") else 1.0
            if item.quantity is Quantity.ENERGY:
                joules = share * (60 + 240 * level) * (1 + gauss(0, 0.01)) * seconds
                counters[item.id] += max(
                    0, round(joules * 1e3) * 1000 if item.component == "gpu" else round(joules * 16384)
                )
                gpu = item.component == "gpu"
                row.append(counters[item.id] if gpu else counters[item.id] % (1 << 32) * 1_000_000 >> 14)
            elif item.quantity is Quantity.POWER:
                row.append(max(0, round((60 + 440 * level) * (1 + gauss(0, 0.01)) * 1000)) * 1000)
            elif item.quantity is Quantity.UTILISATION:
                row.append(10 * min(100, max(0, round(100 * level + gauss(0, 3)))))
            elif item.quantity is Quantity.FREQUENCY:
                row.append(1000 * (1410 - 15 * (random_.random() < 0.1)))
            elif item.quantity is Quantity.TEMPERATURE:
                row.append(temperature // 1000 * 1000)
            elif item.kind is Kind.COUNTER:
                busy = item.domain.startswith("net") or random_.random() < 0.1
                counters[item.id] += max(0, round(gauss(250, 60) * seconds * level)) * 4096 if busy else 0
                row.append(counters[item.id])
            elif item.quantity is Quantity.DATA:
                row.append(round(16e9 * level) // 4096 * 4096 + 4096 * random_.randrange(4))
            else:
                row.append(round(100 * level))
        yield row
