"""``depthsig report``: a saved signature's figures and page again, with no model at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli.shared import plain_warnings


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
) -> None:
    """Write figures and report.html of a saved signature again."""
    from depthsig.report import build  # start-up time

    with plain_warnings():
        build(directory)
    typer.echo(f"report: {directory / 'report.html'}")
