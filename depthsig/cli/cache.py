"""``depthsig cache``: what is kept between runs, and how it is cleared."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from depthsig.cli import shared as opt
from depthsig.errors import InputError


def cache(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="Of this kind only.", autocompletion=opt.candidates.kept_kinds)
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove it.", rich_help_panel=opt.HOW)] = False,
    json: opt.Json = False,
) -> None:
    """List what is kept between runs, by kind, or clear it; DEPTHSIG_CACHE names another folder for it."""
    from depthsig import kept  # start-up time

    found = kept.kinds()
    if kind is not None:
        found = [one for one in found if one.name == kind]
        if not found:
            there = ", ".join(one.name for one in kept.kinds()) or "nothing at all"
            raise InputError(f"nothing of the kind {kind!r} is kept; there is {there}")
    removed = kept.clear(kind) if clear else 0
    if json:
        listed = [] if clear else [asdict(one) for one in found]
        opt.print_json({"folder": str(kept.place()), "kinds": listed, "removed": removed})
    elif clear:
        typer.echo(f"{kept.place()}: {removed} entries removed, {sum(one.bytes for one in found) / 1e6:.1f} MB")
    else:
        typer.echo(f"{kept.place()}{'' if found else ': nothing is kept'}")
        for one in found:
            typer.echo(f"{one.name:<{max(len(k.name) for k in found)}}  {one.entries:>6}  {one.bytes / 1e6:>9.1f} MB")
