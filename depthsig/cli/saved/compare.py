"""``depthsig compare``: signatures side by side, with a verdict on each of three claims."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthsig.cli import shared as opt
from depthsig.errors import InputError
from depthsig.untrusted import is_there

if TYPE_CHECKING:
    from depthsig.signature import Comparison


def compare(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR", help="Results folders of depthsig analyze, besides those in --roles."),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            help="Who is who: looped=DIR,grown=DIR,baseline=DIR; seeds of a role joined with +.",
            metavar="ROLE=DIR,...",
            show_default="as far as the signatures declare it",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Put every supported claim to unit tests.", rich_help_panel=opt.HOW),
    ] = False,
    reworded: Annotated[
        str | None,
        typer.Option(
            help="The same networks on reworded or other prompts, as --roles; with --strict.",
            metavar="ROLE=DIR,...",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    random_ablation: Annotated[
        str | None,
        typer.Option(
            help="The same networks and prompts, measured with --ablation random, as --roles; with --strict.",
            metavar="ROLE=DIR,...",
            rich_help_panel=opt.WHAT,
        ),
    ] = None,
    out: Annotated[Path | None, opt.results("comparison")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.", rich_help_panel=opt.HOW)] = 0,
    config: opt.Config = None,
    open: opt.Open = False,
    no_progress: opt.NoProgress = False,
    json: opt.Json = False,
) -> None:
    """Compare signatures: distances, late reliance, and a verdict on each claim."""
    from depthsig.commands.compare import compare as run  # start-up time
    from depthsig.comparison.roles import folders, split_roles  # start-up time
    from depthsig.report.page.compared_page import save  # start-up time
    from depthsig.signature.compared import RECORD  # start-up time
    from depthsig.signature.folders.choosing import IDENTITY, ensure_results  # start-up time
    from depthsig.signature.folders.writing import ensure_writable  # start-up time

    given = list(directories or [])
    for value in (split_roles(roles) if roles is not None else {}).values():
        known = {path.resolve() for path in given}
        named = [Path(name) for name in folders(value) if not _named(name, given)]
        given += [path for path in named if path.resolve() not in known]
    if not given:
        raise opt.MissingArgument("compare needs two signatures or more; none given")
    if out is None:
        ensure_results()
    else:
        beside = [folder for text in (reworded, random_ablation) if text for folder in _folders(text)]
        _refuse_overlap(out, [*given, *beside])
        ensure_writable(out, RECORD)
    places = opt.Places(out, RECORD)
    with opt.plain_warnings():
        found = run(
            given, roles=roles, strict=strict, reworded=reworded, random_ablation=random_ablation, seed=seed,
            progress=opt.progress(no_progress),
        )  # fmt: skip
        places("comparison", found.info[IDENTITY])
        _refuse_overlap(places.target, given)
        report = save(found, places.target)
    if json:
        names = ("claims", "distances", "late", "held_equal", *(["unit_tests"] if strict else []))
        tables = {n: codec.loads(getattr(found, n).to_json(orient="records")) for n in names}
        told = {"out": str(places.target), "report": str(report), **found.info, **tables}
        opt.print_json(told)
    else:
        _show(found)
        typer.echo(f"report: {report}{places.replaced}")
    if open:
        opt.open_page(report)


def _folders(text: str) -> list[Path]:
    """The folders that are named by role."""
    from depthsig.comparison.roles import folders, split_roles  # start-up time

    return [Path(name) for value in split_roles(text).values() for name in folders(value)]


def _refuse_overlap(out: Path, given: list[Path]) -> None:
    target = out.resolve()
    for path in (p.resolve() for p in given):
        if target == path or target in path.parents or path in target.parents:
            raise InputError(f"--out {str(out)!r} and {str(path)!r}, an input, overlap; name another folder")


def _named(name: str, given: list[Path]) -> bool:
    """Whether a role names a folder that was given by the folder's own name."""
    return not is_there(name) and any(path.resolve().name == name for path in given)


def _show(found: Comparison) -> None:
    """The comparison in words and two small tables."""
    from depthsig.metrics.rules import LATE  # start-up time
    from depthsig.terms import described  # start-up time

    info = found.info
    same = "same tokens" if info["prompts"]["same_tokens"] else "paired by text"
    typer.echo(
        f"{len(found.models)} signatures on {info['prompts']['n']} prompts ({same}), "
        f"{len(info['profiles']['compared'])} profiles on relative depth"
    )
    typer.echo(f"roles: {info['roles_from']}" + "".join(f"; {r} = {', '.join(n)}" for r, n in _given(info)))
    for warning in info["warnings"]:
        typer.echo(f"note: {warning}")
    if info["profiles"]["left_out"]:
        typer.echo("left out: " + "; ".join(f"{n}: {why}" for n, why in info["profiles"]["left_out"].items()))
    for sentence in found.sentences():
        typer.echo(f"\n{sentence}.")
    _show_held(found)
    score, part, scope = LATE
    late = found.scores[found.scores["scope"].eq(scope) & found.scores["part"].eq(part)]
    if len(late):
        typer.echo(f"\nreliance on late layers ({described(part, scope)}):")
        table = late.pivot(index="model", columns="score", values="value")
        relative = [c for c in table.columns if c == score or c.endswith(".relative")]
        table = table[relative].sort_values(relative[-1], ascending=False)
        typer.echo(table.rename_axis(None).rename_axis(None, axis=1).to_string(float_format=lambda v: f"{v:.3f}"))
    typer.echo("\nmean distance of profiles:")
    typer.echo(found.distance_matrix().to_string(float_format=lambda v: f"{v:.3f}"))


def _show_held(found: Comparison) -> None:
    """What was held equal: every model's quantities, and in words which of them agree."""
    from depthsig.signature.costs import HELD_QUANTITIES, value_in_words  # start-up time

    rows = found.held_equal[found.held_equal["level"] == "one"]
    table = rows.pivot(index="quantity", columns="a", values="value_a").reindex(index=list(HELD_QUANTITIES))
    table = table[found.models].dropna(how="all")
    table = table.rename(index={name: one.label for name, one in HELD_QUANTITIES.items()})
    typer.echo("\nwhat was held equal:")
    typer.echo(table.map(value_in_words).rename_axis(None).rename_axis(None, axis=1).to_string())
    for sentence in found.held_in_words():
        typer.echo(f"{sentence}.")


def _given(info: dict) -> list[tuple[str, list[str]]]:
    return list(info["roles"].items()) if info["roles_from"] == "as given" else []
