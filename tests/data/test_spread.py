"""How far networks of one recipe differ: what stands in the criteria is what the study measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from data.studies.spread import CRITERIA, pooled, written
from depthsig.replication.criteria import criteria

TABLE = pd.read_csv(Path(__file__).resolve().parents[2] / "data" / "studies" / "spread.csv")


def test_the_criteria_hold_what_was_measured():
    told = pooled(TABLE)
    for claim in criteria().claims:
        if claim.id in told:
            sd, df = told[claim.id]
            assert (claim.network_sd, claim.network_df) == (pytest.approx(sd, rel=1e-3), df)
        else:
            assert claim.network_df == 0 and claim.network_sd != claim.network_sd
    text = CRITERIA.read_text(encoding="utf-8")
    assert written(text, told) == text


def test_arms_are_pooled_by_their_degrees_of_freedom():
    rows = [("E1.late", "a", 2, 0.0, 1.0), ("E1.late", "b", 3, 1.0, 2.0)]
    table = pd.DataFrame(rows, columns=["claim", "arm", "networks", "mean", "sd"])
    told = pooled(table)
    assert told["E1.late"] == told["E12.late"] == (pytest.approx(((1 + 2 * 4) / 3) ** 0.5), 3)
    assert set(told) == {"E1.late", "E12.late"}  # claims by the same quantity


def test_a_spread_takes_the_place_of_the_one_before():
    text = '[[claims]]\nid = "E1.late"\nsource = "a"\nnetwork_sd = 9.0\nnetwork_df = 9\nlast = 1\n'
    once = written(text, {"E1.late": (0.5, 4)})
    assert once == '[[claims]]\nid = "E1.late"\nsource = "a"\nnetwork_sd = 0.5\nnetwork_df = 4\nlast = 1\n'
    assert written(once, {"E1.late": (0.5, 4)}) == once
