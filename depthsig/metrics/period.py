"""Scores that say whether a profile or matrix recurs with the block.

The tests are statistics on plain arrays; this module gives them their place in the registry.
"""

from __future__ import annotations

from depthsig.metrics.registry import PARTS, Metric
from depthsig.statistics.multiplicity import holm
from depthsig.statistics.period_search import find_period
from depthsig.statistics.period_search_matrix import find_matrix_period
from depthsig.statistics.periodicity import PeriodTest, block_periodicity, period_strength
from depthsig.statistics.periodicity_matrix import matrix_periodicity

__all__ = [
    "FAMILY", "METRICS", "PeriodTest", "block_periodicity", "find_matrix_period", "find_period", "holm",
    "matrix_periodicity", "period_strength",
]  # fmt: skip

FAMILY: tuple[tuple[str, str, str], ...] = (
    *(("contribution.relative", part, "") for part in PARTS),
    *(("contribution.cosine", part, "") for part in PARTS),
    ("skip.output_l2", "layer", "current"),
    ("contribution.cosine_matrix", "layer", ""),
)
"""(metric, part, scope) of the tests that ``period.combined`` is over, fixed in advance."""


def _score(name: str, label: str, formula: str) -> Metric:
    source = "depthsig (no published statistic); error rates in data/studies"
    return Metric(f"period.{name}", ("period",), "score", label, formula, source, worst=None)


METRICS = (
    _score(
        "strength", "strength of the block period",
        "adjusted R² of the phases after trend and edge impulses (matrices: of 1[same phase], with its sign)",
    ),
    _score(
        "p", "p of the block period",
        "GLS F test of phases after trend, averaged over AR(1) φ, calibrated by simulation; "
        "matrices: the larger of a phase-relabelling and a lag test",
    ),
    _score("nested", "a divisor suffices", "1 if the phases of a divisor of the block account for the period, else 0"),
    _score(
        "combined", "combined p of the block period",
        "smallest p after Holm over contribution.relative and .cosine (layer, attn, mlp), skip.output_l2 "
        "(layer, current) and contribution.cosine_matrix (layer)",
    ),
)  # fmt: skip
