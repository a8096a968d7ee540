"""Unit tests of claims: what is planted passes, and what rests on half of the items, on the architecture or on nothing
that an edited run tells falls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_evidence import claim, evidence, made, network, with_control
from made_signatures import late, noisy

from depthsig.replication.claim_tests import claim_tests
from depthsig.replication.criteria import Claim
from depthsig.replication.gathered import Gathered, _by_task
from depthsig.replication.judging import judge
from depthsig.replication.members import TrainedNetwork
from depthsig.signature import Signature

SKIP = ("skip.output_l2", "layer", "current", "step")
MOVES = ("contribution.relative", "layer", "-", "step")
KNOWN = {"network_sd": 0.01, "network_df": 9, "prompts": "lookup"}


def deep(share: float, seed: int, moves: float | None = None, prompts: str = "lookup", n: int = 20) -> Signature:
    values = {SKIP: noisy(late(12, share), n, seed=seed)}
    if moves is not None:
        values[MOVES] = noisy(late(12, moves), n, seed=seed + 500)
    return made(values, 12, f"m{seed}", options={"prompts": prompts})


def three_an_arm(of_a: Any, of_c: Any) -> list[TrainedNetwork]:
    arms = [("looped", of_a, 10), ("baseline", of_c, 20)]
    return [network(f"{role} {k}", role, *make(first + k)) for role, make, first in arms for k in range(3)]


def outcomes(one: Claim, what: Gathered) -> pd.DataFrame:
    judged = judge(what, [one]).claims
    return claim_tests(what, [one], judged)


def passed(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["test"], table["passed"], strict=True))


def late_claim(**other: Any) -> Claim:
    return claim("score", "late_share", "layer", "current", **{**KNOWN, **other})


def test_a_planted_difference_passes_all_that_is_measured() -> None:
    def both(share: float) -> Any:
        def make(seed: int) -> tuple[Signature, Signature]:
            lookup = with_control(deep(share, seed, 1 / 3), deep(1 / 3, seed + 50, 1 / 3))
            return lookup, deep(share, seed + 100, 1 / 3, "gsm8k")

        return make

    table = outcomes(late_claim(), evidence(*three_an_arm(both(0.6), both(0.3)), resamples=200))
    assert passed(table) == dict.fromkeys(
        ("halves", "reworded", "permuted labels", "re-initialised", "cheap baseline"), "yes"
    )
    assert set(table["strict"]) == {"stands"}
    assert float(table.set_index("test").loc["permuted labels", "value"]) == pytest.approx(1 / 20)


def test_what_the_architecture_shows_by_itself_falls() -> None:
    def make(share: float) -> Any:
        return lambda seed: (with_control(deep(share, seed), deep(share, seed + 50)),)

    table = outcomes(late_claim(), evidence(*three_an_arm(make(0.6), make(0.3)), resamples=200))
    assert passed(table)["re-initialised"] == "no" and set(table["strict"]) == {"falls"}


def test_what_the_clean_run_tells_as_well_falls() -> None:
    table = outcomes(
        late_claim(),
        evidence(*three_an_arm(lambda s: (deep(0.5, s, 0.9),), lambda s: (deep(0.35, s, 0.1),)), resamples=200),
    )
    assert passed(table)["cheap baseline"] == "no" and passed(table)["reworded"] == "not tested"


def test_other_prompts_that_say_otherwise_make_it_fall() -> None:
    def make(lookup: float, other: float) -> Any:
        return lambda seed: (deep(lookup, seed), deep(other, seed + 100, prompts="gsm8k"))

    table = outcomes(late_claim(), evidence(*three_an_arm(make(0.6, 0.3), make(0.3, 0.6)), resamples=200))
    assert passed(table)["reworded"] == "no" and passed(table)["halves"] == "yes"


def test_claims_that_are_not_supported_are_not_tested() -> None:
    what = evidence(*three_an_arm(lambda s: (deep(0.3, s),), lambda s: (deep(0.6, s),)), resamples=200)
    assert outcomes(late_claim(), what).empty


def repeats(gain: dict[str, float], tasks: int = 2, each: int = 10) -> pd.DataFrame:
    """Losses run once and twice: the gain of role l's network by task, and none of the baseline's."""
    rng, rows = np.random.default_rng(0), []
    for name in ("l", "b"):
        for item in range(tasks * each):
            task = f"task {item // each}"
            for times in (1, 2):
                change = gain[task] if name == "l" and times == 2 else 0.0
                loss = 2.0 - change + 0.01 * rng.normal()
                rows.append((name, task, item % each, times, loss))
    frame = pd.DataFrame(rows, columns=["network", "task", "item", "condition", "loss"])
    return frame.assign(run="repeat", exact=0.0)


@pytest.mark.parametrize(
    ("gain", "said"),
    [({"task 0": 0.5, "task 1": 0.5}, "yes"), ({"task 0": 1.0, "task 1": 0.0}, "no")],
    ids=["of both tasks", "of one task"],
)
def test_a_gain_on_one_task_alone_is_no_gain_on_tasks(gain: dict[str, float], said: str) -> None:
    nets = [TrainedNetwork("l", "looped", 12), TrainedNetwork("b", "baseline", 12)]
    one = claim("repeat_change", "2", above=False, **KNOWN)
    what = replace(evidence(*nets, runs=repeats(gain)), resamples=200)
    assert judge(what, [one]).claims["verdict"].tolist() == ["supported"]
    table = outcomes(one, what)
    assert passed(table)["halves"] == said


def test_tasks_without_weight_take_no_part() -> None:
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
    expected = [[0.25, 0.25, 0.5], [2 / 3, 1 / 3, 0.0]]
    np.testing.assert_allclose(_by_task(weights, ["a", "a", "b"]), expected)
