"""The temperature of a prefix: one number, by which its logits are divided so that the next tokens are likeliest."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from depthsig.commands.calibration.calibration_tokens import CalibrationTokens, FollowingLoss

COLDEST, HOTTEST = 1e-3, 1e3
"""Temperatures beyond these are a certain word, or a guess among all: nothing is gained by more."""
MOST_STEPS, CLOSE = 30, 1e-10
"""Newton's steps at most, and the decrease of the loss in nats below which the next is not worth its readouts."""


def fit_temperature(loss: FollowingLoss, tokens: CalibrationTokens) -> float:
    """τ that makes the mean NLL of softmax(z/τ) small: in 1/τ that is convex, and Newton's method finds it.

    The derivative by 1/τ is E_p[z] − z(target), the second one the variance of z under p, each averaged over
    tokens. Steps that leave the bracket of signs seen so far are replaced by its geometric middle.
    """
    low, high, inverse = 1 / HOTTEST, 1 / COLDEST, 1.0
    for _ in range(MOST_STEPS):
        slope, curvature = _derivatives(loss, tokens, inverse)
        if slope**2 <= 2 * CLOSE * max(curvature, 1e-30):
            break
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / max(curvature, 1e-30)
        inverse = step if low < step < high else (low * high) ** 0.5
        if high / low < 1 + 1e-9:
            break
    return 1 / inverse


def _derivatives(loss: FollowingLoss, tokens: CalibrationTokens, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean NLL by 1/τ."""
    first = second = 0.0
    for some, logits in loss.logits(tokens.states):
        targets: Int[Tensor, "row 1"] = tokens.targets[some, None]
        z = logits.sub_(logits.amax(-1, keepdim=True))
        p = (z * inverse).softmax(-1)
        # A word that is ruled out has no probability, and no part in either moment.
        z = z.clamp_min(-1e9)
        mean = (p * z).sum(-1, keepdim=True)
        first += float((mean - z.gather(-1, targets)).double().sum())
        second += float((p * (z - mean) ** 2).sum(-1).double().sum())
    count = max(1, len(tokens.targets))
    return first / count, second / count
