"""Hand-overs by certificates where no munge runs: what is taken, and what each end says of the other's certificate."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.outbox import shipping
from perun_hpc.archive import certificates, stream
from perun_hpc.archive.certificates import Certificates, Presented
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.handover import StreamDelivery
from perun_hpc.archive.learnt import Learnt
from perun_hpc.archive.listener import AT_ONCE, Listener, workspace
from perun_hpc.archive.refused import Refused
from perun_hpc.errors import AccessError, DataError, UnavailableError
from tests.certificates import Authority, openssl
from tests.handed_over import HOSTS, everything_in, filled_spool, record
from tests.soak.store_data import START

LEDGER = {"what": "ledger", "cluster": "c", "node": "n2"}
NAMES = {"n2": {"n2", "n2.cluster.example"}, "n1": {"n1"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.begin(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def collector(site: Authority) -> Certificates:
    return site.issue("collector", ["DNS:localhost", "DNS:head"])


@pytest.fixture(scope="module")
def n2(site: Authority) -> Certificates:
    return site.issue("n2", ["DNS:n2"])


@pytest.fixture
def spool(tmp_path: Path) -> AgentPaths:
    return filled_spool(tmp_path)


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Path]:
    """A file in which all processes of a collector log."""
    handler = logging.FileHandler(tmp_path / "log")
    logging.getLogger().addHandler(handler)
    yield tmp_path / "log"
    logging.getLogger().removeHandler(handler)
    handler.close()


@contextlib.contextmanager
def listening(archive: Path, ours: Certificates, processes: int = 1) -> Iterator[tuple[str, int]]:
    """A collector that accepts by certificates; where it listens."""
    archive.mkdir(exist_ok=True)
    names = NAMES.__getitem__
    clock = lambda: float(START)  # noqa: E731
    made = Listener(0, archive, (), Presented(ours), HOSTS.__getitem__, clock, names, processes)
    with contextlib.closing(made) as listener:
        yield "localhost", listener.port


def hands_over(archive: Path, ours: Certificates, theirs: Certificates, at: str = "localhost") -> None:
    with listening(archive, ours) as (_, port):
        stream.send({"2025-11-24.jsonl": b'{"t0_ns":1}\n'}, LEDGER, (at, port), theirs)


def refusal(archive: Path, ours: Certificates, theirs: Certificates, at: str = "localhost") -> str:
    """What the node says of a hand-over that is refused; nothing came."""
    with pytest.raises((UnavailableError, AccessError)) as raised:
        hands_over(archive, ours, theirs, at)
    assert not everything_in(archive)
    (line,) = str(raised.value).splitlines()
    return line


def test_what_is_handed_over_by_certificates_lies_where_a_node_itself_would_have_put_it(
    tmp_path: Path, spool: AgentPaths, collector: Certificates, n2: Certificates
) -> None:
    shutil.copytree(spool.spool, tmp_path / "again")
    with listening(tmp_path / "archive", collector) as address:
        assert shipping.ship_all(spool, StreamDelivery(address, n2), ("c", "n2"))
        ArchiveDelivery(tmp_path / "archive").keep_learnt(Learnt("m", {}), "c", "n2")
        assert StreamDelivery(address, n2).learnt_of("c", "n2") == Learnt("m", {})
        (tmp_path / "archive/c/nodes/n2/learnt.json").unlink()
    same = AgentPaths(spool.run_dir, tmp_path / "again")
    (tmp_path / "other").mkdir()
    assert shipping.ship_all(same, ArchiveDelivery(tmp_path / "other"), ("c", "n2"))
    assert everything_in(tmp_path / "archive") == everything_in(tmp_path / "other")
    assert not list(spool.session("10.0").iterdir())


def test_a_certificate_of_the_name_with_which_the_collector_knows_the_node_is_the_nodes(
    tmp_path: Path, spool: AgentPaths, site: Authority, collector: Certificates
) -> None:
    hands_over(tmp_path / "archive", collector, site.issue("fqdn", ["DNS:N2.cluster.example"]))
    assert everything_in(tmp_path / "archive")


@pytest.mark.parametrize(
    "names", [["DNS:n1"], ["DNS:n2.elsewhere.example"], ["DNS:*.cluster.example"], ["IP:127.0.0.1"], []]
)
def test_a_certificate_of_another_name_hands_over_nothing(
    tmp_path: Path, spool: AgentPaths, site: Authority, collector: Certificates, names: list[str]
) -> None:
    why = refusal(tmp_path / "archive", collector, site.issue("other", names))
    assert "node n2 shows a certificate of" in why and "subjectAltName" in why
    assert "127.0.0.1" in Refused(tmp_path / "archive").read()


def test_the_nodes_address_counts_as_with_munge(
    tmp_path: Path, spool: AgentPaths, site: Authority, collector: Certificates
) -> None:
    """n1's own certificate, shown from the address of n2."""
    with listening(tmp_path / "archive", collector) as address, pytest.raises(UnavailableError, match="n1 has 192"):
        StreamDelivery(address, site.issue("n1", ["DNS:n1"])).ledger(spool.node, "c", "n1")


