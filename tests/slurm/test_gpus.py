"""What slurmd tells the hooks of a job's GPUs: those of Slurm's own fake_gpus.conf, which names some by UUID."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from devcluster import Cluster
from tests.slurm.breaks import until

pytestmark = pytest.mark.cluster

NODE = "n4"
OLD_NAME = "MIG-GPU-11aa22bb-0000-0001/2/0"
FAKE = f"""\
mig|4|0-3|(null)|/dev/full|MIG-aaaa1111-01|nvidia_gpu_env
mig|4|0-3|(null)|/dev/null|{OLD_NAME}|nvidia_gpu_env
mig|4|0-3|(null)|/dev/zero|(null)|nvidia_gpu_env
"""
"""Type, CPUs, links, device file, unique id, flags (`_add_fake_gpus_from_file` of Slurm's gres_gpu.c, later gpu.c)."""


@pytest.fixture(scope="module")
def gpus(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster of which one node has three GPUs."""
    conf, fake = cluster.etc_slurm / "slurm.conf", cluster.etc_slurm / "fake_gpus.conf"
    gres, former = cluster.etc_slurm / "gres.conf", conf.read_text()
    (line,) = [one for one in former.splitlines() if one.startswith("NodeName=")]
    others = line.replace(f",{NODE} ", " ")
    alone = line.replace(line.split()[0], f"NodeName={NODE}") + " Gres=gpu:mig:3"
    conf.write_text(former.replace(line, f"GresTypes=gpu\n{others}\n{alone}"))
    fake.write_text(FAKE)
    gres.write_text(f"NodeName={NODE} Name=gpu Type=mig Count=3\n")
    _begin_anew(cluster)
    yield cluster
    conf.write_text(former)
    fake.unlink()
    gres.unlink()
    _begin_anew(cluster)


def _begin_anew(cluster: Cluster) -> None:
    """All daemons read the files; slurmctld drains a node whose slurmd reports fewer GPUs than it knows of."""
    for node in cluster.nodes:
        cluster.stop("slurmd", node)
    cluster.restart("slurmctld")
    for node in cluster.nodes:
        cluster.start("slurmd", node)
    cluster.wait_idle()


def record(cluster: Cluster, *words: str) -> dict[str, Any]:
    """The node's boundary record of a job with so many GPUs."""
    command = ["srun", "-Q", "-w", NODE, *words, "sh", "-c", "echo $SLURM_JOB_ID"]
    job = cluster.run(command, check=True, timeout=90).stdout.split()[-1]
    path = (
        cluster.shared
        / "perun"
        / cluster.name
        / "jobs"
        / f"{int(job) // 1000}"
        / f"{job}.0"
        / "boundary"
        / f"{NODE}.json"
    )
    until(f"a record of job {job}", path.exists)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_record_names_each_device_by_its_uuid_where_slurmd_knows_it(gpus: Cluster) -> None:
    assert record(gpus, "--gpus=3")["gpus"] == f"MIG-aaaa1111-01,{OLD_NAME},2"
    assert record(gpus, "--gpus=1")["gpus"] == "MIG-aaaa1111-01"
    assert record(gpus)["gpus"] is None


def test_a_gpu_that_perun_cannot_read_there_is_named(gpus: Cluster) -> None:
    (note,) = [one for one in record(gpus, "--gpus=1")["notes"] if "GPU" in one]
    assert note.startswith("GPU MIG-aaaa1111-01 is none that can be read here")
