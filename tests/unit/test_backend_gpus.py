"""Which device of a node a job was given, by what Slurm's hooks are told of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.backend.gpus import Gpu, Held, Partition, doubtful, resolve, said, understood, unknown

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


AMD = (
    Gpu("c4ff74a1-0000-1000-8041-2f9e3a55b7d0", "0000:c1:00.0", 128, "MI250X"),
    Gpu("9aff74a1-0000-1000-80c6-7e51d2084f3b", "0000:c6:00.0", 129, "MI250X"),
)


@pytest.mark.parametrize(("numbers", "names", "gpus", "words", "taken"), [
    # ROCR_VISIBLE_DEVICES names GPUs in a way of its own, which AMD SMI knows nothing of.
    ("0,1", "GPU-41b2c3d4e5f60718,1", AMD, ["0", "1"], {"GPU-41b2c3d4e5f60718": "0"}),
    ("1", "GPU-41b2c3d4e5f60718", AMD, ["1"], {"GPU-41b2c3d4e5f60718": "1"}),
    ("1", AMD[0].uuid, AMD, [AMD[0].uuid], {}),
    ("0", "GPU-41b2c3d4e5f60718,GPU-51b2c3d4e5f60718", AMD, ["GPU-41b2c3d4e5f60718", "GPU-51b2c3d4e5f60718"], {}),
    ("0", "GPU-41b2c3d4e5f60718", (), ["GPU-41b2c3d4e5f60718"], {}),
    # One of NVIDIA's that is not there is not there, whatever now has its number.
    ("0", "GPU-00000000-d72c-4106", NODE, ["GPU-00000000-d72c-4106"], {}),
    ("0", "MIG-cccc", NODE, ["MIG-cccc"], {}),
    ("0", "0000:ff:00.0", AMD, ["0000:ff:00.0"], {}),
])  # fmt: skip
def test_a_name_of_a_kind_that_no_library_gives_is_its_devices_number(numbers, names, gpus, words, taken):
    assert understood(numbers, names, gpus) == (words, taken)


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


@st.composite
def nodes(draw: st.DrawFn) -> list[Gpu]:
    """GPUs of one vendor in any order of device files and addresses, some of them in partitions."""
    count = draw(st.integers(1, 8))
    files = draw(st.permutations(range(count)))
    own_files = draw(st.booleans())
    gpus, minor = [], 128 + count
    for number, (pci, file) in enumerate(zip(draw(st.permutations(range(count))), files)):
        parts = []
        for place in range(draw(st.integers(0, 7))):
            parts.append(
                Partition(
                    f"MIG-{number}{place}abcdef", draw(st.integers(1, 3)), f"{place}/0", minor if own_files else None
                )
            )
            minor += 1
        slices = sum(one.slices for one in parts) if parts else None
        first = 128 + file if own_files else file
        gpus.append(Gpu(f"GPU-{number}abcdefg", f"0000:{pci:02x}:00.0", first, "", slices, tuple(parts)))
    return gpus


@given(nodes(), st.sampled_from(["auto", "device-files", "pci"]))
def test_each_device_is_meant_by_one_number_and_by_one_name_and_all_together_are_the_node(gpus, numbers):
    names = [part.uuid for gpu in gpus for part in gpu.partitions] + [gpu.uuid for gpu in gpus if not gpu.partitions]
    everything = {Held(gpu.domain, gpu.slices) for gpu in gpus}
    for words in (names, [str(number) for number in range(len(names))]):
        single = [resolve([word], gpus, numbers) for word in words]
        assert all(len(one) == 1 for one in single)
        meant = [(one.domain, one.partitions) for (one,) in single]
        assert len(set(meant)) == len(names)
        assert set(resolve(words, gpus, numbers)) == set(resolve(words[::-1], gpus, numbers)) == everything
    assert resolve([str(len(names))], gpus, numbers) == ()
