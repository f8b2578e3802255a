"""The text that a monitoring system asks for over HTTP: who sends nothing, or rubbish, keeps nobody else from it."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from perun_hpc.data_model import metrics
from perun_hpc.errors import UnavailableError
from perun_hpc.process.scraped import PLACES, REQUEST_B, Scraped

PLAIN, OPEN = b"perun_up 1\n", b"perun_up 1\n# EOF\n"
PATIENCE_S = 0.3
PROMETHEUS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.fixture
def served() -> Iterator[Scraped]:
    one = Scraped("127.0.0.1", 0, PATIENCE_S)
    one.show({metrics.TEXT: PLAIN, metrics.OPENMETRICS: OPEN})
    yield one
    one.close()


def ask(served: Scraped, path: str = "/metrics", **headers: str) -> tuple[str, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{served.port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read()


def connect(served: Scraped) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=10)


def answer_to(served: Scraped, request: bytes) -> bytes:
    with connect(served) as caller:
        caller.sendall(request)
        found = b""
        while data := caller.recv(65536):
            found += data
        return found


def test_each_caller_gets_the_form_that_he_names_first(served: Scraped) -> None:
    assert ask(served) == (metrics.TEXT, PLAIN)
    assert ask(served, "/metrics?x=1", Accept="*/*") == (metrics.TEXT, PLAIN)
    assert ask(served, Accept=PROMETHEUS) == (metrics.OPENMETRICS, OPEN)
    assert ask(served, Accept="text/plain,application/openmetrics-text;q=0.1") == (metrics.TEXT, PLAIN)


def test_what_is_asked_otherwise_is_refused(served: Scraped) -> None:
    for request, status in (
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET\r\n\r\n", b"404"),
        (b"\r\n\r\n", b"405"),
        (b"\x00\xff\r\n\r\n", b"405"),
    ):
        assert answer_to(served, request).startswith(b"HTTP/1.1 " + status), request


def test_before_there_are_figures_that_is_said() -> None:
    served = Scraped("127.0.0.1", 0)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        ask(served)
    served.close()


def test_callers_who_send_nothing_keep_nobody_out() -> None:
    served = Scraped("127.0.0.1", 0, patience_s=600)
    served.show({metrics.TEXT: PLAIN})
    silent = [connect(served) for _ in range(3 * PLACES)]
    assert ask(served) == (metrics.TEXT, PLAIN)
    for one in silent:
        one.close()
    served.close()


def test_a_caller_who_sends_a_byte_now_and_then_is_let_go(served: Scraped) -> None:
    with connect(served) as slow, pytest.raises(OSError):
        for _ in range(REQUEST_B - 1):
            slow.send(b"G")
            time.sleep(0.01)


def test_an_endless_request_is_cut_off(served: Scraped) -> None:
    with connect(served) as long, pytest.raises(OSError):
        for _ in range(1000):
            long.sendall(b"x" * REQUEST_B)
            time.sleep(0.001)
    assert ask(served)[1] == PLAIN


def test_a_caller_who_does_not_read_is_let_go(served: Scraped) -> None:
    served.show({metrics.TEXT: b"x" * (32 << 20)})
    with connect(served) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        served.show({metrics.TEXT: PLAIN})
        assert ask(served)[1] == PLAIN
        time.sleep(3 * PATIENCE_S)
        got = 0
        with contextlib.suppress(OSError):
            while data := deaf.recv(1 << 20):
                got += len(data)
        assert got < 32 << 20


def test_a_port_that_is_taken_is_one_clear_line(served: Scraped) -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:.*cannot serve figures there.*metrics\.listen"):
        Scraped("127.0.0.1", served.port)
