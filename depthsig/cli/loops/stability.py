"""``depthsig stability``: does a loop settle, and how often may it run."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated

import typer

from depthsig.cli import shared as opt


def stability(
    checkpoint: opt.Checkpoint,
    prompts: opt.Prompts = None,
    counts: Annotated[
        str | None,
        typer.Option(
            help="How often to run the loop for the loss: 1:16 or 1,2,4,8.",
            show_default="1 to twice as often as it runs",
            metavar="A:B",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    band: Annotated[
        float,
        typer.Option(help="Nats above the best count's loss within which a count is safe.", rich_help_panel=opt.WHAT),
    ] = 0.05,
    probes: opt.Probes = 4,
    n: opt.Count = 10,
    max_tokens: opt.MaxTokens = 64,
    control: Annotated[
        bool,
        typer.Option("--control/--no-control", help="Measure re-initialised weights, too.", rich_help_panel=opt.WHAT),
    ] = True,
    order: opt.Order = None,
    iterations: opt.Iterations = None,
    memory: opt.Memory = "4GiB",
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    seed: opt.Seed = 0,
    out: Annotated[Path | None, opt.results("NAME-stability")] = None,
    config: opt.Config = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Does a loop settle, and how often may it run?"""
    from depthsig.signature.folders.choosing import IDENTITY, ensure_results  # start-up time
    from depthsig.signature.folders.kinds import STABILITY_CARD  # start-up time
    from depthsig.signature.folders.writing import ensure_writable, writing  # start-up time

    ensure_results() if out is None else ensure_writable(out, STABILITY_CARD)
    from depthsig.commands.stabilities.options import check_options  # start-up time

    check_options(counts, band, probes, n, max_tokens)
    load = opt.loading(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    opt.refuse_early(checkpoint, load, order, iterations=iterations, prompts=prompts, n=n, seed=seed, looping=("loop",))
    from depthsig.commands.stability import stability as run  # start-up time
    from depthsig.report.loops.stability_page import draw  # start-up time

    with opt.plain_warnings():
        card = run(
            checkpoint, prompts, counts=counts, band=band, probes=probes, n=n, max_tokens=max_tokens, control=control,
            order=order, iterations=iterations, dtype=dtype, device=device, device_map=device_map, revision=revision,
            trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, memory=memory, seed=seed,
            progress=opt.progress(no_progress),
        )  # fmt: skip
        places = opt.Places(out, STABILITY_CARD)
        target = places(f"{card.name}-stability", card.info[IDENTITY])
        with writing(target, STABILITY_CARD) as folder:
            draw(card, folder)
            card.write(folder)
    report = target / "report.html"
    if json:
        tables = {name: codec.loads(frame.to_json(orient="records")) for name, frame in card.tables().items()}
        opt.print_json({"out": str(target), "report": str(report), "card": dict(card.info), **tables})
    else:
        typer.echo(f"{card}\n\nreport: {report}{places.replaced}")
    if open:
        opt.open_page(report)
