"""Whose address is whose: what the collector's host knows of the nodes that hand over."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable, Collection

REMEMBERED, REMEMBERED_S = 20_000, 60
"""Nodes whose addresses are remembered, and how long."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain_address(text: str) -> Address:
    """An address without its zone; one of version 4 that comes over version 6 is that of version 4."""
    found = ipaddress.ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def names_of(node: str) -> set[str]:
    """The names in lower case of which a node's certificate may be: its own, and that with which this host knows it."""
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(node, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
        return {node.lower(), *(one[3].lower() for one in found if one[3])}
    return {node.lower()}


def addresses_of(node: str) -> set[str]:
    """The addresses that this host's resolver knows of a node; none where it knows no such name."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(node, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


class Remembered:
    """Addresses of nodes as a resolver says, each asked for once a minute: with ten thousand nodes in /etc/hosts an
    answer takes as long as half a handshake. That a node has none is not remembered."""

    def __init__(
        self, ask: Callable[[str], set[str]] = addresses_of, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock_s` returns seconds."""
        self._ask = ask
        self._clock_s = clock_s
        self._known: dict[str, tuple[float, set[str]]] = {}

    def __call__(self, node: str) -> set[str]:
        """Those of a node."""
        now_s = self._clock_s()
        until_s, found = self._known.get(node, (now_s, set[str]()))
        if now_s >= until_s:
            found = self._ask(node)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[node] = now_s + (REMEMBERED_S if found else 0), found
        return found


def _is_ours(address: Address) -> bool:
    """Whether an address is one of this host's own: nothing else can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.bind((str(address), 0))
    except OSError:
        return False
    return True


def is_one_of(address: Address, known: Collection[Address]) -> bool:
    """Whether an address is one of a node's; all of this host's own are one."""
    return address in known or (_is_ours(address) and any(_is_ours(one) for one in known))
