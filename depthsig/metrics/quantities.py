"""What the fused comparisons of distributions can give, whichever of them does it."""

from __future__ import annotations

QUANTITIES = frozenset(
    ("kl", "kl_reverse", "jsd", "overlap5", "top1", "entropy", "nll", "rank", "log_rank", "l2", "loss",
     "tokens", "probs")
)  # fmt: skip
"""What can be asked for: with p the reference and q the alternative, ``kl`` is KL(q‖p) and
``kl_reverse`` KL(p‖q); ``nll``, ``rank``, ``log_rank`` and ``loss`` (NLL of q − NLL of p) are of the
targets; ``tokens`` and ``probs`` are the top 5 of q."""

OF_SEVERAL = {"top5": ("tokens", "probs")}
"""Quantities that are records of others: the fields of :class:`~depthsig.metrics.distributions.TopTokens`."""

AT_THE_END = {"kl": 0.0, "kl_reverse": 0.0, "jsd": 0.0, "l2": 0.0, "loss": 0.0, "overlap5": 1.0, "top1": 1.0}
"""What compares the reference with itself, without rounding (a loss where there is a target)."""


def check_known(wanted: frozenset[str]) -> None:
    """Refuse what no comparison gives.

    Raises:
        ValueError: naming it, and what is known.
    """
    unknown = wanted - QUANTITIES
    if unknown:
        raise ValueError(f"unknown quantities {sorted(unknown)}; known: {sorted(QUANTITIES)}")
