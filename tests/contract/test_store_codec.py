"""The direct writer and zarr-python against each other on random arrays, both ways."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec

from perun_hpc.errors import DataError
from perun_hpc.store import codec, layout, shard
from tests.examples import examples

TYPES = ("int64", "uint32", "int32", "uint16")


def random_array(seed: int, dtype: str, count: int, kind: int) -> np.ndarray:  # type: ignore[type-arg]
    """Constant, smooth, noisy or full-range numbers."""
    random = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    if kind == 0:
        return np.full(count, layout.fill(dtype), dtype)
    if kind == 1:
        return np.cumsum(random.integers(0, 9, count)).astype(dtype)
    if kind == 2:
        return random.integers(0, 200, count).astype(dtype)
    return random.integers(info.min, info.max, count, dtype=dtype, endpoint=True)


@examples(60)
@given(st.integers(0, 2**32), st.sampled_from(TYPES), st.integers(1, 3), st.integers(1, 700), st.integers(0, 3))
def test_what_we_write_zarr_reads(seed: int, dtype: str, channels: int, rows: int, kind: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(name)
        data = random_array(seed, dtype, channels * rows * 3, kind).reshape(3, channels, rows)
        raw = [chunk.tobytes() for chunk in data]
        encoded = [codec.encode_chunk(part, layout.itemsize(dtype)) for part in raw]
        assert [codec.decode_chunk(part, "chunk") for part in encoded] == raw
        store = shard.GrowingShard(path / "c.0.0.0", 4)
        for number in (0, 2):
            store.put(number, encoded[number])
            store.publish()
        store.close()
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [1, channels, 4 * rows],
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, channels, 4 * rows]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": layout.fill(dtype),
            "codecs": layout.sharding([1, channels, rows], layout.itemsize(dtype)),
            "dimension_names": ["node", "channel", "time"],
            "attributes": {},
        }
        (path / "zarr.json").write_text(json.dumps(document))
        read = np.asarray(zarr.open_array(path, mode="r")[0])
        missing = np.full((channels, rows), layout.fill(dtype), dtype)
        np.testing.assert_array_equal(read, np.concatenate([data[0], missing, data[2], missing], axis=1))


@examples(60)
@given(st.integers(0, 2**32), st.sampled_from(TYPES), st.integers(1, 3), st.integers(1, 9000), st.integers(0, 3))
def test_what_zarr_writes_we_read(seed: int, dtype: str, channels: int, rows: int, kind: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        array = zarr.create_array(
            path,
            shape=(1, channels, 4 * rows),
            shards=(1, channels, 4 * rows),
            chunks=(1, channels, rows),
            dtype=dtype,
            compressors=[BloscCodec(cname="zlib", clevel=6, shuffle="shuffle"), Crc32cCodec()],
            fill_value=layout.fill(dtype),
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        data = random_array(seed, dtype, channels * rows, kind).reshape(1, channels, rows)
        array[:, :, rows : 2 * rows] = data
        written = path / "c.0.0.0"
        if not written.exists():
            assert (data == layout.fill(dtype)).all()
            return
        whole = written.read_bytes()
        index = codec.decode_index(whole[-codec.index_bytes(4) :], "shard")
        assert [entry[0] == codec.NONE for entry in index] == [True, False, True, True]
        offset, length = index[1]
        assert codec.decode_chunk(whole[offset : offset + length], "chunk") == data.tobytes()


def test_the_checksum_is_the_published_one() -> None:
    assert codec.crc32c(b"123456789") == 0xE3069283


@examples(200)
@given(st.integers(0, 3000), st.integers(0, 7), st.binary(min_size=1, max_size=900))
def test_a_flipped_bit_is_noticed(position: int, bit: int, raw: bytes) -> None:
    chunk = bytearray(codec.encode_chunk(raw * 4, 4))
    chunk[position % len(chunk)] ^= 1 << bit
    with pytest.raises(DataError, match="checksum"):
        codec.decode_chunk(bytes(chunk), "chunk")


@given(st.binary(max_size=300))
def test_no_bytes_make_the_frame_reader_do_anything_but_refuse(data: bytes) -> None:
    frame = codec.blosc(b"abcd" * 40, 4)
    for damaged in (data, frame[:16] + data, frame[: len(data)]):
        if damaged != frame:
            with pytest.raises(DataError):
                codec.unblosc(damaged, "frame")


@given(st.lists(st.text(max_size=9), max_size=9))
def test_strings_come_back(texts: list[str]) -> None:
    clean = [text.encode("utf-8", "ignore").decode() for text in texts]
    assert codec.read_vlen_utf8(codec.vlen_utf8(clean), "names") == clean
