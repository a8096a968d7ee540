"""Pages of comparisons, repeats, lenses and found blocks in a real browser, as that of a signature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_pages
import page_signatures
import pytest
from browsing import SCREENS, barriers, chromium, dark, opened
from made_signatures import three_arms
from page_signatures import EVIL

import depthsig
from depthsig.report.page import blocks_page, compared_page, lens_page, repeated_page, replicated_page
from depthsig.report.page.html import render

PAGES = ("compare", "scan", "span", "lens", "blocks", "replicate")

pytestmark = pytest.mark.extra


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("pages")
    texts = {
        "compare": compared_page.render(made_pages.comparison(), []),
        "scan": repeated_page.render(made_pages.scan(), []), "span": repeated_page.render(made_pages.one_span(), []),
        "lens": lens_page.render(made_pages.lens()), "blocks": blocks_page.render(made_pages.blocks(), []),
        "report": render(page_signatures.made(), []),
        "replicate": replicated_page.render(made_pages.replication(), []),
    }  # fmt: skip
    for name, text in texts.items():
        assert EVIL not in text, name
        (at / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: at / f"{name}.html" for name in texts}


def chart_of(field: Any) -> Any:
    return field.locator("xpath=../../following-sibling::div[contains(@class, 'chart')]")


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.parametrize("name", PAGES)
def test_every_screen(browser: Any, files: dict[str, Path], name: str, width: int, scheme: str) -> None:
    page, said = opened(browser, files[name], width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".glance dt").first.bounding_box()["y"] < 900  # the result is on the first screen
    assert page.locator(".chart svg").count() >= 1
    assert not barriers(page)
    assert dark(page) == (scheme == "dark")
    page.click("#theme")
    assert dark(page) != (scheme == "dark") and not said


@pytest.mark.parametrize("name", PAGES)
def test_choices_change_the_chart(browser: Any, files: dict[str, Path], name: str) -> None:
    page, said = opened(browser, files[name])
    for field in page.get_by_label("Metric", exact=True).all():
        for value in field.locator("option").evaluate_all("all => all.map((o) => o.value)"):
            field.select_option(value)
            assert chart_of(field).get_attribute("aria-label").startswith(value)
            assert chart_of(field).locator("svg").count() == 1
            for other in field.locator("xpath=../../label//select").all()[1:]:
                values = other.locator("option").evaluate_all("all => all.map((o) => o.value)")
                if other.is_visible():
                    seen = []
                    for choice in values:
                        other.select_option(choice)
                        seen.append(chart_of(field).get_attribute("aria-label"))
                    assert len(seen) > 1
    assert not said


def test_the_choices_are_what_the_page_calls_them(browser: Any, files: dict[str, Path]) -> None:
    page, _ = opened(browser, files["scan"])
    tasks = page.get_by_label("Task")
    assert tasks.is_visible() and not page.get_by_label("Part", exact=True).count()
    wanted = [repeated_page.ALL, EVIL, "lookup"]
    assert tasks.locator("option").evaluate_all("all => all.map((o) => o.value)") == wanted
    assert tasks.locator("option").all_inner_texts() == wanted
    page, _ = opened(browser, files["compare"])
    assert page.get_by_label("Profile").first.is_visible()


@pytest.mark.parametrize(
    ("name", "at"),
    [("compare", "Relative depth "), ("scan", "Layer 1: "), ("span", "Number of passes 2: "), ("lens", "Step 1: "),
     ("blocks", "Step 1: ")],
)  # fmt: skip
def test_the_keyboard_moves_the_mark(browser: Any, files: dict[str, Path], name: str, at: str) -> None:
    page, said = opened(browser, files[name])
    chart = page.locator(".chart[role=slider]").first
    chart.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    readout = chart.get_attribute("aria-valuetext")
    assert readout.startswith(at) and page.locator(".readout", has_text=readout).count()
    assert page.locator(".step-rule, .row-mark, .col-mark").count()
    page.keyboard.press("End")
    assert chart.get_attribute("aria-valuenow") == chart.get_attribute("aria-valuemax")
    assert not said


def test_what_has_no_steps_is_a_picture_with_words(browser: Any, files: dict[str, Path]) -> None:
    page, _ = opened(browser, files["compare"])
    for section in ("claims", "distances", "late"):
        chart = page.locator(f"#{section}-live .chart")
        assert chart.get_attribute("role") == "img" and not chart.get_attribute("tabindex")
    assert page.locator("#claims-live .chart").get_attribute("aria-label").startswith("claims: largest ")
    assert EVIL in page.locator("#distances-live .readout").inner_text()
    page.locator("#claims-live .chart svg").scroll_into_view_if_needed()
    box = page.locator("#claims-live .chart svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.4)
    assert page.locator("#claims-live [aria-label=tip] text").count()


CHECKPOINTS = ["midas-seed2-lookup", *(f"midas-seed2-step{n}-lookup" for n in (1000, 1750, 2500, 3250, 4000))]


@pytest.mark.parametrize("most", [10, 16, 20, 40])
@pytest.mark.parametrize(
    "names", [CHECKPOINTS, ["x" * 50, "x" * 51, "y"], ["a" * 20 + f"{n:02}" + "b" * 20 for n in range(12)]]
)
def test_short_names_stay_different(browser: Any, files: dict[str, Path], names: list[str], most: int) -> None:
    page, _ = opened(browser, files["compare"])
    short = page.evaluate("([names, most]) => Charts.shortened(names, most)", [names, most])
    assert len(set(short)) == len(names) and all(len(one) <= most for one in short)
    assert most < 40 or names != CHECKPOINTS or short == names


def test_who_points_at_a_short_name_is_told_the_whole(browser: Any, files: dict[str, Path]) -> None:
    page, _ = opened(browser, files["compare"], 390)
    for axis in "xy":
        labels = page.locator(f"#distances-live [aria-label='{axis}-axis tick label'] text")
        whole = labels.evaluate_all("all => all.map((one) => one.querySelector('title').textContent)")
        assert whole == [EVIL, "grown", "baseline"]
    assert "…" in labels.first.evaluate("one => one.firstChild.textContent")


@pytest.mark.parametrize("most", [1.2, 1.00005, 1])
def test_a_map_tells_what_lies_beyond_its_colours(browser: Any, files: dict[str, Path], most: float) -> None:
    """Beyond by no more than what five digits round is not beyond."""
    page, _ = opened(browser, files["compare"])
    note, last = page.evaluate(
        """(most) => {
      const scale = { norm: "linear", low: 0, high: 1 }, about = { label: "d", centre: null, names: ["a", "b"] };
      const cells = { rows: [0, 1], cols: [0, 1], values: [[0, most], [most, 0]], scale };
      const drawn = Charts.heatmap({ ...about, marked: false }, cells, [], null, 400);
      return [drawn.note, [...drawn.legend.querySelectorAll(".tick text")].at(-1).textContent];
    }""",
        most,
    )
    assert ("2 above the scale" in note, last) == ((True, "≥ 1") if most == 1.2 else (False, "1"))


@pytest.mark.parametrize(
    ("name", "table", "column"), [("compare", "late", 3), ("scan", "ranking", 4), ("lens", "depths", 2)]
)
def test_tables_sort_filter_and_download(
    browser: Any, files: dict[str, Path], name: str, table: str, column: int
) -> None:
    page, said = opened(browser, files[name], accept_downloads=True)
    shown = page.locator(f"table[data-name={table}]")
    rows = shown.locator("tbody tr")

    def values() -> list[float]:
        cells = shown.locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()
        return [float(t.replace("−", "-")) for t in cells if t != "–"]

    shown.locator("th button").nth(column).click()
    assert len(values()) > 2 and values() == sorted(values())
    shown.locator("th button").nth(column).click()
    assert values() == sorted(values(), reverse=True)
    page.get_by_label(f"Filter {table}").fill(rows.first.locator("td").nth(column).inner_text())
    left = rows.locator("visible=true").count()
    with page.expect_download() as got:
        page.get_by_label(f"Download CSV: {table}").click()
    lines = Path(got.value.path()).read_text(encoding="utf-8").splitlines()
    assert got.value.suggested_filename == f"{table}.csv" and len(lines) == 1 + left
    assert not said


@pytest.mark.parametrize(
    ("name", "tables"),
    [("report", ["findings", "definitions"]), ("compare", ["held_equal", "recurrence", "signatures", "definitions"]),
     ("lens", ["depths", "certificates"]), ("replicate", ["networks", "verdicts"]), ("blocks", ["blocks", "tests"])],
)  # fmt: skip
def test_every_table_of_results_can_be_had(browser: Any, files: dict[str, Path], name: str, tables: list[str]) -> None:
    page, said = opened(browser, files[name], accept_downloads=True)
    for table in tables:
        shown = page.locator(f"table[data-name={table}]")
        with page.expect_download() as got:
            page.get_by_label(f"Download CSV: {table}").click()
        lines = Path(got.value.path()).read_text(encoding="utf-8").splitlines()
        assert got.value.suggested_filename == f"{table}.csv" and len(lines) > shown.locator("tbody tr").count() > 0
        shown.locator("th button").first.click()
        assert shown.locator("th").first.get_attribute("aria-sort") == "ascending"
    assert not said


def test_files_of_numbers_have_names_that_every_system_takes(browser: Any, files: dict[str, Path]) -> None:
    page, _ = opened(browser, files["compare"], accept_downloads=True)
    page.locator("#late-live summary").click()
    with page.expect_download() as got:
        page.locator("#late-live .rows button", has_text="Download CSV").click()
    assert got.value.suggested_filename == "late-late_share.csv"


LONG = "a_name_without_a_place_to_break_it" * 4


@pytest.mark.parametrize("name", ["report", "compare", "lens", "blocks"])
def test_a_long_name_is_wrapped_on_a_phone(browser: Any, tmp_path: Path, name: str) -> None:
    found, blocks = page_signatures.made(), made_pages.blocks()
    about = {**found.info.get("checkpoint", {}), "name": LONG, "id": LONG}
    several = depthsig.compare(three_arms(looped=LONG, grown=f"{LONG}2"), resamples=20)
    pages = {
        "report": lambda: render(replace(found, info={**found.info, "checkpoint": about}), []),
        "compare": lambda: compared_page.render(several, []),
        "lens": lambda: lens_page.render({**made_pages.lens(), "checkpoint": {"id": LONG}}),
        "blocks": lambda: blocks_page.render(replace(blocks, info={**blocks.info, "checkpoint": LONG}), []),
    }
    (tmp_path / "long.html").write_text(pages[name](), encoding="utf-8")
    page, _ = opened(browser, tmp_path / "long.html", 390)
    page.locator("details").evaluate_all("all => all.forEach((d) => (d.open = true))")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('h1, .lead, .glance, code')].every((e) => "
                         "e.closest('.scroll') || e.scrollWidth <= e.clientWidth + 1 || !e.clientWidth)")  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_numbers_behind_a_chart(browser: Any, files: dict[str, Path], name: str) -> None:
    page, said = opened(browser, files[name])
    summaries = page.locator("details > summary", has_text=re.compile(r"^Numbers$"))
    for summary in summaries.all():
        summary.click()
    # What is opened is told of a moment later.
    page.wait_for_function("n => document.querySelectorAll('.rows table').length >= n", arg=summaries.count())
    assert summaries.count() == page.locator(".rows table").count() >= 1
    assert all(table.locator("tbody tr").count() for table in page.locator(".rows table").all())
    assert not said


def test_the_plan_shows_the_blocks(browser: Any, files: dict[str, Path]) -> None:
    page, _ = opened(browser, files["blocks"])
    kinds = page.locator(".strip li").evaluate_all("all => all.map((one) => one.className.trim())")
    assert kinds == ["", "even first", "even", "odd first", "odd", ""]


@pytest.mark.parametrize("name", PAGES)
def test_without_javascript_the_result_and_the_tables_stand(browser: Any, files: dict[str, Path], name: str) -> None:
    page, said = opened(browser, files[name], java_script_enabled=False)
    assert page.locator(".glance").is_visible() and page.locator("main table").count() and not said
