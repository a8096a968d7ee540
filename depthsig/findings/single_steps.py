"""What single steps and parts do: the most and least damaging step, attention beside MLPs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.findings.evidence import Evidence, average, interval
from depthsig.findings.finding import LEVEL, Judged, Rule, Unjudged, judged
from depthsig.findings.finding import thousandths as nats
from depthsig.metrics.rules import ALIGNED, LOSS, MOVES

_LAD = "Lad et al. 2406.19384"
NEGLIGIBLE = 0.01
"""Nats of loss that nobody would miss (EXPERIMENTS: the band of equal losses)."""
TIED = 1e-5
"""Nats: a lead no larger is one of float32's rounding."""
CERTAIN = 0.95
"""The share of resamples in which a step is the most damaging one, from which on it is said to be."""


def _most(seen: Evidence) -> Judged:
    means = _losses(seen)
    order = np.argsort(-means[0])  # what is undefined stands last
    worst, second = int(order[0]), int(order[1])
    estimate, next_loss = interval(means[:, worst]), float(means[0, second])
    sentence = (
        f"Skipping {seen.layer_of(worst)} costs most, {estimate.text(nats)} nats a token; next is "
        f"{seen.layer_of(second)} with {nats(next_loss)}"
    )
    if len(means) == 1:
        raise Unjudged(LOSS[0], f"{sentence}, of too few prompts to be sure", estimate)
    drawn = np.nan_to_num(means[1:], nan=-np.inf)
    # Of steps that cost the same, as copies do, the first would lead in every resample.
    leads = drawn[:, worst] - np.delete(drawn, worst, axis=1).max(axis=1) > TIED
    same = float(np.mean(leads))
    sentence += f"; it is the most damaging one in {100 * same:.0f} % of resamples."
    return Judged(
        LOSS[0],
        sentence,
        estimate,
        next_loss,
        "holds" if same >= CERTAIN else "open",
        detail=f"{seen.layer_of(worst)}, in nats",
    )


def _least(seen: Evidence) -> Judged:
    means = _losses(seen)
    least = int(np.nanargmin(means[0]))
    # The least of many is small by chance, too: each step's interval is as wide as so many looks ask for.
    estimate = interval(means[:, least], LEVEL / means.shape[1])
    cheap = int((means[0] < NEGLIGIBLE).sum())
    sentence = (
        f"Skipping {seen.layer_of(least)} costs least, {estimate.text(nats)} nats a token; {cheap} of {means.shape[1]} "
        f"steps cost less than {NEGLIGIBLE} each on their own"
    )
    if len(means) == 1:
        raise Unjudged(LOSS[0], f"{sentence}, of too few prompts to be sure", estimate)
    return Judged(
        LOSS[0],
        sentence + ".",
        estimate,
        NEGLIGIBLE,
        judged(estimate, NEGLIGIBLE, above=False),
        detail=f"{seen.layer_of(least)}, in nats",
    )


def _losses(seen: Evidence) -> Float[ndarray, "row step"]:
    """What skipping each step costs, in the mean over all prompts and over each resample."""
    means = seen.resampled(lambda loss: loss, seen.per_prompt(*LOSS))
    means[~np.isfinite(means)] = np.nan
    if np.isfinite(means[0]).sum() < 2:
        raise Unjudged(LOSS[0], f"{LOSS[0]} is defined for fewer than two steps")
    return means


def _parts(seen: Evidence) -> Judged:
    attn, mlp = seen.per_prompt(MOVES, "attn"), seen.per_prompt(MOVES, "mlp")
    if len(attn) != len(mlp):
        raise Unjudged(MOVES, "attention and MLPs were measured on different prompts")
    # Step by step, in logarithms: where the embedding is small, step 0 alone would decide a mean of differences.
    estimate = seen.estimate(_times_as_far, attn, mlp)
    if not np.isfinite(estimate.value):
        raise Unjudged(MOVES, f"{MOVES} is undefined")
    more = average(attn.T) > average(mlp.T)
    sentence = (
        f"A step's attention moves the stream {estimate.text()} times as far as its MLP (geometric mean over steps), "
        f"and farther in {int(more.sum())} of {len(more)} steps"
    )
    signs = [_erases(seen, part) for part in ("attn", "mlp")]
    if all(signs):
        sentence += f"; attention {signs[0]}, MLPs {signs[1]}"
    return Judged(MOVES, sentence + ".", estimate, 1.0, judged(estimate, 1.0))


def _times_as_far(attn: Float[ndarray, "row step"], mlp: Float[ndarray, "row step"]) -> Float[ndarray, "row"]:
    return np.exp(average(np.log(attn) - np.log(mlp)))


def _erases(seen: Evidence, part: str) -> str:
    """Whether a part strengthens or erases what is there, in how many steps."""
    try:
        cosines = seen.per_prompt(ALIGNED, part)
    except Unjudged:
        return ""
    mean = average(cosines.T)
    return f"erase in {int((mean < 0).sum())} of {len(mean)} steps" if part == "mlp" else (
        f"erases in {int((mean < 0).sum())}"
    )  # fmt: skip


SINGLE_STEPS = (
    Rule("most_damaging", "one step matters most", _LAD, _most, "next step", nats),
    Rule(
        "least_damaging",
        "some step can be left out for nothing",
        f"Men et al. 2403.03853; {_LAD}",
        _least,
        "negligible",
        nats,
    ),
    Rule(
        "attention_or_mlp",
        "attention moves the stream more than MLPs",
        "Csordás et al. 2505.13898",
        _parts,
        "as far",
    ),
)
