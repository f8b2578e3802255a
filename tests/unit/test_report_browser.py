"""A job's page in a real browser, from the disk, without a network: it draws, answers, prints, lets nothing in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.browser import NARROW, Shown, browser, shown
from perun_hpc.report import quantities as q
from perun_hpc.report.page import Beside, page
from tests import picture_data
from tests.unit.test_report_page import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

RECORD = picture_data.record(4, 7200)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("browser") / "job.html"
    target.write_text(page(RECORD, Beside("the job's directory", picture_data.curves(4, columns=240))))
    return target


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def light(chromium: Browser, file: Path) -> Iterator[Shown]:
    with shown(chromium, file) as one:
        yield one


def style(one: Shown, selector: str, what: str) -> str:
    found = one.page.locator(selector).first.evaluate(f"(e) => getComputedStyle(e).{what}")
    return str(found)


def pixels(one: Shown, selector: str) -> int:
    box = one.page.locator(selector).first.bounding_box()
    return 0 if box is None else round(box["width"] * box["height"])


def test_it_opens_without_a_complaint_and_asks_for_nothing(light: Shown, file: Path) -> None:
    light.page.locator("#stage").hover()
    light.page.wait_for_function("document.getElementById('tip').hidden === false")
    assert light.complaints == []
    assert [url for url in light.asked if not url.startswith("data:")] == [file.as_uri()]


def test_charts_are_drawn(light: Shown) -> None:
    for panel in ("power", "steps", "use", "hosts"):
        assert pixels(light, f"#panel-{panel}") > 10_000, panel
    assert pixels(light, "#heat") > 10_000
    assert light.page.locator("#panel-power .x path").count() >= 4
    assert light.page.locator("svg.bar rect").count() > 10


def test_keys_say_values_and_look_closer(light: Shown) -> None:
    stage, said = light.page.locator("#stage"), light.page.locator("#said")
    labels = light.page.locator("svg.chart text.made")
    assert labels.count() == 0
    stage.focus()
    stage.press("ArrowRight")
    assert re.search(r"after the start, CPU [\d.]+ kW, memory .*, together [\d.]+ kW.*, step 1", said.inner_text())
    stage.press("ArrowDown")
    light.page.wait_for_function("(document.getElementById('said').textContent || '').includes('n1')")
    for _ in range(3):
        stage.press("+")
    assert labels.count() > 2
    assert light.page.locator("#out").is_enabled()
    stage.press("0")
    assert labels.count() == 0
    assert light.page.locator("#out").is_disabled()


def test_the_pointer_has_the_values_of_the_data(light: Shown) -> None:
    curves = picture_data.curves(4, columns=240)
    box = light.page.locator("svg.chart").bounding_box()
    assert box is not None
    scale = box["width"] / 960
    light.page.mouse.move(box["x"] + (64 + (120 + 0.5) / 240 * 812) * scale, box["y"] + 100 * scale)
    text = light.page.locator("#tip").inner_text()
    assert f"{curves.total.mean[120] / 1e3:.4g} kW" in text
    assert "01:00:15 after the start" in text


def test_dragging_looks_closer_and_a_button_goes_back(light: Shown) -> None:
    box = light.page.locator("svg.chart").bounding_box()
    assert box is not None
    light.page.mouse.move(box["x"] + 300, box["y"] + 100)
    light.page.mouse.down()
    light.page.mouse.move(box["x"] + 500, box["y"] + 120)
    light.page.mouse.up()
    assert "matrix(1 0 0 1 0 0)" not in str(light.page.locator("#panel-power .x").first.get_attribute("transform"))
    light.page.locator("#all").click()
    assert light.page.locator("#panel-power .x").first.get_attribute("transform") == "matrix(1 0 0 1 0 0)"


def test_dark_follows_the_reader_the_button_turns_it_and_print_is_light(chromium: Browser, file: Path) -> None:
    with shown(chromium, file, dark=True) as one:
        dark = style(one, "body", "backgroundColor")
        ink = style(one, "#panel-power text", "fill")
        one.page.locator("#theme").click()
        light = style(one, "body", "backgroundColor")
        assert (light, dark) == ("rgb(255, 255, 255)", "rgb(13, 17, 23)")
        assert style(one, "#panel-power text", "fill") != ink
        one.page.locator("#theme").click()
        one.page.emulate_media(media="print")
        assert style(one, "body", "backgroundColor") == "rgb(255, 255, 255)"
        assert not one.page.locator("#theme").is_visible()
        assert one.complaints == []


def test_with_scripts_blocked_the_figures_and_the_chart_are_there(chromium: Browser, file: Path) -> None:
    with shown(chromium, file, scripts=False) as one:
        text = one.page.locator("body").inner_text()
        assert q.energy_with_bounds(RECORD.energy_uj, RECORD.u_uj)[0] in text
        assert "halo_exchange" in text
        assert pixels(one, "#panel-power") > 10_000
        assert not one.page.locator("#theme").is_visible()
        assert not one.page.locator("#in").is_visible()


def test_on_a_telephone_nothing_is_wider_than_the_screen(chromium: Browser, file: Path) -> None:
    with shown(chromium, file, size=NARROW) as one:
        assert one.page.evaluate("document.documentElement.scrollWidth") <= NARROW[0]


def test_hostile_names_run_nothing(chromium: Browser, tmp_path: Path) -> None:
    curves = picture_data.curves(4, columns=40)
    hosts = tuple(replace(one, node=name) for one, name in zip(curves.hosts, HOSTILE, strict=False))
    name = "".join(HOSTILE)
    record = replace(
        RECORD, name=name, user=name, missing=(name,), steps=tuple(replace(one, step_id=name) for one in RECORD.steps),
        regions=tuple(replace(one, name=name) for one in RECORD.regions),
        nodes=tuple(replace(one, node=name) for one in RECORD.nodes),
    )  # fmt: skip
    (tmp_path / "x.html").write_text(page(record, Beside(name, replace(curves, hosts=hosts))))
    with shown(chromium, tmp_path / "x.html") as one:
        one.page.locator("#stage").focus()
        for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown"):
            one.page.locator("#stage").press(key)
        assert one.complaints == []
        assert one.page.locator("img, iframe, object").count() == 0
        assert "alert(1)" in one.page.locator("h1").inner_text()
