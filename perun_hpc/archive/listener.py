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
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from perun_hpc.archive import aside, stream
from perun_hpc.archive.aside import Aside
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.handover import ALLOWED, FROM, RECORD, WHOLE, places_of
from perun_hpc.archive.learnt import LEARNT, Learnt
from perun_hpc.archive.places import NODES, Archive, clusters
from perun_hpc.archive.stream import Munge, Origin, Receiver
from perun_hpc.data_model.boundary import Boundary, read_boundary
from perun_hpc.data_model.job import SessionKey, safe_name
from perun_hpc.data_model.wording import count
from perun_hpc.errors import AccessError, DataError, PerunError, UnavailableError
from perun_hpc.files import write_new
from perun_hpc.store import layout
from perun_hpc.store.description import TRACKS

log = logging.getLogger(__name__)

WORKSPACE = ".handover"
"""Directory in the archive for what is not complete yet."""
AT_ONCE = 16
"""Hand-overs that the collector takes at the same time; others wait in the kernel's queue."""
REFUSED_S = 86_400
"""For so long `perun collect --status` names a refused hand-over."""
KEPT_REFUSALS = 100
"""Senders of refused hand-overs that are remembered, the latest."""
LONG_B = 256 << 10
"""Records above this length are taken one at a time: read, each may take thirty times as much memory."""
REMEMBERED, REMEMBERED_S = 20_000, 60
"""Nodes whose addresses are remembered, and how long."""
AGAIN_S = 0.1
SESSION, PROGRESS, LEDGER, LEARNING = "session", "progress", "ledger", "learnt"
HANDED = "handed-"
"""How the names of hand-overs begin that were set aside."""

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


def _is_one_of(address: Address, known: Collection[Address]) -> bool:
    """Whether an address is one of a node's; all of this host's own are one."""
    return address in known or (_is_ours(address) and any(_is_ours(one) for one in known))


