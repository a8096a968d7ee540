"""``depthsig sweep``: many analyses from one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthsig.cli import shared as opt

if TYPE_CHECKING:
    from depthsig.signature.sweeps.swept import Swept


def sweep(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.yaml",
            help="Lists of checkpoints, revisions, orders, prompts and presets; roles; options of analyze for all.",
        ),
    ],
    ray: Annotated[
        str | None,
        typer.Option(
            help="Run units beside each other on Ray: local, or a cluster's address.",
            metavar="local|ADDRESS",
            show_default="one after another, here",
            rich_help_panel=opt.WHERE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --ray, at most so many processes.",
            show_default="as many as fit",
            rich_help_panel=opt.WHERE,
        ),
    ] = None,
    plugin: opt.Plugin = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    allow_pickle: opt.AllowPickle = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the units that are done.", rich_help_panel=opt.HOW)
    ] = False,
    recheck: Annotated[
        bool,
        typer.Option(
            "--recheck",
            help="Prove certificates and measure units anew, though they are kept from before.",
            rich_help_panel=opt.HOW,
        ),
    ] = False,
    out: Annotated[
        Path | None, opt.results("FILE", "Folder for the units' folders, tables, figures and the report.")
    ] = None,
    config: opt.Config = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> int:
    """Analyse every combination that a file names: a results folder each, one table of scores, when claims set in.

    A unit that fails is told of and stops no other; then the exit code is 1.
    """
    # What can be known to be wrong is said before torch is imported (start-up time).
    from depthsig.commands.sweeps.sweep_file import read_sweep  # start-up time
    from depthsig.signature.folders.choosing import ensure_results  # start-up time
    from depthsig.signature.folders.kinds import SWEEP  # start-up time
    from depthsig.signature.folders.writing import ensure_writable  # start-up time

    read_sweep(file)
    ensure_results() if out is None else ensure_writable(out, SWEEP)
    from depthsig.commands.sweep import sweep as run  # start-up time

    with opt.plain_warnings():
        found = run(
            file, ray=ray, workers=workers, out=out, resume=resume, recheck=recheck,
            trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, plugin=plugin or (),
            progress=opt.progress(no_progress),
        )  # fmt: skip
    assert found.directory is not None, "a sweep has a folder"
    report = found.directory / "report.html"
    if json:
        opt.print_json({"out": str(found.directory), "report": str(report), **found.info})
    else:
        _show(found)
        typer.echo(f"report: {report}")
    if open:
        opt.open_page(report)
    return 1 if len(found.failed) else 0


def _show(found: Swept) -> None:
    """What became of the units, and when claims set in."""
    typer.echo(repr(found))
    for unit in found.failed.to_dict("records"):
        typer.echo(f"  {unit['folder']}: {unit['why'] or unit['state']}")
    for warning in found.info["warnings"]:
        typer.echo(f"note: {warning}")
    for row in found.onset.to_dict("records"):
        about = ", ".join(str(row[name]) for name in ("checkpoint", "order", "prompts", "preset") if row[name] != "-")
        who = f" of {row['role']}" if row["role"] != "-" else ""
        said = f"from {row['onset']} on" if row["onset"] != "-" else "not by the last revision"
        between = f" [{row['earliest']}, {row['latest']}]" if row["earliest"] != "-" else ""
        typer.echo(f"  {row['claim']}{who}{f' ({about})' if about else ''}: {said}{between}")
