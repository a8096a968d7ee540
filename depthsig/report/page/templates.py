"""What every page is made of: templates that escape whatever they show, styles, scripts and figures within the page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from depthsig.report.gallery import Drawn
from depthsig.report.page.chart_data import as_script
from depthsig.terms import counted

ASSETS = Path(__file__).parent.parent / "assets"
SCRIPTS = ("d3.min.js", "plot.min.js", "charts.js", "tables.js", "tokens.js", "page.js")


def page(template: str, data: dict[str, Any], **shown: Any) -> str:
    """A page as text.

    Args:
        data: what its scripts read, as :func:`~depthsig.report.page.chart_data.record` makes it.
        shown: what its template shows.
    """
    made = environment().get_template(template)
    return made.render(
        **shown, data=as_script(data), css=_asset("page.css"), scripts=[_asset(name) for name in SCRIPTS]
    )


def _asset(name: str) -> Markup:
    """A file of ours, as it is within the page."""
    return Markup((ASSETS / name).read_text(encoding="utf-8"))


def environment() -> jinja2.Environment:
    """Where the pages' templates are; whatever they show is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("depthsig.report", "templates"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["digits"] = lambda value: number(value, 3)
    made.filters["zip"] = zip
    made.filters["counted"] = counted
    return made


def embedded(drawn: Drawn, file: Path) -> dict[str, Any]:
    """A figure as the templates show it, within the page. As an image, nothing in it can run."""
    kind = "svg+xml" if file.suffix == ".svg" else "png"
    data = base64.b64encode(file.read_bytes()).decode()
    wide = drawn.figure.get_size_inches()[0] > 5
    return {"name": drawn.name, "title": drawn.title, "caption": drawn.caption, "wide": wide,
            "alt": drawn.alt or f"{drawn.title}: {drawn.caption}",
            "source": f"data:image/{kind};base64,{data}"}  # fmt: skip


def number(value: Any, digits: int = 4) -> str:
    """A number as the tables show it; a dash where it is undefined."""
    return "–" if pd.isna(value) else f"{float(value):.{digits}g}"
