"""Pages in a real, headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENS = [(width, scheme) for width in (390, 1200) for scheme in ("light", "dark")]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; where there is none, the test is skipped with the reason."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (depthsig[browser])")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser: Any, file: Path, width: int = 1200, scheme: str = "light", **more: Any) -> tuple[Any, list[str]]:
    """A page, and everything that its console has said, or that broke in it."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append("a dialog"), dialog.dismiss()))
    page.goto(file.as_uri())
    return page, said


def barriers(page: Any) -> list[tuple[str, str]]:
    """Serious violations that axe finds, with all that is folded opened."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.locator("details").evaluate_all("all => all.forEach((d) => (d.open = true))")
    found = axe.Axe().run(page).response["violations"]
    return [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]


def dark(page: Any) -> bool:
    """Whether the page is dark."""
    return page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
