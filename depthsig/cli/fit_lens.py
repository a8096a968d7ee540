"""``depthsig fit-lens``: a tuned or a Jacobian lens for a checkpoint, or Jacobian lenses as one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthsig.cli import shared as opt

if TYPE_CHECKING:
    from depthsig.commands.lenses.fitted import FittedLens


def fit_lens(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A local folder, a hub id, a GGUF file, or a name listed by `depthsig models`; none with --merge.",
            autocompletion=opt.candidates.checkpoints,
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="tuned (maps to the final output) or jacobian (how a state moves the last one).",
            autocompletion=opt.candidates.lens_kinds,
            rich_help_panel=opt.WHAT,
        ),
    ] = "tuned",
    order: opt.Order = None,
    iterations: opt.Iterations = None,
    prompts: opt.Prompts = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="Use so many prompts (of built-in ones, after the first 20).",
            show_default="all, 1000 generated; jacobian: 100 built-in",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Cut prompts after this many tokens.", show_default="256; jacobian: 128", rich_help_panel=opt.WHAT
        ),
    ] = None,
    chat_template: opt.ChatTemplate = False,
    target: Annotated[
        str,
        typer.Option(
            help="Of Jacobians: end (the last state), or pass (the end of a loop's pass).",
            autocompletion=opt.candidates.lens_targets,
            rich_help_panel=opt.WHAT,
        ),
    ] = "end",
    merge: Annotated[
        str | None,
        typer.Option(
            help="Make one of Jacobian lenses that were fitted to different prompts.", metavar="DIR,DIR",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Optimiser steps of 256 tokens; 0: ridge regressions only.", rich_help_panel=opt.HOW)
    ] = 100,
    lr: Annotated[
        float, typer.Option(help="Learning rate, in tuned-lens' unit (its own default is 1).", rich_help_panel=opt.HOW)
    ] = 0.3,
    weight_decay: Annotated[
        float, typer.Option(help="Weight decay, towards the identity.", rich_help_panel=opt.HOW)
    ] = 1e-3,
    skip_first: Annotated[
        int, typer.Option(help="Of Jacobians: leading positions left out.", metavar="N", rich_help_panel=opt.HOW)
    ] = 16,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from interrupted Jacobians.", rich_help_panel=opt.HOW)
    ] = False,
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    memory: opt.Memory = "4GiB",
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = 0,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    out: Annotated[Path | None, opt.results("NAME-lens", "Folder of the lens and its report.")] = None,
    config: opt.Config = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:  # fmt: skip
    """Fit a lens: an affine map or a Jacobian a depth, for `depthsig analyze --lens`."""
    from depthsig.commands.lenses.numbers import check_kind, check_numbers  # start-up time
    from depthsig.engine.memory import parse_memory  # start-up time
    from depthsig.signature.folders.choosing import ensure_results  # start-up time
    from depthsig.signature.folders.kinds import LENS  # start-up time
    from depthsig.signature.folders.writing import ensure_writable  # start-up time

    ensure_results() if out is None else ensure_writable(out, LENS)
    places = opt.Places(out, LENS)
    if merge is not None:
        _merge(merge, checkpoint, places, json=json, open_it=open)
        return
    if checkpoint is None:
        raise opt.MissingArgument("fit-lens needs a CHECKPOINT, or --merge; none given")
    parse_memory(memory)
    tuned = {"steps": steps, "lr": lr, "weight_decay": weight_decay}
    check_kind(kind, **tuned, skip_first=skip_first, target=target)
    check_numbers(kind, **tuned, n=n, max_tokens=max_tokens, batch_size=batch_size, skip_first=skip_first)
    load = opt.loading(dtype, device, None, revision, trust_remote_code, allow_pickle)
    opt.refuse_early(checkpoint, load, order, iterations=iterations, prompts=prompts, n=n, seed=seed)
    from depthsig.commands.fit_lens import LensJob  # start-up time
    from depthsig.commands.lenses.jacobian_fit import Averaged  # start-up time
    from depthsig.commands.lenses.training import Schedule  # start-up time
    from depthsig.commands.opening import Given  # start-up time
    from depthsig.plan.declared import PlanOptions  # start-up time

    given = Given(checkpoint, loading=load, plan=PlanOptions(order, iterations=iterations))
    schedule, averaged = Schedule(steps, lr, weight_decay, seed), Averaged(skip_first, target)
    job = LensJob(given, prompts, kind, n, max_tokens, chat_template, schedule, averaged, memory, batch_size)
    with opt.plain_warnings():
        _keep(job.run(places, resume, opt.progress(no_progress)), places, json=json, open_it=open)


def _merge(merge: str, checkpoint: str | None, places: opt.Places, *, json: bool, open_it: bool) -> None:
    """Merge lenses; a checkpoint has nothing to do with it."""
    from depthsig.commands.lenses.merging import merge_lenses  # start-up time
    from depthsig.errors import InputError  # start-up time
    from depthsig.signature.folders.choosing import IDENTITY  # start-up time

    if checkpoint is not None:
        raise InputError("--merge takes lenses alone, and no CHECKPOINT")
    fitted = merge_lenses([folder.strip() for folder in merge.split(",") if folder.strip()])
    places(f"{fitted.name}-lens", fitted.record[IDENTITY])
    _keep(fitted, places, json=json, open_it=open_it)


def _keep(fitted: FittedLens, places: opt.Places, *, json: bool, open_it: bool) -> None:
    """Save a lens with its page, and say so."""
    from depthsig.report.page.lens_page import draw  # start-up time

    target = places.target
    fitted.save(target, lambda lens, at: draw(lens.record, at))
    report = target / "report.html"
    if json:
        opt.print_json({"out": str(target), "report": str(report), "lens": fitted.record})
    else:
        _show(fitted)
        typer.echo(f"lens: {target}{places.replaced}")
        typer.echo(f"report: {report}")
    if open_it:
        opt.open_page(report)


def _show(fitted: FittedLens) -> None:
    """What was fitted at each depth, in a table."""
    record = fitted.record
    if record.get("kind") == "jacobian":
        options = record["options"]
        typer.echo(
            f"mean Jacobians of {record['n_prompts']} prompts, {record['tokens']['train']} positions, "
            f"to the end of the {'pass' if options['target'] == 'pass' else 'model'}"
        )
    else:
        tokens = record["tokens"]
        typer.echo(f"held-out KL(final ‖ lens) in nats, on {tokens['judged']} tokens; fitted to {tokens['train']}")
    typer.echo(fitted.depths.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
