"""Can the best span to repeat be told without running them all? ``python -m data.studies.span_choice --work FOLDER``.

On every model the whole map of spans run twice is measured (``span_maps.py``), and each way of choosing (``CHOOSERS``) picks a
span, or none, from a share of it: it sees the gains of those spans only that it pays for. The pick is judged on held-out
prompts, against the best of the spans that the whole map ranks highest, of all that was picked, and of repeating
nothing. The rule was made on the models that say *built on*, and frozen before one of the others was looked at.

``span_maps.csv`` gets the maps, ``span_choice.csv`` the picks; ``--table`` prints the table of ``docs/repeats.md``. What is
measured is kept in FOLDER, which must have the checkpoints that do not ship (``Case.where``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy import ndarray

from data.studies.span_maps import CASES, JUDGED, Case, Spans, losses, measure

HERE = Path(__file__).resolve().parent
MAPS, CHOICES = HERE / "span_maps.csv", HERE / "span_choice.csv"
SHARE = 0.02
"""Of the map's runs, all that may be spent."""
CLEAN, GRADIENT = 1, 3
"""Runs that a signature costs: one forward; with a backward pass, which costs two."""
HIGHEST = 16
"""Spans of the whole map that are measured on held-out prompts."""
DRAWS = 5
RESAMPLES = 1000
NONE = (0, 0)
SIGNATURE = ("first_order", "angular", "relative")


@dataclass(frozen=True)
class Chooser:
    """One way of choosing: which spans are worth a run, most wanted first.

    Attributes:
        cost: runs before the first span's.
    """

    name: str
    cost: int
    wanted: Callable[[pd.DataFrame], list[int]]

    def runs(self, spans: int) -> int:
        """Spans that it runs, of a map of so many: what is left of the share, and at least one."""
        return max(int(SHARE * spans) - self.cost, 1)

    def choose(self, rows: pd.DataFrame) -> tuple[tuple[int, int], int]:
        """The span that it picks (``NONE`` for none), from a case's map, and what it ran in all."""
        tried = rows.iloc[self.wanted(rows)[: self.runs(len(rows))]]
        best = tried.loc[tried["gain"].idxmax()]
        picked = (int(best["start"]), int(best["end"])) if best["gain"] > 0 else NONE
        return picked, self.cost + len(tried)


def by(column: str) -> Callable[[pd.DataFrame], list[int]]:
    """Spans from the highest value on."""
    return lambda rows: [int(i) for i in np.argsort(-rows[column].to_numpy(), kind="stable")]


def apart(column: str, most: float) -> Callable[[pd.DataFrame], list[int]]:
    """As :func:`by`, but for spans that share more than ``most`` of their union with one that was taken."""

    def wanted(rows: pd.DataFrame) -> list[int]:
        ends = rows[["start", "end"]].to_numpy()
        taken: list[int] = []
        for i in by(column)(rows):
            if all(_overlap(ends[i], ends[j]) <= most for j in taken):
                taken.append(i)
        return taken

    return wanted


def _overlap(one: ndarray, other: ndarray) -> float:
    both = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return float(both / (one[1] - one[0] + other[1] - other[0] - both))


def middle(rows: pd.DataFrame) -> list[int]:
    """Spans around the model's middle, the shortest first."""
    centre = rows["end"].max() / 2
    off = ((rows["start"] + rows["end"]) / 2 - centre).abs()
    return [int(i) for i in np.lexsort((rows["end"] - rows["start"], off))]


def drawn(seed: int) -> Callable[[pd.DataFrame], list[int]]:
    """Spans at random."""
    return lambda rows: [int(i) for i in np.random.default_rng(seed).permutation(len(rows))]


SHARED = 0.8
"""Frozen on the models that say *built on*, as the rule itself was."""
CHOOSERS = (
    Chooser("the rule", GRADIENT, apart("first_order", SHARED)),
    Chooser("first order alone", GRADIENT, by("first_order")),
    Chooser("angular", CLEAN, by("angular")),
    Chooser("relative", CLEAN, by("relative")),
    Chooser("middle", CLEAN, middle),
    *(Chooser(f"random {seed}", CLEAN, drawn(seed)) for seed in range(DRAWS)),
)
