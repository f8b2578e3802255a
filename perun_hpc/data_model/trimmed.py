"""A JSON object from a file of any length, in memory that is bounded: the values of some keys are left out unread."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import BinaryIO

PIECE_B = 1 << 16
_TOKEN = re.compile(rb'["\[\]{}]')
_TEXT = re.compile(rb'(?:[^"\\]|\\.)*+', re.DOTALL)
_KEY_B = 64


def without(file: BinaryIO, keys: Collection[bytes], most_b: int) -> bytes:
    """Return the object in a file with the lists and objects under some of its keys empty.

    ValueError where what is left is longer than `most_b` bytes. What is no JSON comes back as no JSON.
    """
    kept = bytearray()
    depth, in_text, skipping, rest, key = 0, False, False, b"", b""
    while read := file.read(PIECE_B):
        piece, at, rest = rest + read, 0, b""
        while at < len(piece):
            if in_text:
                found = _TEXT.match(piece, at)
                assert found is not None  # it matches nothing, too
                end = found.end()
                if depth == 1:
                    key = (key + piece[at:end])[:_KEY_B]
                if end < len(piece) and piece[end : end + 1] == b"\\":  # what it escapes is in the next piece
                    rest = piece[end:]
                elif end < len(piece):
                    in_text, end = False, end + 1
            else:
                token = _TOKEN.search(piece, at)
                end = token.end() if token else len(piece)
                mark = token[0] if token else b""
                if mark == b'"':
                    in_text, key = True, b"" if depth == 1 else key
                elif mark in (b"[", b"{"):
                    depth += 1
                    if depth == 2 and key in keys:
                        kept += piece[at:end]
                        at, skipping = end, True
                        continue
                elif mark:
                    depth -= 1
                    if depth == 1 and skipping:
                        skipping, at = False, end - 1
            if not skipping:
                kept += piece[at:end]
                if len(kept) > most_b:
                    raise ValueError(f"longer than {most_b} bytes without {b', '.join(keys).decode()}")
            if rest:
                break
            at = end
    return bytes(kept + rest)
