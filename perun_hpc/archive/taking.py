"""What nodes hand over, put into the archive: by several processes that listen (`listener`), and one that goes back to
what was set aside."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import time
from binascii import crc32
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from perun_hpc.archive import aside, stream
from perun_hpc.archive.addresses import Address, Remembered, is_one_of, names_of, plain_address
from perun_hpc.archive.aside import Aside
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.handover import ALLOWED, FROM, RECORD, WHOLE, places_of
from perun_hpc.archive.learnt import LEARNT, Learnt
from perun_hpc.archive.places import NODES, Archive, clusters
from perun_hpc.archive.refused import Refused
from perun_hpc.archive.stream import Origin, Receiver
from perun_hpc.data_model.boundary import Boundary, read_boundary
from perun_hpc.data_model.job import SessionKey, safe_name
from perun_hpc.errors import AccessError, DataError, PerunError
from perun_hpc.process.locks import Locks
from perun_hpc.store import layout
from perun_hpc.store.description import TRACKS

log = logging.getLogger(__name__)

LONG_B = 256 << 10
"""Records above this length are taken one at a time: read, each may take thirty times as much memory."""
SESSION, PROGRESS, LEDGER, LEARNING = "session", "progress", "ledger", "learnt"
HANDED = "handed-"
"""How the names of hand-overs begin that were set aside."""
LEDGERS = 64
"""A node's ledger is put by one at a time: so many locks, each for a part of the nodes."""
ONE_LONG, ASIDE, REFUSING = LEDGERS, LEDGERS + 1, LEDGERS + 2
LOCKS = LEDGERS + 3


class Taker:
    """Puts what nodes hand over into the archive: in each process that listens, and where what was set aside is taken.

    `locks` are those of all these processes.
    """

    def __init__(
        self,
        archive: Path,
        uids: Collection[int],
        receiver: Receiver,
        locks: Locks,
        addresses: Callable[[str], Collection[str]] | None = None,
        clock: Callable[[], float] = time.time,
        names: Callable[[str], Collection[str]] = names_of,
    ) -> None:
        """`addresses` and `names` return those of a node (default: what this host's resolver says), `clock` epoch
        seconds."""
        self._addresses = addresses or Remembered()
        self._names = names
        self._archive = archive
        self._locks = locks
        self._refused = Refused(archive, clock)
        self._delivery = ArchiveDelivery(archive)
        self._uids = frozenset(uids)
        self._receiver = receiver

    def take_one(self, connection: socket.socket, peer: str, workspace: Path, prefix: str) -> None:
        """Take what one connection hands over, and end it; whatever a peer sends, the next one is served."""
        with connection:
            try:
                take = partial(self._take, peer)
                stream.receive(connection, self._receiver, self._uids, ALLOWED, take, workspace, prefix)
            except (PerunError, OSError) as error:
                log.warning("hand-over from %s: %s", peer, error)
            except Exception:
                log.exception("hand-over from %s", peer)

    def take_allowed(self) -> None:
        """Take what was set aside and fits by now: an administrator allowed it, or this host knows the address."""
        for cluster in clusters(self._archive):
            for one in aside.entries(Archive(self._archive, cluster)):
                for part in sorted(one.path.glob(f"{HANDED}*/")):
                    try:
                        with self._locks.hold(ASIDE):
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
            with self._locks.hold(ONE_LONG) if long else contextlib.nullcontext():
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
        if not is_one_of(sender, known):
            known_as = ", ".join(sorted(map(str, known)))
            has = f"has {known_as}" if known else "has no address that the collector's host knows"
            remedy = "if that is the node, add the address to /etc/hosts on the collector's host"
            why = f"node {node} {has}, and this is from {sender}: {remedy}"
        elif origin.names is not None and not (node.lower() in origin.names or origin.names & {*self._names(node)}):
            shown = ", ".join(sorted(origin.names))[:200] or "no DNS name"
            why = f"node {node} shows a certificate of {shown}: it must name the node (subjectAltName)"
        else:
            return
        with self._locks.hold(REFUSING):
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
        return address.is_loopback or address.is_unspecified or is_one_of(address, self._known(node))

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
        with self._locks.hold(ASIDE):
            yield place.begin(why)

    def _put_ledger(self, directory: Path, cluster: str, node: str) -> None:
        with self._one_of(cluster, node):
            said = self._delivery.ledger(directory, cluster, node)
        for line in said:
            log.warning("%s", line)

    def _go_on(self, directory: Path, cluster: str, node: str, places: Mapping[str, tuple[int, str]]) -> bool:
        with self._one_of(cluster, node):
            return self._delivery.ledger_from(directory, cluster, node, places)

    def _one_of(self, cluster: str, node: str) -> contextlib.AbstractContextManager[None]:
        return self._locks.hold(crc32(f"{cluster}/{node}".encode()) % LEDGERS)

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
        try:
            if what == SESSION:
                session.mkdir(exist_ok=True)
                for name in (TRACKS, layout.STORE):
                    if (directory / name).exists():
                        (directory / name).rename(session / name)
                self._delivery.session(session, record)
            else:
                self._delivery.progress(session, record, grow=False)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"hand-over: no record that an agent writes ({type(error).__name__}: {error})") from error
