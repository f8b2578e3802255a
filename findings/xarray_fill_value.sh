#!/bin/sh
# xarray 2025.9.0 turns an array's fill values into NaN when the store is Zarr v2, and leaves them as numbers when the same
# array is stored as Zarr v3: seconds without a reading (fill value -1) silently enter a mean power. A store in v3 needs the
# attribute `_FillValue` beside the array's own fill_value.
# Needs: python3 with venv. Exits 0 while this holds.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check "zarr==3.1.6" "xarray==2025.9.0" "numpy==2.2.6" "pandas==2.3.3" 2>/dev/null

cat >read.py <<'PY'
import warnings

import xarray
import zarr

warnings.simplefilter("ignore")
for version in (2, 3):
    group = zarr.open_group(f"v{version}.zarr", mode="w", zarr_format=version)
    names = {"dimension_names": ["time"]} if version == 3 else {}
    power = group.create_array("power", shape=(4,), chunks=(2,), dtype="int64", fill_value=-1, **names)
    if version == 2:
        power.attrs["_ARRAY_DIMENSIONS"] = ["time"]
    power[:2] = [100, 200]
    mean = float(xarray.open_zarr(f"v{version}.zarr", consolidated=False).power.mean())
    print(f"xarray {xarray.__version__}, Zarr v{version}: readings of 100 and 200 W and two gaps, mean {mean:g} W")
PY
env/bin/python read.py | tee seen
cat >expected <<'TEXT'
xarray 2025.9.0, Zarr v2: readings of 100 and 200 W and two gaps, mean 150 W
xarray 2025.9.0, Zarr v3: readings of 100 and 200 W and two gaps, mean 74.5 W
TEXT
cmp -s seen expected || { echo "behaves otherwise now"; exit 1; }
