"""Whether the tables of a result fit its record and each other, so that whatever reads them can rely on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray

from depthsig.errors import shown
from depthsig.metrics import Metric
from depthsig.metrics.registry import with_own
from depthsig.signature.costs import DIFFERS, EQUAL, HELD_QUANTITIES, LEVELS, UNKNOWN
from depthsig.signature.records import CLAIMS, PASSED, STRICT, VERDICTS
from depthsig.signature.schema import TABLES
from depthsig.signature.tabular import INTEGER, NUMBER, Columns
from depthsig.terms import NONE, described

FARTHEST = 1e9
"""Distances are of profiles at unit mean, and cannot be much more than 2."""

P_VALUES = frozenset({"p_value", "p_a", "p_c"})

_ABOUT = ["metric", "part", "scope"]


def wrong_tables(info: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """Tables of a signature that cannot be as they were written, each with what is wrong with it.

    Args:
        info: its record, which has been held to its types.
    """
    entries, space = with_own(info.get("metrics", [])), Space.of(info)
    n_prompts = len(tables["prompts"])
    checks = {
        "prompts": _wrong_prompts(tables["prompts"]),
        "profiles": _wrong_profiles(tables["profiles"], space.steps),
        "matrices": _wrong_cells(tables["matrices"], entries, space) or _repeated(tables["matrices"], ["row", "col"]),
        "samples": _wrong_samples(tables["samples"], entries, space, n_prompts),
        "tokens": _wrong_tokens(tables["tokens"], n_prompts),
    }
    checks = {name: _impossible(tables[name], columns) or checks.get(name, "") for name, columns in TABLES.items()}
    yield from ((name, wrong) for name, wrong in checks.items() if wrong)


def wrong_control(
    info: Mapping[str, Any], prompts: pd.DataFrame, control: Mapping[str, Any], measured: pd.DataFrame
) -> str:
    """Why a signature is not the control of another one: it says so itself, and has the steps and the prompts.

    Args:
        info, prompts: record and table of the signature. control, measured: of what lies where its control would.
    """
    if not control.get("control"):
        return "it is the result of another analysis, not of a re-initialised control; move it away"
    if len(control["plan"]) != len(info["plan"]):
        return f"the control has {len(control['plan'])} steps of {len(info['plan'])}"
    if set(measured["tokens_sha256"]) != set(prompts["tokens_sha256"]):
        return "the control was measured on other prompts"
    return ""


class Space:
    """How far each axis of a table can reach."""

    def __init__(self, steps: int, layers: int) -> None:
        self.steps, self.layers = steps, layers

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Space:
        """The space of a signature's record."""
        run = max(step["layer"] for step in info["plan"]) + 1
        return cls(len(info["plan"]), max(run, info["checkpoint"].get("n_layers") or 0))

    def end(self, axis: str) -> int:
        """One more than the largest index of an axis (numbers of columns may begin at 1)."""
        return {"step": self.steps, "layer": self.layers, "start": self.layers, "end": self.layers + 1}.get(
            axis, max(self.steps, self.layers if not axis else 0) + 1
        )


