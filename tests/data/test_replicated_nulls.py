"""Claims about roles that mean nothing: how they are drawn and counted, and what the shipped study found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_evidence import evidence, made, network
from made_signatures import late, noisy

from data.studies import replicated_nulls as study
from data.studies.planting import null_models
from data.studies.replicated_nulls import ALL, GIVINGS, NULLS, SPAN, chosen, counted, given
from depthsig.replication.criteria import criteria
from depthsig.replication.gathered import Gathered
from depthsig.replication.judging import judge

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "data" / "studies"
THREE, CHANGE = GIVINGS
MOST_FALSE = 0.05
"""Of claims about roles that mean nothing."""
NETWORKS = NULLS + 3
"""With the baseline's three seeds."""


@pytest.fixture(scope="module")
def shipped() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every verdict, and what was counted."""
    text = {"networks": str, "roles": str}
    return pd.read_csv(STUDIES / "replicated_nulls_draws.csv"), pd.read_csv(
        STUDIES / "replicated_nulls.csv", dtype=text
    )


def pool(shares: np.ndarray) -> Gathered:
    """Networks of so much late use each."""
    spec = (0, 4, 3, "grown")
    return evidence(*(
        network(f"n{i}", "midas", made(
            {("skip.output_l2", "layer", "current", "step"): noisy(late(12, share), seed=i)}, 12, f"n{i}", span=spec,
        )) for i, share in enumerate(shares)
    ))  # fmt: skip


def test_roles_are_drawn_without_replacement_and_the_same_again() -> None:
    first = chosen(NETWORKS, THREE, 6, 0, 0)
    assert first == chosen(NETWORKS, THREE, 6, 0, 0) and len(set(first)) == 18 and max(first) < NETWORKS
    others = [chosen(NETWORKS, THREE, 6, 1, 0), chosen(NETWORKS, THREE, 6, 0, 1), chosen(NETWORKS, CHANGE, 3, 0, 0)]
    assert all(first != other for other in others)
    drawn = np.array([chosen(NETWORKS, THREE, 1, n, 0) for n in range(2000)])
    counts = np.stack([np.bincount(column, minlength=NETWORKS) for column in drawn.T])
    assert counts.min() > 50 and counts.max() < 140  # about 91 of each network in each role
    with pytest.raises(ValueError, match="before and after takes 24 networks; there are 23"):
        chosen(NETWORKS, CHANGE, 4, 0, 0)


def test_every_claim_of_the_paper_is_about_one_way_of_giving_roles() -> None:
    named = [claim.id for giving in GIVINGS for claim in giving.claims()]
    assert sorted(named) == sorted(c.id for c in criteria().of_paper(study.PAPER))
    assert {c.id for c in CHANGE.claims()} == {"E9.slope", "E11.answers", "E12.depth", "E12.late"}


def test_roles_that_mean_something_are_told_and_random_ones_are_not() -> None:
    """The same judge, the same criteria: late use planted in twelve of eighteen networks."""
    rng = np.random.default_rng(0)
    claims = [c for c in THREE.claims() if c.id == "E1.late"]
    what = pool(np.repeat([0.5, 0.3], [12, 6]) + 0.01 * rng.standard_normal(18))
    told = judge(given(what, THREE, range(18)), claims).claims
    assert told["verdict"].tolist() == ["supported", "supported"]
    assert [one.role for one in given(what, THREE, range(18)).networks[5:7]] == ["looped", "midas"]
    nulls = pool(0.3 + 0.01 * rng.standard_normal(18))
    draws = [chosen(18, THREE, networks, n, 0) for networks in (1, 3, 6) for n in range(3)]
    drawn = pd.concat([judge(given(nulls, THREE, places), claims).claims for places in draws])
    assert len(drawn) == 18 and (drawn["verdict"] == "supported").mean() <= MOST_FALSE


def rows(verdicts: dict[str, str]) -> pd.DataFrame:
    """Draws in a row, claim by claim in letters."""
    words = dict(zip("scu-", study.VERDICTS, strict=True))
    return pd.DataFrame([
        {"seed": 0, "roles": "three roles", "networks": 1, "draw": n, "claim": claim, "role": "looped",
         "verdict": words[letter], "estimate": 0.0}
        for claim, letters in verdicts.items() for n, letter in enumerate(letters)
    ])  # fmt: skip


def test_what_could_not_be_judged_stands_apart() -> None:
    found = counted(rows({"E1.late": "suuu", "E8.gain": "u--c"})).query("networks == '1'").set_index("claim")
    assert found.loc["E1.late", ["supported", "undecided", "rate"]].tolist() == [1, 3, 0.25]
    assert found.loc["E1.late", "low"] == pytest.approx(0.0456, abs=1e-4)  # Wilson's of 1 in 4
    assert found.loc["E8.gain", ["contradicted", "not_measurable", "draws"]].tolist() == [1, 2, 4]
    assert found.loc[ALL, ["supported", "rate", "of_all"]].tolist() == [1, round(1 / 6, 4), 0.125]
    assert found.loc[ALL, "low"] == 0 and 0.3 < found.loc[ALL, "high"] <= 1


def test_claims_of_one_draw_are_not_taken_for_draws_of_their_own() -> None:
    """Twenty claims that fall and stand together tell as much as one does."""
    together = {f"E1.{n}": "s" + "u" * 19 for n in range(20)}
    apart = {f"E1.{n}": "u" * n + "s" + "u" * (19 - n) for n in range(20)}
    wide, narrow = (counted(rows(one)).iloc[0] for one in (together, apart))
    assert wide["rate"] == narrow["rate"] == 0.05
    assert wide["high"] >= 0.15 and narrow["high"] == narrow["low"] == 0.05
    none = counted(rows({f"E1.{n}": "u" * 20 for n in range(20)})).iloc[0]
    assert none["rate"] == 0 and none["high"] == pytest.approx(0.1611, abs=1e-4)  # Wilson's of 0 in 20


@pytest.fixture
def made_study(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The program with evidence that is made rather than measured."""
    monkeypatch.setattr(study, "null_models", lambda *args, **options: [])
    monkeypatch.setattr(study, "gathered", lambda *args: pool(np.full(6, 0.3)))
    monkeypatch.setattr(study, "GIVINGS", tuple(replace(g, draws={1: 3}) for g in GIVINGS))
    yield


