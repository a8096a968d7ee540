"""``depthsig figures``: every figure of a saved result, in the formats that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli.shared import plain_warnings


def figures(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format: Annotated[
        str, typer.Option(help="png, svg and pdf, comma-separated.", metavar="png,svg,pdf")
    ] = "png,svg,pdf",
) -> None:
    """Draw every figure of a saved result into its folder figures, which is made anew."""
    from depthsig.report import draw  # start-up time

    with plain_warnings():
        files = draw(directory, format)
    typer.echo(f"figures: {len(files)} files in {directory / 'figures'}")
