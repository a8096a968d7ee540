"""``depthsig analyze``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from depthsig.cli import options as opt

DEFAULT = "lens,residual,skip, period where a span is declared or observed, and tuned with --lens"


def analyze(
    checkpoint: opt.Checkpoint,
    order: opt.Order = None,
    loop: opt.Loop = None,
    grown: opt.Grown = None,
    iterations: opt.Iterations = None,
    prompts: opt.Prompts = None,
    n: opt.Count = 20,
    max_tokens: opt.MaxTokens = 256,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Use the tokenizer's template.")] = False,
    positions: Annotated[str, typer.Option(help="Measure at: all, answer or last.")] = "all",
    keep_first: Annotated[
        bool, typer.Option("--keep-first", help="Average lens and residual metrics over position 0 too.")
    ] = False,
    metrics: Annotated[
        str | None, typer.Option(help="Groups or names (`depthsig metrics`), comma-separated.", show_default=DEFAULT)
    ] = None,
    lens: Annotated[
        str | None, typer.Option(help="Folder of a tuned lens (`depthsig fit-lens`), for tuned.*.", metavar="DIR")
    ] = None,
    parts: Annotated[str, typer.Option(help="What skip and local take away: layer, attn, mlp.")] = "layer",
    scopes: Annotated[str, typer.Option(help="Where it is taken away: current, future.")] = "current,future",
    cuts: Annotated[int, typer.Option(help="At most this many cuts a prompt in scope future.")] = 4,
    ablation: Annotated[str, typer.Option(help="What stands in its place: zero or mean.")] = "zero",
    agg: Annotated[str, typer.Option(help="mean, max (the papers' worst case) or both.")] = "mean",
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    memory: Annotated[str, typer.Option(help="Memory to use beside the model.")] = "4GiB",
    batch_size: Annotated[int | None, typer.Option(help="At most this many prompts at once.")] = None,
    seed: opt.Seed = 0,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell plan, runs, time and memory; compute nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from interrupted work of the same options.")] = False,
    out: Annotated[Path | None, typer.Option(help="Results folder [default: depthsig-results/NAME].")] = None,
    control: Annotated[
        bool | None,
        typer.Option(
            "--control/--no-control",
            help="Measure the architecture with re-initialised weights, too.",
            show_default="where periods are tested on a span",
        ),
    ] = None,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Measure a checkpoint's depth-wise signature and write a report."""
    # The request is checked first: a wrong option must not cost the loading of a model.
    from depthsig.analysis.request import Request

    asked: dict[str, Any] = {
        "metrics": metrics, "n": n, "max_tokens": max_tokens, "chat_template": chat_template,
        "parts": parts, "scopes": scopes, "cuts": cuts, "ablation": ablation,
        "positions": positions, "keep_first": keep_first, "agg": agg, "memory": memory,
        "batch_size": batch_size, "seed": seed, "control": control, "lens": lens,
    }  # fmt: skip
    Request(**asked)
    loading = opt.loading(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    if dry_run:
        from depthsig.analysis.forecast import forecast

        with opt.plain_warnings():
            told = forecast(
                checkpoint, prompts, order=order, loop=loop, grown=grown, iterations=iterations, **asked, **loading
            )
        if json:
            import json as codec

            typer.echo(codec.dumps(told.record()))
        else:
            typer.echo(str(told))
        return
    target = out if out is not None else opt.default_out(checkpoint)
    from depthsig.signature.storage import ensure_writable

    ensure_writable(target)
    from depthsig.analysis.analyze import analyze as run
    from depthsig.report import save

    with opt.plain_warnings():
        signature = run(
            checkpoint, prompts, order=order, loop=loop, grown=grown, iterations=iterations,
            resume=resume, keep_for=target, progress=opt.wants_progress(no_progress), **asked, **loading,
        )  # fmt: skip
        save(signature, target)  # with the report in it, so that a folder is the old result or the new one
    _say_where(signature, target, json)


def _say_where(signature: object, target: Path, as_json: bool) -> None:
    report = target / "report.html"
    if as_json:
        import json

        info = signature.info  # type: ignore[attr-defined]
        typer.echo(json.dumps({"out": str(target), "report": str(report), "signature": info}, default=str))
        return
    typer.echo(f"{signature}")
    typer.echo(f"report: {report}")