class Refused:
    """Senders of what is another node's, for `perun collect --status`: when last (epoch seconds), how often, why."""

    def __init__(self, archive: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = archive / ".refused"
        self._clock = clock
        self._lock = threading.Lock()

    def read(self) -> dict[str, tuple[float, int, str]]:
        """What is known; nothing where nothing was refused, or it cannot be read."""
        try:
            saved = json.loads(self._path.read_bytes())
            return {str(who): (float(last_s), int(count), str(why)) for who, (last_s, count, why) in saved.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def note(self, sender: str, why: str) -> None:
        """Add one; what cannot be written is in the log all the same."""
        with self._lock, contextlib.suppress(OSError):
            known = self.read()
            known[sender] = (self._clock(), known.get(sender, (0.0, 0, ""))[1] + 1, why)
            latest = sorted(known.items(), key=lambda one: one[1][0])[-KEPT_REFUSALS:]
            write_new(self._path, json.dumps(dict(latest)).encode(), durable=False)


def lately_refused(archive: Path, now_s: float) -> list[str]:
    """Who was refused within a day, a sentence each; a node tries again and again."""
    senders = Refused(archive).read().items()
    return [
        f"refused {count(times, 'hand-over')} from {sender}: {why}"
        for sender, (last_s, times, why) in senders
        if now_s - last_s < REFUSED_S
    ]


class Listener:
    """The collector's end: takes what nodes hand over, beside the sweeps, until it is closed."""

    def __init__(
        self,
        port: int,
        archive: Path,
        uids: Collection[int],
        receiver: Receiver | None = None,
        addresses: Callable[[str], Collection[str]] | None = None,
        clock: Callable[[], float] = time.time,
        names: Callable[[str], Collection[str]] = names_of,
    ) -> None:
        """`addresses` and `names` return those of a node (default: what this host's resolver says), `clock` epoch
        seconds."""
        self._addresses = addresses or Remembered()
        self._names = names
        self._archive = archive
        self._refused = Refused(archive, clock)
        self._delivery = ArchiveDelivery(archive)
        self._uids = frozenset(uids)
        self._receiver = receiver or Munge()
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
        stream.at_once(self._socket)
        shutil.rmtree(self._workspace, ignore_errors=True)  # what a collector before this one did not complete
        self._workspace.mkdir(mode=0o700)
        self._closing = threading.Event()
        self._one_long = threading.Lock()
        self._aside = threading.Lock()
        self._ledgers = [threading.Lock() for _ in range(4 * AT_ONCE)]
        """A node's ledger is put by one at a time; each of these is for a part of the nodes."""
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
        slots = threading.BoundedSemaphore(AT_ONCE)
        while True:
            slots.acquire()
            try:
                connection, peer = self._socket.accept()
            except OSError as error:
                slots.release()
                if self._closing.wait(AGAIN_S):
                    return
                log.warning("hand-overs: %s", error)  # no descriptor left, say: the next one may be had
                continue
            self._takers.submit(self._take_one, connection, str(peer[0])).add_done_callback(lambda _: slots.release())

    def _take_one(self, connection: socket.socket, peer: str) -> None:
        with connection:
            try:
                take = partial(self._take, peer)
                stream.receive(connection, self._receiver, self._uids, ALLOWED, take, self._workspace)
            except (PerunError, OSError) as error:
                log.warning("hand-over from %s: %s", peer, error)
            except Exception:  # whatever a peer sent: the next one is served
                log.exception("hand-over from %s", peer)

    def take_allowed(self) -> None:
        """Take what was set aside and fits by now: an administrator allowed it, or this host knows the address."""
        for cluster in clusters(self._archive):
            for one in aside.entries(Archive(self._archive, cluster)):
                for part in sorted(one.path.glob(f"{HANDED}*/")):
                    try:
                        with self._aside:
                            self._take_again(one, part, cluster)
                    except (PerunError, OSError) as error:
                        log.warning("%s: %s", part, error)

    def _take_again(self, place: Aside, part: Path, cluster: str) -> None:
        node, _, origin = place.path.name.rpartition("-from-")
        if not place.allowed and not self._vouches(origin, node):
            return
        if part.name == f"{HANDED}{LEDGER}":
            self._put_ledger(part / cluster / NODES / node, cluster, node)
        else:
            self._put_job(part, part.name.removeprefix(HANDED).partition("-")[0], read_boundary(part / RECORD), SESSION)
        shutil.rmtree(part)
        log.info("%s is taken", part)

    def _take(self, peer: str, directory: Path, about: dict[str, str], origin: Origin) -> bytes:
        """Put what was received into the archive, as a node does that shares its file system; what it is answered."""
        what = about.get("what")
        if what == LEARNING:
            return self._learnt(peer, directory, about, origin)
        if what == LEDGER:
            cluster, node = safe_name(about.get("cluster", ""), "cluster"), about.get("node", "")
            self._check_sender(peer, node, origin)
            if self._fits(cluster, node, origin):
                if FROM not in about:
                    self._put_ledger(directory, cluster, node)
                elif not self._go_on(directory, cluster, node, places_of(about)):
                    return WHOLE
            else:
                if FROM in about:
                    return WHOLE
                with self._put_aside(cluster, node, origin.address) as target:
                    (target / f"{HANDED}{LEDGER}").mkdir(exist_ok=True)
                    ArchiveDelivery(target / f"{HANDED}{LEDGER}").ledger(directory, cluster, node)
        elif what in (SESSION, PROGRESS):
            record = directory / RECORD
            long = record.exists() and record.stat().st_size > LONG_B
            with self._one_long if long else contextlib.nullcontext():
                self._take_job(peer, directory, about, what, origin)
        else:
            raise DataError(f"hand-over: {str(what)[:40]!r} is unknown to this collector: upgrade it")
        return b""

    def _learnt(self, peer: str, directory: Path, about: dict[str, str], origin: Origin) -> bytes:
        """Keep what a node has learnt of itself, or give it back to it: to nobody else. What most nodes of its machine
        have comes with it.

        It is no evidence: nothing is set aside, and nothing given out, where another host vouches for it.
        """
        cluster, node = safe_name(about.get("cluster", ""), "cluster"), about.get("node", "")
        self._check_sender(peer, node, origin)
        if not self._fits(cluster, node, origin):
            return b""
        if (directory / LEARNT).exists():
            learnt = replace(Learnt.read(directory / LEARNT), sender=str(plain_address(peer)))
            self._delivery.keep_learnt(learnt, cluster, node)
            return b""
        known = self._delivery.learnt_of(cluster, node, about.get("machine", ""))
        return known.encode() if known else b""

    def _check_sender(self, peer: str, node: str, origin: Origin) -> None:
        """Refuse what comes from another machine than the node that it names: it stays with its sender."""
        node = safe_name(node, "node")
        known, sender = self._known(node), plain_address(peer)
        if not _is_one_of(sender, known):
            known_as = ", ".join(sorted(map(str, known)))
            has = f"has {known_as}" if known else "has no address that the collector's host knows"
            remedy = "if that is the node, add the address to /etc/hosts on the collector's host"
            why = f"node {node} {has}, and this is from {sender}: {remedy}"
        elif origin.names is not None and not (node.lower() in origin.names or origin.names & {*self._names(node)}):
            shown = ", ".join(sorted(origin.names))[:200] or "no DNS name"
            why = f"node {node} shows a certificate of {shown}: it must name the node (subjectAltName)"
        else:
            return
        self._refused.note(str(sender), why)
        raise AccessError(f"hand-over: {why}")

    def _known(self, node: str) -> set[Address]:
        return {plain_address(one) for one in self._addresses(node)}

    def _vouches(self, origin: str, node: str) -> bool:
        """Whether the host whose munge made a credential may be the node; a loopback address names no host."""
        try:
            address = plain_address(origin)
        except ValueError:
            return False
        return address.is_loopback or address.is_unspecified or _is_one_of(address, self._known(node))

    def _fits(self, cluster: str, node: str, origin: Origin) -> bool:
        if origin.names is not None:
            return True
        allowed = aside.of_sender(Archive(self._archive, cluster), node, origin.address).allowed
        return self._vouches(origin.address, node) or allowed

    @contextlib.contextmanager
    def _put_aside(self, cluster: str, node: str, origin: str) -> Iterator[Path]:
        """The directory, one at a time, for what comes from a node's address but is vouched for by another host."""
        place = aside.of_sender(Archive(self._archive, cluster), node, origin)
        known = ", ".join(sorted(map(str, self._known(node)))) or "none that is known"
        why = (
            f"node {node} has the address {known}, but munge on {origin} vouches for what it hands over: if that is "
            f"the node, name the address in /etc/hosts here, or: touch {place.path / aside.ALLOWED}"
        )
        log.warning("set aside: %s", why)
        with self._aside:
            yield place.begin(why)

    def _put_ledger(self, directory: Path, cluster: str, node: str) -> None:
        with self._one_of(cluster, node):
            said = self._delivery.ledger(directory, cluster, node)
        for line in said:
            log.warning("%s", line)

    def _go_on(self, directory: Path, cluster: str, node: str, places: Mapping[str, tuple[int, str]]) -> bool:
        with self._one_of(cluster, node):
            return self._delivery.ledger_from(directory, cluster, node, places)

    def _one_of(self, cluster: str, node: str) -> threading.Lock:
        return self._ledgers[hash((cluster, node)) % len(self._ledgers)]

    def _take_job(self, peer: str, directory: Path, about: dict[str, str], what: str, origin: Origin) -> None:
        key, boundary = SessionKey.parse(about.get("name", "")), read_boundary(directory / RECORD)
        if (boundary.job_id, boundary.restart_count) != (key.job_id, key.restart_count):
            raise DataError(f"hand-over: the record is not of {key.name}")
        self._check_sender(peer, boundary.node, origin)
        cluster = safe_name(boundary.cluster or "cluster", "cluster")
        if self._fits(cluster, boundary.node, origin):
            self._put_job(directory, key.name, boundary, what)
        elif what == SESSION:  # progress is no evidence
            with self._put_aside(cluster, boundary.node, origin.address) as target:
                part = target / f"{HANDED}{key.name}-{boundary.digest[:16]}"
                if not part.exists():
                    directory.rename(part)
                    directory.mkdir()  # its owner clears it

    def _put_job(self, directory: Path, name: str, boundary: Boundary, what: str) -> None:
        session, record = directory / name, dict(boundary.raw)
        session.mkdir(exist_ok=True)
        for name in (TRACKS, layout.STORE):
            if (directory / name).exists():
                (directory / name).rename(session / name)
        try:
            if what == SESSION:
                self._delivery.session(session, record)
            else:
                self._delivery.progress(session, record, grow=False)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"hand-over: no record that an agent writes ({type(error).__name__}: {error})") from error
