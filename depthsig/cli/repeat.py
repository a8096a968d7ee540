"""``depthsig repeat``: spans of layers run several times, judged by tasks with answers."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import shared as opt


def repeat(
    checkpoint: opt.Checkpoint,
    span: Annotated[
        str | None,
        typer.Option(help="Layers to repeat; left out, every span.", metavar="A:B", rich_help_panel=opt.WHAT),
    ] = None,
    times: Annotated[
        str, typer.Option(help="How often the span runs in all, e.g. 1,2,3,4.", rich_help_panel=opt.WHAT)
    ] = "1,2",
    task: Annotated[
        str | None,
        typer.Option(
            help="Prompts with answers: names or files, comma-separated.",
            show_default="all primitives",
            autocompletion=opt.candidates.tasks,
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    damping: Annotated[
        str, typer.Option(help="Each more pass goes this far, 0 < α ≤ 1; 1 is naive.", rich_help_panel=opt.WHAT)
    ] = "1",
    n: Annotated[int, typer.Option("-n", help="Prompts of each task.", rich_help_panel=opt.WHAT)] = 100,
    shots: opt.Shots = 0,
    predict: Annotated[
        bool,
        typer.Option(
            "--predict", help="Does the signature tell which span is worth it? (all spans)", rich_help_panel=opt.WHAT
        ),
    ] = False,
    order: opt.Order = None,
    grown: opt.Grown = None,
    iterations: opt.Iterations = None,
    max_tokens: opt.MaxTokens = 256,
    memory: Annotated[str, typer.Option(help="Memory for states on their way.", rich_help_panel=opt.WHERE)] = "1GiB",
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    seed: opt.Seed = 0,
    out: Annotated[Path | None, opt.results("NAME-repeat")] = None,
    config: opt.Config = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Run a span of layers several times, and see what that does to loss and accuracy."""
    from depthsig.signature.folders.choosing import IDENTITY, ensure_results  # start-up time
    from depthsig.signature.folders.kinds import REPEAT  # start-up time
    from depthsig.signature.folders.writing import ensure_writable  # start-up time

    ensure_results() if out is None else ensure_writable(out, REPEAT)
    from depthsig.commands.repeats.grammar import check_options  # start-up time

    tasks = check_options(
        task, n=n, span=span, times=times, damping=damping, predict=predict, memory=memory, shots=shots
    )
    load = opt.loading(dtype, device, None, revision, trust_remote_code, allow_pickle)
    opt.refuse_early(
        checkpoint, load, order, grown=grown, iterations=iterations, tasks=tasks, n=n, seed=seed, span=span,
        shots=shots,
    )  # fmt: skip
    from depthsig.commands.repeat import repeat as run  # start-up time
    from depthsig.report.page.repeated_page import draw  # start-up time
    from depthsig.signature.repeated import Repeated  # start-up time

    with opt.plain_warnings():
        found = run(
            checkpoint, tasks, span=span, times=times, damping=damping, n=n, shots=shots, predict=predict, order=order,
            grown=grown, iterations=iterations, dtype=dtype, device=device, revision=revision,
            trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, max_tokens=max_tokens, memory=memory,
            seed=seed, progress=opt.progress(no_progress),
        )  # fmt: skip
        places = opt.Places(out, REPEAT)
        target = places(f"{found.name}-repeat", found.info[IDENTITY])
        found.save(target, lambda study, at: draw(Repeated.of(study.frames, study.info), at))
    report = target / "report.html"
    if json:
        tables = {name: codec.loads(f.to_json(orient="records")) for name, f in found.frames.items()}
        opt.print_json({"out": str(target), "report": str(report), **tables})
    else:
        for title, frame in found.shown():
            typer.echo(title)
            typer.echo(frame.to_string(index=False, na_rep="", float_format=lambda v: f"{v:.4g}"))
        typer.echo(f"report: {report}{places.replaced}")
    if open:
        opt.open_page(report)
