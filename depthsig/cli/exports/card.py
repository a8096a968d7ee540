"""``depthsig card``: the section of a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import shared as opt


def card(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    into: Annotated[
        Path | None,
        typer.Option(
            help="Put it into this card, between <!-- depthsig:start --> and <!-- depthsig:end -->, or at its end.",
            metavar="README.md",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Print a section for a Hugging Face model card (Markdown): the findings, and how they were measured."""
    from depthsig.exports.model_card import model_card, put_into  # start-up time
    from depthsig.signature import Signature  # start-up time

    with opt.plain_warnings():
        section = model_card(Signature.load(directory))
    replaced = None if into is None else put_into(into, section)
    if json:
        opt.print_json({"section": section, "into": None if into is None else str(into), "replaced": replaced})
    elif into is None:
        typer.echo(section, nl=False)
    else:
        typer.echo(f"card: {into} ({'its section was replaced' if replaced else 'a section was added at its end'})")
