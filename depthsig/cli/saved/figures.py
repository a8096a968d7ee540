"""``depthsig figures``: every figure of a saved result, in the formats that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import shared as opt


def figures(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format: Annotated[
        str,
        typer.Option(
            help="png, svg and pdf, comma-separated.",
            metavar="png,svg,pdf",
            autocompletion=opt.candidates.formats,
            rich_help_panel=opt.OUTPUT,
        ),
    ] = "png,svg,pdf",
    json: opt.Json = False,
) -> None:
    """Draw every figure of a saved result into its folder figures, which is made anew."""
    from depthsig.report import draw  # start-up time

    with opt.plain_warnings():
        files = draw(directory, format)
    if json:
        opt.print_json({"out": str(directory), "figures": [str(file) for file in files]})
    else:
        typer.echo(f"figures: {len(files)} files in {directory / 'figures'}")
