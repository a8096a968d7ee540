"""``depthsig repeat``: spans of layers run several times, judged by tasks with answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from depthsig.cli import options as opt


def repeat(
    checkpoint: opt.Checkpoint,
    span: Annotated[str | None, typer.Option(help="Layers to repeat; left out, every span.", metavar="A:B")] = None,
    times: Annotated[str, typer.Option(help="How often the span runs in all, e.g. 1,2,3,4.")] = "1,2",
    task: Annotated[
        str | None, typer.Option(help="Prompts with answers: names or .jsonl files, comma-separated [all primitives].")
    ] = None,
    damping: Annotated[str, typer.Option(help="Each more pass goes this far, 0 < α ≤ 1; 1 is naive.")] = "1",
    n: Annotated[int, typer.Option("-n", help="Prompts of each task.")] = 100,
    predict: Annotated[
        bool, typer.Option("--predict", help="Does the signature tell which span is worth it? (all spans)")
    ] = False,
    order: opt.Order = None,
    grown: opt.Grown = None,
    iterations: opt.Iterations = None,
    max_tokens: opt.MaxTokens = 256,
    memory: Annotated[str, typer.Option(help="Memory for states on their way.")] = "1GiB",
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    seed: opt.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and figures.")] = None,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Run a span of layers several times, and see what that does to loss and accuracy."""
    from depthsig.errors import InputError
    from depthsig.signature.storage import ensure_writable

    if n < 1:
        raise InputError(f"-n is {n}; it must be 1 or more")
    if predict and span is not None:
        raise InputError("--predict compares all spans; leave --span out")
    from depthsig.analysis.repeat_task import parse_damping, parse_times

    counts, alphas = parse_times(times), parse_damping(damping)
    if predict and not counts:
        raise InputError(f"--predict needs a repeat, --times is {times!r}; write 2")
    if out is not None:
        ensure_writable(out, "repeat.json")
    from depthsig.analysis.repeat_study import study, write_study
    from depthsig.engine.model import load
    from depthsig.progress import Progress
    from depthsig.prompts.primitives import TASKS

    tasks: list[Any] = [t.strip() for t in task.split(",") if t.strip()] if task is not None else list(TASKS)
    if not tasks:
        raise InputError(f"--task {task!r} names nothing; there are {', '.join(TASKS)}, gsm8k, or a .jsonl file")
    loading = opt.loading(dtype, device, None, revision, trust_remote_code, allow_pickle)
    with opt.plain_warnings():
        model = load(checkpoint, order=order, grown=grown, iterations=iterations, seed=seed, **loading)
        found = study(
            model, tasks, span=span, times=(1, *counts), damping=alphas, n=n, seed=seed, max_tokens=max_tokens,
            memory=memory, predict=predict, progress=Progress(opt.wants_progress(no_progress)),
        )  # fmt: skip
        if out is not None:
            from depthsig.report.repeat import save_repeat_figures

            write_study(found, out, lambda study, at: save_repeat_figures(study.frames, at, scanned=study.scanned))
    if json:
        import json as codec

        typer.echo(codec.dumps({name: codec.loads(f.to_json(orient="records")) for name, f in found.frames.items()}))
        return
    for title, frame in found.shown():
        typer.echo(title)
        typer.echo(frame.to_string(index=False, na_rep="", float_format=lambda v: f"{v:.4g}"))
    if out is not None:
        typer.echo(f"tables and figures: {out}")
