"""A management controller for tests: HTTPS on loopback, a tree of documents, sessions, and a log of what it served.

It is told how to fail: `answers` holds, by URI, what is done instead of serving its document.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.certificates import Authority

TREES = Path(__file__).parent / "fixtures" / "meters"
USER, PASSWORD = "perun-meters", "kept: a secret"
SESSIONS = "/redfish/v1/SessionService/Sessions"
Answer = Callable[[BaseHTTPRequestHandler], None]


def tree(name: str) -> dict[str, Any]:
    """A captured tree's documents by URI."""
    documents: dict[str, Any] = json.loads((TREES / f"{name}.json").read_text())
    return documents


@dataclass
class Controller:
    """A running controller: what it has, what it does, what it saw."""

    documents: dict[str, Any]
    port: int = 0
    ca: Path = Path()
    cert: Path = Path()
    answers: dict[str, Answer] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    log: list[tuple[str, str, int]] = field(default_factory=list)
    made: int = 0
    seen: list[float] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def statuses(self, method: str, uri: str = "") -> list[int]:
        """What it answered to requests of that method, in order."""
        return [status for how, where, status in self.log if how == method and uri in where]

    def end_sessions(self) -> None:
        """As a controller that starts anew: nobody is logged in."""
        with self.lock:
            self.sessions.clear()


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Answer with that, whatever the document."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send(code, body, headers)  # type: ignore[attr-defined]

    return answer


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Answer nothing until the test is over."""
    handler.server.controller.released.wait(30)  # type: ignore[attr-defined]


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Answer a byte now and then: each within any socket's limit, all of them never."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.controller.released.wait(0.1):  # type: ignore[attr-defined]
        handler.wfile.write(b" ")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.server.controller.log.append((self.command, self.path, code))
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Its own log is enough."""

    def _do(self) -> None:
        ours = self.server.controller
        with ours.lock:
            ours.at_once += 1
            ours.most_at_once = max(ours.most_at_once, ours.at_once)
        try:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            uri = self.path.rstrip("/")
            if instead := ours.answers.get(f"{self.command} {uri}") or ours.answers.get(uri):
                instead(self)
            else:
                self.answer(ours, uri, body)
        finally:
            with ours.lock:
                ours.at_once -= 1

    do_GET = do_POST = do_DELETE = _do

    def answer(self, ours: Controller, uri: str, body: bytes) -> None:
        if self.command == "POST" and uri == SESSIONS:
            self.log_in(ours, body)
        elif uri != "/redfish/v1" and self.headers.get("X-Auth-Token") not in ours.sessions.values():
            self.send(401, b"{}", {})
        elif self.command == "DELETE":
            self.send(200 if ours.sessions.pop(uri, None) else 404, b"{}", {})
        elif uri == SESSIONS:
            members = [{"@odata.id": one} for one in ours.sessions]
            self.send(200, json.dumps({"Members": members}).encode(), {})
        elif uri in ours.sessions:
            self.send(200, json.dumps({"@odata.id": uri, "UserName": ours.users.get(uri, USER)}).encode(), {})
        elif uri in ours.documents:
            ours.seen.append(time.monotonic())
            self.send(200, json.dumps(ours.documents[uri]).encode(), {})
        else:
            self.send(404, b"{}", {})

    def log_in(self, ours: Controller, body: bytes) -> None:
        if json.loads(body) != {"UserName": USER, "Password": PASSWORD}:
            self.send(401, b"{}", {})
            return
        with ours.lock:
            ours.made += 1
            uri, token = f"{SESSIONS}/{ours.made}", f"token-{ours.made}"
            ours.sessions[uri] = token
        self.send(201, json.dumps({"@odata.id": uri}).encode(), {"Location": uri, "X_Auth_Token": token})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    controller: Controller

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no fault."""


@contextmanager
def serving(scratch: Path, documents: dict[str, Any]) -> Iterator[Controller]:
    """Run a controller with these documents as long as the block."""
    authority = Authority.begin(scratch / "ca")
    files = authority.issue("bmc", ["DNS:localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.controller = Controller(documents, server.server_address[1], files.ca, files.cert)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.controller
    finally:
        server.controller.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