def test_each_certificate_that_is_not_right_is_named_at_the_node(
    tmp_path: Path, spool: AgentPaths, site: Authority, collector: Certificates, n2: Certificates
) -> None:
    archive, stranger = tmp_path / "archive", Authority.begin(tmp_path / "stranger")
    late = site.issue("late", ["DNS:n2"], days=-1)
    assert f"does not accept the certificate {late.cert}: it is out of date: renew it" in refusal(
        archive, collector, late
    )
    strange = replace(stranger.issue("n2", ["DNS:n2"]), ca=site.ca)
    assert "no CA that the collector knows has signed it" in refusal(archive, collector, strange)
    server = site.issue("server", ["DNS:n2"], usage="serverAuth")
    assert "not made for clients" in refusal(archive, collector, server)
    late = site.issue("late", ["DNS:localhost"], days=-1)
    assert "its certificate is not accepted (certificate has expired)" in refusal(archive, late, n2)
    strange = replace(stranger.issue("ctl", ["DNS:localhost"]), ca=site.ca)
    assert f"it must be of a CA in {site.ca}" in refusal(archive, strange, n2)
    assert "and name 127.0.0.1" in refusal(archive, collector, n2, at="127.0.0.1")
    client = site.issue("client", ["DNS:localhost"], usage="clientAuth")
    assert "its certificate is not accepted" in refusal(archive, client, n2)


def test_a_certificate_that_was_taken_back_is_refused(
    tmp_path: Path, spool: AgentPaths, collector: Certificates
) -> None:
    site = Authority.begin(tmp_path / "ca")
    ours, n2, other = (site.issue(name, [f"DNS:{name}"]) for name in ("localhost", "n2", "n1"))
    with_list = tmp_path / "list.pem"
    with_list.write_bytes(site.ca.read_bytes() + site.revoke(other.cert))
    hands_over(tmp_path / "archive", replace(ours, ca=with_list), n2)
    with_list.write_bytes(site.ca.read_bytes() + site.revoke(n2.cert))
    assert "it is revoked" in refusal(tmp_path / "other", replace(ours, ca=with_list), n2)


def test_a_certificate_that_is_taken_back_counts_no_more_on_a_connection_that_is_kept(tmp_path: Path) -> None:
    site = Authority.begin(tmp_path / "ca")
    ours, n2, other = (site.issue(name, [f"DNS:{name}"]) for name in ("localhost", "n2", "n1"))
    ours = replace(ours, ca=tmp_path / "list.pem")
    ours.ca.write_bytes(site.ca.read_bytes() + site.revoke(other.cert))
    made: list[socket.socket] = []

    class Counting(Certificates):
        def connect(self, connection: socket.socket, host: str) -> socket.socket:
            made.append(connection)
            return super().connect(connection, host)

    again = site.revoke(n2.cert)
    with listening(tmp_path / "archive", ours) as address:
        to = stream.Channel(address, Counting(n2.cert, n2.key, n2.ca))
        for day in ("2025-11-24", "2025-11-25"):
            to.send({f"{day}.jsonl": b'{"t0_ns":1}\n'}, LEDGER)
        ours.ca.write_bytes(site.ca.read_bytes() + again)
        for why in ("shake hands anew", "it is revoked"):
            assert len(made) == 1
            with pytest.raises(UnavailableError, match=why):
                to.send({"2025-11-26.jsonl": b'{"t0_ns":1}\n'}, LEDGER)
    assert sorted(everything_in(tmp_path / "archive")) == [f"c/nodes/n2/2025-11-2{day}.jsonl" for day in (4, 5)]


