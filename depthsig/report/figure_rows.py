"""The numbers behind a figure, as a table; nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from depthsig.metrics.rules import EARLY_EXIT, PERIOD
from depthsig.report.period_tables import period_tables
from depthsig.signature import Signature
from depthsig.terms import NONE

_TABLES = ("profiles", "matrices", "tokens_table")


def rows_behind(signature: Signature, name: str) -> pd.DataFrame | None:
    """What the figure of this (file) name shows; None where there is no such figure.

    Args:
        name: ``plan``, ``early_exit``, ``period.…``, or a metric's id with its part, scope, aggregation or prompt.
    """
    others: Mapping[str, Callable[[], pd.DataFrame]] = {
        "plan": lambda: signature.plan,
        "early_exit": lambda: _early_exit(signature.profiles),
    }
    if name in others:
        return others[name]()
    if name.startswith(f"{PERIOD}."):
        tables = {f"{PERIOD}.{table.name}": table.rows for table in period_tables(signature)}
        return tables.get(name)
    for one in signature.entries:
        if name.startswith(f"{one}."):
            found = _of_metric(signature, one, name.removeprefix(f"{one}.").split("."))
            if len(found):
                return found
    return None


def _early_exit(profiles: pd.DataFrame) -> pd.DataFrame:
    names = [name for measure in EARLY_EXIT for name in measure]
    return profiles[profiles["metric"].isin(names) & (profiles["agg"] == "mean")].reset_index(drop=True)


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
