"""What reads published data: each study's parts on small data of known answers, its table in the documents."""

from __future__ import annotations

import csv
import functools
import http.server
import re
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from bench.reproduce import gpu_sensor, iriscast, pm100, specpower, wattmeter
from bench.reproduce.__main__ import STUDIES, main
from bench.reproduce.rows import Compared, Line, table
from bench.reproduce.source import CLONES, Repository, Unavailable

METHOD = Path(__file__).parents[2] / "docs/method.md"


def section() -> str:
    """The section of docs/method.md that has the tables."""
    text = METHOD.read_text()
    return text[text.index("### Published data reproduced") :].split("\n## ")[0]


def test_every_study_has_its_table_or_is_said_to_be_unrun() -> None:
    text = " ".join(section().split())
    for name, study in STUDIES.items():
        data = getattr(study, "DATA", None)
        if data:
            assert study.TITLE in text
            assert data.name in text
            assert data.commit[:12] in text
        else:
            assert f"`{name}`" in text
            assert "unrun" in text


def test_every_bound_that_does_not_hold_is_spoken_of() -> None:
    """A row of the tables that holds for less than 95 % has its letter in the text below."""
    said = section()
    rows = [row.strip("|").split("|") for row in said.splitlines() if re.match(r"\| .*±", row)]
    assert len(rows) > 20
    for what, *_, verdict in rows:
        held = re.match(r"(\d+) of (\d+)", verdict.strip())
        if "no" in verdict or (held and int(held[1]) < 0.95 * int(held[2])):
            assert re.search(r"\[[a-e]\]", what), f"{what}: why?"
            (letter,) = re.findall(r"\[([a-e])\]", what)
            assert f"\n- [{letter}] " in said


def test_a_line_counts_what_holds_and_shows_means() -> None:
    line = Line("x", "J", [Compared(10.0, 11.0, 1.0), Compared(20.0, 22.0, 1.9)], 1)
    assert str(line) == "| x | J | 15.0 | 16.5 | ± 1.4 | 1 of 2 |"
    assert "**no**" in table([Line("y", "J", [Compared(1.0, 2.0, 0.5)])])


