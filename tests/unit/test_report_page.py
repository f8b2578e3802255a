"""A job's report as one file: whole without a network or a script, small, and closed to whatever a job is called."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.archive.places import Archive, Run
from perun_hpc.cli.main import main
from perun_hpc.data_model.record import EnergyRecord, Region, to_json
from perun_hpc.report import chart, drawing
from perun_hpc.report import quantities as q
from perun_hpc.report.page import Beside, page
from tests import picture_data
from tests.accounting_data import boundary, parsed

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "'--></style><b>$x_1$ \\alpha & &lt;",
    "\x1b[2J\u202egnp.exe\x00",
    "]]><!--",
)


class Seen(HTMLParser):
    """What a browser makes of a page: elements with their attributes, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in self.raw:
            self.raw[self._within].append(data)
        else:
            self.words.append(data)


def seen(text: str) -> Seen:
    made = Seen()
    made.feed(text)
    made.close()
    return made


def small(record: EnergyRecord, hosts: int = 3) -> str:
    return page(record, Beside("the job's directory", picture_data.curves(hosts, columns=40)))


@pytest.fixture(scope="module")
def record() -> EnergyRecord:
    return picture_data.record(3, 900)


@pytest.fixture(scope="module")
def text(record: EnergyRecord) -> str:
    return small(record)


def test_the_figures_stand_in_the_page_without_its_script(record: EnergyRecord, text: str) -> None:
    words = " ".join(seen(text).words)
    assert q.energy_with_bounds(record.energy_uj, record.u_uj)[0] in words
    for component in record.components:
        assert q.bounded(component.energy_uj, component.u_uj, "±") in words
    for name in ("halo_exchange", "update", "n2", "COMPLETED", "physics", *[q.power(n.peak_mw) for n in record.nodes]):
        assert name in words
    assert any(tag == "svg" and about.get("class") == "chart" for tag, about in seen(text).elements)


def test_a_page_is_as_careful_as_the_screen(record: EnergyRecord) -> None:
    steps = tuple(replace(step, steps=3, why="n2 did not report it") for step in record.steps[:1])
    blurred = tuple(replace(step, u_uj=step.energy_uj or 0) for step in steps)
    functions = tuple(replace(function, method="estimated") for function in record.regions)
    parts = tuple(replace(c, static_uj=0, dynamic_uj=c.energy_uj) for c in record.components)
    bare = replace(
        record, steps=steps, regions=functions, components=parts, static_uj=0, dynamic_uj=record.energy_uj or 0
    )
    words = " ".join(seen(small(bare)).words)
    least = f"at least {q.bounded(steps[0].energy_uj, steps[0].u_uj, '±')}"
    assert least in words and f"3 {steps[0].step_id}" in words and "n2 did not report it" in words
    assert f"~{q.bounded(functions[0].energy_uj, functions[0].u_uj, '±')}" in words
    assert "~: estimated" in words and "at most: the readings" in words
    assert "static power not known" in words and "dynamic 1" not in words and "dynamic 2" not in words
    assert "at least at most" not in " ".join(seen(small(replace(bare, steps=blurred))).words)


