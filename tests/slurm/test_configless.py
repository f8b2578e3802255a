"""A node without configuration files of its own: what travels from slurmctld, and that perun measures there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from devcluster import Cluster, site
from tests.slurm.breaks import PERUN, on, until

pytestmark = pytest.mark.cluster

NODE = "n4"
CONFIGLESS = "SlurmctldParameters=enable_configless"
CACHE = "/var/spool/slurmd/conf-cache"


@pytest.fixture(scope="module")
def configless(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster of which one node has an empty /etc/slurm and asks slurmctld; plugstack.conf is one file."""
    plugstack, conf = cluster.etc_slurm / "plugstack.conf", cluster.etc_slurm / "slurm.conf"
    parts, whole = plugstack.read_text(), conf.read_text()
    plugstack.write_text("\n".join(site.PLUGSTACK) + "\n")
    conf.write_text(whole.replace("Include /etc/slurm/admin.conf", "Include admin.conf"))  # only such a file travels
    cluster.configure([*site.SLURM_CONF, CONFIGLESS, "Include perun.off"])
    (cluster.etc_slurm / "perun.off").write_text("# none\n")
    cluster.restart("slurmctld")
    cluster.stop("slurmd", NODE)
    on(cluster, NODE, "mount -t tmpfs none /etc/slurm && slurmd --conf-server ctl:6817")
    cluster.wait_idle(nodes=[NODE])
    yield cluster
    cluster.stop("slurmd", NODE)
    on(cluster, NODE, f"umount /etc/slurm; rm -rf {CACHE} /run/slurm/conf")
    plugstack.write_text(parts)
    conf.write_text(whole)
    (cluster.etc_slurm / "perun.off").unlink()
    cluster.configure(site.SLURM_CONF)
    cluster.start("slurmd", NODE)
    cluster.restart("slurmctld")
    cluster.restart("slurmd")  # as after the installation: reconfigure returns before slurmd has read the file
    cluster.wait_idle()


def record(cluster: Cluster, job: str) -> dict[str, object]:
    """The node's boundary record of a job, waited for."""
    base = cluster.shared / "perun" / cluster.name / "jobs"
    path = base / f"{int(job) // 1000}" / f"{job}.0" / "boundary" / f"{NODE}.json"
    until(f"a record of job {job}", path.exists)
    found: dict[str, object] = json.loads(path.read_text())
    return found


def srun(cluster: Cluster, *words: str, node: str | None = None) -> str:
    line = ["srun", "-Q", "-w", NODE, *words, "sh", "-c", "echo $SLURM_JOB_ID"]
    return cluster.run(line, check=True, timeout=90, node=node).stdout.split()[-1]


def notes(cluster: Cluster, job: str) -> list[str]:
    """What the record says beside that nobody knows the node's static power yet."""
    return [note for note in record(cluster, job)["notes"] if not note.startswith("static power of ")]


def test_files_travel_from_slurmctld(configless: Cluster) -> None:
    cached = on(configless, NODE, f"ls {CACHE}; readlink -f /run/slurm/conf").split()
    assert {"slurm.conf", "plugstack.conf", "cgroup.conf"} <= set(cached)


def test_a_job_is_measured_and_a_flagged_step_too(configless: Cluster) -> None:
    assert record(configless, srun(configless))["node"] == NODE
    assert notes(configless, srun(configless, "--perun")) == []


def test_a_step_that_is_started_on_the_node_itself_knows_the_flag(configless: Cluster) -> None:
    assert notes(configless, srun(configless, "--perun", node=NODE)) == []


def test_the_doctor_finds_nothing(configless: Cluster) -> None:
    done = configless.run([PERUN, "doctor"], user="root", node=NODE, timeout=120)
    assert done.returncode == 0, done.stdout


def test_perun_off_counts_after_a_reconfigure(configless: Cluster) -> None:
    def is_off() -> bool:
        return f"# off {NODE}" in on(configless, NODE, f"cat {CACHE}/perun.off", check=False)

    on(configless, None, f"{PERUN} off {NODE}")
    configless.reconfigure()
    until("the list arrives", is_off)
    job = srun(configless)
    on(configless, None, f"{PERUN} on {NODE}")
    configless.reconfigure()
    until("the list arrives", lambda: not is_off())
    record(configless, srun(configless))
    time.sleep(1)
    assert not (configless.shared / "perun" / configless.name / "jobs" / f"{int(job) // 1000}" / f"{job}.0").exists()