def _repository(folder: Path) -> tuple[Repository, Path]:
    clone = folder / "clones/somebody/data"
    clone.mkdir(parents=True)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "x"]):
        (clone / "a b.txt").write_text("first")
        subprocess.run(["git", "-C", str(clone), *command], check=True)
    commit = subprocess.run(
        ["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return Repository("somebody/data", commit, "none", "x", kept=folder / "kept"), clone


def test_a_clone_gives_the_pinned_commit_whatever_lies_in_its_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, clone = _repository(tmp_path)
    monkeypatch.setenv(CLONES, str(tmp_path / "clones"))
    (clone / "a b.txt").write_text("changed since")
    assert data.text("a b.txt") == "first"
    monkeypatch.setenv(CLONES, str(tmp_path / "elsewhere"))
    assert data.text("a b.txt") == "first"  # kept
    with pytest.raises(Unavailable, match="clone it there"):
        data.file("other.txt")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A server of the files below tmp_path/web."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_network_gives_a_file_once(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLONES, raising=False)
    data = Repository("somebody/data", "c0ffee", "none", "x", web, tmp_path / "kept")
    file = tmp_path / "web/somebody/data/c0ffee/a b.txt"
    file.parent.mkdir(parents=True)
    file.write_text("served")
    assert data.text("a b.txt") == "served"
    file.unlink()
    assert data.text("a b.txt") == "served"
    with pytest.raises(Unavailable, match=CLONES):
        data.file("other.txt")
    assert not list((tmp_path / "kept").rglob("other*"))


def test_what_cannot_be_had_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CLONES, str(tmp_path))
    assert main(["pm100", "iriscast"]) == 0
    said = capsys.readouterr().out
    assert said.count("unrun: download") == 2
    assert "zenodo" in said


def test_the_estimate_is_the_readers_own() -> None:
    assert specpower._estimated(8, False) == pytest.approx((8.0, 12.0))
    assert specpower._estimated(8, True) == pytest.approx((32.0, 48.0))


def test_the_cards_meter_is_read_through_its_turns() -> None:
    """12 V at 10 A on one of four pairs for 50 ms; the clock turns over, and a current below zero is none."""
    volt, ampere = round(12 / gpu_sensor.VOLT), round(10 / gpu_sensor.AMPERE)
    back = 0x8000
    data = b"".join(
        struct.pack("<9H", clock % 65536, volt << 4, ampere << 4, volt << 4, back, 0, 0, 0, 0)
        for clock in (round(60_000 + ms * gpu_sensor.TICKS_PER_MS) for ms in range(51))
    )
    samples = gpu_sensor.metered(data + b"torn", 1000.0)
    assert samples[-1][0] == pytest.approx(1000.05, abs=1e-5)
    assert gpu_sensor.integral(samples, 999 * 10**9, 1001 * 10**9) == pytest.approx(120 * 0.05, rel=0.01)


def test_a_gauge_asked_once_a_second_has_the_energy_that_it_showed() -> None:
    case = replace(gpu_sensor.CASES[0], averaged=False)
    readings = [gpu_sensor.Reading(200_000, ms * 10**6) for ms in range(0, 9000, 10)]
    energy_uj, most_uw = gpu_sensor._counted(gpu_sensor._sensor(case), readings, 2 * 10**9, 7 * 10**9)
    assert (energy_uj, most_uw) == (10**9, 200 * 10**6)
    # 5 % of it, edges of 100 ms at 1.3 x 200 W, and of a sensor on duty 0.18 x 260 W x sqrt(0.1 s x 5 s)
    assert gpu_sensor._u_uj(case, energy_uj, most_uw, 5 * 10**9) / 1e6 == pytest.approx(60.8, abs=0.2)


def test_the_wattmeters_whole_benchmark_is_longer_than_its_readings() -> None:
    meter = [wattmeter.Reading(1_000_000, second * 10**9) for second in range(20)]
    run = wattmeter.Run("EP", 2_500_000_000, 12_250_000_000, meter, {})
    assert wattmeter._metered(run, True)[0] == pytest.approx(9750)
    assert wattmeter._metered(run, False)[0] == pytest.approx(9000)


def test_pm100_is_read_as_its_documentation_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    start = datetime(2020, 6, 1, tzinfo=timezone.utc)
    folder = tmp_path / "pm100"
    folder.mkdir()
    times = [start + timedelta(seconds=20 * number) for number in range(60)]
    for name, watts in (("ps0", 400), ("ps1", 500)):
        rows = [{"timestamp": at, "node": node, "value": watts} for at in times for node in ("7", "8")]
        parquet.write_table(arrow.Table.from_pylist(rows), folder / f"{name}.parquet")
    job = {"start_time": start + timedelta(seconds=30), "end_time": start + timedelta(seconds=630)}
    late = {"start_time": start + timedelta(days=40), "end_time": start + timedelta(days=40, seconds=60)}
    rows = [
        {**job, "nodes": "['7', '8']", "power_consumption": [1800.0] * 30},
        {**late, "nodes": "['7', '8']", "power_consumption": [1800.0] * 3},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "job_table.parquet")
    monkeypatch.setenv(CLONES, str(tmp_path))
    (line,) = pm100.lines()
    (one,) = line.compared
    assert one.published == pytest.approx(1080)
    assert one.ours == pytest.approx(1080)
    assert 0 < one.bound < 100


def test_iriscast_is_read_from_what_stands_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "iriscast"
    folder.mkdir()
    start = datetime(2022, 11, 24, tzinfo=timezone.utc)
    with (folder / "north.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("time", "watts"))
        writer.writerows(((start + timedelta(minutes=number)).isoformat(), 5000) for number in range(24 * 60 + 1))
    (folder / "published.csv").write_text("site,kwh\nnorth,118\n")
    monkeypatch.setenv(CLONES, str(tmp_path))
    (line,) = iriscast.lines()
    assert line.compared[0].ours == pytest.approx(120)
    assert line.compared[0].bound == pytest.approx(12)
    assert line.compared[0].holds
