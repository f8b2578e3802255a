"""Slurm's node lists: `n[01-03,7],login` and `n[01-03,7] login` name n01, n02, n03, n7 and login.

Of several brackets in one name the first varies slowest, as loops would have it. Slurm 22.05 agrees for two; of three
it lets the middle one vary slowest. Nothing here goes by a node's place in a list.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache

MAX_NODES = 100_000
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\],]+)")
_NAME = re.compile(r"\w[\w.-]*")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@lru_cache(maxsize=8)
def expand(text: str) -> tuple[str, ...]:
    """All names of a node list, in order; once for a list that all of a job's nodes name.

    Raises
    ------
    ValueError
        where brackets do not match, a range runs backwards or the list names more than `MAX_NODES` nodes.
    """
    names: list[str] = []
    for item in _split(text):
        choices = [_range(m[1]) if m[1] is not None else (m[2],) for m in _PART.finditer(item)]
        if "".join(m[0] for m in _PART.finditer(item)) != item:
            raise ValueError(f"brackets of '{item[:60]}' do not match")
        count = 1
        for choice in choices:
            count *= len(choice)
        if len(names) + count > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} nodes")
        names.extend("".join(parts) for parts in itertools.product(*choices))
    return tuple(names)


def stated(text: str) -> tuple[str, ...]:
    """All names of a node list that a person wrote; ValueError also for what can be no node's name, such as `n*`."""
    names = expand(text)
    odd = next((name for name in names if not _NAME.fullmatch(name)), None)
    if odd is not None:
        raise ValueError(f"'{odd[:60]}' is no node's name: name each node, there are no wildcards")
    return names


def _split(text: str) -> list[str]:
    items, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in (0, 1):
            raise ValueError(f"brackets of '{text[:60]}' do not match")
        if depth == 0 and (char == "," or char.isspace()):
            items.append(text[start:index])
            start = index + 1
    if depth:
        raise ValueError(f"brackets of '{text[:60]}' do not match")
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def _range(text: str) -> tuple[str, ...]:
    numbers: list[str] = []
    for piece in text.split(","):
        if piece != piece.strip():
            # Slurm 22.05 counts it as a digit: its n[1-2, 4] is n1, n2 and n04.
            raise ValueError(f"there is a blank in [{text[:60]}]: take it out, Slurm would name other nodes")
        match = _RANGE.fullmatch(piece)
        if match is None:
            raise ValueError(f"'{piece[:60]}' is not a number or a range")
        first, last = match[1], match[2] or match[1]
        if not int(first) <= int(last) <= int(first) + MAX_NODES:
            raise ValueError(f"the range {piece[:60]} runs backwards or too far")
        numbers.extend(str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        if len(numbers) > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} nodes")
    return tuple(numbers)
