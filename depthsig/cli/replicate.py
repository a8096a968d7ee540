"""``depthsig replicate``: a paper's claims put to the test on networks given by their roles."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthsig.cli import shared as opt

if TYPE_CHECKING:
    from depthsig.signature.replications.replication import Replication


def replicate(
    paper: Annotated[
        str,
        typer.Argument(
            metavar="PAPER",
            help="Its arXiv number: 2602.16490, 2512.08819 or 2505.13898.",
            autocompletion=opt.candidates.papers,
        ),
    ],
    roles: Annotated[
        str | None,
        typer.Option(
            help="Who is who: looped, midas, lidas, grown, baseline, each also with -before and -after; checkpoints "
            "(maybe PATH[order=0:4,4:8x4]) or results folders, several of a role joined with +.",
            metavar="ROLE=WHO,...",
            show_default="the reference family",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Experiments, comma-separated.",
            metavar="E4,E8",
            show_default="all",
            autocompletion=opt.candidates.experiments,
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="8 prompts of at most 64 tokens, 20 items of a task.", rich_help_panel=opt.HOW),
    ] = False,
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    memory: opt.Memory = "4GiB",
    revision: opt.Revision = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    seed: opt.Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from interrupted work of the same options.", rich_help_panel=opt.HOW)
    ] = False,
    out: Annotated[Path | None, opt.results("replicate-PAPER")] = None,
    config: opt.Config = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Put a paper's claims to the test, by criteria fixed beforehand: a verdict on each, and a page."""
    # What can be known to be wrong is said before torch is imported (start-up time).
    from depthsig.commands.replicating.given_roles import refuse_roles  # start-up time
    from depthsig.engine.memory import parse_memory  # start-up time
    from depthsig.measure.request import as_tuple  # start-up time
    from depthsig.replication.criteria import criteria  # start-up time
    from depthsig.signature.folders.choosing import ensure_results  # start-up time
    from depthsig.signature.folders.kinds import REPLICATION  # start-up time
    from depthsig.signature.folders.writing import ensure_writable  # start-up time

    criteria().of_paper(paper, as_tuple(only) if only else ())
    parse_memory(memory)
    ensure_results() if out is None else ensure_writable(out, REPLICATION)
    refuse_roles(roles, opt.loading(dtype, device, device_map, revision, trust_remote_code, allow_pickle))
    from depthsig.commands.replicate import asked  # start-up time
    from depthsig.report.page.replicated_page import save  # start-up time

    places = opt.Places(out, REPLICATION)
    with opt.plain_warnings():
        job = asked(
            paper, roles=roles, only=only, quick=quick, dtype=dtype, device=device, device_map=device_map,
            revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, memory=memory, seed=seed,
        )  # fmt: skip
        found = job.run(places, resume, opt.progress(no_progress))
        report = save(found, places.target)
    if json:
        tables = {n: codec.loads(getattr(found, n).to_json(orient="records")) for n in ("replication", "networks")}
        opt.print_json({"out": str(places.target), "report": str(report), **found.info, **tables})
    else:
        _show(found)
        typer.echo(f"report: {report}{places.replaced}")
    if open:
        opt.open_page(report)


def _show(found: Replication) -> None:
    """A line a claim and role, and how many of each verdict."""
    from depthsig.signature.replications.replication import OUTCOMES, in_numbers, stated  # start-up time

    claims = {c["id"]: c for c in found.info["claims"]}
    for warning in found.info["warnings"]:
        typer.echo(f"note: {warning}")
    rows = found.replication.to_dict("records")
    wide = {name: max((len(str(row[name])) for row in rows), default=0) for name in ("claim", "role", "verdict")}
    for row in rows:
        known = row["estimate"] == row["estimate"]  # NaN where nothing could be measured
        about = in_numbers(row) if known else row["note"].split(";")[0]
        head = "  ".join(str(row[name]).ljust(width) for name, width in wide.items())
        typer.echo(f"{head}  {stated(row, claims[row['claim']])}: {about}")
    counts = found.replication["verdict"].value_counts()
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in OUTCOMES if verdict in counts)
    typer.echo(f"\n{len(rows)} judgements by {len(found.info['networks'])} networks: {said}")
