"""A text that whoever connects may have over HTTP: made beforehand, so that asking for it costs next to nothing.

Nobody is asked who he is, and nothing of a request is used but whether it is a GET and which form it takes. A request
has 4 KiB and five seconds. There are sixteen places; who comes when all are taken gets that of the eldest, so that
those who send nothing keep nobody out.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Mapping

from perun_hpc.errors import UnavailableError

PLACES = 16
REQUEST_B = 4096
PATIENCE_S = 5.0
REST_S = 0.005
"""After each connection: at most 200 a second are taken, whoever asks how often."""
PATH = b"/metrics"


class _Caller:
    """One connection: what came, what is still to be sent, until when."""

    def __init__(self, sock: socket.socket, until_s: float) -> None:
        self.sock = sock
        self.came = b""
        self.answer = memoryview(b"")
        self.until_s = until_s


class Scraped:
    """Serves the text of the moment at one address, from a thread of its own, until it is closed."""

    def __init__(self, host: str, port: int, patience_s: float = PATIENCE_S) -> None:
        """Listen there; `UnavailableError` where that cannot be."""
        self._patience_s = patience_s
        try:
            family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._listener = socket.create_server(where[:2], family=family, backlog=64)
        except OSError as error:
            raise UnavailableError(
                f"{host}:{port}: cannot serve figures there ({error.strerror or error}): see metrics.listen"
            ) from error
        self._listener.setblocking(False)
        self._texts: Mapping[str, bytes] = {}
        self._callers: dict[int, _Caller] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stop, stopped = socket.socketpair()
        self._selector.register(stopped, selectors.EVENT_READ)
        self._stopped = stopped
        self._thread = threading.Thread(target=self._serve, name="figures", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    def show(self, texts: Mapping[str, bytes]) -> None:
        """Let these be served from now on, by content type; the first one to who names none of them."""
        self._texts = dict(texts)

    def close(self) -> None:
        """Serve nobody any more."""
        self._stop.close()
        self._thread.join()

    def _serve(self) -> None:
        try:
            while True:
                for key, _ in self._selector.select(min(1.0, self._patience_s)):
                    if key.fileobj is self._stopped:
                        return
                    try:
                        self._turn(key.fileobj, key.data)
                    except OSError:  # a caller that is gone, or no descriptor left: the next one may be had
                        if key.data is not None:
                            self._drop(key.data)
                    if key.data is None:
                        time.sleep(REST_S)
                now_s = time.monotonic()
                for caller in [one for one in self._callers.values() if one.until_s < now_s]:
                    self._drop(caller)
        finally:
            for caller in list(self._callers.values()):
                self._drop(caller)
            for sock in (self._listener, self._stopped):
                sock.close()
            self._selector.close()

    def _turn(self, fileobj: object, caller: _Caller | None) -> None:
        if caller is None:
            self._accept()
        elif self._callers.get(caller.sock.fileno()) is not caller:
            return  # its place was given away in this very turn
        elif caller.answer:
            self._send(caller)
        else:
            self._read(caller)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        if len(self._callers) >= PLACES:
            self._drop(next(iter(self._callers.values())))
        caller = self._callers[sock.fileno()] = _Caller(sock, time.monotonic() + self._patience_s)
        self._selector.register(sock, selectors.EVENT_READ, caller)

    def _read(self, caller: _Caller) -> None:
        data = caller.sock.recv(REQUEST_B - len(caller.came))
        caller.came += data
        ended = b"\r\n\r\n" in caller.came
        if not data or (not ended and len(caller.came) >= REQUEST_B):
            self._drop(caller)
        elif ended:
            caller.answer = memoryview(self._answer(caller.came))
            self._selector.modify(caller.sock, selectors.EVENT_WRITE, caller)

    def _answer(self, request: bytes) -> bytes:
        line, _, rest = request.partition(b"\r\n")
        words = line.split(b" ")
        status, kind, body = "404 Not Found", "text/plain", b"/metrics is here\n"
        if words[0] != b"GET":
            status, body = "405 Method Not Allowed", b"GET only\n"
        elif words[1:2] and words[1].partition(b"?")[0] == PATH and self._texts:
            status, kind = "200 OK", self._kind(rest)
            body = self._texts[kind]
        elif words[1:2] and words[1].partition(b"?")[0] == PATH:
            status, body = "503 Service Unavailable", b"no figures yet: the first sweep goes on\n"
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return head.encode() + body

    def _kind(self, headers: bytes) -> str:
        """The content type that the caller names, without its parameters; else the first."""
        accepted = b"".join(one for one in headers.lower().split(b"\r\n") if one.startswith(b"accept:"))
        named = [kind for kind in self._texts if kind.partition(";")[0].encode() in accepted]
        first = min(named, key=lambda kind: accepted.index(kind.partition(";")[0].encode()), default=None)
        return first or next(iter(self._texts))

    def _send(self, caller: _Caller) -> None:
        caller.answer = caller.answer[caller.sock.send(caller.answer) :]
        if not caller.answer:
            # Closing with something unread would reset the connection before the caller has read the answer.
            with contextlib.suppress(OSError):
                caller.sock.shutdown(socket.SHUT_WR)
                caller.sock.recv(REQUEST_B)
            self._drop(caller)

    def _drop(self, caller: _Caller) -> None:
        self._callers.pop(caller.sock.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(caller.sock)
        caller.sock.close()
