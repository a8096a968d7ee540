"""The page of a replication, in the form of a paper's section of results."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from depthsig.report.gallery import Drawn
from depthsig.report.page import chart_data as charts
from depthsig.report.page.page_files import write_page
from depthsig.report.page.replicated_words import experiment_in_words, judged, replicated_in_short
from depthsig.report.page.templates import embedded, number, page
from depthsig.report.replication_figures import (
    ALL_CLAIMS,
    AXIS_END,
    drawable_replication,
    replication_figures,
    standardised,
)
from depthsig.signature.folders.kinds import PAGE, REPLICATION
from depthsig.signature.folders.writing import writing
from depthsig.signature.records import as_record
from depthsig.signature.replications.replication import Replication
from depthsig.signature.replications.replication_record import ReplicationRecord

_VERDICTS = ("experiment", "claim", "role", "verdict", "estimate", "95 % interval", "half-widths", "note")
_NETWORKS = ("claim", "role", "arm", "network", "value", "95 % interval")
_ENDS = {"value": "value", "ci_low": "low", "ci_high": "high"}
_MORE = (("held_equal", "What was held equal"), ("unit_tests", "Unit tests of the claims"))
"""Further tables, shown where a replication has them."""


def save(found: Replication, directory: str | Path) -> Path:
    """Write a replication's folder with figures and page, whole or not at all; returns the page's path.

    Raises:
        InputError: if the folder is no replication of ours, or cannot be written.
    """
    with writing(directory, REPLICATION) as partial:
        found.write(partial)
        draw(found, partial)
    return Path(directory) / PAGE


def draw(found: Replication, folder: Path) -> None:
    """Figures and page into a folder that exists and has none."""
    write_page(folder, replication_figures(found), lambda saved: render(found, saved))


def render(found: Replication, figures: list[tuple[Drawn, Path]]) -> str:
    """The page as text; every name in it is escaped."""
    found = drawable_replication(found)
    groups = {drawn.group: embedded(drawn, path) for drawn, path in figures}
    info = as_record(found.info, ReplicationRecord)
    data = replication_data(found)
    rows = standardised(found).to_dict("records")
    return page(
        "replicate.html.j2", data, info=info, short=replicated_in_short(found), figure=groups.get(ALL_CLAIMS),
        experiments=list(_experiments(found, groups)), verdicts=(_VERDICTS, [_verdict(row) for row in rows]),
        networks=_networks(found), roles=list(dict.fromkeys(n.role for n in info.networks)), more=list(_more(found)),
        latex=found.latex(), command=command(found.info), options=_options(info),
    )  # fmt: skip


def replication_data(found: Replication) -> dict[str, Any]:
    """All claims as the page's chart takes them, together and role by role.

    Returns:
        As :func:`~depthsig.report.page.chart_data.record`; nothing can be marked.
    """
    table = standardised(found)
    there = table[np.isfinite(table["value"])]
    ends = there[["low", "high"]].to_numpy(float)
    reach = min(AXIS_END, float(np.nanmax(np.abs(ends), initial=3.0))) * 1.1
    lists = [("all roles", there), *((str(role), rows) for role, rows in there.groupby("role", sort=False))]
    drawn = []
    for name, rows in lists if len(there) else []:
        kept = {to: rows[of].clip(-AXIS_END, AXIS_END) for to, of in _ENDS.items()}
        clipped = rows.assign(**kept)
        told = [{**row, "note": _told(row), "mark": row["verdict"]} for row in clipped.to_dict("records")]
        one = charts.estimates(told, "value", list(rows["label"]), part=name)
        drawn.append(one | {"scale": {"norm": "symlog", "low": -reach, "high": reach}})
    formula = (
        "each estimate in half-widths of its 95 % interval, turned so that the paper's direction is positive; "
        "filled: supported, cross: contradicted, hollow: undecided"
    )
    chart = charts.chart("half-widths", "forest", drawn, formula=formula, choices={"part": "Role"})
    metrics = {ALL_CLAIMS: chart} if drawn else {}
    sections = [charts.section(ALL_CLAIMS, "All claims", [ALL_CLAIMS])] if drawn else []
    return charts.record("replication", metrics, sections, marks=[])


def _told(row: dict[Any, Any]) -> str:
    return f"{row['verdict']}: {row['estimate']:+.3g}"


def _experiments(found: Replication, figures: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the page shows of each experiment."""
    by_claim = {str(name): rows for name, rows in found.replication.groupby("claim", sort=False)}
    for one in found.info["experiments"]:
        claims = [c for c in found.info["claims"] if c["experiment"] == one["id"] and c["id"] in by_claim]
        told = [{**c, "judged": judged(by_claim[c["id"]].to_dict("records"), c)} for c in claims]
        rows = found.networks[found.networks["claim"].isin([c["id"] for c in claims])]
        yield {
            **one, "place": charts.slug(f"experiment {one['id']}"), "summary": experiment_in_words(found, one),
            "claims": told, "figure": figures.get(one["id"]),
            "sources": list(dict.fromkeys(c["source"] for c in claims)),
            "networks": (_NETWORKS, [_network(row) for row in rows.to_dict("records")]),
        }  # fmt: skip


