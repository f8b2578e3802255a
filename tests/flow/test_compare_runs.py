"""`perun compare` of runs that `perun monitor` stored on this machine, whatever it has for sensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perun_hpc.data_model.data import MetricType
from perun_hpc.monitoring.runs import read
from perun_hpc.report.stored import HOST, of_tree

PERUN = [sys.executable, "-m", "perun_hpc.cli.main"]


@pytest.fixture
def perun(tmp_path: Path):
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PERUN", "PYTHONPATH", "PMI", "SLURM"))}
    environ["HOME"] = str(tmp_path)

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PERUN, *words], cwd=tmp_path, env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=120,
        )  # fmt: skip

    return start


def ids(tmp_path: Path) -> list[str]:
    return [path.parent.name for path in sorted(tmp_path.glob("perun_results/*/*/run.json"))]


def test_stored_runs_by_id_by_directory_and_by_name(perun, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import time; time.sleep(0.3)\n")
    for _ in range(3):
        assert perun("monitor", "--rounds", "2", "app.py").returncode == 0
    first, second, third = ids(tmp_path)
    by_id = perun("compare", first, second, "--stored")
    assert by_id.returncode == 0, by_id.stderr
    assert f"{second} beside {first}" in by_id.stdout and "energy x time" in by_id.stdout
    by_directory = perun("compare", f"perun_results/app/{first}", f"perun_results/app/{second}", "--stored")
    assert by_directory.stdout == by_id.stdout
    # Slurm's commands on this machine do not matter for what is no job's id.
    assert perun("compare", first, second).stdout == by_id.stdout
    repeats = json.loads(perun("compare", f"{first},{second}", third, "--stored", "--json").stdout)
    assert [len(side["runs"]) for side in repeats["sides"]] == [4, 2], "each round is a repeat"
    assert repeats["beside_the_first"][0]["same_nodes"] == 1
    named = perun("compare", "-n", "app", "--stored")
    assert f"{third} beside 2 runs before" in named.stdout
    assert perun("compare", first, "none", "--stored").returncode == 66
    twice = perun("compare", first, first, "--stored")
    assert twice.returncode == 64 and "is there twice" in twice.stderr
    beside = json.loads(perun("compare", "-n", "app", first, "--stored", "--json").stdout)
    labels = [[one["label"].rpartition(":")[0] for one in side["runs"][::2]] for side in beside["sides"]]
    assert labels == [[third, second], [first]], "a run is not among those that it is held against"


def test_a_stored_runs_parts_are_its_own_figures(perun, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("sum(range(10**6))\n")
    perun("monitor", "app.py")
    tree = read(next(tmp_path.glob("perun_results/*/*/run.json")))
    (subject,) = of_tree(tree)
    (run,) = tree.nodes.values()
    assert subject.parts[HOST].energy_uj / 1e6 == pytest.approx(run.value(MetricType.ENERGY), abs=1e-5)
    assert subject.u_uj / 1e6 == pytest.approx(run.metrics[MetricType.ENERGY].uncertainty, rel=0.01, abs=1e-5)
    assert all(cause.startswith("gain ") or cause == "random" for cause in subject.parts[HOST].doubts)


def test_one_run_of_a_name_is_not_compared(perun, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("pass\n")
    perun("monitor", "app.py")
    done = perun("compare", "-n", "app", "--stored")
    assert done.returncode == 66 and "only run of app" in done.stderr
