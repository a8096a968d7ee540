"""``depthsig fit-lens``: a tuned lens for a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthsig.cli import shared as opt

if TYPE_CHECKING:
    from depthsig.commands.fit_lens import FittedLens  # start-up time


def fit_lens(
    checkpoint: opt.Checkpoint,
    order: opt.Order = None,
    iterations: opt.Iterations = None,
    prompts: opt.Prompts = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="Use so many prompts (of built-in ones, after the first 20).",
            show_default="all, 1000 generated",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    max_tokens: opt.MaxTokens = 256,
    chat_template: opt.ChatTemplate = False,
    steps: Annotated[
        int, typer.Option(help="Optimiser steps of 256 tokens; 0: ridge regressions only.", rich_help_panel=opt.HOW)
    ] = 100,
    lr: Annotated[
        float, typer.Option(help="Learning rate, in tuned-lens' unit (its own default is 1).", rich_help_panel=opt.HOW)
    ] = 0.3,
    weight_decay: Annotated[
        float, typer.Option(help="Weight decay, towards the identity.", rich_help_panel=opt.HOW)
    ] = 1e-3,
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    memory: opt.Memory = "4GiB",
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = 0,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the lens and its report.",
            show_default=opt.FREE.format("NAME-lens"),
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    config: opt.Config = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Fit a tuned lens: one affine map a depth, for `depthsig analyze --lens`."""
    from depthsig.commands.lenses.numbers import check_numbers  # start-up time
    from depthsig.engine.memory import parse_memory  # start-up time
    from depthsig.signature.folders.choosing import IDENTITY, ensure_results  # start-up time
    from depthsig.signature.folders.kinds import LENS  # start-up time
    from depthsig.signature.folders.writing import ensure_writable  # start-up time

    ensure_results() if out is None else ensure_writable(out, LENS)
    parse_memory(memory)
    check_numbers(n=n, max_tokens=max_tokens, steps=steps, lr=lr, weight_decay=weight_decay, batch_size=batch_size)
    load = opt.loading(dtype, device, None, revision, trust_remote_code, allow_pickle)
    opt.refuse_early(checkpoint, load, order, iterations=iterations, prompts=prompts, n=n, seed=seed)
    from depthsig.commands.fit_lens import fit_lens as fit  # start-up time
    from depthsig.report.page.lens_page import draw  # start-up time

    with opt.plain_warnings():
        fitted = fit(
            checkpoint, prompts, n=n, max_tokens=max_tokens, chat_template=chat_template, steps=steps, lr=lr,
            weight_decay=weight_decay, seed=seed, memory=memory, batch_size=batch_size,
            progress=opt.progress(no_progress), order=order, iterations=iterations, dtype=dtype, device=device,
            revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle,
        )  # fmt: skip
        places = opt.Places(out, LENS)
        target = places(f"{fitted.name}-lens", fitted.record[IDENTITY])
        fitted.save(target, lambda lens, at: draw(lens.record, at))
    report = target / "report.html"
    if json:
        opt.print_json({"out": str(target), "report": str(report), "lens": fitted.record})
    else:
        _show(fitted)
        typer.echo(f"lens: {target}{places.replaced}")
        typer.echo(f"report: {report}")
    if open:
        opt.open_page(report)


def _show(fitted: FittedLens) -> None:
    """How well each depth is read, in a table."""
    tokens = fitted.record["tokens"]
    typer.echo(f"held-out KL(final ‖ lens) in nats, on {tokens['judged']} tokens; fitted to {tokens['train']}")
    typer.echo(fitted.depths.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