def test_a_revocation_list_that_is_out_of_date_or_of_another_ca_is_named_at_both_ends(
    tmp_path: Path, spool: AgentPaths, logged: Path
) -> None:
    site, other = Authority.begin(tmp_path / "ca"), Authority.begin(tmp_path / "other-ca", "other")
    ours, n2, back = (site.issue(name, [f"DNS:{name}"]) for name in ("localhost", "n2", "n1"))
    theirs = replace(other.issue("n2", ["DNS:n2"]), ca=site.ca)
    cas, both = tmp_path / "cas.pem", site.ca.read_bytes() + other.ca.read_bytes()
    cas.write_bytes(both + site.revoke(back.cert))
    hands_over(tmp_path / "archive", replace(ours, ca=cas), n2)
    assert "or only others' revocation lists are there" in refusal(tmp_path / "2", replace(ours, ca=cas), theirs)
    assert f"each CA in {cas} needs a list, in date" in logged.read_text()
    late = ("-crl_lastupdate", "20250101000000Z", "-crl_nextupdate", "20250201000000Z")
    cas.write_bytes(both + site.revoke(ours.cert, *late))
    assert "or its CA's revocation list there is" in refusal(tmp_path / "3", replace(ours, ca=cas), n2)
    assert f"each CA in {cas} needs a list, in date" in logged.read_text()


def test_files_that_cannot_be_used_are_named(tmp_path: Path, site: Authority, n2: Certificates) -> None:
    absent, text, open_key = tmp_path / "absent.pem", tmp_path / "text", tmp_path / "open.key"
    text.write_text("no PEM\n")
    shutil.copy(n2.key, open_key)
    open_key.chmod(0o644)
    other = site.issue("n3", ["DNS:n3"])
    locked = tmp_path / "locked.key"
    certificates_of = {
        f"{absent}: user {os.geteuid()} cannot read it (No such file": replace(n2, cert=absent),
        "store.tls.key": replace(n2, key=absent),
        "store.tls.ca": replace(n2, ca=absent),
        f"{text}: holds no CA's certificate": replace(n2, ca=text),
        f"{n2.cert}, {other.key}: no certificate and its own key": replace(n2, key=other.key),
        f"{text}, {n2.key}: no certificate": replace(n2, cert=text),
        f"chmod o= {open_key}": replace(n2, key=open_key),
    }
    openssl("ec", "-in", n2.key, "-aes256", "-passout", "pass:secret", "-out", locked)
    certificates_of[f"{locked}: no certificate and its own key, in PEM and without a password"] = replace(
        n2, key=locked
    )
    for words, ours in certificates_of.items():
        with pytest.raises(AccessError) as raised:
            ours.context(ssl.PROTOCOL_TLS_SERVER)
        assert words in str(raised.value) and "\n" not in str(raised.value)
        with pytest.raises(AccessError):
            Presented(ours)


def test_a_node_without_certificates_reads_that_they_are_wanted(
    tmp_path: Path, spool: AgentPaths, collector: Certificates
) -> None:
    class Plain(stream.Munge):
        def credential(self, covered: str) -> str:
            return "any"

    with listening(tmp_path / "archive", collector) as address, pytest.raises(UnavailableError) as raised:
        StreamDelivery(address, Plain()).ledger(spool.node, "c", "n2")
    assert "by certificates only: store.tls belongs into the node's policy" in str(raised.value)


def test_a_collector_without_certificates_is_named(tmp_path: Path, spool: AgentPaths, n2: Certificates) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    plain = Listener(0, archive, (), None, HOSTS.__getitem__)
    with contextlib.closing(plain), pytest.raises(UnavailableError, match=r"no TLS 1\.3 .*; restart perun collect"):
        StreamDelivery(("localhost", plain.port), n2).ledger(spool.node, "c", "n2")


