"""Certificates of the site in place of munge's credentials: a hand-over over TLS, both of whose ends show who they are.

Node and collector each have a certificate of a CA that the other one knows. The node's names the node (a DNS name in
its subjectAltName), the collector's the host that `store.collector` names. TLS 1.3 alone is spoken. The collector
greets once it has accepted the node's certificate, so that a node which is refused reads why before it sends anything.
"""

from __future__ import annotations

import datetime
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from perun_hpc.archive.stream import Check, Origin
from perun_hpc.errors import AccessError, DataError
from perun_hpc.process.log import log

GREETING = b"perun\n"
_TLS_BEGINS = b"\x16"
"""The first byte of a handshake; a line of JSON begins with another one."""
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_REFUSALS = {
    "CERTIFICATE_EXPIRED": "it is out of date: renew it; or its CA's revocation list there is",
    "UNKNOWN_CA": "no CA that the collector knows has signed it, or only others' revocation lists are there: see "
    "store.tls.ca there",
    "UNSUPPORTED_CERTIFICATE": "it is not made for clients (extendedKeyUsage: clientAuth)",
    "CERTIFICATE_REVOKED": "it is revoked",
    "BAD_CERTIFICATE": "it is not valid yet, or damaged: see the clocks",
}
"""What the collector's alerts say of a node's certificate."""


