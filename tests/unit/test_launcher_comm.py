"""Ranks from the environments of launchers, and the name that the ranks of one launch share."""

from __future__ import annotations

import pytest

from perun_hpc.comm import Comm, Place, place_from, run_key

SLURM = {
    "SLURM_JOB_ID": "47", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1",
    "SLURM_NNODES": "4",
}  # fmt: skip
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "4"}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
}  # fmt: skip
NO_STEPS = ("4294967291", "4294967290", "4294967280", "-5", "-6", "", "batch", "0x0", "\u0663", "9" * 30)
"""Of batch scripts and allocations' shells: of Slurm 22.05, of 26.05, of whatever comes."""
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, Place()),
        (SLURM, Place(3, 8, 1, 0, 0, 4, "slurm")),
        (HYDRA, Place(2, 4, 2, 4, 0, 0, "mpich")),
        (OPENMPI, Place(1, 2, 0, 1, 0, 0, "openmpi")),
        (TORCHRUN, Place(5, 8, 1, 4, 0, 0, "torchrun")),
        ({**SLURM, **HYDRA}, Place(2, 4, 2, 4, 0, 0, "mpich")),
        *(({**SLURM, "SLURM_STEP_ID": step}, Place()) for step in NO_STEPS),
        ({**SLURM, "SLURM_STEP_ID": "4294967279"}, Place(3, 8, 1, 0, 0, 4, "slurm")),
        ({key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"}, Place()),
        ({**HYDRA, "PMI_RANK": "four"}, Place()),
        ({**HYDRA, "PMI_RANK": "9"}, Place()),
        ({"RANK": "0"}, Place()),
    ],
)
def test_fault_17_the_place_is_known_without_mpi(environ, place):
    assert place_from(environ) == place


@pytest.mark.parametrize(
    ("tasks", "node", "size"),
    [
        ("2(x4)", "3", 2),
        ("3,1", "1", 1),
        ("2(x3),1", "3", 1),
        ("4", "0", 4),
        ("2(x4)", "4", 0),
        ("x", "0", 0),
        ("", "0", 0),
    ],
)
def test_slurm_tells_how_many_tasks_share_the_node(tasks, node, size):
    environ = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": node}
    assert place_from(environ).host_size == size


def test_slurm_s_list_of_this_node_s_tasks_counts_first():
    environ = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x4)", "SLURM_NODEID": "0", "SLURM_GTIDS": "0,3,6"}
    assert place_from(environ).host_size == 3


@pytest.mark.parametrize("step", NO_STEPS)
def test_what_is_no_task_of_a_step_has_no_name_of_one(step):
    assert not run_key({**SLURM, "SLURM_STEP_ID": step}).startswith("47.")


def test_open_mpi_inside_of_a_step_has_a_name_of_its_own():
    """One interactive step may start several."""
    nested = {**SLURM, **OPENMPI, "PMIX_NAMESPACE": "795672577"}
    assert run_key(nested) == "795672577"


def test_one_leader_per_host():
    assert [place_from({**SLURM, "SLURM_LOCALID": str(i)}).leader for i in range(3)] == [True, False, False]


def test_fault_17_job_arrays_and_steps_have_keys_of_their_own():
    keys = {
        run_key(SLURM),
        run_key({**SLURM, "SLURM_JOB_ID": "48"}),
        run_key({**SLURM, "SLURM_STEP_ID": "1"}),
        run_key({**SLURM, "SLURM_RESTART_COUNT": "1"}),
        run_key({"PMIX_NAMESPACE": "prterun-host-77@1"}),
        run_key({**TORCHRUN, "TORCHELASTIC_RUN_ID": "abc"}),
        run_key({}),
    }
    assert len(keys) == 7
    assert run_key(SLURM) == run_key({**SLURM, "SLURM_PROCID": "0"})
    assert "/" not in run_key({"PMIX_NAMESPACE": "../../etc"})


def test_ranks_of_one_proxy_share_a_key_and_torchruns_none_is_no_id():
    assert run_key(HYDRA) == run_key({**HYDRA, "PMI_RANK": "0"})
    assert run_key({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}) == run_key(TORCHRUN)


def test_without_mpi_nothing_is_exchanged():
    comm = Comm(None, {})
    assert (comm.Get_rank(), comm.Get_size(), comm.talks) == (0, 1, False)
    assert comm.gather(b"x") == [b"x"]
    assert Comm(None, HYDRA).gather(b"x") is None
    comm.close()
