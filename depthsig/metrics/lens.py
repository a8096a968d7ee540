"""Logit lens: what the model would predict if it stopped at a depth.

The lens distribution q_d at depth d is the model's own readout (final norm, head, soft-cap and
scale) applied to the residual state h_d; p is the final distribution. At d = S the lens is the
model itself, so every divergence is 0 there. Position 0 is never measured.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from depthsig.metrics.registry import Metric

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

_LENS = "nostalgebraist 2020; Csordás, Manning & Potts 2505.13898"


def _profile(name: str, label: str, unit: str, formula: str, **kwargs: object) -> Metric:
    kwargs.setdefault("source", _LENS)
    return Metric(
        f"lens.{name}",
        ("lens",),
        "profile",
        label,
        formula,
        axis="depth",
        unit=unit,
        **kwargs,  # type: ignore[arg-type]
    )


METRICS = (
    _profile("kl", "KL(lens ‖ final)", "nats", "KL(q_d‖p)", limits=(0, None)),
    _profile("kl_reverse", "KL(final ‖ lens)", "nats", "KL(p‖q_d)", limits=(0, None)),
    _profile("jsd", "JSD(lens, final)", "nats", "½KL(p‖m) + ½KL(q_d‖m), m = (p+q_d)/2", limits=(0, math.log(2))),
    _profile(
        "overlap5", "top-5 overlap with final", "fraction", "|top5(q_d) ∩ top5(p)| / 5", worst="min", limits=(0, 1)
    ),
    _profile("top1", "top-1 agreement with final", "fraction", "[argmax q_d = argmax p]", worst="min", limits=(0, 1)),
    _profile("entropy", "lens entropy", "nats", "−Σ q_d ln q_d", limits=(0, None)),
    _profile("target_nll", "lens loss", "nats", "−ln q_d(next token)", limits=(0, None)),
    _profile(
        "target_rank",
        "rank of next token",
        "rank",
        "1 + number of tokens with a strictly larger logit",
        log=True,
        limits=(1, None),
    ),
    _profile("target_log_rank", "ln rank of next token", "ln rank", "ln(target_rank)", limits=(0, None)),
    Metric(
        "lens.tokens",
        ("lens",),
        "token",
        "top tokens",
        "the five likeliest tokens of q_d with their probabilities, first four prompts",
        _LENS,
        axis="depth",
        unit="probability",
        worst=None,
        limits=(0, 1),
    ),
    Metric(
        "settling_depth",
        ("lens",),
        "score",
        "settling depth",
        "per position the first depth from which JSD(q_d, p)/ln 2 stays < 0.5, then the mean",
        "Chen et al. 2602.13517",
        unit="depth",
    ),
    Metric(
        "effective_depth.kl",
        ("lens",),
        "score",
        "effective depth (KL)",
        "first depth from which lens.kl stays < half its maximum",
        "Hu et al. 2512.14064",
        unit="depth",
        worst=None,
    ),
    Metric(
        "effective_depth.overlap",
        ("lens",),
        "score",
        "effective depth (overlap)",
        "first depth from which lens.overlap5 stays > 0.3",
        "Hu et al. 2512.14064",
        unit="depth",
        worst=None,
    ),
)

NEEDS: dict[str, str] = {
    "lens.kl": "kl",
    "lens.kl_reverse": "kl_reverse",
    "lens.jsd": "jsd",
    "lens.overlap5": "overlap5",
    "lens.top1": "top1",
    "lens.entropy": "entropy",
    "lens.target_nll": "nll",
    "lens.target_rank": "rank",
    "lens.target_log_rank": "rank",
}
"""Which quantity of :mod:`depthsig.metrics.comparison` each lens profile is made of."""


def first_from_which(holds: Float[ndarray, "*batch depth"]) -> Float[ndarray, "*batch"]:
    """First index from which a condition holds to the end (last axis); NaN where it never does.

    >>> first_from_which(np.array([True, False, True, True])).item()
    2.0
    >>> first_from_which(np.array([True, False])).item()
    nan
    """
    holds = np.asarray(holds, dtype=bool)
    tail = np.cumprod(holds[..., ::-1], axis=-1).sum(-1)
    first = holds.shape[-1] - tail
    return np.where(tail > 0, first, np.nan).astype(float)


def settling_depth(jsd: Float[ndarray, "*batch depth"]) -> Float[ndarray, "*batch"]:
    """First depth from which JSD/ln 2 stays below 0.5 (Chen et al. 2602.13517).

    Args:
        jsd: Jensen-Shannon divergence in nats between the lens and the final distribution, for
            depths 0..S in the last axis.

    >>> settling_depth(np.log(2) * np.array([0.9, 0.4, 0.6, 0.2, 0.0])).item()
    3.0
    """
    jsd = np.asarray(jsd, dtype=float)
    settled = first_from_which(jsd / math.log(2) < 0.5)
    return np.where(np.isnan(jsd).any(-1), np.nan, settled)


def effective_depth_kl(profile: Float[ndarray, "*batch depth"]) -> Float[ndarray, "*batch"]:
    """First depth from which lens.kl stays below half its maximum (Hu et al. 2512.14064).

    >>> effective_depth_kl(np.array([8.0, 10.0, 4.0, 6.0, 1.0, 0.0])).item()
    4.0
    """
    profile = np.asarray(profile, dtype=float)
    half = profile.max(-1, keepdims=True) / 2
    depth = first_from_which(profile < half)
    return np.where(np.isnan(profile).any(-1), np.nan, depth)


def effective_depth_overlap(profile: Float[ndarray, "*batch depth"]) -> Float[ndarray, "*batch"]:
    """First depth from which lens.overlap5 stays above 0.3 (Hu et al. 2512.14064).

    A sustained crossing: shallow layers often hit 0.3 once by accident.

    >>> effective_depth_overlap(np.array([0.4, 0.1, 0.4, 1.0])).item()
    2.0
    """
    profile = np.asarray(profile, dtype=float)
    depth = first_from_which(profile > 0.3)
    return np.where(np.isnan(profile).any(-1), np.nan, depth)