def test_nothing_is_fetched_and_nothing_runs_but_the_own_script(text: str) -> None:
    made = seen(text)
    policy = next(about["content"] for tag, about in made.elements if about.get("http-equiv")) or ""
    digests = re.findall(r"'sha256-([^']+)'", policy)
    own = [made.raw["style"][0], made.raw["script"][-1]]
    assert digests == [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in own]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag, about in made.elements:
        assert "style" not in about, tag
        assert not [name for name in about if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            assert (about.get(name) or "#").startswith(("#", "data:")), (tag, about[name])


@pytest.mark.parametrize("name", HOSTILE)
def test_what_users_named_is_text_and_nothing_else(record: EnergyRecord, name: str) -> None:
    clean = seen(small(record))
    host = replace(record.nodes[0], node=name, why=name, state="partial")
    hostile = replace(
        record, name=name, user=name, account=name, partition=name, qos=name, nodelist=name, state="COMPLETED",
        nodes=(host, *record.nodes[1:]), missing=(name,), notes=(name,), missing_nodes=(name,), perun_version=name,
        regions=tuple(replace(one, name=name, step_id=name) for one in record.regions),
        steps=tuple(replace(one, step_id=name) for one in record.steps),
        ranks=tuple(replace(one, node=name, step_id=name) for one in record.ranks),
        components=tuple(replace(one, methods=(name,), provenance=name) for one in record.components),
        footprint=None,
    )  # fmt: skip
    curves = picture_data.curves(3, columns=40)
    curves = replace(curves, hosts=(replace(curves.hosts[0], node=name), *curves.hosts[1:]), provenance="measured")
    made = seen(page(hostile, Beside(name, curves, earlier=[hostile])))
    allowed = {tag for tag, _ in clean.elements} | {"ul", "li", "b"}
    assert {tag for tag, _ in made.elements} <= allowed
    assert len(made.raw["script"]) == len(clean.raw["script"])
    assert made.raw["script"][-1] == clean.raw["script"][-1]
    for tag, about in made.elements:
        assert not [key for key in about if key.startswith("on")], tag
    assert not re.search("[\x00-\x08\x1b\u202e]", "".join(made.words))
    assert "alert" not in " ".join(made.raw["script"]).replace("alert(1)", "") or "u003c" in made.raw["script"][0]
    assert name.strip("\x00")[:5].encode("unicode_escape").decode().split("\\")[0] in "".join(made.words)


def test_a_job_of_64_hosts_is_below_2_mb_and_one_of_4000_below_5_mb(record: EnergyRecord) -> None:
    for hosts, most_b in ((64, 2_000_000), (4000, 5_000_000)):
        names = picture_data.nodes(hosts)
        many = replace(record, nodes=tuple(replace(record.nodes[n % 3], node=name) for n, name in enumerate(names)))
        text = page(many, Beside("x", picture_data.curves(hosts)))
        assert len(text.encode()) < most_b
        assert names[-2] in text


def test_a_record_without_a_trace_says_why_there_is_no_curve(record: EnergyRecord) -> None:
    words = " ".join(seen(page(record, Beside("x", None, "the job was short"))).words)
    assert "No curve: the job was short" in words
    assert "halo_exchange" in words


def test_a_record_with_nothing_in_it_is_a_page(record: EnergyRecord) -> None:
    empty = replace(
        record, energy_uj=None, u_uj=0, components=(), nodes=(), ranks=(), regions=(), steps=(), status="missing",
        missing=("no node reported this job",), footprint=None, power_mean_mw=None, cpu_ns=None,
    )  # fmt: skip
    words = " ".join(seen(page(empty, Beside("x", None, "none"))).words)
    assert "not known" in words
    assert "no node reported this job" in words


def test_simulated_figures_are_never_taken_for_measured_ones(record: EnergyRecord) -> None:
    words = " ".join(seen(small(replace(record, simulated=True, provenance="simulated"))).words)
    assert "no figure here is of real hardware" in words


def test_a_curve_of_more_than_the_job_used_says_so(record: EnergyRecord) -> None:
    half = replace(record, energy_uj=(record.energy_uj or 0) // 4, u_uj=1000)
    assert "The curves are of the whole nodes" in small(half)


def test_functions_stand_in_the_chart_where_their_times_are_known(record: EnergyRecord) -> None:
    known = chart.functions_with_times(record)
    assert [one.name for one in known] == ["update", "halo_exchange", "reduce_residual"]
    assert all(0 <= part <= 1 for one in known for part in one.parts)
    assert max(known[0].parts) > 0.8
    drawn = chart.draw(record, picture_data.curves(3, columns=40))
    assert "functions" in [panel.name for panel in drawn.panels]
    of_before = replace(record, regions=tuple(replace(one, ran=()) for one in record.regions))
    drawn = chart.draw(of_before, picture_data.curves(3, columns=40))
    assert "functions" not in [panel.name for panel in drawn.panels]
    assert "When each call was is not kept" in small(of_before)
    one_rank_silent = [{**row, "ran": row["ran"] if row["rank"] else None} for row in _rows()]
    assert _summed(_rows()).ran == (1 << 30, 5, 1300)
    assert _summed(one_rank_silent).ran == ()


def _rows() -> list[dict[str, Any]]:
    return [
        {"step_id": "0", "rank": rank, "name": "f", "calls": 1, "time_ns": 1, "energy_uj": 1, "u_uj": 1,
         "ran": [1 << 30, 5, permille]}
        for rank, permille in ((0, 1000), (1, 300))
    ]  # fmt: skip


def _summed(rows: list[dict[str, Any]]) -> Region:
    (region,) = sum_boundaries([parsed({**boundary(), "regions": rows})]).regions
    return region


def test_the_bounds_are_the_jobs_where_its_nodes_were_its_own(record: EnergyRecord) -> None:
    assert chart.bound_of(record) == pytest.approx(2 * record.u_uj / (record.energy_uj or 1), rel=0.3)
    shared = [replace(part, methods=("cores",)) for part in record.components]
    assert chart.bound_of(replace(record, components=tuple(shared))) is None
    assert chart.bound_of(replace(record, u_uj=0)) is None


def test_steps_that_run_at_once_lie_above_each_other(record: EnergyRecord) -> None:
    one, two, three = record.steps
    assert chart.lanes_of([one, two, three]) == [0, 0, 0]
    at_once = replace(two, start_ns=one.start_ns + 1)
    assert chart.lanes_of([one, at_once, three]) == [0, 1, 0]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("page")
    home = Archive(base / "archive", "c").job(Run(4711, 0))
    picture_data.write_trace(home, base / "scratch", 3, 120)
    (home / "record.json").write_text(to_json(picture_data.record(3, 120)))
    return base / "archive"


def report(archive: Path, *words: str) -> int:
    return main(["report", "4711", "--cluster", "c", "--archive", str(archive), *words])


def test_the_command_writes_a_page_and_pictures(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {kind: tmp_path / f"job.{kind}" for kind in ("html", "png", "svg")}
    assert report(archive, *[word for kind, path in files.items() for word in (f"--{kind}", str(path))]) == 0
    assert capsys.readouterr().out.split() == [str(path) for path in files.values()]
    assert files["html"].read_text().startswith("<!DOCTYPE html>")
    assert 'id="curves"' in files["html"].read_text()
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in files["svg"].read_text()[:600]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.html", "job.png", "job.svg"]


def test_a_file_that_is_there_is_not_overwritten(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "job.html"
    target.write_text("mine")
    assert report(archive, "--html", str(target)) == 64
    assert "is not overwritten" in capsys.readouterr().err
    assert target.read_text() == "mine"


def test_a_file_of_another_ending_and_a_picture_without_a_trace_are_one_line(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(archive, "--png", str(tmp_path / "x.html")) == 64
    assert "ends in .png" in capsys.readouterr().err
    bare = Archive(tmp_path / "bare", "c").job(Run(4711, 0))
    bare.mkdir(parents=True)
    (bare / "record.json").write_text(to_json(picture_data.record(3, 120)))
    assert report(tmp_path / "bare", "--png", str(tmp_path / "x.png")) != 0
    assert capsys.readouterr().err.startswith("perun: job 4711: no trace of it is stored")
    assert report(tmp_path / "bare", "--html", str(tmp_path / "x.html")) == 0
    assert "No curve: job 4711: no trace of it is stored" in (tmp_path / "x.html").read_text()


def test_a_picture_names_its_job_whatever_that_is_called(record: EnergyRecord, tmp_path: Path) -> None:
    curves = picture_data.curves(3, columns=40)
    hosts = tuple(replace(host, node=name) for host, name in zip(curves.hosts, HOSTILE, strict=False))
    for number, name in enumerate((HOSTILE[3], "".join(HOSTILE[4:]))):
        drawn = chart.draw(replace(record, name=name), replace(curves, hosts=hosts))
        drawing.save(drawn.figure, tmp_path / f"{number}.svg")
        assert (tmp_path / f"{number}.svg").read_text().rstrip().endswith("</svg>")


@pytest.mark.filterwarnings("error")
def test_a_name_that_no_font_here_has_costs_no_warnings(record: EnergyRecord, tmp_path: Path) -> None:
    drawn = chart.draw(replace(record, name="漢字 \U00013000"), picture_data.curves(3, columns=40))
    drawing.save(drawn.figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_does_not_depend_on_the_locale(archive: Path, tmp_path: Path) -> None:
    words = ["report", "4711", "--cluster", "c", "--archive", str(archive), "--html", str(tmp_path / "x.html")]
    ascii_alone = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-m", "perun_hpc.cli.main", *words], env=ascii_alone, check=True, timeout=120)
    assert (tmp_path / "x.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_a_job_that_runs_has_a_page_where_its_trace_grows(archive: Path, tmp_path: Path) -> None:
    home = Archive(tmp_path / "archive", "c").job(Run(4711, 0))
    shutil.copytree(Archive(archive, "c").job(Run(4711, 0)), home)
    (home / "record.json").unlink()
    record = replace(picture_data.record(3, 120), status="running", state="RUNNING")
    (home / "running.json").write_text(to_json(record))
    assert report(tmp_path / "archive", "--html", str(tmp_path / "job.html")) == 0
    assert 'id="curves"' in (tmp_path / "job.html").read_text()
