"""A site's factors lie in files that others write: whatever these hold, joules are recorded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.cli.main import main
from tests.accounting_data import boundary, put_incoming

GOOD = b"time,value\n2026-01-01T00:00Z,0.25\n2026-01-02T00:00Z,0.5\n"
WRONG = {
    "a time twice": (GOOD + b"2026-01-02T01:00+01:00,0.75\n", "line 4: has the time of line 3"),
    "no value": (GOOD + b"2026-01-03T00:00Z,\n", "line 4: '' is no value"),
    "a line cut short": (GOOD + b"2026-01-03T0", "line 4: '2026-01-03T0' is no time"),
    "not a number": (GOOD + b"2026-01-03T00:00Z,nan\n", "line 4: 'nan' is no value"),
    "infinite": (GOOD + b"2026-01-03T00:00Z,1e999\n", "line 4: '1e999' is no value"),
    "semicolons": (GOOD.replace(b",", b";"), "line 1: 'time;value': write the columns"),
    "two columns of values": (
        GOOD.replace(b"time,value", b"time,value,value"),
        "line 1: 'time,value,value': write the columns",
    ),
    "a decimal comma": (GOOD + b"2026-01-03T00:00Z,0,75\n", "line 4: more columns than the first line names"),
    "a Latin-1 byte": (GOOD + b"# f\xfcr M\xe4rz\n", "line 4: the byte 0xfc is not UTF-8: write the file in UTF-8"),
    "no such day": (GOOD + b"2026-02-30T00:00Z,0.75\n", "line 4: '2026-02-30T00:00Z' is no time"),
    "empty": (b"", "line 1: ''"),
    "only its head": (b"time,value\n", "no values"),
    "NUL bytes": (GOOD + b"\0\0\0\n", "line 4"),
    "too large": (GOOD + b"\n" * (4 << 20), "larger than 4 MiB: leave out the lines"),
    "absent": (None, "No such file or directory"),
    "a directory": ("directory", "not a regular file"),
    "a pipe": ("pipe", "not a regular file"),
}


class Site:
    """An archive, a policy that names a series of prices, and the commands."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.archive, self.prices, self.policy = root / "archive", root / "price.csv", root / "policy.yaml"
        (self.archive / "c" / "incoming").mkdir(parents=True)
        self.policy.write_text(
            f"store: {{archive: {self.archive}}}\ncollect: {{ledger: 'sqlite:///{root}/ledger.db', sweep: 1 s}}\n"
            f"footprint:\n  price: {{series: {self.prices}, currency: EUR, source: market, date: 2026-03-01}}\n"
        )

    def perun(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self.capsys.readouterr()
        return main(words), *self.capsys.readouterr()

    def put(self, content: bytes | str | None) -> None:
        if self.prices.is_dir():
            self.prices.rmdir()
        self.prices.unlink(missing_ok=True)
        if content == "directory":
            self.prices.mkdir()
        elif content == "pipe":
            os.mkfifo(self.prices)
        elif isinstance(content, bytes):
            fresh = self.prices.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.replace(self.prices)

    def job(self, job_id: int) -> Path:
        """Ship a job that has just ended; returns where its record will be."""
        put_incoming(self.archive, boundary(job_id, start_s=int(time.time()) - 200))
        return self.archive / "c" / "jobs" / f"{int(job_id) // 1000}" / f"{job_id}.0" / "record.json"


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path, capsys)
    monkeypatch.setenv("PERUN_POLICY", str(made.policy))
    return made


@pytest.mark.parametrize("name", WRONG)
def test_a_price_file_does_not_decide_whether_joules_are_recorded(site: Site, name: str) -> None:
    content, what = WRONG[name]
    site.put(content)
    path = site.job(1)
    code, summary, log = site.perun("collect", "--no-slurm")
    assert code == 0 and "1 record stored" in summary
    (word,) = [line for line in log.splitlines() if str(site.prices) in line]
    assert what in word and word.endswith("; records have no footprint")
    record: dict[str, Any] = json.loads(path.read_text())
    assert (record["energy_uj"], record["status"]) == (8_000_000_000, "complete")
    assert record["footprint"]["cost"] is None
    (why,) = record["footprint"]["sources"]
    assert why.startswith("price: ") and what in why
    _, shown, _ = site.perun("report", "1")
    assert re.search(r"^Footprint  not known: price:", shown, re.MULTILINE)


@pytest.mark.parametrize("name", WRONG)
def test_the_policys_check_names_file_line_and_remedy(site: Site, name: str) -> None:
    content, what = WRONG[name]
    site.put(content)
    code, found, _ = site.perun("policy", "check")
    assert code == 78
    (line,) = found.splitlines()
    assert line.startswith(f"{site.policy}:4: footprint.price: {site.prices}") and what in line
    remedy = line.rpartition(": ")[2]
    assert remedy.startswith(("write ", "leave ", "correct ", "decimals are written "))
    assert site.perun("policy", "check", "--policy-only")[0] == 0


