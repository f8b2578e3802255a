"""The collector's end of a hand-over from nodes that share no file system with it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from perun_hpc.accounting.boundary import read_boundary
from perun_hpc.agent.delivery import ArchiveDelivery
from perun_hpc.agent.handover import ALLOWED, RECORD
from perun_hpc.agent.paths import safe_name
from perun_hpc.agent.session import SessionKey
from perun_hpc.errors import AccessError, DataError, PerunError, UnavailableError
from perun_hpc.store import layout, stream
from perun_hpc.store.files import write_new
from perun_hpc.store.node_store import TRACKS
from perun_hpc.store.stream import Munge

log = logging.getLogger(__name__)

WORKSPACE = ".handover"
"""Directory in the archive for what is not complete yet."""
AT_ONCE = 16
"""Hand-overs that the collector takes at the same time; others wait in the kernel's queue."""
KEPT_REFUSALS = 100
"""Senders of refused hand-overs that are remembered, the latest."""
LONG_B = 256 << 10
"""Records above this length are taken one at a time: read, each may take thirty times as much memory."""
AGAIN_S = 0.1

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain_address(text: str) -> Address:
    """An address without its zone; one of version 4 that comes over version 6 is that of version 4."""
    found = ipaddress.ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def addresses_of(node: str) -> set[str]:
    """The addresses that this host's resolver knows of a node; none where it knows no such name."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(node, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _is_ours(address: Address) -> bool:
    """Whether an address is one of this host's own: nothing else can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.bind((str(address), 0))
    except OSError:
        return False
    return True


class Refused:
    """Senders of what is another node's, for `perun collect --status`: when last (epoch seconds), how often, why."""

    def __init__(self, archive: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = archive / ".refused"
        self._clock = clock
        self._lock = threading.Lock()

    def read(self) -> dict[str, tuple[float, int, str]]:
        """What is known; nothing where nothing was refused, or it cannot be read."""
        try:
            told = json.loads(self._path.read_bytes())
            return {str(who): (float(last_s), int(count), str(why)) for who, (last_s, count, why) in told.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def note(self, sender: str, why: str) -> None:
        """Add one; what cannot be written is in the log all the same."""
        with self._lock, contextlib.suppress(OSError):
            known = self.read()
            known[sender] = (self._clock(), known.get(sender, (0.0, 0, ""))[1] + 1, why)
            latest = sorted(known.items(), key=lambda one: one[1][0])[-KEPT_REFUSALS:]
            write_new(self._path, json.dumps(dict(latest)).encode(), durable=False)


class Listener:
    """The collector's end: takes what nodes hand over, beside the sweeps, until it is closed."""

    def __init__(
        self,
        port: int,
        archive: Path,
        uids: Collection[int],
        munge: Munge | None = None,
        addresses: Callable[[str], Collection[str]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`addresses` tells those of a node (default: what this host's resolver says), `clock` epoch seconds."""
        self._addresses = addresses or addresses_of
        self._refused = Refused(archive, clock)
        self._delivery = ArchiveDelivery(archive)
        self._uids = frozenset(uids)
        self._munge = munge or Munge()
        self._workspace = archive / WORKSPACE
        try:
            if socket.has_dualstack_ipv6():
                self._socket = socket.create_server(
                    ("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
                )
            else:
                self._socket = socket.create_server(("", port), backlog=1024)
        except OSError as error:
            raise UnavailableError(
                f"port {port}: cannot listen ({error.strerror}): is another collector running? see store.collector"
            ) from error
        shutil.rmtree(self._workspace, ignore_errors=True)  # what a collector before this one did not complete
        self._workspace.mkdir(mode=0o700)
        self._closing = threading.Event()
        self._one_long = threading.Lock()
        self._takers = ThreadPoolExecutor(AT_ONCE, "hand-over")
        self._thread = threading.Thread(target=self._serve, name="listener", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Take nothing more; what is being taken is completed."""
        self._closing.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._takers.shutdown(cancel_futures=True)

    def _serve(self) -> None:
        room = threading.BoundedSemaphore(AT_ONCE)
        while True:
            room.acquire()
            try:
                connection, peer = self._socket.accept()
            except OSError as error:
                room.release()
                if self._closing.wait(AGAIN_S):
                    return
                log.warning("hand-overs: %s", error)  # no descriptor left, say: the next one may be had
                continue
            self._takers.submit(self._take_one, connection, str(peer[0])).add_done_callback(lambda _: room.release())

    def _take_one(self, connection: socket.socket, peer: str) -> None:
        with connection:
            try:
                take = partial(self._take, peer)
                stream.receive(connection, self._munge, self._uids, ALLOWED, take, self._workspace)
            except (PerunError, OSError) as error:
                log.warning("hand-over from %s: %s", peer, error)
            except Exception:  # whatever a peer sent: the next one is served
                log.exception("hand-over from %s", peer)

    def _take(self, peer: str, directory: Path, about: dict[str, str]) -> None:
        """Put what was received into the archive, as a node does that shares its file system."""
        what = about.get("what")
        if what == "ledger":
            self._check_sender(peer, about.get("node", ""))
            self._delivery.ledger(directory, about.get("cluster", ""), about.get("node", ""))
        elif what in ("session", "progress"):
            record = directory / RECORD
            long = record.exists() and record.stat().st_size > LONG_B
            with self._one_long if long else contextlib.nullcontext():
                self._take_job(peer, directory, about, what)
        else:
            raise DataError(f"parts: {str(what)[:40]!r} is nothing that this collector takes: upgrade it")

    def _check_sender(self, peer: str, node: str) -> None:
        """Refuse what comes from another machine than the node that it names: it stays with its sender."""
        node = safe_name(node, "node")
        known = {plain_address(one) for one in self._addresses(node)}
        sender = plain_address(peer)
        if sender in known or (_is_ours(sender) and any(_is_ours(one) for one in known)):
            return
        has = f"has {', '.join(sorted(map(str, known)))}" if known else "has no address that the collector's host knows"
        why = f"node {node} {has}, and this is from {sender}: if that is the node, name the address in /etc/hosts there"
        self._refused.note(str(sender), why)
        raise AccessError(f"parts: {why}")

    def _take_job(self, peer: str, directory: Path, about: dict[str, str], what: str) -> None:
        key, boundary = SessionKey.parse(about.get("name", "")), read_boundary(directory / RECORD)
        if (boundary.job_id, boundary.restart_count) != (key.job_id, key.restart_count):
            raise DataError(f"parts: the record is not of {key.name}")
        self._check_sender(peer, boundary.node)
        session, record = directory / key.name, dict(boundary.raw)
        session.mkdir()
        for name in (TRACKS, layout.STORE):
            if (directory / name).exists():
                (directory / name).rename(session / name)
        try:
            if what == "session":
                self._delivery.session(session, record)
            else:
                self._delivery.progress(session, record, grow=False)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"parts: no record that an agent writes ({type(error).__name__}: {error})") from error
