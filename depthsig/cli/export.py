"""``depthsig export``: a re-layered model as an ordinary checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import shared as opt


def export(
    checkpoint: opt.Checkpoint,
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.", rich_help_panel=opt.OUTPUT)],
    order: opt.Order = None,
    iterations: opt.Iterations = None,
    dtype: opt.Dtype = None,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    config: opt.Config = None,
    json: opt.Json = False,
) -> None:
    """Write the model with its layers in another order, as a checkpoint that loads anywhere."""
    from depthsig.commands.early import ensure_new  # start-up time

    ensure_new(out)
    options = opt.loading(dtype or "auto", "cpu", None, revision, trust_remote_code, allow_pickle)
    opt.refuse_early(checkpoint, options, order, iterations=iterations, exported=True)
    from depthsig.commands.export import mergekit_yaml, write_relayered  # start-up time
    from depthsig.model import load  # start-up time
    from depthsig.prompts.shipped import shipped_checkpoints  # start-up time

    with opt.plain_warnings():
        # Weights keep their own dtype, unless another is asked for.
        model = load(
            checkpoint, order=order, iterations=iterations, dtype=dtype or "auto", device="cpu", revision=revision,
            trust_remote_code=trust_remote_code, allow_pickle=allow_pickle,
        )  # fmt: skip
        write_relayered(model, out)
    # mergekit does not know the names of checkpoints that ship with depthsig.
    source = str(shipped_checkpoints().get(model.checkpoint.source, model.checkpoint.source))
    yaml = mergekit_yaml(model.plan.layers, source, str(model.dtype).removeprefix("torch."))
    if json:
        opt.print_json({"out": str(out), "layers": list(model.plan.layers), "mergekit": yaml})
        return
    typer.echo(f"checkpoint: {out} ({len(model.plan)} layers)")
    typer.echo("the same with mergekit:")
    typer.echo(yaml)
