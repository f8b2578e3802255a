"""A management controller over Redfish (DMTF DSP0266): one kept session, one request at a time, each within a limit.

The standard library's HTTPS client: a poller sends one kind of GET, and wants to say for each byte when it stops.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from perun_hpc.errors import AccessError, ConfigError, DataError, NotFoundError, PerunError, UnavailableError
from perun_hpc.meters.secret import Secret

LIMIT_S = 10.0
MAX_B = 4 << 20
"""Dell's attributes, the longest known document, have 300 KiB."""
MOST_REFUSALS = 2
"""So many 401s, and the device is left alone: controllers block addresses that go on."""
ROOT = "/redfish/v1/"
SESSIONS = "/redfish/v1/SessionService/Sessions"
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
"""What a connection gives that the other side ended while it lay idle."""


class BusyDeviceError(UnavailableError):
    """The device says that it is busy, and may say for how long."""

    def __init__(self, text: str, retry_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_s = retry_s


class FaultyDeviceError(UnavailableError):
    """The device says that it failed at this (HTTP 500): it may be at this alone."""


@dataclass(frozen=True)
class Trust:
    """How a controller is known: by a CA's file, or by its own certificate's SHA-256."""

    ca: str = ""
    fingerprint: str = ""

    def context(self) -> ssl.SSLContext:
        """What speaks TLS so. ConfigError where the CA's file cannot be used."""
        if self.fingerprint:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # known by its digest instead
            return context
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigError(
                f"{self.ca}: no CA's certificate in PEM can be read there: meters.yaml names it"
            ) from error


def digest(certificate: bytes) -> str:
    """The SHA-256 of a certificate in DER as people compare it: 32 pairs of digits."""
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(certificate).digest())


def shown_fingerprint(host: str) -> str:
    """The digest of the certificate that `host` shows, to be compared by a person. UnavailableError without one."""
    name, port = split_host(host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((name, port), LIMIT_S) as plain,
            context.wrap_socket(plain, server_hostname=name) as wire,
        ):
            return digest(wire.getpeercert(True) or b"")
    except OSError as error:
        raise UnavailableError(f"{host}: no TLS there: {reason(error)}") from error


def split_host(host: str, port: int = 443) -> tuple[str, int]:
    """`HOST[:PORT]` in two."""
    at = urlsplit(f"//{host}")
    return at.hostname or host, at.port or port


def reason(error: BaseException) -> str:
    """Why a connection failed, in words of the system's; never what was sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'failed'}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or type(error).__name__


class _Connection(http.client.HTTPSConnection):
    """HTTPS that shows nothing of ours before the other side has shown the pinned certificate."""

    def __init__(self, host: str, trust: Trust, context: ssl.SSLContext, limit_s: float) -> None:
        name, port = split_host(host)
        super().__init__(name, port, timeout=limit_s, context=context)
        self._fingerprint = trust.fingerprint

    def connect(self) -> None:
        super().connect()
        if self._fingerprint:
            seen = digest(self.sock.getpeercert(True) or b"")
            if seen != self._fingerprint.upper():
                self.close()
                raise AccessError(
                    f"{self.host}: its certificate is another one (SHA-256 {seen}): compare it there, then correct "
                    "`fingerprint` in meters.yaml"
                )


@dataclass(frozen=True)
class Answer:
    """A document, and the middle of its request by this host's clock (epoch seconds)."""

    document: dict[str, Any]
    time_s: float


