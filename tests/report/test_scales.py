"""Scales of figures: on the entry and not in one run's data, and such that what was measured can be seen."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import depthsig
from depthsig import Signature
from depthsig.metrics import all_metrics, entry
from depthsig.report.scale import Scale

SHIPPED = Path(__file__).parents[2] / "data" / "signatures"
DRAWN = [m.id for m in all_metrics().values() if m.figure in ("profile", "heatmap", "token_map")]


@lru_cache(maxsize=1)
def shipped() -> dict[str, np.ndarray]:
    """Every value of every metric in the shipped signatures."""
    found = defaultdict(list)
    for folder in sorted(path for path in SHIPPED.iterdir() if path.is_dir()):
        signature = Signature.load(folder)
        for table in (signature.profiles, signature.matrices):
            for name, rows in table.groupby("metric"):
                found[str(name)].append(rows["value"].dropna().to_numpy(float))
    return {name: np.concatenate(values) for name, values in found.items()}


@pytest.mark.parametrize("name", DRAWN)
def test_no_run_decides_what_is_drawn(name: str) -> None:
    one = entry(name)
    scales = [Scale.of(one, values) for values in (np.array([0.1, 0.2]), np.array([3.0, 500.0]), np.array([np.nan]))]
    assert scales[0] == scales[1] == scales[2]
    if one.centre is not None:
        assert scales[0].share(np.array([one.centre])) == pytest.approx(0.5)


@pytest.mark.parametrize("name", DRAWN)
def test_less_than_half_of_what_ships_lies_in_the_lowest_tenth(name: str) -> None:
    values = shipped().get(name)
    if values is None:
        pytest.skip("no shipped signature holds it")
    assert (Scale.of(entry(name), values).share(values) < 0.1).mean() < 0.5


def test_what_lies_beyond_is_at_the_ends_and_told() -> None:
    scale, values = Scale("log", 0.1, 10), np.array([0.0, 0.1, 1.0, 10.0, 20.0, np.nan])
    assert scale.share(values)[:5] == pytest.approx([0, 0, 0.5, 1, 1]) and scale.ends(values) == "both"
    assert scale.below(values).tolist() == [True, *[False] * 5] and scale.above(values).sum() == 1
    assert scale.ends(values[1:4]) == "neither" and scale.ends(values[:2]) == "min" and scale.ends(values[4:]) == "max"


def test_a_metric_of_ones_own_without_a_range_is_drawn_over_its_data() -> None:
    depthsig.metric("mine.some", axis="depth")(lambda h: h.sum(-1))
    values = np.append(np.linspace(2, 3, 1000), 1e6)
    scale = Scale.of(entry("mine.some"), values)
    assert 2 <= scale.low < 2.1 and 2.9 < scale.high < 3.1 and scale.ends(values) == "both"
    depthsig.metric("mine.other", axis="depth", norm="log", drawn=(0.5, 8))(lambda h: h.sum(-1))
    assert Scale.of(entry("mine.other"), values) == Scale("log", 0.5, 8)


@pytest.mark.parametrize("drawn", [(2, 1), (0, 1), (1, 1), ("a", 2), (1,)])
def test_a_range_that_cannot_be_drawn_is_refused(drawn: tuple) -> None:
    with pytest.raises(depthsig.InputError, match="drawn"):
        depthsig.metric("mine.bad", axis="depth", norm="log", drawn=drawn)(lambda h: h.sum(-1))
