"""The page in a real browser: its controls do what they say, on every screen, with no error and no barrier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import barriers, chromium, dark, opened
from made_signatures import noisy, signature
from page_signatures import EVIL, made, tokens

from depthsig.report.page.html import render

pytestmark = pytest.mark.extra


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = made()
    info = {**found.info, "checkpoint": {**found.info.get("checkpoint", {}), "name": EVIL}}
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(replace(found, info=info, tokens_table=tokens(EVIL)), []), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_every_screen(browser: Any, file: Path, width: int, scheme: str) -> None:
    page, said = opened(browser, file, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert dark(page) == (scheme == "dark")
    page.click("#theme")
    assert dark(page) != (scheme == "dark")
    assert page.locator("h1").inner_text() == EVIL
    assert not said


def test_a_step_is_marked_everywhere(browser: Any, file: Path) -> None:
    page, said = opened(browser, file)
    page.locator(".strip button").nth(1).click()
    assert page.locator(".strip button[aria-pressed=true]").count() == 1
    charts = page.locator(".chart")
    assert charts.count() and all(one.get_attribute("aria-valuenow") == "1" for one in charts.all())
    assert page.locator(".step-rule").count() + page.locator(".row-mark, .col-mark").count() >= charts.count()
    assert page.locator(".tokens tr.marked").get_attribute("data-step") == "1"
    charts.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".strip button").nth(2).get_attribute("aria-pressed") == "true"
    assert all(text.startswith("Step 2: ") for text in page.locator(".readout").all_inner_texts())
    page.keyboard.press("Home")
    box = page.locator(".chart svg").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    assert page.locator(".chart svg").first.locator("[aria-label=tip] text").count()
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    assert page.locator(".strip button").nth(0).get_attribute("aria-pressed") == "false"
    assert not said


def test_choices_change_the_chart(browser: Any, file: Path) -> None:
    page, said = opened(browser, file)
    for field in page.get_by_label("Metric").all():
        chart = field.locator("xpath=../../following-sibling::div[contains(@class, 'chart')]")
        for value in field.locator("option").evaluate_all("all => all.map((o) => o.value)"):
            field.select_option(value)
            assert chart.get_attribute("aria-label").startswith(value)
            assert chart.locator("svg").count() == 1
    for name in ("Part", "Scope", "Aggregation"):
        for field in page.get_by_label(name).all():
            if field.is_visible():
                before = field.locator("xpath=../../following-sibling::div[contains(@class, 'chart')]").inner_html()
                field.select_option(index=1)
                after = field.locator("xpath=../../following-sibling::div[contains(@class, 'chart')]").inner_html()
                assert before != after
    assert not said


@pytest.mark.parametrize(("ends", "turned"), [((1e-5, 1e5), [True, False]), ((0.1, 0.4), [])])
def test_values_beyond_the_scale_point_to_where_they_lie(
    browser: Any, tmp_path: Path, ends: tuple[float, float], turned: list[bool]
) -> None:
    profile = np.array([ends[0], 0.1, 0.2, 0.3, 0.4, ends[1]])
    found = signature({("contribution.relative", "layer", "-", "step"): noisy(profile, 6)}, 6)
    (tmp_path / "beyond.html").write_text(render(found, []), encoding="utf-8")
    page, said = opened(browser, tmp_path / "beyond.html")
    marks = page.locator(".beyond path").evaluate_all("all => all.map((m) => m.getAttribute('transform'))")
    assert ["rotate(180)" in moved for moved in marks] == turned
    note = page.locator(".beyond-note")
    assert note.is_visible() == bool(turned) and ("△ 1 above the scale, ▽ 1 below it" in note.inner_text()) == bool(
        turned
    )
    assert not said


def test_tokens_are_text(browser: Any, file: Path) -> None:
    page, said = opened(browser, file)
    assert page.locator(".tokens tbody tr").count() == 3 and page.locator(".tokens tbody td").count() == 6
    cell = page.locator(".tokens tbody td").first
    assert cell.inner_text() == EVIL + "1" and f"{EVIL}2: 0.25" in cell.get_attribute("title")
    assert not said


def test_tables_sort_filter_and_download(browser: Any, file: Path) -> None:
    page, said = opened(browser, file, accept_downloads=True)
    page.locator("details > summary", has_text="Numbers").first.click()
    table = page.locator(".rows table").first
    table.locator("th button").nth(4).click()
    assert table.locator("th").nth(4).get_attribute("aria-sort") == "ascending"

    def values() -> list[float]:
        return [float(t) for t in table.locator("tbody tr td:nth-child(5)").all_inner_texts() if t != "–"]

    assert values() == sorted(values())
    table.locator("th button").nth(4).click()
    assert values() == sorted(values(), reverse=True)
    field = page.locator(".rows input[type=search]").first
    wanted = table.locator("tbody tr").first.inner_text().split("\t")[4]
    field.fill(wanted)
    left = table.locator("tbody tr:visible").count()
    assert 1 <= left <= len(values())
    with page.expect_download() as got:
        page.locator(".rows button", has_text="Download CSV").first.click()
    lines = Path(got.value.path()).read_text().splitlines()
    assert lines[0].startswith("part,scope,agg,") and len(lines) == 1 + left and wanted in lines[1]
    field.fill("nothing has this")
    assert table.locator("tbody tr:visible").count() == 0
    assert not said


def test_without_javascript_findings_and_tables_stand(browser: Any, file: Path) -> None:
    page, said = opened(browser, file, java_script_enabled=False)
    assert page.locator("#findings").is_visible() and page.locator(".findings tr").count() > 5
    assert not page.locator("#theme").is_visible() and not said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_no_serious_barrier(browser: Any, file: Path, width: int, scheme: str) -> None:
    page, _ = opened(browser, file, width, scheme)
    assert not barriers(page)