@pytest.mark.usefixtures("made_study")
def test_a_study_that_was_stopped_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--work", str(tmp_path / "work")]
    assert study.main(arguments) == 0
    assert len(capsys.readouterr().err.splitlines()) == 6
    draws, summary = (tmp_path / f"replicated_nulls{name}.csv" for name in ("_draws", ""))
    whole = pd.read_csv(draws), summary.read_text()
    left = whole[0][(whole[0]["draw"] != 1) | (whole[0]["roles"] != "three roles")]
    left.to_csv(draws, index=False)
    assert study.main(arguments) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("three roles, 1 an arm, draw 1: 0 supported")
    by = [*study.DRAW, "claim", "role"]
    again = pd.read_csv(draws)
    pd.testing.assert_frame_equal(again.sort_values(by, ignore_index=True), whole[0].sort_values(by, ignore_index=True))
    assert study.main([*arguments, "--table"]) == 0
    assert "| all | all | 6 |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        study.main([*arguments, "--only", "7"])


def test_the_shipped_table_counts_the_shipped_draws(shipped: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    draws, summary = shipped
    pd.testing.assert_frame_equal(counted(draws), summary, check_dtype=False)
    whole = draws.groupby(study.DRAW[1:3])["draw"].nunique().to_dict()
    assert whole == {(g.name, n): times for g in GIVINGS for n, times in g.draws.items()}
    assert set(draws["claim"]) == {c.id for c in criteria().of_paper(study.PAPER)} and NULLS >= 20


def test_of_claims_about_random_roles_few_are_supported(shipped: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    _, summary = shipped
    together, single = summary[summary["claim"] == ALL], summary[summary["claim"] != ALL]
    assert len(together) == 8 and (together["rate"] <= MOST_FALSE).all()
    assert (single["low"].dropna() <= MOST_FALSE).all()
    assert single.loc[single["rate"].notna(), "claim"].nunique() >= 25


def test_the_page_shows_the_shipped_table(shipped: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    page = (ROOT / "docs" / "planted.md").read_text(encoding="utf-8")
    assert study.table(shipped[1]) in page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::depthsig.errors.DepthsigWarning")
def test_a_draw_that_is_measured_again_says_the_same(
    shipped: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    """Three networks of one draw, and the claims of which measuring is cheap."""
    some = ("E3", "E7", "E15")
    draw = next(n for n in range(THREE.draws[1]) if max(chosen(NETWORKS, THREE, 1, n, 0)) < NULLS)
    places = chosen(NETWORKS, THREE, 1, draw, 0)
    paths = null_models(max(places) + 1, 0, tmp_path / "models", grown=SPAN)
    what = study.gathered([str(paths[p]) for p in sorted(places)], 0, tmp_path, some)
    order = [sorted(places).index(p) for p in places]
    claims = [c for c in THREE.claims() if c.experiment in some]
    again = judge(given(what, THREE, order), claims).claims.set_index(["claim", "role"])
    stored = shipped[0].query("roles == @THREE.name and networks == 1 and draw == @draw").set_index(["claim", "role"])
    stored = stored.loc[again.index]
    assert again["verdict"].tolist() == stored["verdict"].tolist()
    assert again["estimate"].to_numpy() == pytest.approx(stored["estimate"].to_numpy(), abs=1e-3, nan_ok=True)
    assert np.isfinite(again["estimate"]).sum() >= 10
