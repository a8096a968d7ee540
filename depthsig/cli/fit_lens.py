"""``depthsig fit-lens``: a tuned lens for a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import options as opt


def fit_lens(
    checkpoint: opt.Checkpoint,
    order: opt.Order = None,
    iterations: opt.Iterations = None,
    prompts: opt.Prompts = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", help="Use so many prompts (of built-in ones, after the first 20).", show_default="all, 1000 generated"
        ),
    ] = None,
    max_tokens: opt.MaxTokens = 256,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Use the tokenizer's template.")] = False,
    steps: Annotated[int, typer.Option(help="Optimiser steps of 256 tokens; 0: ridge regressions only.")] = 100,
    lr: Annotated[float, typer.Option(help="Learning rate, in tuned-lens' unit (its own default is 1).")] = 0.3,
    weight_decay: Annotated[float, typer.Option(help="Weight decay, towards the identity.")] = 1e-3,
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    memory: Annotated[str, typer.Option(help="Memory to use beside the model.")] = "4GiB",
    batch_size: Annotated[int | None, typer.Option(help="At most this many prompts at once.")] = None,
    seed: opt.Seed = 0,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the lens [default: depthsig-results/NAME-lens].")] = None,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Fit a tuned lens: one affine map a depth, for `depthsig analyze --lens`."""
    from depthsig.checkpoint.translators import RECORD
    from depthsig.engine.memory import parse_memory
    from depthsig.signature.storage import ensure_writable

    plain = opt.default_out(checkpoint)
    target = out if out is not None else plain.with_name(plain.name + "-lens")
    ensure_writable(target, RECORD)
    parse_memory(memory)
    from depthsig.analysis.fit_lens import fit_lens as fit

    loading = opt.loading(dtype, device, None, revision, trust_remote_code, allow_pickle)
    with opt.plain_warnings():
        fitted = fit(
            checkpoint, prompts, n=n, max_tokens=max_tokens, chat_template=chat_template, steps=steps, lr=lr,
            weight_decay=weight_decay, seed=seed, memory=memory, batch_size=batch_size, out=target,
            progress=opt.wants_progress(no_progress), order=order, iterations=iterations, **loading,
        )  # fmt: skip
    if json:
        import json as codec

        typer.echo(codec.dumps({"out": str(target), "lens": fitted.record}))
        return
    tokens = fitted.record["tokens"]
    typer.echo(f"held-out KL(final ‖ lens) in nats, on {tokens['judged']} tokens; fitted to {tokens['train']}")
    typer.echo(fitted.depths.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    typer.echo(f"lens: {target}")