def _verdict(row: dict[Any, Any]) -> list[str]:
    return [
        row["experiment"], row["claim"], row["role"], row["verdict"], _signed(row["estimate"]),
        _interval(row, "+.3g"), _signed(row["value"]), row["note"],
    ]  # fmt: skip


def _network(row: dict[Any, Any]) -> list[str]:
    return [row["claim"], row["role"], row["arm"], row["network"], number(row["value"]), _interval(row, ".3g")]


def _signed(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:+.3g}"


def _interval(row: dict[Any, Any], form: str) -> str:
    return "–" if pd.isna(row["ci_low"]) else f"[{row['ci_low']:{form}}, {row['ci_high']:{form}}]"


def _networks(found: Replication) -> tuple[tuple[str, ...], list[list[str]]]:
    """Who took part, in which role."""
    rows = [
        [
            n["role"], n["name"], str(n["steps"]), "yes" if n.get("checkpoint") else "no, tables",
            "; ".join(n.get("signatures") or ()) or "–", (n.get("content_hash") or "–")[:12],
        ]
        for n in found.info["networks"]
    ]  # fmt: skip
    return ("role", "network", "steps", "weights at hand", "signatures", "content"), rows


def _more(found: Replication) -> Iterator[tuple[str, str, tuple[str, ...], list[list[str]]]]:
    for name, title in _MORE:
        table = getattr(found, name, None)
        if isinstance(table, pd.DataFrame) and len(table):
            cells = [[number(v) if isinstance(v, float) else str(v) for v in row] for row in table.to_numpy(object)]
            yield name, title, tuple(map(str, table.columns)), cells


def _options(info: ReplicationRecord) -> list[tuple[str, str]]:
    """What was asked for, where it says something."""
    found = {name: value for name, value in {**info.options, **info.loading}.items() if value not in (None, [])}
    return [(name.replace("_", " "), _option(value)) for name, value in found.items()]


def _option(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


_DEFAULTS = {"seed": 0, "memory": "4GiB", "device": "auto"}


def command(info: dict[str, Any]) -> str:
    """The command line that makes this result again; networks that came as objects have a name in brackets."""
    options, loading = info["options"], info.get("loading") or {}
    pieces = ["depthsig", "replicate", str(info["paper"]["id"])]
    if info.get("roles_from") == "as given":
        said = ",".join(f"{role}={'+'.join(names)}" for role, names in (info.get("roles") or {}).items())
        pieces += ["--roles", said]
    if options.get("only"):
        pieces += ["--only", _option(options["only"]).replace(", ", ",")]
    pieces += ["--quick"] if options.get("quick") else []
    asked = {name: options.get(name) for name in ("seed", "memory")} | loading
    for name, value in asked.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            pieces.append(option)
        elif value not in (None, False, _DEFAULTS.get(name)) and not isinstance(value, dict):
            pieces += [option, str(value)]
    return shlex.join(pieces)
