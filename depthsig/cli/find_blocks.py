"""``depthsig find-blocks``: looped, grown and copied blocks, without being told of any."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthsig.cli import shared as opt

if TYPE_CHECKING:
    from depthsig.commands.find_blocks import FoundBlocks


def find_blocks(
    checkpoint: opt.Checkpoint,
    order: opt.Order = None,
    iterations: opt.Iterations = None,
    prompts: opt.Prompts = None,
    n: opt.Count = 20,
    max_tokens: opt.MaxTokens = 256,
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    seed: opt.Seed = 0,
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    out: Annotated[Path | None, opt.results("NAME-blocks", "Folder for the record and the report.")] = None,
    config: opt.Config = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Find looped, grown and copied blocks: from the trace, the weights and the activations.

    Prints JSON on standard output and, without --json, a table on standard error.
    """
    from depthsig.measure.request import Request  # start-up time
    from depthsig.signature.folders.choosing import IDENTITY, ensure_results  # start-up time
    from depthsig.signature.folders.kinds import FOUND_BLOCKS  # start-up time
    from depthsig.signature.folders.writing import ensure_writable  # start-up time

    ensure_results() if out is None else ensure_writable(out, FOUND_BLOCKS)
    Request(n=n, max_tokens=max_tokens, seed=seed)
    load = opt.loading(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    opt.refuse_early(checkpoint, load, order, iterations=iterations, prompts=prompts, n=n, seed=seed)
    from depthsig.commands.find_blocks import find_blocks as run  # start-up time
    from depthsig.report.page.blocks_page import draw  # start-up time

    with opt.plain_warnings():
        found = run(
            checkpoint, prompts, order=order, iterations=iterations, n=n, max_tokens=max_tokens, seed=seed,
            dtype=dtype, device=device, device_map=device_map, revision=revision,
            trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, progress=opt.progress(no_progress),
        )  # fmt: skip
        places = opt.Places(out, FOUND_BLOCKS)
        target = places(f"{found.checkpoint}-blocks", found.about[IDENTITY])
        found.save(target, draw)
    report = target / "report.html"
    if not json:
        _show(found)
        typer.echo(f"report: {report}{places.replaced}", err=True)
    opt.print_json({**found.record(), "out": str(target), "report": str(report)})
    if open:
        opt.open_page(report)


def _show(found: FoundBlocks) -> None:
    """The blocks as a table, for people."""
    from rich.console import Console  # start-up time
    from rich.markup import escape  # start-up time
    from rich.table import Table  # start-up time

    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120, highlight=False)
    if not found.blocks:
        tested = ", ".join(f"{name} p = {p:.2g}" for name, p in found.p_values.items()) or "nothing could be tested"
        console.print(f"{escape(found.checkpoint)}: no block structure ({tested})")
    else:
        table = Table(title=escape(found.checkpoint), title_justify="left")
        for name in ("kind", "start", "size", "count", "evidence", "p", "what was seen"):
            table.add_column(name, justify="right" if name in ("start", "size", "count", "p") else "left")
        for b in found.blocks:
            p = "proven" if b.p_value is None else f"{b.p_value:.2g}"
            table.add_row(b.kind, str(b.start), str(b.size), str(b.count), ", ".join(b.evidence), p, escape(b.note))
        console.print(table)
    for note in found.notes:
        console.print(escape(note))
