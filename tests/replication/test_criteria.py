"""Criteria: read with their types, every one with its source, every change told by the hash."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

import depthsig.replication.judging  # noqa: F401, the quantities
from depthsig.errors import InputError
from depthsig.metrics import entry
from depthsig.replication import criteria as module
from depthsig.replication.criteria import Claim, as_record, criteria, criteria_hash, read_criteria
from depthsig.replication.depth_quantities import BY_QUANTITY
from depthsig.replication.members import NETWORK_ROLES, PLAIN

TEXT = Path(module.__file__).with_suffix(".toml").read_text(encoding="utf-8")
CLAIMS = criteria().claims
PAPERS = list(criteria().papers)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_a_claim_says_all_that_it_needs(claim: Claim) -> None:
    assert claim.source and claim.control and claim.experiment in criteria().experiments
    assert claim.quantity in BY_QUANTITY
    placeholders = set(re.findall(r"{(.*?)}", claim.statement))
    assert placeholders <= {"a", "c"} and ("a" in placeholders or all("/" in r for r in claim.roles))
    assert ("c" in placeholders) <= isinstance(claim.against, str)
    words = claim.statement.format(a="looped", c="baseline")
    assert words == words.strip() and not words.endswith(".") and (words[0].islower() or words.startswith("looped"))
    assert claim.also in ("", "recurs") and claim.prompts in ("", "gsm8k", "lookup")
    if claim.of and len(claim.of) % 3 == 0:
        for name in claim.of[::3]:
            assert entry(name).id == name
    if claim.quantity == "held_equal":
        assert "equal within 1 %" in claim.criterion
        return
    sides = ("above", "below") if claim.above else ("below", "above")
    assert f"lies {sides[0]} 0" in claim.criterion and claim.criterion.endswith(
        f"contradicted where it lies {sides[1]}"
    )


@pytest.mark.parametrize("paper", PAPERS)
def test_a_papers_claims_are_about_roles_that_there_are(paper: str) -> None:
    found = criteria().of_paper(paper)
    assert found
    for claim in found:
        assert claim.roles
        for role in claim.roles:
            for arm in claim.arms(role):
                assert arm.partition("/")[0] in NETWORK_ROLES, f"{claim.id}: {arm}"


def test_papers_name_plain_roles_and_every_experiment_is_there() -> None:
    assert all(set(paper.roles) <= set(PLAIN) for paper in criteria().papers.values())
    assert list(criteria().experiments) == [f"E{n}" for n in range(1, 17)]
    assert {claim.experiment for claim in criteria().of_paper("2602.16490")} == set(criteria().experiments)


_OTHER = {str: "other", bool: None, float: 7.5, int: 9, tuple: ("other",)}


@pytest.mark.parametrize("name", [f.name for f in fields(Claim)])
def test_any_change_of_a_criterion_changes_the_hash(name: str) -> None:
    one, *others = CLAIMS
    value = getattr(one, name)
    new = not value if isinstance(value, bool) else _OTHER[type(value)]
    assert criteria_hash([replace(one, **{name: new}), *others]) != criteria_hash(CLAIMS)


def test_the_hash_is_that_of_what_the_file_says() -> None:
    assert criteria_hash(read_criteria(TEXT).claims) == criteria_hash(CLAIMS)
    for line in ("above = false", 'prompts = "lookup"', "against = 0.5", "change = true", 'also = "recurs"'):
        changed = read_criteria(TEXT.replace(line + "\n", "", 1))
        assert criteria_hash(changed.claims) != criteria_hash(CLAIMS), line
    assert criteria_hash(CLAIMS[1:]) != criteria_hash(CLAIMS)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("above = false", 'above = "perhaps"', "above"),
        ('quantity = "score"', 'quantty = "score"', "quant"),
        ("E1.output", "E1.effect", "two claims are called E1.effect"),
        ('source = "2602.16490, reliance on late layers"', 'source = ""', "E1.late"),
        ('id = "E1.effect"', 'id = "E99.effect"', "E99.effect"),
        ('papers = ["2505.13898"]', 'papers = ["1234.56789"]', "E1.centre"),
        ("against = 0.5", "against = [0.5]", "against"),
    ],
)
def test_a_mistake_in_the_file_is_none_that_goes_through(old: str, new: str, said: str) -> None:
    assert old in TEXT
    with pytest.raises(ValueError, match=said):
        read_criteria(TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("paper", "only", "said"),
    [
        ("2602.16491", (), "did you mean '2602.16490'"),
        ("", (), "no criteria for the paper ''"),
        ("2602.16490", ("E17",), "'E17' is no experiment of 2602.16490; there are E1, E2"),
        ("2505.13898", ("E7",), "there are E1, E2, E3"),
    ],
)
def test_what_there_is_not_is_refused(paper: str, only: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as error:
        criteria().of_paper(paper, only)
    assert "\n" not in str(error.value)


def test_only_some_experiments() -> None:
    found = criteria().of_paper("2602.16490", ("E8", "E4"))
    assert {c.experiment for c in found} == {"E4", "E8"}
    assert next(c for c in found if c.id == "E4.period").roles == ("looped", "grown")


def test_arms_of_a_change_are_four() -> None:
    claim = next(c for c in CLAIMS if c.id == "E12.late")
    assert claim.arms("grown") == ("grown-after", "grown-before", "baseline-after", "baseline-before")
    assert replace(claim, against=0.0).arms("grown") == ("grown-after", "grown-before")


def test_a_record_says_what_was_judged() -> None:
    told = as_record(CLAIMS[0])
    assert (
        told["criterion"] == CLAIMS[0].criterion
        and told["experiment"] == "E1"
        and told["network_sd"] == CLAIMS[0].network_sd
    )
    unknown = next(claim for claim in CLAIMS if not claim.network_df)
    assert as_record(unknown)["network_sd"] is None  # NaN is no JSON
