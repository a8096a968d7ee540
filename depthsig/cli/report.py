"""``depthsig report``: a saved result's page and the figures that it shows again, with no model at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli.shared import plain_warnings


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
) -> None:
    """Write report.html of a saved result of any kind again, and the figures that it shows."""
    from depthsig.report import build  # start-up time

    with plain_warnings():
        build(directory)
    typer.echo(f"report: {directory / 'report.html'}")
