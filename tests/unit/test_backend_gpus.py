"""Which device of a node a job was given, by what Slurm's hooks are told of it."""

from __future__ import annotations

import pytest

from perun_hpc.backend.gpus import Gpu, Held, Partition, doubtful, resolve, said, unknown

WHOLE = Gpu("GPU-8932f937-d72c-4106", "0000:3b:00.0", 1, "H100")
PARTS = Gpu(
    "GPU-11aa22bb-0000-0001", "0000:1b:00.0", 0, "H100", 7,
    (Partition("MIG-aaaa1111-01", 3, "1/0"), Partition("MIG-aaaa1111-02", 2, "2/0"), Partition("MIG-bbbb", 1, "9/0")),
)  # fmt: skip
NODE = (PARTS, WHOLE)
DOMAIN = "gpu-GPU-11aa22bb-0000-0001"


@pytest.mark.parametrize(("numbers", "names", "words"), [
    ("0,1", "", ["0", "1"]),
    ("0,1", "0,1", ["0", "1"]),
    ("2,3", "MIG-a,MIG-b", ["MIG-a", "MIG-b"]),
    ("0,3", "0,MIG-b", ["0", "MIG-b"]),
    ("4", "GPU-8932f937-d72c-4106", ["GPU-8932f937-d72c-4106"]),
    ("0,1", "MIG-a", ["MIG-a"]),
    ("", "MIG-a, ,", ["MIG-a"]),
    ("0,1", "0", ["0", "1"]),
    ("", "", []),
])  # fmt: skip
def test_of_each_device_the_vendors_name_counts_where_slurm_has_one(numbers, names, words):
    assert said(numbers, names) == words


@pytest.mark.parametrize(("word", "held"), [
    ("MIG-aaaa1111-01", Held(DOMAIN, 3)),
    ("MIG-GPU-11aa22bb-0000-0001/2/0", Held(DOMAIN, 2)),
    ("MIG-GPU-11aa22bb/2/0", Held(DOMAIN, 2)),
    ("MIG-bbbb", Held(DOMAIN, 1)),
    ("GPU-8932f937-d72c-4106", Held("gpu-GPU-8932f937-d72c-4106")),
    ("GPU-8932", Held("gpu-GPU-8932f937-d72c-4106")),
    ("GPU-11aa22bb", Held(DOMAIN)),
    ("00000000:3B:00.0", Held("gpu-GPU-8932f937-d72c-4106")),
])  # fmt: skip
def test_every_name_that_slurm_gives_a_device_is_understood(word, held):
    assert resolve([word], NODE) == (held,)
    assert unknown([word], NODE) == ()


@pytest.mark.parametrize("word", [
    "MIG-aaaa1111", "MIG-", "MIG-GPU-11aa22bb-0000-0001/3/0", "MIG-GPU-11aa22bb-0000-0001/2", "MIG-cccc",
    "GPU-", "GPU-1", "GPU-ffff", "4", "-1", "", "all", "NoDevFiles",
])  # fmt: skip
def test_a_name_of_no_device_or_of_several_gives_none(word):
    assert resolve([word], NODE) == ()
    assert unknown([word], NODE) == (word,)


def test_a_beginning_that_fits_two_gpus_names_neither():
    twins = (Gpu("GPU-8932f937-a", "0000:3b:00.0", 1, ""), Gpu("GPU-8932f937-b", "0000:3c:00.0", 2, ""))
    assert resolve(["GPU-8932f937"], twins) == ()
    assert resolve(["GPU-8932f937-b"], twins) == (Held("gpu-GPU-8932f937-b"),)


def test_instances_of_one_gpu_add_up_and_one_named_twice_counts_once():
    assert resolve(["MIG-aaaa1111-01", "MIG-bbbb"], NODE) == (Held(DOMAIN, 4),)
    assert resolve(["MIG-aaaa1111-01", "MIG-aaaa1111-01"], NODE) == (Held(DOMAIN, 3),)
    assert resolve(["MIG-aaaa1111-01", "GPU-11aa22bb"], NODE) == (Held(DOMAIN),)


def test_where_gpus_are_partitioned_a_number_is_a_place_in_slurms_list_and_doubtful():
    """AutoDetect=nvml sorts whole GPUs first, by PCI address, then instances by their GPU's device file."""
    assert [resolve([str(number)], NODE)[0] for number in range(4)] == [
        Held("gpu-GPU-8932f937-d72c-4106"), Held(DOMAIN, 3), Held(DOMAIN, 2), Held(DOMAIN, 1),
    ]  # fmt: skip
    assert doubtful(["0", "3", "MIG-bbbb"], NODE) == ("0", "3")
