"""``depthsig export``: a re-layered model as an ordinary checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import options as opt


def export(
    checkpoint: opt.Checkpoint,
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    order: opt.Order = None,
    iterations: opt.Iterations = None,
    dtype: opt.Dtype = None,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    json: opt.Json = False,
) -> None:
    """Write the model with its layers in another order, as a checkpoint that loads anywhere."""
    from depthsig.analysis.export import ensure_new, mergekit_yaml
    from depthsig.analysis.export import export as run

    ensure_new(out)
    from depthsig.engine.model import load
    from depthsig.prompts.shipped import shipped_checkpoints

    # Weights keep their own dtype, unless another is asked for.
    loading = opt.loading(dtype or "auto", "cpu", None, revision, trust_remote_code, allow_pickle)
    with opt.plain_warnings():
        model = load(checkpoint, order=order, iterations=iterations, **loading)
        run(model, out)
    # mergekit does not know the names of checkpoints that ship with depthsig.
    source = str(shipped_checkpoints().get(model.checkpoint.source, model.checkpoint.source))
    yaml = mergekit_yaml(model.plan.layers, source, str(model.dtype).removeprefix("torch."))
    if json:
        import json as codec

        typer.echo(codec.dumps({"out": str(out), "layers": list(model.plan.layers), "mergekit": yaml}))
        return
    typer.echo(f"checkpoint: {out} ({len(model.plan)} layers)")
    typer.echo("the same with mergekit:")
    typer.echo(yaml)
