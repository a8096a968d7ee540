"""What is said of the reference family is what was judged, by the criteria that are here."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from data.studies import replicated_family as study
from depthsig.commands.replicating.given_roles import shipped_family
from depthsig.replication.criteria import criteria, criteria_hash
from depthsig.signature.replications.replication import OUTCOMES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stored() -> pd.DataFrame:
    return pd.read_csv(study.STORED)


def test_it_was_judged_by_these_criteria(stored):
    claims = criteria().of_paper(study.PAPER)
    assert set(stored["criteria"]) == {criteria_hash(claims)}, "run python -m data.studies.replicated_family"
    assert set(stored["claim"]) == {claim.id for claim in claims} and set(stored["verdict"]) <= set(OUTCOMES)
    assert not stored.duplicated(["claim", "role"]).any()
    # A verdict that names a direction lies on that side of nothing.
    numbers = stored[stored["ci_low"].notna() & stored["verdict"].isin(OUTCOMES[:2])]
    assert ((numbers["ci_low"] > 0) | (numbers["ci_high"] < 0)).all() and len(numbers) > 15


def test_the_page_says_what_is_stored(stored):
    page = (ROOT / "docs" / "replication.md").read_text(encoding="utf-8")
    for table in study.tables(stored).split("\n\n"):
        assert table in page
    # Its sentences, too.
    said = stored.set_index(["claim", "role"])["verdict"]
    assert (
        said.loc[["E1.effect", "E1.output", "E1.late", "E2.loss", "E2.future", "E3.settling"], "grown"] == OUTCOMES[1]
    ).all()
    assert (said.loc[["E1.effect", "E1.output"], "looped"] == OUTCOMES[1]).all() and said[
        "E1.late", "looped"
    ] == OUTCOMES[2]
    assert (said.loc[["E4.period", "E4.attention"]] == OUTCOMES[0]).all()
    assert (said.loc["E7.midas"] == OUTCOMES[0]).all() and (said.loc["E7.lidas"] == OUTCOMES[0]).all()
    follows = said.loc["E14.follows"].to_dict()
    assert [role for role, verdict in follows.items() if verdict == OUTCOMES[0]] == [
        "grown/4", "grown/8", "looped/2", "looped/4"
    ]  # fmt: skip
    tests = stored.set_index(["claim", "role"])["tests"]
    assert {key for key, strict in tests.items() if strict == "falls"} == {
        ("E4.attention", "grown"), ("E14.follows", "looped/4")
    }  # fmt: skip


def test_three_seeds_of_every_arm_are_judged():
    for role, (_, *tables) in shipped_family().items():
        seeds = {Path(name).name.split("-")[1] for name in tables if Path(name).name.startswith(f"{role}-seed")}
        assert seeds == {"seed1", "seed2", "seed3"}


@pytest.mark.slow
def test_judged_again_it_is_the_same(stored):
    """What tables tell; what checkpoints tell takes minutes (the notebook and the study do it)."""
    import depthsig

    roles = {role: tables for role, (_, *tables) in shipped_family().items()}
    again = study.rows(depthsig.replicate(study.PAPER, roles=roles, only="E7,E14", quick=True, progress=False))
    first = stored.set_index(["claim", "role"])
    for row in again.to_dict("records"):
        assert row["verdict"] == first.loc[(row["claim"], row["role"]), "verdict"]
