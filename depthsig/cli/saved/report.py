"""``depthsig report``: a saved result's page and the figures that it shows again, with no model at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import shared as opt


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    open: opt.Open = False,
    json: opt.Json = False,
) -> None:
    """Write report.html of a saved result of any kind again, and the figures that it shows."""
    from depthsig.report import build  # start-up time

    with opt.plain_warnings():
        page = build(directory)
    if json:
        opt.print_json({"out": str(directory), "report": str(page)})
    else:
        typer.echo(f"report: {page}")
    if open:
        opt.open_page(page)
