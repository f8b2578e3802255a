#!/bin/sh
# zarrita 0.7.5 (a Zarr reader for browsers and Node.js) takes the index of a shard from the shard's end although the array's
# metadata says "index_location": "start". Where the data end with fill values, as in an array that was made longer than the
# job that filled it, those bytes look like an index of absent chunks: the whole array is read as fill values, without an
# error. zarr-python 3.1.6 wrote the store and reads it rightly; with the index at the end zarrita reads it rightly, too.
# Needs: python3 with venv, npm. Exits 0 while this holds.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check "zarr==3.1.6" "numpy==2.2.6" 2>/dev/null
echo '{"private": true}' >package.json
npm install --silent --no-audit --no-fund zarrita@0.7.5 @zarrita/storage@0.2.0 >/dev/null 2>&1

cat >write.py <<'PY'
import numpy as np
import zarr

for place in ("start", "end"):
    array = zarr.create_array(
        f"{place}.zarr", shape=(1000,), chunks=(100,), shards={"shape": (1000,), "index_location": place},
        dtype="int64", fill_value=-1, compressors=None, zarr_format=3,
    )
    array[:960] = np.arange(960)
    values = zarr.open_array(f"{place}.zarr")[:]
    print(f"zarr-python {zarr.__version__}, index at the {place}: {(values != -1).sum()} of 1000 values")
PY
cat >read.mjs <<'JS'
import * as zarr from "zarrita";
import { FileSystemStore } from "@zarrita/storage";
for (const place of ["start", "end"]) {
  const array = await zarr.open(new FileSystemStore(`${process.cwd()}/${place}.zarr`), { kind: "array" });
  const values = Array.from((await zarr.get(array, null)).data);
  console.log(`zarrita 0.7.5, index at the ${place}: ${values.filter((one) => one !== -1n).length} of 1000 values`);
}
JS
{ env/bin/python write.py; node read.mjs; } | tee seen
cat >expected <<'TEXT'
zarr-python 3.1.6, index at the start: 960 of 1000 values
zarr-python 3.1.6, index at the end: 960 of 1000 values
zarrita 0.7.5, index at the start: 0 of 1000 values
zarrita 0.7.5, index at the end: 960 of 1000 values
TEXT
cmp -s seen expected || { echo "behaves otherwise now"; exit 1; }
