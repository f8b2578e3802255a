"""The notebooks of docs/notebooks run from top to bottom on a month of simulated jobs, and hold nothing of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from demo import month

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("month")
    month.make(root)
    before = dict(os.environ)
    os.environ |= {
        "SLURM_CLUSTER_NAME": month.CLUSTER,
        "PERUN_POLICY": str(root / "policy.yaml"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "MPLBACKEND": "agg",
    }
    yield root
    os.environ.clear()
    os.environ.update(before)


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["month_of_jobs", "one_job", "scaling_study"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, archive: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=200,
        startup_timeout=200,
        kernel_name="python3",
        resources={"metadata": {"path": str(archive)}},
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any(output.output_type == "execute_result" for output in outputs)
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    nbformat.validate(notebook)
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
