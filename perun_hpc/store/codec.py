"""Bytes of a Zarr v3 shard, from and to the standard library's types: blosc 1 frames, crc32c, the shard's index.

Blosc frame (c-blosc 1, README_CHUNK_FORMAT): version 2, zlib format 1, flags, item size, then three little-endian u4:
raw bytes, block bytes, frame bytes; the offset of every block (we write one); a block is one stream, or one per byte of
an item, each after its length. Flags: 0x01 bytes shuffled, 0x02 stored uncompressed, 0x10 not split into streams, 0x60
zlib. crc32c is that of RFC 3720, little-endian, after the data.
"""

from __future__ import annotations

import struct
import zlib

from perun_hpc.errors import DataError

NONE = (1 << 64) - 1
"""Offset and length of an inner chunk that is not there: readers take the fill value."""

LEVEL = 6
"""How hard zlib tries, from 0 to 9."""

_HEADER = struct.Struct("<BBBBIII")
_VERSION, _ZLIB_VERSION = 2, 1
_SHUFFLE, _STORED, _UNSPLIT, _ZLIB = 0x01, 0x02, 0x10, 0x60


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum."""
    crc, table = 0xFFFFFFFF, _CRC
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def with_crc(data: bytes) -> bytes:
    """`data` and its crc32c."""
    return data + struct.pack("<I", crc32c(data))


def without_crc(data: bytes, what: str) -> bytes:
    """`data` without its crc32c; DataError when it does not fit."""
    if len(data) < 4 or crc32c(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise DataError(f"{what}: checksum does not fit; run perun collect --repair")
    return data[:-4]


def blosc(raw: bytes, itemsize: int, level: int = LEVEL) -> bytes:
    """`raw`, a whole number of items, as one blosc frame: bytes shuffled, zlib of that level (0: as it is)."""
    shuffled = b"".join(raw[byte::itemsize] for byte in range(itemsize)) if itemsize > 1 else raw
    packed = zlib.compress(shuffled, level)
    size = _HEADER.size + 8 + len(packed)
    if len(packed) >= len(raw):
        return _HEADER.pack(_VERSION, _ZLIB_VERSION, _STORED, itemsize, len(raw), len(raw), 16 + len(raw)) + raw
    flags = _ZLIB | _UNSPLIT | (_SHUFFLE if itemsize > 1 else 0)
    header = _HEADER.pack(_VERSION, _ZLIB_VERSION, flags, itemsize, len(raw), len(raw), size)
    return header + struct.pack("<II", _HEADER.size + 4, len(packed)) + packed


def unblosc(frame: bytes, what: str) -> bytes:
    """The raw bytes of a zlib frame, ours or c-blosc's; DataError for anything else."""
    try:
        version, _, flags, itemsize, raw_b, block_b, size = _HEADER.unpack_from(frame)
        if version != _VERSION or size != len(frame):
            raise ValueError("not a frame of this length")
        if flags & _STORED:
            return frame[_HEADER.size :]
        if flags & ~(_SHUFFLE | _UNSPLIT) != _ZLIB or not block_b or not itemsize:
            raise ValueError(f"flags {flags:#x} are not understood")
        raw = bytearray()
        for start in struct.unpack_from(f"<{-(-raw_b // block_b)}I", frame, _HEADER.size):
            wanted = min(block_b, raw_b - len(raw))
            whole = wanted == block_b and not flags & _UNSPLIT
            block = _block(frame, start, wanted, itemsize if whole else 1)
            raw += _unshuffled(block, itemsize) if flags & _SHUFFLE else block
    except (struct.error, zlib.error, ValueError) as error:
        raise DataError(f"{what}: damaged block: {error}") from error
    return bytes(raw)


def _block(frame: bytes, start: int, raw_b: int, streams: int) -> bytes:
    block = b""
    for _ in range(streams):
        (length,) = struct.unpack_from("<I", frame, start)
        stream = frame[start + 4 : start + 4 + length]
        block += stream if length == raw_b // streams else zlib.decompressobj().decompress(stream, raw_b + 1)
        start += 4 + length
    if len(block) != raw_b:
        raise ValueError("wrong length")
    return block


def _unshuffled(block: bytes, itemsize: int) -> bytes:
    items = len(block) // itemsize
    raw = bytearray(block)
    for byte in range(itemsize):
        raw[byte : items * itemsize : itemsize] = block[byte * items : (byte + 1) * items]
    return bytes(raw)


def encode_chunk(raw: bytes, itemsize: int, level: int = LEVEL) -> bytes:
    """An inner chunk: blosc, then crc32c."""
    return with_crc(blosc(raw, itemsize, level))


def decode_chunk(data: bytes, what: str) -> bytes:
    """Inverse of `encode_chunk`."""
    return unblosc(without_crc(data, what), what)


def index_bytes(entries: int) -> int:
    """Length of the index of a shard of so many inner chunks."""
    return 16 * entries + 4


def encode_index(entries: list[tuple[int, int]]) -> bytes:
    """The index at a shard's start: offset and length of every inner chunk, u8 little-endian, then crc32c."""
    return with_crc(struct.pack(f"<{2 * len(entries)}Q", *(number for entry in entries for number in entry)))


def decode_index(data: bytes, what: str) -> list[tuple[int, int]]:
    """Inverse of `encode_index`."""
    raw = without_crc(data, f"{what}: index")
    numbers = struct.unpack(f"<{len(raw) // 8}Q", raw)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def vlen_utf8(texts: list[str]) -> bytes:
    """A one-dimensional chunk of strings: u4 count, then u4 length and UTF-8 of each."""
    encoded = {text: text.encode() for text in set(texts)}
    packed = {text: struct.pack("<I", len(data)) + data for text, data in encoded.items()}
    return struct.pack("<I", len(texts)) + b"".join([packed[text] for text in texts])


def read_vlen_utf8(data: bytes, what: str) -> list[str]:
    """Inverse of `vlen_utf8`; DataError where the lengths do not fit."""
    texts, position = [], 4
    try:
        for _ in range(struct.unpack_from("<I", data)[0]):
            (length,) = struct.unpack_from("<I", data, position)
            text = data[position + 4 : position + 4 + length]
            if len(text) < length:
                raise ValueError("too short")
            texts.append(text.decode())
            position += 4 + length
    except (struct.error, ValueError) as error:
        raise DataError(f"{what}: damaged strings: {error}") from error
    return texts
