"""Unit tests of a comparison's supported claims: what they survive, where they must fail, and what they must beat.

A claim *stands* where every test passed, *falls* where one failed, and is *untested* where none failed but
some say nothing. The label test alone keeps claims of nothing from standing more often than .05, as its p is
exact whatever networks and prompts are like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.inputs import Input, check_alike, pair_prompts
from depthsig.comparison.strict.arm_claim import ArmClaim, Outcome, Passed
from depthsig.comparison.strict.claim_quantities import (
    LATE_SOURCE,
    Strengths,
    arm_claim_of,
    cheapest,
    late_share_of,
)
from depthsig.comparison.strict.grounds import Ground, judge
from depthsig.comparison.strict.halves import halves_test
from depthsig.comparison.strict.negatives import labellings, permuted_labels
from depthsig.comparison.strict.placebos import CHEAP, PLACEBO, cheap_baseline, placebo
from depthsig.errors import InputError
from depthsig.metrics.rules import Member
from depthsig.statistics.convergence import prompt_weights
from depthsig.tables.samples import Key

REWORDED, REINITIALISED, RANDOM = "reworded", "re-initialised", "random ablation"
_SHUFFLES = 500


@dataclass(frozen=True, eq=False)
class Others:
    """Signatures beside those compared.

    Attributes:
        reworded: of the same networks on other prompts.
        random_ablation: of the same networks and prompts, measured with ``--ablation random``.
    """

    reworded: Ground | None = None
    random_ablation: Ground | None = None


def unit_tests(
    ground: Ground, claims: pd.DataFrame, compared: Sequence[Key], members: Mapping[str, Sequence[Member]],
    others: Others, seed: int, tick: Callable[[float], None],
) -> pd.DataFrame:  # fmt: skip
    """Test every supported claim; a row a claim and test, with what all of a claim's tests say together.

    Args:
        claims: as :func:`depthsig.comparison.claims.judge_claims` gives them; the others need no test.
        compared: the profiles that distances are over. members: by A, those of the period's family that are
            testable on both sides.
        seed: of the halves, the bootstraps and labellings that are drawn. tick: is told of every claim.

    Returns:
        The columns of ``unit_tests.csv``.
    """
    rows = []
    for claim in claims.to_dict("records"):
        if claim["verdict"] == "supported":
            roles = [role for role in (claim["a"], claim["b"], claim["c"]) if role]
            found = list(_Trial(ground, claim["claim"], roles, compared, members.get(roles[0], ()), others, seed).run())
            about = {name: claim[name] for name in ("claim", "a", "c")}
            rows += [{**about, **_row(one), "strict": all_told(found)} for one in found]
        tick(1)
    return pd.DataFrame(rows)


def all_told(outcomes: Sequence[Outcome]) -> str:
    """``stands``, ``falls`` or ``untested``.

    >>> all_told([Outcome("halves", "yes", ""), Outcome("reworded", "not tested", "")])
    'untested'
    """
    passed = {one.passed for one in outcomes}
    return "falls" if "no" in passed else "stands" if passed == {"yes"} else "untested"


def _row(one: Outcome) -> dict[str, Any]:
    numbers = {"value": one.value, "ci_low": one.low, "ci_high": one.high}
    return {"test": one.test, "passed": one.passed, **numbers, "note": one.note}


class _Trial:
    """The tests of one claim."""

    def __init__(
        self, ground: Ground, claim: str, roles: Sequence[str], compared: Sequence[Key], members: Sequence[Member],
        others: Others, seed: int,
    ) -> None:  # fmt: skip
        self.claim, self.roles, self.others, self.seed = claim, roles, others, seed
        self.ground = ground.only(roles)
        made = arm_claim_of(self.ground, claim, members, compared)
        assert made is not None, "a supported claim was measured"
        testable, self.strengths = made
        raw, self.values = testable.measure, testable.measure(testable.weights)

        def measure(weights: Float[ndarray, "row prompt"]) -> Float[ndarray, "row *model"]:
            return self.values if weights is testable.weights else raw(weights)

        self.about: ArmClaim = replace(testable, measure=measure)

    def run(self) -> Iterator[Outcome]:
        """Every test that the claim has, in a fixed order."""
        first, rows = self.ground.inputs[0], self.ground.pairing.rows[0]
        lengths = first.signature.prompts.set_index("prompt").loc[rows, "n_tokens"].to_numpy(int)
        yield halves_test(self.about, lengths, self.seed)
        yield self._reworded()
        yield permuted_labels(self.about, self.values, self.seed)
        yield self._reinitialised()
        if self.claim == "late":
            yield self._random_ablation()
            yield self._cheap()
        else:
            yield self._wrong_blocks(self.strengths) if self.strengths is not None else self._shuffled()

    def _rows(self, one: ArmClaim | None = None) -> Float[ndarray, "row"]:
        one = one or self.about
        return one.claimed(one.quantity(one.weights))

    def _reworded(self) -> Outcome:
        other = self.others.reworded
        lacking = [role for role in self.roles if other is None or role not in other.arms]
        if other is None or lacking:
            wanted = ",".join(f"{role}=DIR" for role in self.roles)
            return Outcome(REWORDED, "not tested", f"no signatures on other prompts; --reworded {wanted} tests it")
        same = len(_texts(self.ground) & _texts(other.only(self.roles)))
        if same:
            note = f"{same} of its prompts are those of the claim; give others"
            return Outcome(REWORDED, "not tested", note)
        strange = _strangers(self.ground, other.only(self.roles))
        said = f"; of other networks: {', '.join(strange)}" if strange else ""
        return self._judged(REWORDED, other, "supported", said)

    def _judged(self, test: str, ground: Ground, passing: str, said: str) -> Outcome:
        """Whether the claim gets the verdict there that it must have (or, ``not supported``, must not)."""
        row = judge(ground, self.claim, self.roles)
        if np.isnan(row["ci_low"]):
            return Outcome(test, "not tested", f"{row['note']}{said}", row["estimate"])
        same = row["verdict"] == "supported"
        passed: Passed = "yes" if same == (passing == "supported") else "no"
        note = f"{row['verdict']} there{said}"
        return Outcome(test, passed, note, row["estimate"], row["ci_low"], row["ci_high"])

    def _reinitialised(self) -> Outcome:
        found: dict[int, Input] = {}
        lacking: dict[str, list[str]] = {}
        for role, arm in self.ground.arms.items():
            for place in arm.places:
                one = self.ground.inputs[place]
                if one.signature.control is None:
                    lacking.setdefault(role, []).append(one.name)
                else:
                    found[place] = Input(f"{one.name}/control", one.signature.control, None, "")
        without = ", ".join(name for names in lacking.values() for name in names)
        how = "analyze with --control, and with the claim's metrics"
        if set(lacking) - {self.roles[-1]} or len(lacking.get(self.roles[-1], ())) not in (0, self._size_of_c()):
            return Outcome(REINITIALISED, "not tested", f"no control in {without}; {how}")
        said = f", {self.roles[-1]} as it was trained: it has no control" if lacking else ""
        try:
            outcome = self._judged(REINITIALISED, self.ground.replaced(found), "not supported", said)
        except InputError as error:
            return Outcome(REINITIALISED, "not tested", f"the controls cannot be read together: {error}")
        if outcome.passed == "yes" and lacking:
            # An untrained network may miss what a trained one has for any reason; both arms must be alike for a pass.
            return replace(outcome, passed="not tested", note=f"{outcome.note}; {how}")
        return outcome

    def _size_of_c(self) -> int:
        return len(self.ground.arms[self.roles[-1]].places)

    def _random_ablation(self) -> Outcome:
        other = self.others.random_ablation
        lacking = [role for role in self.roles if other is None or role not in other.arms]
        if other is None or lacking:
            wanted = ",".join(f"{role}=DIR" for role in self.roles)
            note = f"analyze the same prompts with --ablation random, and give --random-ablation {wanted}"
            return Outcome(RANDOM, "not tested", note)
        both = _side_by_side(self.ground, other.only(self.roles), self.seed)
        if isinstance(both, str):
            return Outcome(RANDOM, "not tested", both)
        measure = late_share_of(both, LATE_SOURCE)
        if measure is None:
            return Outcome(RANDOM, "not tested", f"{LATE_SOURCE} was not measured with --ablation random")
        arms, size, values = tuple(both.arms.values()), len(self.ground.inputs), measure(both.weights)
        skipped = self.about.contrast(values[:, :size], arms)
        random = self.about.contrast(values[:, size:], arms)
        note = f"skipped {skipped[0]:+.3g}, with random directions of the same norm {random[0]:+.3g}"
        return placebo(skipped - random, note, RANDOM)

    def _cheap(self) -> Outcome:
        found = cheapest(self.ground)
        if found is None:
            return Outcome(CHEAP, "not tested", "no norms of contributions in all of them; analyze the group residual")
        key, measure = found
        cheap = self._rows(replace(self.about, measure=measure))
        return cheap_baseline(self._rows(), cheap, f"the last third's share of {key}")

    def _wrong_blocks(self, strengths: Strengths) -> Outcome:
        sizes = strengths.wrong()
        if not sizes:
            return Outcome(PLACEBO, "not tested", "no wrong block fits into the span three times")
        arms = self.about.arms
        beyond = [self.about.contrast(strengths.beyond(one, self.about.weights), arms) for one in sizes.values()]
        named = ", ".join(map(str, sizes))
        wrong = self._rows()[0] - np.mean([rows[0] for rows in beyond])
        note = f"the difference in strength beyond that of wrong blocks ({named}), whose mean is {wrong:+.3g}"
        return placebo(np.mean(beyond, axis=0), note)

    def _shuffled(self) -> Outcome:
        arms = self.about.arms
        sizes = [len(arm.places) for arm in arms]
        if max(sizes) == 1:
            return Outcome(PLACEBO, "not tested", "one network an arm: shuffled roles say what the true ones say")
        everyone = [place for arm in arms for place in arm.places]
        true = tuple(tuple(sorted(arm.places)) for arm in arms)
        others = (one for one in labellings(everyone, sizes) if tuple(tuple(sorted(m)) for m in one) != true)
        rows = len(self.values)
        found = [self.about.contrast(self.values, self.about.evenly(rows, one)) for one in islice(others, _SHUFFLES)]
        mean = np.mean(found, axis=0)
        note = f"beyond the mean over {len(found)} ways to shuffle the roles, {mean[0]:+.3g}"
        return placebo(self._rows() - self.about.claimed(mean), note)


def _texts(ground: Ground) -> set[str]:
    """Hashes of the paired prompts' texts."""
    prompts = ground.inputs[0].signature.prompts.set_index("prompt")
    return set(prompts.loc[ground.pairing.rows[0], "sha256"])


