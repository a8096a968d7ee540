"""Values that a figure has a place for; others are gaps in it, and stand in the tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pandas as pd

from depthsig.signature import Comparison, Signature

LARGEST, SMALLEST = 1e100, 1e-100
"""A figure's axes reach beyond its values, and numbers end at 1e308."""

SIGNATURE_TABLES = ("profiles", "matrices", "scores", "tokens_table")
COMPARISON_TABLES = ("claims", "late", "scores", "recurrence", "profiles", "distances", "unit_tests")

Tables = TypeVar("Tables", Signature, Comparison)


def drawable(tables: Tables) -> Tables:
    """A signature or comparison without infinities and numbers that no axis can show; next to nothing is 0."""
    names = SIGNATURE_TABLES if isinstance(tables, Signature) else COMPARISON_TABLES
    return replace(tables, **{name: without_extremes(getattr(tables, name)) for name in names})


def without_extremes(frame: pd.DataFrame) -> pd.DataFrame:
    """A table's numbers with such as no axis can show left out."""
    numbers = frame.select_dtypes("float64")
    kept = numbers.where(numbers.abs() < LARGEST)
    return frame.assign(**kept.mask(kept.abs() < SMALLEST, 0.0))
