"""What perun writes opens, without a warning, in every reader that a user may have."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorstore

from perun_hpc.store import job_store, layout
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.soak.store_data import START, rows, sensors

S = layout.NS_PER_S
NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("readers")
    for seed, node in enumerate(NODES[:2]):
        store = NodeStore.open(
            root / node,
            cluster="c",
            job_id="1",
            restart_count=0,
            node=node,
            sensors=sensors(),
            period_ns=S,
            start_ns=START * S,
        )
        for index, row in enumerate(rows(sensors(), 700, seed=seed)):
            store.append(START + index, row)
        store.seal()
        ship(root / node, root / "job", NODES)
    job_store.finalise(root / "job", NODES, (START + 9999) * S, (START + 9999) * S)
    return root / "job"


READ = """
import json, sys, warnings
warnings.simplefilter("error")
import numpy, xarray, zarr
path, pipeline = sys.argv[1:]
if pipeline:
    import zarrs
    zarr.config.set({"codec_pipeline.path": pipeline})
group = zarr.open_group(path, mode="r")["samples"]
names = sorted(name for name, array in group.arrays() if array.ndim > 1)
sums = {name: int(numpy.asarray(group[name][:2]).astype("int64").sum()) for name in names}
data = xarray.open_datatree(path, engine="zarr", chunks=None)["samples"]
power = data.power.sel(node="n2", power_channel="gpu-1")
print(json.dumps([zarr.__version__, sums, float(power.sum()), str(data.node_status.values[2])]))
"""


def read_with(python: str, job: Path, pipeline: str = "") -> list[object]:
    result = subprocess.run(
        [python, "-c", READ, str(job / layout.STORE), pipeline], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return list(json.loads(result.stdout))


def runs(python: str | Path, program: str) -> bool:
    """Whether there is such an interpreter, and the program succeeds in it."""
    if shutil.which(python) is None:
        return False
    return subprocess.run([python, "-c", program], capture_output=True).returncode == 0


def newest() -> str:
    """An interpreter with the newest zarr and zarrs, made once per machine; skips where it cannot be had.

    It stands in its place when it is whole, and is made anew when the Python that it came from is gone.
    """
    home = Path(tempfile.gettempdir()) / "perun-test-zarr-newest"
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not runs(home / "bin/python", "import zarr, xarray, zarrs"):
            with tempfile.TemporaryDirectory(prefix=f"{home.name}-") as beside:
                made = make(Path(beside) / "venv")
                shutil.rmtree(home, ignore_errors=True)
                made.rename(home)
    return str(home / "bin/python")


def make(home: Path) -> Path:
    """Make the environment; returns it."""
    listed = subprocess.run(["bash", "-c", "ls -d $(pyenv root)/versions/3.1[2-9]*/bin/python"], capture_output=True)
    candidates = [f"python3.{minor}" for minor in (14, 13, 12)] + listed.stdout.decode().split()
    base = next((path for path in candidates if runs(path, "import venv")), None)
    if base is None:
        pytest.skip("zarr 3.2 and newer need Python 3.12, which is not here")
    for command in (
        [base, "-m", "venv", str(home)],
        [str(home / "bin/python"), "-m", "pip", "install", "-q", "zarr>=3.2", "xarray", "zarrs"],
    ):
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"{' '.join(command)} failed: no newest zarr here")
    return home


def test_the_newest_zarr_reads_the_same(job: Path) -> None:
    ours = read_with(sys.executable, job)
    newer = read_with(newest(), job)
    assert newer[0] != ours[0]
    assert newer[1:] == ours[1:]
    assert ours[3] == "missing: no data by the deadline"


def test_zarrs_reads_the_same(job: Path) -> None:
    assert read_with(newest(), job, "zarrs.ZarrsCodecPipeline")[1:] == read_with(sys.executable, job)[1:]


def test_tensorstore_reads_the_same(job: Path) -> None:
    group = job_store.open_group(job)
    for part in layout.arrays(sensors()):
        path = job / layout.STORE / layout.MAIN / part.form.name
        array = tensorstore.open({"driver": "zarr3", "kvstore": f"file://{path}/"}).result()
        np.testing.assert_array_equal(array[:2].read().result(), np.asarray(group[part.form.name][:2]))  # type: ignore[index]


def test_the_dataset_reads_like_a_sentence(job: Path) -> None:
    data = job_store.open_job(job)
    power = data.power.sel(node="n2", power_channel="gpu-1")
    assert power.attrs["units"] == "W"
    assert 50 < float(power.mean()) < 600
    assert data.energy.dims == ("node", "energy_channel", "time")
    assert data.time.values[0] == np.datetime64(START, "s")
    assert {"node_status", "node_until", "node", "time", "energy_channel"} <= set(data.coords)
    assert data.attrs["perun_layout"] == layout.VERSION


def test_the_writer_imports_neither_zarr_nor_numpy() -> None:
    code = (
        "import sys, perun_hpc.store.node_store, perun_hpc.store.ship, perun_hpc.store.merge\n"
        "print(sorted({'numpy', 'zarr', 'yaml', 'ctypes'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_tensorstore_has_the_names_by_its_key_value_store(job: Path) -> None:
    """It knows no `string` arrays; docs/store.md has these lines for who needs their names there."""
    page = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    (block,) = re.findall(r"```python\n(import struct\n.*?)```", page, re.DOTALL)
    scope: dict[str, object] = {}
    exec(block.replace("job.zarr", str(job / layout.STORE)), scope)
    assert scope["names"] == list(NODES)
    with pytest.raises(ValueError, match="string"):
        tensorstore.open(
            {"driver": "zarr3", "kvstore": f"file://{job / layout.STORE / layout.MAIN / 'node'}/"}
        ).result()
