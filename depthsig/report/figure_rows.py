"""The numbers behind a figure, as a table; nothing is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from depthsig.metrics.rules import (
    EARLY_EXIT,
    EARLY_EXIT_LENSES,
    EARLY_EXIT_LOSS,
    MAINTAINED,
    MAINTAINED_LINES,
    PERIOD,
)
from depthsig.report.period_tables import period_tables
from depthsig.signature import Signature
from depthsig.terms import NONE

PLAN_FIGURE, EXITS_FIGURE, KEPT_UP_FIGURE = "plan", "early_exit", "across_passes"
"""Names of figures that are of no metric alone; the last goes on with its part and scope."""


@dataclass(frozen=True)
class SideBySide:
    """What is drawn together.

    Attributes:
        measures: a row a measure, with the metric of each line. lines: what the lines are called.
        label: of the horizontal axis. offset: where blocks begin on it.
        loss: the metric whose last value is the loss of the whole model.
        all_lines: whether a measure without one of its lines is left out.
    """

    measures: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]
    label: str
    offset: float = 0.0
    loss: str = ""
    all_lines: bool = False


EARLY_EXITS = SideBySide(EARLY_EXIT, EARLY_EXIT_LENSES, "depth d of exit", loss=EARLY_EXIT_LOSS)
"""How good the model would be if it stopped at a depth, by plain and by tuned lens."""
KEPT_UP = SideBySide(MAINTAINED, MAINTAINED_LINES, "step", offset=-0.5, all_lines=True)
"""What is taken away in one pass of a loop, and in every later one, too."""


@dataclass(frozen=True)
class Measure:
    """The metrics of the lines that are there, with the lines' places."""

    metrics: tuple[str, ...]
    lines: tuple[int, ...]


def measures_in(profiles: pd.DataFrame, which: SideBySide) -> list[Measure]:
    """The measures that a table of profiles has."""
    have = set(profiles.loc[profiles["agg"] == "mean", "metric"])
    found = []
    for names in which.measures:
        there = [(name, place) for place, name in enumerate(names) if name in have]
        if len(there) >= (len(names) if which.all_lines else 1):
            found.append(Measure(*(tuple(column) for column in zip(*there, strict=True))))
    return found


def curves_in(profiles: pd.DataFrame, which: SideBySide) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(part, scope, means) of everything that has a figure."""
    rows = profiles[profiles["agg"] == "mean"]
    for (part, scope), curves in rows.groupby(["part", "scope"], sort=False):
        names = [name for measure in measures_in(curves, which) for name in measure.metrics]
        if names:
            yield str(part), str(scope), curves[curves["metric"].isin(names)].reset_index(drop=True)


_TABLES = ("profiles", "matrices", "tokens_table")


def rows_behind(signature: Signature, name: str) -> pd.DataFrame | None:
    """What the figure of this (file) name shows; None where there is no such figure.

    Args:
        name: ``plan``, ``early_exit``, ``across_passes.…``, ``period.…``, or a metric's id with its part, scope,
            aggregation or prompt.
    """
    if name == PLAN_FIGURE:
        return signature.plan
    for prefix, which in ((EXITS_FIGURE, EARLY_EXITS), (KEPT_UP_FIGURE, KEPT_UP)):
        for part, scope, rows in curves_in(signature.profiles, which):
            if name == dotted(prefix, part, scope):
                return rows
    if name.startswith(f"{PERIOD}."):
        tables = {f"{PERIOD}.{table.name}": table.rows for table in period_tables(signature)}
        return tables.get(name)
    for one in signature.entries:
        if name.startswith(f"{one}."):
            found = _of_metric(signature, one, name.removeprefix(f"{one}.").split("."))
            if len(found):
                return found
    return None


def dotted(*pieces: str) -> str:
    """The name of a figure: of its metric, and of what it is of."""
    return ".".join(piece for piece in pieces if piece not in ("", NONE))


def _of_metric(signature: Signature, metric: str, pieces: list[str]) -> pd.DataFrame:
    """The rows whose labels are the pieces that a figure's name goes on with."""
    for table in _TABLES:
        rows = getattr(signature, table)
        rows = rows[rows["metric"] == metric]
        if rows.empty:
            continue
        labels = [column for column in ("part", "scope", "prompt", "agg") if column in rows]
        chosen = [not _left(label, pieces) for label in rows[labels].astype(str).itertuples(index=False, name=None)]
        if any(chosen):
            return rows[chosen].reset_index(drop=True)
    return signature.profiles.head(0)


def _left(labels: tuple[str, ...], pieces: list[str]) -> set[str]:
    """What only one of both has; ``mean`` and ``-`` are not in names, and ``agg`` alone names all parts together."""
    given = set(labels) - {NONE, "mean"}
    return set(pieces) - given if set(pieces) <= {"max"} else given ^ set(pieces)
