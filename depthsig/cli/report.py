"""``depthsig report``: a saved signature's figures and page again, with no model at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
) -> None:
    """Write figures and report.html of a saved signature again."""
    from depthsig.cli.options import plain_warnings
    from depthsig.report import build

    with plain_warnings():
        build(directory)
    typer.echo(f"report: {directory / 'report.html'}")