class Redfish:
    """One controller: `get` documents of it, and `close` it, which deletes its session whatever happened."""

    def __init__(
        self, host: str, trust: Trust, secret: Callable[[], Secret], limit_s: float = LIMIT_S, tidy: bool = False
    ) -> None:
        """Nothing is sent yet. ConfigError where `trust` cannot be used.

        `tidy`: with the first login sessions of this account end that a process before, which was killed, left.
        """
        self.host, self._trust, self._secret, self._limit_s = host, trust, secret, limit_s
        self._context = trust.context()
        self._connection: _Connection | None = None
        self._token, self._session, self._basic = "", "", ""
        self._lost = tidy
        self._refusals, self._refused_with, self._name = 0, (0, 0), ""
        self.logins = 0
        """How many sessions there were; another one may be of another firmware."""

    def get(self, uri: str) -> Answer:
        """One document.

        Raises
        ------
        AccessError
            It is not for us; after two such answers nothing is sent until the credential is another one.
        NotFoundError
            There is none.
        UnavailableError
            The controller hangs, is busy or fails.
        DataError
            What came is no document.
        """
        if not uri.startswith("/redfish/"):
            raise DataError(f"{self.host}: {uri[:100]!r} is no URI of this controller's")
        fresh = self._log_in()
        answer = self._exchange("GET", uri)
        if answer.status == 401 and not fresh:  # the session ran out: not a wrong password
            ended, self._token, self._basic = self._session, "", ""
            self._session = ""
            self._log_in()
            self._delete(ended)
            answer = self._exchange("GET", uri)
        if answer.status == 401:
            self._refuse()
        self._check(answer, uri)
        self._refusals = 0
        return Answer(self._document(answer, uri), answer.time_s)

    def close(self) -> None:
        """End the session, if there is one; what fails at that raises nothing."""
        session, self._session = self._session, ""
        if session:
            self._delete(session)
        self._token = ""
        self._drop()

    # ------------------------------------------------------------------------------------------------------- session

    def _log_in(self) -> bool:
        """Have a session; True where it is a new one."""
        if self._token or self._basic:
            return False
        secret = self._secret()
        if self._refusals >= MOST_REFUSALS:
            if secret.stamp == self._refused_with:
                raise AccessError(
                    f"{self.host}: refused {self._refusals} times, left alone until credential {secret.name} is "
                    "another one, or the service restarts"
                )
            self._refusals = 0
        self._refused_with, self._name = secret.stamp, secret.name
        user, password = secret.get("user"), secret.get("password")
        where = self._sessions_uri()
        body = json.dumps({"UserName": user, "Password": password}).encode()
        try:
            answer = self._exchange("POST", where, body)
        except UnavailableError:
            self._lost = True  # it may have begun a session of which we do not know
            raise
        if answer.status in (404, 405, 501):
            self._basic = b64encode(f"{user}:{password}".encode()).decode()
            self.logins += 1
            return True
        if answer.status in (401, 403):
            self._refuse()
        self._check(answer, where)
        self._token = answer.headers.get("X-Auth-Token", "")
        place = answer.headers.get("Location", "")
        if not place:
            with contextlib.suppress(DataError):
                place = str(self._document(answer, where).get("@odata.id", ""))
        self._session = urlsplit(place).path
        if not self._token:
            raise DataError(f"{self.host}: its answer to the login has no X-Auth-Token")
        self.logins += 1
        if self._lost:
            self._delete_lost(where, user)
        return True

    def _sessions_uri(self) -> str:
        answer = self._exchange("GET", ROOT)
        self._check(answer, ROOT)
        links = self._document(answer, ROOT).get("Links")
        sessions = links.get("Sessions") if isinstance(links, dict) else None
        uri = sessions.get("@odata.id") if isinstance(sessions, dict) else None
        return uri if isinstance(uri, str) and uri.startswith("/redfish/") else SESSIONS

    def _refuse(self) -> None:
        self.close()
        self._refusals += 1
        raise AccessError(f"{self.host}: it refuses the credential {self._name} (401): correct it (docs/meters.md)")

    def _delete(self, session: str) -> None:
        if session.startswith("/redfish/"):
            with contextlib.suppress(PerunError):
                self._exchange("DELETE", session)

    def _delete_lost(self, sessions: str, user: str) -> None:
        """Delete what an unanswered login began, or a process that was killed: the account is perun's alone."""
        self._lost = False
        with contextlib.suppress(PerunError):
            for uri in self._members(sessions):
                if uri != self._session and self._seen(uri).get("UserName") == user:
                    self._delete(uri)

    def _members(self, uri: str) -> list[str]:
        members = self._seen(uri).get("Members")
        found = [one.get("@odata.id") for one in members if isinstance(one, dict)] if isinstance(members, list) else []
        return [one for one in found if isinstance(one, str) and one.startswith("/redfish/")]

    def _seen(self, uri: str) -> dict[str, Any]:
        """A document that may be withheld from us, which says nothing of the credential."""
        answer = self._exchange("GET", uri)
        return self._document(answer, uri) if answer.status == 200 else {}

    # ------------------------------------------------------------------------------------------------------- the wire

    @dataclass(frozen=True)
    class _Raw:
        status: int
        headers: http.client.HTTPMessage
        body: bytes
        time_s: float

    def _exchange(self, method: str, uri: str, body: bytes | None = None) -> _Raw:
        headers = {"Accept": "application/json", "OData-Version": "4.0"}
        if self._token:
            headers["X-Auth-Token"] = self._token
        elif self._basic:
            headers["Authorization"] = f"Basic {self._basic}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        with self._within() as late:
            for again in (self._connection is not None and body is None, False):
                try:
                    return self._once(method, uri, body, headers)
                except (OSError, http.client.HTTPException) as error:
                    self._drop()
                    if again and isinstance(error, _STALE) and not late.is_set():
                        continue
                    slow = late.is_set() or isinstance(error, TimeoutError)
                    why = f"no answer within {self._limit_s:g} s" if slow else reason(error)
                    raise UnavailableError(f"{self.host}: {uri}: {why}") from None  # the request has the password
                except BaseException:
                    self._drop()
                    raise
        raise AssertionError("unreachable")

    def _once(self, method: str, uri: str, body: bytes | None, headers: dict[str, str]) -> _Raw:
        if self._connection is None:
            self._connection = _Connection(self.host, self._trust, self._context, self._limit_s)
        before_s = time.time()
        began = time.monotonic()
        self._connection.request(method, uri, body, headers)
        response = self._connection.getresponse()
        content = response.read(MAX_B + 1)
        if len(content) <= MAX_B and response.length:
            raise http.client.IncompleteRead(b"", response.length)  # `read` of so many bytes says nothing of it
        if len(content) > MAX_B or response.will_close or not response.isclosed():
            self._drop()
        if len(content) > MAX_B:
            raise DataError(f"{self.host}: {uri}: longer than {MAX_B >> 20} MiB")
        return self._Raw(response.status, response.headers, content, before_s + (time.monotonic() - began) / 2)

    @contextlib.contextmanager
    def _within(self) -> Iterator[threading.Event]:
        """The whole exchange has one limit: a socket's own begins anew with every byte."""
        late = threading.Event()

        def cut() -> None:
            late.set()
            connection = self._connection
            if connection is not None and connection.sock is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

        timer = threading.Timer(self._limit_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _check(self, answer: _Raw, uri: str) -> None:
        status = answer.status
        if status in (200, 201):
            return
        what = f"{self.host}: {uri}: HTTP {status}"
        if status in (404, 410):
            raise NotFoundError(what)
        if status == 403:
            raise AccessError(f"{what}: the account may not read this: give it the role ReadOnly")
        if status in (429, 503):
            after = answer.headers.get("Retry-After", "")
            raise BusyDeviceError(what, float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 0.0)
        if status >= 500:
            raise FaultyDeviceError(what)
        raise DataError(f"{what} is no answer to a GET")

    def _document(self, answer: _Raw, uri: str) -> dict[str, Any]:
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise DataError(f"{self.host}: {uri}: the answer is no JSON document")
        return document