@dataclass(frozen=True)
class Certificates:
    """A host's own certificate and key, and the CAs whose certificates it accepts: files in PEM."""

    cert: Path
    key: Path
    ca: Path

    @classmethod
    def of(cls, tls: Mapping[str, str]) -> Certificates:
        """Those that the policy's `store.tls` names."""
        return cls(Path(tls["cert"]), Path(tls["key"]), Path(tls["ca"]))

    def context(self, kind: ssl._SSLMethod) -> ssl.SSLContext:
        """What speaks TLS with them. AccessError where a file cannot be used, or others can read the key."""
        texts = {name: _read(name, path) for name, path in (("cert", self.cert), ("key", self.key), ("ca", self.ca))}
        if mode := self.key.stat().st_mode & 0o007:
            raise AccessError(f"{self.key}: everybody can get at this key (mode ..{mode}): chmod o= {self.key}")
        context = ssl.SSLContext(kind)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        if b"-----BEGIN X509 CRL-----" in texts["ca"]:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        try:
            context.load_verify_locations(cafile=str(self.ca))
        except ssl.SSLError as error:
            raise AccessError(f"{self.ca}: holds no CA's certificate in PEM: store.tls.ca names it") from error
        try:
            context.load_cert_chain(self.cert, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            why = getattr(error, "reason", None) or "not read"
            what = f"no certificate and its own key, in PEM and without a password ({why})"
            raise AccessError(f"{self.cert}, {self.key}: {what}: store.tls names them") from error
        return context

    def ends_s(self) -> list[tuple[Path, float]]:
        """When they are out of date (epoch seconds), file by file. AccessError, DataError where they cannot be used."""
        cas = self.context(ssl.PROTOCOL_TLS_SERVER).get_ca_certs()
        ends = [ssl.cert_time_to_seconds(str(ca["notAfter"])) for ca in cas]
        return [(self.cert, ends_s(self.cert)), *((self.ca, float(end_s)) for end_s in ends)]

    def credential(self, covered: str) -> str:
        """None: who the node is was said by its certificate, and nobody changes what goes through TLS."""
        return ""

    def connect(self, connection: socket.socket, host: str) -> socket.socket:
        """Speak TLS with the collector on `host`; ConnectionError where one does not accept the other."""
        context = self.context(ssl.PROTOCOL_TLS_CLIENT)
        try:
            wire = context.wrap_socket(connection, server_hostname=host)
            greeting = b""
            while len(greeting) < len(GREETING):
                block = wire.recv(len(GREETING) - len(greeting))
                if not block:
                    raise ConnectionError("it ended the connection before it had accepted this node's certificate")
                greeting += block
        except ssl.SSLCertVerificationError as error:
            why = f"its certificate is not accepted ({error.verify_message}): it must be of a CA in {self.ca}"
            raise ConnectionError(f"{why}, in date, and name {host}") from error
        except ssl.SSLError as error:
            raise ConnectionError(self._in_words(str(error.reason))) from error
        return wire

    def _in_words(self, reason: str) -> str:
        alert = reason.rpartition("ALERT_")[2] if "ALERT_" in reason else ""
        if alert in _REFUSALS:
            return f"it does not accept the certificate {self.cert}: {_REFUSALS[alert]}"
        if alert:
            return f"it ends the handshake ({alert}): see the collector's log"
        remedy = "store.tls belongs into the collector's policy, too; restart perun collect after that"
        return f"no TLS 1.3 is spoken there ({reason}): {remedy}"


class Presented:
    """The collector's end: accepts nodes by their certificates; files that are replaced count from then on."""

    def __init__(self, certificates: Certificates) -> None:
        """Read them. AccessError where they cannot be used."""
        self._certificates = certificates
        self._lock = threading.Lock()
        self._stamp = self._stamps()
        self._context = self._made()

    def accept(self, connection: socket.socket) -> tuple[socket.socket, Check]:
        """Shake hands within the connection's timeout; returns it, and what says whose certificate that was.

        AccessError where it is refused.
        """
        until_s = time.monotonic() + (connection.gettimeout() or 0)
        if connection.recv(1, socket.MSG_PEEK) != _TLS_BEGINS:
            raise AccessError("hand-over: by certificates only: store.tls belongs into the node's policy, too")
        connection.settimeout(max(0.001, until_s - time.monotonic()))
        try:
            context = self._renewed()
            wire = context.wrap_socket(connection, server_side=True)
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            if "CRL" in why:
                why += f": each CA in {self._certificates.ca} needs a list, in date"
            raise AccessError(f"hand-over: the sender's certificate is refused: {why}") from error
        except ssl.SSLError as error:
            raise AccessError(f"hand-over: no handshake ({error.reason or error})") from error
        names = frozenset(name.lower() for name in _names(wire))

        def check(credential: str, covered: str, uids: Collection[int]) -> Origin:
            if self._renewed() is not context:  # the sender's may have been taken back
                raise AccessError("hand-over: certificates were replaced here meanwhile: shake hands anew")
            return Origin(names=names)

        try:
            wire.sendall(GREETING)
        except OSError:
            wire.close()
            raise
        return wire, check

    def _made(self) -> ssl.SSLContext:
        context = self._certificates.context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # a round's hand-overs share a connection; the next one's process knows no session
        return context

    def _stamps(self) -> list[tuple[int, int]]:
        """Which files they are now, and since when with that content, owner and mode."""
        ours = self._certificates
        stats = [path.stat() for path in (ours.cert, ours.key, ours.ca) if path.exists()]
        return [(one.st_ino, one.st_ctime_ns) for one in stats]

    def _renewed(self) -> ssl.SSLContext:
        with self._lock:
            stamp = self._stamps()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = self._made()
                except AccessError as error:
                    log(f"the certificates were replaced, and the former ones stay in use: {error}")
            return self._context


def _names(wire: ssl.SSLSocket) -> Iterator[str]:
    """The DNS names that the peer's certificate is of."""
    named = cast("Iterable[tuple[str, str]]", (wire.getpeercert() or {}).get("subjectAltName", ()))
    return (name for kind, name in named if kind == "DNS")


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        who = f"user {os.geteuid()}"
        raise AccessError(f"{path}: {who} cannot read it ({error.strerror}): store.tls.{name} names it") from error


def ends_s(path: Path) -> float:
    """When the first certificate in a file, the host's own, is out of date (epoch seconds). DataError: it holds none.

    Python's ssl module reads the dates of peers' certificates alone; they stand in X.509's Validity (RFC 5280, 4.1).
    """
    found = _PEM.search(path.read_text("ascii", "replace"))
    try:
        if found is None:
            raise ValueError("no certificate in PEM")
        whole = next(_parts(ssl.PEM_cert_to_DER_cert(found[0])))[1]
        signed = next(_parts(whole))[1]
        fields = [content for tag, content in _parts(signed) if tag != 0xA0]  # the version, which may be absent
        tag, end = list(_parts(fields[3]))[1]
        layout = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"
        return datetime.datetime.strptime(end.decode(), layout).replace(tzinfo=datetime.UTC).timestamp()
    except (ValueError, IndexError, StopIteration) as error:
        raise DataError(f"{path}: no certificate ({error})") from error


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The values that stand after each other in DER: tag and content. IndexError where they are cut off."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            octets = length & 0x7F
            length, at = int.from_bytes(der[at : at + octets]), at + octets
        if at + length > len(der):
            raise IndexError("cut off")
        yield tag, der[at : at + length]
        at += length
