"""The wire format: one packet is one message of NUL-terminated strings.

``perun1`` NUL, a verb, NUL, then key and value in turn, each followed by NUL. Text travels as UTF-8; bytes of an
environment that are no UTF-8 survive as surrogate escapes. The C twin is ``slurm/wire/wire.c``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from perun_hpc.errors import DataError

VERSION = "perun1"
MAX_BYTES = 32 * 1024

_VERB = re.compile(r"[a-z][a-z0-9-]{0,31}")
_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Message:
    """One message: a verb and its fields; all values are text."""

    verb: str
    fields: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str, default: str | None = None) -> str | None:
        """The value of a key, or the default.

        Parameters
        ----------
        key : of the field.
        default : what is returned where there is no such field.

        Returns
        -------
        The value.
        """
        return self.fields.get(key, default)


def encode(verb: str, fields: Mapping[str, str]) -> bytes:
    """Build the packet of a message.

    Parameters
    ----------
    verb : what is asked or answered.
    fields : keys and values, in the order in which they are to stand.

    Returns
    -------
    The packet.

    Raises
    ------
    DataError
        If the verb or a key has a forbidden shape, a value holds a NUL, or the packet exceeds ``MAX_BYTES``.


    """
    strings = [VERSION, verb]
    if not _VERB.fullmatch(verb):
        raise DataError(f"message verb {verb!r}: lower-case letters, digits and '-' only, at most 32")
    for key, value in fields.items():
        if not _KEY.fullmatch(key):
            raise DataError(f"message key {key!r}: lower-case letters, digits and '_' only, at most 64")
        if "\0" in value:
            raise DataError(f"message value of {key!r} holds a NUL: remove it")
        strings += (key, value)
    try:
        packet = b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in strings)
    except UnicodeEncodeError as error:
        raise DataError(f"message {verb!r} holds text that is none: {error.reason}") from error
    if len(packet) > MAX_BYTES:
        raise DataError(f"message {verb!r} has {len(packet)} bytes: at most {MAX_BYTES} fit into a packet")
    return packet


def decode(packet: bytes) -> Message:
    """Read a packet.

    Raises
    ------
    DataError
        If the packet is too long, of another version or malformed (a key that stands twice included).
    """
    if len(packet) > MAX_BYTES:
        raise DataError(f"packet has {len(packet)} bytes: at most {MAX_BYTES} are allowed")
    if not packet.endswith(b"\0"):
        raise DataError("packet does not end in NUL: the sender is broken or speaks another protocol")
    version, *strings = packet[:-1].decode("utf-8", "surrogateescape").split("\0")
    if version != VERSION:
        raise DataError(f"packet of version {version[:16]!r}: this side speaks {VERSION}")
    if len(strings) % 2 != 1 or not _VERB.fullmatch(strings[0]):
        raise DataError("malformed packet: it needs a verb, then key and value in turn")
    keys, values = strings[1::2], strings[2::2]
    for key in keys:
        if not _KEY.fullmatch(key):
            raise DataError(f"malformed packet: {key[:64]!r} is no key")
    if len(set(keys)) != len(keys):
        raise DataError("malformed packet: a key stands twice")
    return Message(strings[0], dict(zip(keys, values)))  # of equal length
