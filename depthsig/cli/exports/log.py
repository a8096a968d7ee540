"""``depthsig log``: a saved signature as a run of an experiment tracker."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import shared as opt


class Tracker(StrEnum):
    """Where runs are shown."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"


def log(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    to: Annotated[
        Tracker, typer.Option(help="tensorboard (a folder) or wandb (as it is set up).", rich_help_panel=opt.OUTPUT)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="TensorBoard's folder of the run.",
            show_default="runs/DIR",
            metavar="FOLDER",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    project: Annotated[str, typer.Option(help="W&B's project.", rich_help_panel=opt.OUTPUT)] = "depthsig",
    name: Annotated[
        str | None,
        typer.Option(help="W&B's name of the run.", show_default="the checkpoint's", rich_help_panel=opt.OUTPUT),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Write scores, profiles and findings as a run of TensorBoard or Weights & Biases; no prompts, no tokens."""
    from depthsig.exports.tensorboard_run import log_to_tensorboard  # start-up time
    from depthsig.exports.wandb_run import log_to_wandb  # start-up time
    from depthsig.signature import Signature  # start-up time

    with opt.plain_warnings():
        signature = Signature.load(directory)
        if to is Tracker.TENSORBOARD:
            folder = out or Path("runs") / directory.resolve().name
            log_to_tensorboard(signature, folder)
            run, note = str(folder), f" (tensorboard --logdir {folder.parent})"
        else:
            run, note = str(log_to_wandb(signature, project=project, name=name)), ""
    if json:
        opt.print_json({"run": run, "to": to.value})
    else:
        typer.echo(f"run: {run}{note}")
