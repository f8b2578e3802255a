"""Numbers of things in sentences, and texts of users made fit for every file. Runs in the user's interpreter, too."""

from __future__ import annotations


def count(number: int, noun: str, many: str = "") -> str:
    """`1 job`, `2 jobs`, `0 jobs`; `many` where the plural is not made by an s."""
    return f"{number} {noun if number == 1 else many or f'{noun}s'}"


def plain(text: str, most: int) -> str:
    """A user's text as every file and database takes it: UTF-8 without NUL, at most so many characters."""
    return text[:most].encode("utf-8", "replace").decode().replace("\0", "?")


CUT = "\N{HORIZONTAL ELLIPSIS}"


def cut(text: str, most_b: int) -> str:
    """A user's text as `plain`, of at most so many bytes of UTF-8; a mark stands where something was cut off."""
    whole = plain(text, most_b + 1)
    data = whole.encode()
    if len(data) <= most_b:
        return whole
    return data[: most_b - len(CUT.encode())].decode(errors="ignore") + CUT
