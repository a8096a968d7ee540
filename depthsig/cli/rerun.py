"""``depthsig rerun``: an analysis done again from what its results folder records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import shared as opt


def rerun(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Results folder of `depthsig analyze`.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            help="Where the checkpoint is now.",
            metavar="CHECKPOINT",
            show_default="where it was",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    plugin: opt.Plugin = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda, cuda:1 ...", show_default="as recorded", rich_help_panel=opt.WHERE),
    ] = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Keep the new result here.", show_default="not kept", rich_help_panel=opt.OUTPUT),
    ] = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> int:
    """Do an analysis again, and say which numbers moved and what was different.

    Prompts that were given in Python are kept beside a result, so that it can be done again, too.
    """
    from depthsig.errors import InputError  # start-up time
    from depthsig.signature.folders.writing import ensure_writable  # start-up time

    if open and out is None:
        raise InputError("--open shows the new result's page; name a folder for it with --out")
    if out is not None:
        ensure_writable(out)
    from depthsig.commands.rerun import rerun as run  # start-up time

    with opt.plain_warnings():
        found = run(
            directory, model=checkpoint, device=device, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle,
            plugin=plugin or (), out=out, progress=opt.progress(no_progress),
        )  # fmt: skip
    if json:
        opt.print_json(found.record())
    else:
        typer.echo(str(found))
    if open and out is not None:
        opt.open_page(out / "report.html")
    return 0 if found.agrees else 3
