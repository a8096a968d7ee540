"""The validation study runs, its committed results keep what they promise, and the notebook executes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
MILD = [f"AR(1) {phi:+.1f}" for phi in (-0.6, -0.3, 0.0, 0.3, 0.6)]


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    return pd.read_csv(ROOT / "data" / "studies" / "periodicity.csv")


def test_the_study_runs_on_a_small_scale(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data.studies.periodicity", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    table = pd.read_csv(tmp_path / "periodicity.csv")
    assert {"declared", "blind", "matrix", "blind matrix", "combined"} <= set(table["study"])
    assert "blind_matrix" in done.stderr
    wrong = table[(table["measure"] == "false positives") & (table["study"] != "blind matrix")]
    pooled = wrong.groupby("study")[["hits", "replicates"]].sum()
    assert (pooled["hits"] / pooled["replicates"]).between(0, 0.09).all()
    again = subprocess.run([*command, "--only", "nonsense"], capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 2 and "unknown study" in again.stderr


def test_committed_false_positive_rates_keep_their_promises(results: pd.DataFrame) -> None:
    wrong = results[results["measure"] == "false positives"]
    declared = wrong[(wrong["study"] == "declared") & wrong["noise"].isin(MILD)]
    assert declared["replicates"].min() >= 2000 and declared["n"].min() == 12 and declared["n"].max() == 48
    assert declared.loc[declared["block"] > 2, "rate"].max() <= 0.07
    assert declared.loc[declared["block"] == 2, "rate"].max() <= 0.085
    assert declared["rate"].mean() >= 0.01
    blind = wrong[(wrong["study"] == "blind") & wrong["noise"].isin(MILD)]
    by_process = blind.groupby(["n", "noise"])[["hits", "replicates"]].sum()
    assert (by_process["hits"] / by_process["replicates"]).max() <= 0.06
    matrix = wrong[(wrong["study"] == "matrix") & (wrong["block"] > 2)]
    assert matrix["rate"].max() <= 0.07


def test_committed_power_is_what_is_stated(results: pd.DataFrame) -> None:
    stated = {(12, 3): (0.12, 0.40, 0.92), (16, 4): (0.13, 0.49, 0.98), (24, 4): (0.30, 0.89, 1.0),
              (24, 3): (0.41, 0.95, 1.0), (12, 2): (0.04, 0.19, 0.80)}  # fmt: skip
    power = results[(results["measure"] == "power") & (results["noise"] == "AR(1) +0.0") & (results["edges"] == "both")]
    power = power[power["study"] == "declared"].set_index(["n", "block", "effect"])["rate"]
    for (n, block), rates in stated.items():
        for effect, rate in zip((0.5, 1.0, 2.0), rates, strict=True):
            assert power[n, block, effect] >= rate - 0.015, (n, block, effect)
    by_effect = power.groupby(["n", "block"]).apply(lambda cells: np.all(np.diff(cells) >= -0.02))
    assert by_effect.all()
