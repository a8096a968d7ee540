"""``depthsig analyze``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthsig.cli import shared as opt

if TYPE_CHECKING:
    from depthsig.signature import Signature  # start-up time

DEFAULT = (
    "lens,residual,skip, period where a span is declared or observed, loop where a loop runs, and tuned or jacobian "
    "with a --lens of that kind"
)


def analyze(
    ctx: typer.Context,
    checkpoint: opt.Checkpoint,
    order: opt.Order = None,
    loop: opt.Loop = None,
    grown: opt.Grown = None,
    iterations: opt.Iterations = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A first look: 8 prompts of at most 64 tokens, scope current, no control. Options win.",
            rich_help_panel=opt.HOW,
        ),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Prompts, scopes and cuts that fit this time, by the forecast. Options win.",
            metavar="5min",
            rich_help_panel=opt.HOW,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="A paper's settings (`depthsig presets`). Options win.",
            metavar="NAME",
            autocompletion=opt.candidates.presets,
            rich_help_panel=opt.HOW,
        ),
    ] = None,
    prompts: opt.Prompts = None,
    n: Annotated[
        int | None, typer.Option("-n", help="Use the first n prompts.", show_default="20", rich_help_panel=opt.WHAT)
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Cut prompts after this many tokens.", show_default="256", rich_help_panel=opt.WHAT),
    ] = None,
    chat_template: opt.ChatTemplate = False,
    shots: opt.Shots = 0,
    positions: Annotated[
        str | None,
        typer.Option(
            help="Measure at: all, answer or last.",
            show_default="all",
            autocompletion=opt.candidates.positions,
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    keep_first: Annotated[
        bool | None,
        typer.Option(
            "--keep-first/--no-keep-first",
            help="Average lens and residual metrics over position 0 too.",
            show_default="no",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Groups or names (`depthsig metrics`), comma-separated.",
            show_default=DEFAULT,
            autocompletion=opt.candidates.metrics,
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    plugin: opt.Plugin = None,
    lens: Annotated[
        list[str] | None,
        typer.Option(
            help="A tuned or Jacobian lens (of `depthsig fit-lens`, or published); again for one of the other kind.",
            metavar="DIR|FILE.pt",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Prompts that the readouts of truncation are fitted on: a name or a file, none of them measured.",
            show_default="the built-in set after the measured prompts, or gsm8k",
            autocompletion=opt.candidates.prompt_sets,
            metavar="NAME|FILE",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    probes: opt.Probes = 8,
    parts: Annotated[
        str | None,
        typer.Option(
            help="What skip and local take away: layer, attn, mlp.",
            show_default="layer",
            autocompletion=opt.candidates.parts,
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    scopes: Annotated[
        str | None,
        typer.Option(
            help="Where it is taken away: current, future.",
            show_default="current",
            autocompletion=opt.candidates.scopes,
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    cuts: Annotated[
        int | None,
        typer.Option(
            help="At most this many cuts a prompt in scope future.", show_default="4", rich_help_panel=opt.WHAT
        ),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="What stands in its place: zero, mean, or random (itself less a random vector of its norm).",
            show_default="zero",
            autocompletion=opt.candidates.ablations,
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    reword: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Put the prompts in other words, by this seed: other symbols, names or things.",
            metavar="SEED",
            show_default="as they are",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    agg: Annotated[
        str | None,
        typer.Option(
            help="mean, max (the papers' worst case) or both.",
            show_default="mean",
            autocompletion=opt.candidates.aggregations,
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    memory: opt.Memory = "4GiB",
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = 0,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    stream: opt.Stream = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Tell plan, runs, time and memory; compute nothing.", rich_help_panel=opt.HOW),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from interrupted work of the same options.", rich_help_panel=opt.HOW)
    ] = False,
    recheck: Annotated[
        bool,
        typer.Option("--recheck", help="Prove and measure anew what is kept from before.", rich_help_panel=opt.HOW),
    ] = False,
    store_prompts: Annotated[
        bool,
        typer.Option(
            "--store-prompts/--no-store-prompts",
            help="Keep prompts that are given as text beside the tables, so that `depthsig rerun` finds them.",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = True,
    out: Annotated[Path | None, opt.results("NAME", "Results folder.")] = None,
    control: Annotated[
        bool | None,
        typer.Option(
            "--control/--no-control",
            help="Measure the architecture with re-initialised weights, too: all that is measured of the model.",
            show_default="where periods are tested on a span, and only what they are tested on",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    config: opt.Config = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Measure a checkpoint's depth-wise signature and write a report."""
    # The request is checked before torch is imported and a model loaded (start-up time).
    from depthsig.commands.early import asked_of  # start-up time
    from depthsig.commands.presets import settled  # start-up time
    from depthsig.metrics.entries.plugins import import_plugins  # start-up time
    from depthsig.signature.folders.choosing import ensure_results  # start-up time
    from depthsig.signature.folders.writing import ensure_writable  # start-up time

    plugins = import_plugins(plugin or ())
    asked = settled(
        {
            "prompts": prompts, "metrics": metrics, "parts": parts, "scopes": scopes, "cuts": cuts, "agg": agg,
            "n": ... if n is None else n, "max_tokens": max_tokens, "chat_template": chat_template,
            "shots": shots, "positions": positions, "keep_first": keep_first, "ablation": ablation, "memory": memory,
            "batch_size": batch_size, "seed": seed, "control": control, "lens": lens or None, "reword": reword,
            "calibration": calibration, "probes": probes,
        },
        quick=quick, budget=budget, preset=preset,
    )  # fmt: skip
    if not dry_run:
        ensure_results() if out is None else ensure_writable(out)
    loading = opt.loading(dtype, device, device_map, revision, trust_remote_code, allow_pickle, stream)
    opt.refuse_early(
        checkpoint, loading, order, loop, grown, iterations, **vars(asked_of(asked.prompts, asked.request))
    )
    from depthsig.commands.analyze import Job  # start-up time
    from depthsig.commands.forecasting.forecast import forecast  # start-up time
    from depthsig.commands.opening import Given  # start-up time
    from depthsig.plan.declared import PlanOptions  # start-up time

    given = Given(checkpoint, None, loading, PlanOptions(order, loop, grown, iterations))
    job = Job(given, asked.prompts, asked.request, asked.n_listed, tuple(plugins), asked.short, recheck, store_prompts)
    if dry_run:
        with opt.plain_warnings():
            told = forecast(job.prepare(opt.progress(no_progress)))
        opt.print_json(told.record()) if json else typer.echo(str(told))
        return
    from depthsig.report import save  # start-up time

    places = opt.Places(out)
    with opt.plain_warnings():
        signature = job.run(places, resume=resume, show=opt.progress(no_progress))
        if budget is not None:
            _settle(ctx, signature)
        save(signature, places.target)  # with the report in it, so that a folder is the old result or the new one
    _say_where(signature, places, json)
    if open:
        opt.open_page(places.target / "report.html")


def _settle(ctx: typer.Context, signature: Signature) -> None:
    """Keep what a budget came to: another time, or another machine, would forecast something else."""
    came_to = signature.info["options"]
    chosen = {"n": came_to["n"], "max-tokens": came_to["max_tokens"], "cuts": came_to["cuts"]}
    opt.settle(ctx, {"budget": None, **chosen, "scopes": ",".join(came_to["scopes"])})


def _say_where(signature: Signature, places: opt.Places, as_json: bool) -> None:
    target, report = places.target, places.target / "report.html"
    if as_json:
        told = {
            "out": str(target), "report": str(report), "findings": signature.findings(), "signature": signature.info,
        }  # fmt: skip
        opt.print_json(told)
        return
    typer.echo(f"{signature}\n")  # with its findings
    typer.echo(f"report: {report}{places.replaced}")