def test_a_byte_order_mark_is_no_fault(site: Site) -> None:
    site.put(b"\xef\xbb\xbf" + GOOD)
    assert site.perun("policy", "check")[0] == 0
    path = site.job(1)
    assert site.perun("collect", "--no-slurm")[0] == 0
    assert json.loads(path.read_text())["footprint"]["cost"] == pytest.approx(8000 / 3.6e6 * 0.5)


def test_the_collector_goes_on_with_the_last_good_series(site: Site) -> None:
    site.put(GOOD)
    first = site.job(1)
    command = [sys.executable, "-m", "perun_hpc.cli.main", "collect", "--daemon", "--no-slurm"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as daemon:
        try:
            _until(daemon, first.exists)
            for number, name in enumerate(("not a number", "a Latin-1 byte", "a directory", "absent"), 2):
                site.put(WRONG[name][0])
                path = site.job(number)
                _until(daemon, path.exists)
                assert json.loads(path.read_text())["footprint"]["cost"] == pytest.approx(8000 / 3.6e6 * 0.5), name
            site.put(GOOD + b"2026-01-03T00:00Z,1\n")
            path = site.job(9)
            _until(daemon, path.exists)
            assert json.loads(path.read_text())["footprint"]["cost"] == pytest.approx(8000 / 3.6e6)
        finally:
            daemon.terminate()
            said = daemon.communicate(timeout=60)[1].decode()
    assert daemon.returncode == 0
    assert said.count("; the last good series counts") >= 4


def _until(daemon: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    latest_s = time.monotonic() + 60
    while not condition():
        assert daemon.poll() is None, "the collector ended"
        assert time.monotonic() < latest_s, "nothing was recorded"
        time.sleep(0.05)


EMBODIED = "{kg: 1826, low: 913, high: 3652, lifetime: 1826 d, source: maker, date: 2026-01-01}"


@pytest.mark.parametrize("price", ["none", "good", "absent"])
def test_a_job_has_its_part_of_what_making_its_nodes_emitted_in_a_line_of_its_own(site: Site, price: str) -> None:
    site.put(GOOD if price == "good" else None)
    text = site.policy.read_text()
    text = text.partition("footprint:")[0] if price == "none" else text
    site.policy.write_text(f"{text}nodes:\n  n1:\n    footprint: {{embodied: {EMBODIED}}}\n")
    begin_s = int(time.time()) - 7300
    # A whole node; a quarter of one; two, of one of which nothing is stated; one of which nobody knows the CPUs.
    for job, nodes, cpus in ((1, "n1", 64), (2, "n1", 16), (3, "n[1-2]", 64), (4, "n1", None)):
        for node in ("n1", "n2")[: 2 if "[" in nodes else 1]:
            sent = boundary(job, node, nodes, start_s=begin_s, seconds=7200)
            put_incoming(site.archive, sent | {"cpus_on_node": cpus or 1, "node_cpus": cpus and 64})
    assert site.perun("collect", "--no-slurm")[0] == 0
    grams = 1000 / 24 * 2  # a kilogram a day
    for job, part in ((1, 1), (2, 0.25), (3, 1), (4, 1)):
        code, shown, _ = site.perun("report", str(job), "--json")
        told = json.loads(shown)["footprint"]
        assert code == 0 and told["embodied"]["grams"] == pytest.approx(grams * part)
        assert told["embodied"]["low_g"] == pytest.approx(grams * part / 2)
        assert told["embodied"]["high_g"] == pytest.approx(grams * part * 2)
        assert (told["embodied"]["nodes"], told["embodied"]["without"]) == (1, 1 if job == 3 else 0)
        assert told["embodied"]["sources"] == ["embodied: maker, 2026-01-01"]
        assert told["co2_location_g"] is None and (told["cost"] is None) == (price != "good")
    shown = " ".join(site.perun("report", "2")[1].split())
    assert "Embodied 20.8 g CO2e (10.4 g to 41.7 g) of making its nodes: estimated" in shown
    assert ("Footprint" in shown) == (price != "none") and ("Footprint not known" in shown) == (price == "absent")
    page = site.policy.parent / "page.html"
    assert site.perun("report", "2", "--html", str(page))[0] == 0
    text = page.read_text()
    assert "Embodied CO2e" in text and "10.4 g to 41.7 g of making its nodes: estimated" in text
    assert "embodied: maker, 2026-01-01" in text
    assert "of making its nodes, of 1 of 2 nodes: estimated" in " ".join(site.perun("report", "3")[1].split())


def test_a_sum_says_that_cost_without_a_pue_is_a_lower_bound(site: Site) -> None:
    site.put(GOOD)
    site.job(1)
    assert site.perun("collect", "--no-slurm")[0] == 0
    said = "CO2e and cost are at least that"
    code, shown, _ = site.perun("usage", "-S", "2026-11-01")
    assert code == 0 and said in shown and "EUR" in shown
    site.policy.write_text(f"{site.policy.read_text()}  pue: {{value: 1.2, source: site, date: 2026-01-01}}\n")
    code, shown, _ = site.perun("usage", "-S", "2026-11-01")
    assert code == 0 and said not in shown and "EUR" in shown
