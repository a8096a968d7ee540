"""``depthsig card``: the section of a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli.shared import plain_warnings


def card(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    into: Annotated[
        Path | None,
        typer.Option(
            help="Put it into this card, between <!-- depthsig:start --> and <!-- depthsig:end -->, or at its end.",
            metavar="README.md",
        ),
    ] = None,
) -> None:
    """Print a section for a Hugging Face model card (Markdown): the findings, and how they were measured.

    For example: depthsig card depthsig-results/family-midas --into README.md
    """
    from depthsig.exports.model_card import model_card, put_into  # start-up time
    from depthsig.signature import Signature  # start-up time

    with plain_warnings():
        section = model_card(Signature.load(directory))
    if into is None:
        typer.echo(section, nl=False)
        return
    replaced = put_into(into, section)
    typer.echo(f"card: {into} ({'its section was replaced' if replaced else 'a section was added at its end'})")