def test_certificates_that_are_replaced_count_from_then_on(
    tmp_path: Path, spool: AgentPaths, site: Authority, n2: Certificates
) -> None:
    late, good = site.issue("late", ["DNS:localhost"], days=-1), site.issue("good", ["DNS:localhost"])
    ours = replace(late, cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    put(late, ours)
    with listening(tmp_path / "archive", ours) as address:
        to = StreamDelivery(address, n2)
        with pytest.raises(UnavailableError, match="has expired"):
            to.ledger(spool.node, "c", "n2")
        put(good, ours)
        to.ledger(spool.node, "c", "n2")
        ours.cert.write_text("half a file")  # whoever renews it is at work
        to.keep_learnt(Learnt("m", {}), "c", "n2")
    assert {"c/nodes/n2/learnt.json", "c/nodes/n2/2025-11-24.jsonl"} <= everything_in(tmp_path / "archive").keys()


def test_a_new_key_that_everybody_could_read_counts_once_that_is_mended(
    tmp_path: Path, spool: AgentPaths, site: Authority, n2: Certificates
) -> None:
    late, good = site.issue("late", ["DNS:localhost"], days=-1), site.issue("good", ["DNS:localhost"])
    ours = replace(late, cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    put(late, ours)
    with listening(tmp_path / "archive", ours) as address:
        put(good, ours)
        ours.key.chmod(0o644)
        with pytest.raises(UnavailableError, match="has expired"):
            StreamDelivery(address, n2).ledger(spool.node, "c", "n2")
        ours.key.chmod(0o600)
        StreamDelivery(address, n2).ledger(spool.node, "c", "n2")


def put(source: Certificates, target: Certificates) -> None:
    for one, other in ((source.cert, target.cert), (source.key, target.key)):
        part = other.with_suffix(".part")
        shutil.copy(one, part)
        part.replace(other)


def test_whoever_shows_no_certificate_is_let_go_within_the_time_of_a_manifest(
    tmp_path: Path, spool: AgentPaths, collector: Certificates, n2: Certificates
) -> None:
    """All places are taken by callers who say too little, and then nothing: a node waits for them once."""
    sayings = (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x40\x00" + b"\x01" * 9000)
    with listening(tmp_path / "archive", collector) as address, contextlib.ExitStack() as silent:
        for number in range(AT_ONCE):
            caller = silent.enter_context(socket.create_connection(address))
            caller.sendall(sayings[number % len(sayings)])
        begin = time.monotonic()
        StreamDelivery(address, n2).ledger(spool.node, "c", "n2")
        assert time.monotonic() - begin < 2 * stream.MANIFEST_S
    assert everything_in(tmp_path / "archive")
    assert not list(workspace(tmp_path / "archive").iterdir())


OTHERS: set[int] = set()
"""What other tests of this process have started: a server that they share, say."""


@pytest.fixture(autouse=True)
def _others() -> None:
    OTHERS.clear()
    OTHERS.update(_children(os.getpid()))


def keepers() -> list[int]:
    """The processes that keep those that take hand-overs, by their numbers."""
    return [pid for pid in _children(os.getpid()) if pid not in OTHERS]


def working() -> list[int]:
    """The processes that take hand-overs, by their numbers."""
    return sorted(one for pid in keepers() for one in _children(pid))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    end_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def _state(pid: int) -> str:
    """What a process does, proc_pid_stat(5): S where it sleeps."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_that_dies_costs_what_it_was_taking_and_another_one_goes_on(
    tmp_path: Path, spool: AgentPaths, collector: Certificates, n2: Certificates, logged: Path
) -> None:
    """Both have begun to take something: one of them is killed."""
    head = {"schema": stream.SCHEMA, "credential": "", "about": LEDGER, "files": [["2025-11-24.jsonl", 100, ""]]}
    unfinished = workspace(tmp_path / "archive")
    with listening(tmp_path / "archive", collector, processes=2) as address, contextlib.ExitStack() as begun:
        until(lambda: len(working()) == 2)
        while len({path.name[0] for path in unfinished.iterdir()}) < 2:
            plain = begun.enter_context(socket.create_connection(address))
            wire = begun.enter_context(n2.connect(plain, "localhost"))
            wire.sendall(json.dumps(head).encode() + b"\n{")
            until(lambda: any(list(path.iterdir()) for path in unfinished.iterdir()))
        killed = working()[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(working()) == 2 and killed not in working())
        for _ in range(20):
            assert stream.send({}, {"what": "learnt", "cluster": "c", "node": "n2"}, address, n2) == b""
        until(lambda: len({path.name[0] for path in unfinished.iterdir()}) == 1)  # nothing is left of what it took
    assert "a process that takes hand-overs ended (-9): another one goes on" in logged.read_text()
    assert not working()


def test_what_is_being_taken_when_the_collector_ends_is_completed(
    tmp_path: Path, spool: AgentPaths, collector: Certificates, n2: Certificates
) -> None:
    line = b'{"t0_ns":1}\n'
    files = [["2025-11-24.jsonl", len(line), hashlib.sha256(line).hexdigest()]]
    head = {"schema": stream.SCHEMA, "credential": "", "about": LEDGER, "files": files}
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(listening(tmp_path / "archive", collector, processes=2))
        plain = socket.create_connection(address)
        wire = n2.connect(plain, "localhost")
        wire.sendall(json.dumps(head).encode() + b"\n")
        for pid in (*keepers(), *working()):
            os.kill(pid, signal.SIGTERM)  # as systemd does
        closing = threading.Thread(target=stack.pop_all().close)
        closing.start()
        until(lambda: len(working()) == 1)
        (keeper,) = keepers()
        for _ in range(10):  # all of them wait
            closing.join(0.05)
            assert closing.is_alive()
            assert {_state(pid) for pid in (keeper, *working())} == {"S"}
        wire.sendall(line)
        assert wire.recv(100) == b"ok\n"
        closing.join(30)
        wire.close()
    assert everything_in(tmp_path / "archive")


@pytest.mark.parametrize("lines", [1, 50_000])
def test_what_comes_after_the_collector_has_waited_goes_over_another_connection(
    tmp_path: Path, spool: AgentPaths, collector: Certificates, n2: Certificates, lines: int
) -> None:
    day = b"".join(b'{"t0_ns":%d}\n' % number for number in range(lines))
    with listening(tmp_path / "archive", collector) as address:
        to = StreamDelivery(address, n2)
        to.progress(spool.session("10.0"), record(10, stored=False), grow=False)
        time.sleep(stream.NEXT_S + 0.5)
        to.channel.send({"2025-11-25.jsonl": day}, LEDGER)
    assert (tmp_path / "archive/c/nodes/n2/2025-11-25.jsonl").read_bytes() == day


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16" * 100_000, b"{}\n"])
def test_what_is_no_handshake_is_let_go_at_once(tmp_path: Path, collector: Certificates, said: bytes) -> None:
    with listening(tmp_path / "archive", collector) as address, socket.create_connection(address) as caller:
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            caller.sendall(said)
            while caller.recv(100):
                pass
        assert time.monotonic() - begin < stream.MANIFEST_S / 2
    assert not everything_in(tmp_path / "archive")


def test_who_drips_a_handshake_has_no_more_time(tmp_path: Path, collector: Certificates) -> None:
    with listening(tmp_path / "archive", collector) as address, socket.create_connection(address) as caller:
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                for one in b"\x16\x03\x01\x40\x00\x01" + b"\0" * 1000:
                    caller.sendall(bytes([one]))
                    if stop.wait(0.3):
                        return

        thread = threading.Thread(target=drip)
        begin = time.monotonic()
        thread.start()
        caller.settimeout(3 * stream.MANIFEST_S)
        with contextlib.suppress(ConnectionError):
            while caller.recv(100):
                pass
        assert time.monotonic() - begin < 1.5 * stream.MANIFEST_S
        stop.set()
        thread.join()


def test_old_tls_is_not_spoken(tmp_path: Path, collector: Certificates, n2: Certificates) -> None:
    context = n2.context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with (
        listening(tmp_path / "archive", collector) as address,
        socket.create_connection(address) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_without_a_certificate_nothing_is_listened_to(tmp_path: Path, collector: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=str(collector.ca))
    manifest = {"schema": stream.SCHEMA, "credential": "", "about": {"what": "ledger"}, "files": []}
    with (
        listening(tmp_path / "archive", collector) as address,
        socket.create_connection(address) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wire,
        pytest.raises(OSError),
    ):
        wire.sendall(json.dumps(manifest).encode() + b"\n")
        assert wire.recv(100) == b"never said"
    assert not everything_in(tmp_path / "archive")


def test_when_a_certificate_ends_is_read(tmp_path: Path, n2: Certificates) -> None:
    assert certificates.ends_s(n2.cert) == pytest.approx(time.time() + 20 * 86_400, abs=300)
    for damaged in ("", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"):
        (tmp_path / "x").write_text(damaged)
        with pytest.raises(DataError, match="no certificate"):
            certificates.ends_s(tmp_path / "x")


def test_a_record_by_certificates_is_its_nodes(
    tmp_path: Path, spool: AgentPaths, collector: Certificates, n2: Certificates
) -> None:
    """A node's certificate hands over no other node's record."""
    forged = {**record(9, stored=False), "node": "n1"}
    with listening(tmp_path / "archive", collector) as address, pytest.raises(UnavailableError, match="node n1 has"):
        StreamDelivery(address, n2).session(spool.session("9.0"), forged)
    assert not everything_in(tmp_path / "archive")
