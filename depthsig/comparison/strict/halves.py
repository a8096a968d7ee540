"""Does a claim hold on either half of its prompts?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from depthsig.comparison.curves import Arm
from depthsig.comparison.strict.arm_claim import TRUE_LEVEL, ArmClaim, Outcome
from depthsig.statistics.convergence import percentile_interval, verdict
from depthsig.statistics.resampling import MIN_PROMPTS, bootstrap_counts

HALVES = "halves"
SPLITS = 100
"""Ways to halve the prompts at random."""
AGREE = 0.95
"""In so many of the random halves the sign must be the claimed one."""
CHANCE = 1.96
_RESAMPLES = 300


def halves_test(claim: ArmClaim, lengths: Int[ndarray, "prompt"], seed: int = 0) -> Outcome:
    """Judge a claim again on disjoint halves of the prompts.

    Two kinds of halves. *Random* ones, :data:`SPLITS` times: of every two prompts that follow each other by
    length, one goes to each half; the sign must hold in 95 % of the halves, and none may contradict the claim
    (lie further on the other side than chance: 1.96 standard deviations of a mean of half the prompts).
    *Fixed* ones, that no draw finds: the first prompts and the last, the short ones and the long. Neither half
    may contradict, nor may the whole rest on one: the halves differ (bootstrap, .05 over the splits), and the
    weaker one does not support the claim by itself.

    Args:
        lengths: of the prompts, in tokens. seed: of the random halves and the bootstraps.
    """
    if claim.prompts < 2 * MIN_PROMPTS:
        return Outcome(
            HALVES, "not tested", f"{claim.prompts} prompts; halves of {MIN_PROMPTS} need {2 * MIN_PROMPTS} or more"
        )
    drawn = random_halves(lengths, SPLITS, seed)
    each = claim.claimed(claim.quantity(np.concatenate([drawn, ~drawn]).astype(float), claim.evenly(2 * len(drawn))))
    rows = claim.quantity(claim.weights, claim.evenly(len(claim.weights)))[1:]
    spread = np.nanstd(rows) * np.sqrt(2) if len(rows) else np.inf
    share = float(np.mean(each > 0))
    against = int(np.sum(each < -CHANCE * spread))
    said = [f"the sign holds in {share:.0%} of {len(each)} random halves, {against} of them contradict"]
    wrong = share < AGREE or against > 0
    splits = fixed_halves(lengths)
    for number, (name, one) in enumerate(splits.items()):
        found = _split(claim, name, one, TRUE_LEVEL / len(splits), seed + number)
        said += [found] if found else []
        wrong = wrong or bool(found)
    return Outcome(HALVES, "no" if wrong else "yes", "; ".join(said), share)


def random_halves(lengths: Int[ndarray, "prompt"], splits: int, seed: int) -> Bool[ndarray, "split prompt"]:
    """Which prompts are in the first half: one of every two that follow each other by length.

    >>> random_halves(np.array([9, 1, 2, 8]), 3, 0).sum(1).tolist()
    [2, 2, 2]
    """
    rng, order = np.random.default_rng(seed), np.argsort(lengths, kind="stable")
    found = np.zeros((splits, len(order)), dtype=bool)
    for at in range(0, len(order) - 1, 2):
        first = rng.integers(0, 2, size=splits)
        found[np.arange(splits), order[at + first]] = True
    if len(order) % 2:
        found[:, order[-1]] = rng.integers(0, 2, size=splits) == 1
    return found


def fixed_halves(lengths: Int[ndarray, "prompt"]) -> dict[str, Bool[ndarray, "prompt"]]:
    """Halves by what is known of prompts beforehand: their place, and their length where it differs.

    >>> [one.tolist() for one in fixed_halves(np.array([9, 1])).values()]
    [[True, False], [False, True]]
    """
    n = len(lengths)
    found = {"the first prompts and the last": np.arange(n) < n // 2}
    if len(set(lengths.tolist())) > 1:
        shorter = np.zeros(n, dtype=bool)
        shorter[np.argsort(lengths, kind="stable")[: n // 2]] = True
        found["the short prompts and the long"] = shorter
    return found


def _split(claim: ArmClaim, name: str, first: Bool[ndarray, "prompt"], level: float, seed: int) -> str:
    """What is wrong with the claim on two halves, in words; empty if nothing is."""
    rows = min([_RESAMPLES, len(claim.weights) - 1])
    both = [
        claim.claimed(claim.quantity(_resampled(half, rows, seed + 7919 * side), _rows_of(claim, rows + 1)))
        for side, half in enumerate((first, ~first))
    ]
    verdicts = [verdict(*percentile_interval(one)[1:]) for one in both]
    estimates = f"{both[0][0]:+.3g} and {both[1][0]:+.3g} in the claimed direction"
    if "contradicted" in verdicts:
        return f"one half of {name} contradicts it ({estimates})"
    weak, strong = sorted(range(2), key=lambda i: float(both[i][0]))
    apart = both[strong][1:] - both[weak][1:]
    rests = len(apart) > 0 and np.nanpercentile(apart, 100 * level / 2) > 0
    if rests and verdicts[weak] != "supported":
        return f"it rests on one half of {name} ({estimates})"
    return ""


def _resampled(half: Bool[ndarray, "prompt"], rows: int, seed: int) -> Float[ndarray, "row prompt"]:
    """The half as it is, and bootstrap resamples of it, as weights over all prompts."""
    found = np.zeros((rows + 1, len(half)))
    found[0] = half
    if rows:
        found[1:, half] = bootstrap_counts(int(half.sum()), rows, seed)
    return found


def _rows_of(claim: ArmClaim, rows: int) -> tuple[Arm, ...]:
    """The arms in as many resamples of their networks: the same networks for both halves."""
    return tuple(Arm(arm.role, arm.places, arm.weights[:rows]) for arm in claim.arms)