def _network(one: Input) -> str:
    """What tells a network from others, whatever it was measured on."""
    checkpoint = one.signature.info["checkpoint"]
    return str(checkpoint.get("content_hash") or checkpoint.get("name"))


def _strangers(ground: Ground, other: Ground) -> list[str]:
    known = {_network(one) for one in ground.inputs}
    return [one.name for one in other.inputs if _network(one) not in known]


def _side_by_side(ground: Ground, other: Ground, seed: int) -> Ground | str:
    """The claim's signatures, and behind them those of the same networks from ``other``; or why there are none."""
    found = {_network(one): one for one in other.inputs}
    lacking = [one.name for one in ground.inputs if _network(one) not in found]
    if lacking:
        return f"no signature of the networks of {', '.join(lacking)} among them"
    inputs = [*ground.inputs, *(found[_network(one)] for one in ground.inputs)]
    try:
        check_alike(inputs, but="ablation")
        pairing = pair_prompts(inputs)
    except InputError as error:
        return str(error)
    rows = len(ground.weights) - 1
    return Ground(inputs, pairing, prompt_weights(len(pairing), rows, seed), ground.arms)


def random_ground(ground: Ground) -> Ground:
    """The ground of ``--random-ablation``, where it is one.

    Raises:
        InputError: naming a signature that was measured otherwise.
    """
    for one in ground.inputs:
        found = one.signature.info.get("options", {}).get("ablation", "zero")
        if found != "random":
            raise InputError(
                f"--random-ablation names {one.name!r}, measured with --ablation {found}; analyze it with "
                "--ablation random"
            )
    return ground