def wrong_comparison(info: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """Tables of a comparison that cannot be as they were written, each with what is wrong with it."""
    names, entries = [m["name"] for m in info["models"]], with_own(info.get("metrics", []))
    known: dict[str, dict[str, Sequence[str]]] = {
        "claims": {"claim": CLAIMS, "verdict": VERDICTS}, "scores": {"model": names},
        "profiles": {"model": names, "metric": list(entries)},
        "held_equal": {
            "level": LEVELS, "quantity": list(HELD_QUANTITIES), "verdict": (NONE, EQUAL, DIFFERS, UNKNOWN),
            "a": [*names, *info["roles"]], "b": [NONE, *names, *info["roles"]],
        },
        "unit_tests": {"claim": CLAIMS, "passed": PASSED, "strict": STRICT},
    }  # fmt: skip
    for table, columns in known.items():
        for column, allowed in columns.items() if table in tables else ():
            other = tables[table][column][~tables[table][column].isin(allowed)]
            if len(other):
                yield table, f"{column} {shown(other.iloc[0])} is none of its {', '.join(allowed)[:200]}"
    if wrong := _impossible(tables["recurrence"], {"p_a": NUMBER, "p_c": NUMBER}):
        yield "recurrence", wrong
    held = dict.fromkeys(("value_a", "value_b", "factor"), INTEGER)  # they count something, or compare counts
    if "held_equal" in tables and (wrong := _impossible(tables["held_equal"], held)):
        yield "held_equal", wrong
    wrong = _wrong_distances(tables["distances"], names)
    if wrong:
        yield "distances", wrong


def _wrong_distances(distances: pd.DataFrame, names: list[str]) -> str:
    """Every two models have one mean distance."""
    rows = distances[(distances["level"] == "model") & (distances["metric"] == "mean")]
    found = {frozenset(pair): d for *pair, d in rows[["a", "b", "distance"]].itertuples(index=False)}
    for a, b in combinations(names, 2):
        distance = found.get(frozenset((a, b)), np.nan)
        if not 0 <= distance < FARTHEST:
            return f"the mean distance of {shown(a)} and {shown(b)} is {distance}"
    return "" if set(rows["a"]) | set(rows["b"]) <= set(names) else "a distance is of a model that was not compared"


def _impossible(table: pd.DataFrame, columns: Columns) -> str:
    """Numbers that nothing counts or tests to: what is a whole number counts or numbers something."""
    for name, kind in columns.items():
        most = np.inf if kind == INTEGER else 1 if name in P_VALUES else None
        if most is None:
            continue
        found: ndarray = table[name].to_numpy(dtype=float, na_value=np.nan)
        wrong = found[(found < 0) | (found > most)]
        if len(wrong):
            return f"a {name} is {wrong[0]:g}"
    return ""


def _wrong_prompts(prompts: pd.DataFrame) -> str:
    numbered = prompts["prompt"].isna().sum() == 0 and prompts["prompt"].tolist() == list(range(len(prompts)))
    return "" if numbered else "its prompts are not numbered from 0"


def _wrong_profiles(profiles: pd.DataFrame, steps: int) -> str:
    """A profile has all its rows: S + 1 over depth, S over steps."""
    groups = profiles.groupby([*_ABOUT, "agg", "axis"], sort=False)["index"]
    for (metric, part, scope, agg, axis), index in groups:
        size = steps + (axis == "depth")
        if len(index) != size or sorted(index.dropna()) != list(range(size)):
            return f"{metric} ({described(part, scope, agg)}) has {len(index)} rows of {size} ({steps} steps)"
    return ""


def _wrong_cells(matrices: pd.DataFrame, entries: Mapping[str, Metric], space: Space) -> str:
    for metric, rows in matrices.groupby("metric", sort=False):
        one = entries.get(str(metric))
        axes = one.cells if one is not None and len(one.cells) == 2 else ("", "")
        for column, axis in zip(("row", "col"), axes, strict=True):
            wrong = _outside(rows[column], space.end(axis), f"{column} of {metric}")
            if wrong:
                return wrong
    return ""


def _wrong_samples(samples: pd.DataFrame, entries: Mapping[str, Metric], space: Space, n_prompts: int) -> str:
    wrong = _outside(samples["prompt"], n_prompts, "prompt")
    for metric, rows in () if wrong else samples.groupby("metric", sort=False):
        one = entries.get(str(metric))
        if one is None or one.kind == "score":
            continue
        if one.kind == "matrix":
            wrong = wrong or _wrong_cells(rows, entries, space)
        elif one.kind == "profile":
            wrong = wrong or _outside(rows["index"], space.end(one.axis), f"index of {metric}")
    return wrong or _repeated(samples, ["prompt", "index", "row", "col"])


def _wrong_tokens(tokens: pd.DataFrame, n_prompts: int) -> str:
    wrong = _outside(tokens["prompt"], n_prompts, "prompt")
    for column in ("index", "position"):
        wrong = wrong or _outside(tokens[column], 1 << 31, column)
    return wrong or _repeated(tokens, ["prompt", "index", "position", "rank"])


def _outside(values: pd.Series, end: int, what: str) -> str:
    """Says so where a whole number is missing, negative, or ``end`` or more."""
    found: ndarray = values.to_numpy(dtype=float, na_value=np.nan)
    wrong = found[~((found >= 0) & (found < end))]
    if not len(wrong):
        return ""
    return f"a {what} is missing" if np.isnan(wrong[0]) else f"a {what} is {wrong[0]:.0f}; it has 0 to {end - 1}"


def _repeated(table: pd.DataFrame, place: list[str]) -> str:
    about = [*_ABOUT, *(["agg"] if "agg" in table else []), *place]
    again = table.duplicated(about)
    if not again.any():
        return ""
    first = table[again].iloc[0]
    at = ", ".join(f"{c} {first[c]}" for c in place if pd.notna(first[c]))
    return f"{first['metric']} has {at} twice"
