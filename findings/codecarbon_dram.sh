#!/bin/sh
# CodeCarbon 3.3.2 has the option rapl_include_dram ("include DRAM domain for complete hardware measurement"). On a server the
# kernel shows each socket's DRAM as a child of its package (intel-rapl:0:0 below intel-rapl:0), and there the option adds
# nothing: CodeCarbon takes such a child for a part of the package, which RAPL's DRAM domain is not. Two sockets of 100 W with
# 20 W of DRAM each give 200 W either way; only the log, at its finest level, shows it.
# Needs: python3 with venv. Exits 0 while this holds.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check "codecarbon==3.3.2" 2>/dev/null

cat >read.py <<'PY'
import logging
import pathlib
from importlib.metadata import version

from codecarbon.core.cpu import IntelRAPL
from codecarbon.core.units import Time

logging.disable(logging.CRITICAL)
base = pathlib.Path("powercap/intel-rapl").absolute()
zones = {}
for socket in (0, 1):
    package = base / f"intel-rapl:{socket}"
    zones[package] = (f"package-{socket}", 100, 70_000_000 * (socket + 1))
    zones[package / f"intel-rapl:{socket}:0"] = ("dram", 20, 15_000_000 * (socket + 1))


def show(seconds):
    for path, (name, watts, start_uj) in zones.items():
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "energy_uj").write_text(f"{start_uj + watts * seconds * 1_000_000}\n")
        (path / "max_energy_range_uj").write_text("262143328850\n")


for wanted in (False, True):
    show(0)
    rapl = IntelRAPL(rapl_dir=str(base), rapl_include_dram=wanted)
    rapl.start()
    show(10)
    joules = sum(kwh for name, kwh in rapl.get_cpu_details(Time.from_seconds(10)).items() if "Energy" in name) * 3.6e6
    print(f"CodeCarbon {version('codecarbon')}, rapl_include_dram={wanted}: {joules / 10:.0f} W")
PY
env/bin/python read.py | tee seen
cat >expected <<'TEXT'
CodeCarbon 3.3.2, rapl_include_dram=False: 200 W
CodeCarbon 3.3.2, rapl_include_dram=True: 200 W
TEXT
cmp -s seen expected || { echo "behaves otherwise now"; exit 1; }
