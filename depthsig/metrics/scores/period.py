"""Scores that say whether a profile or matrix recurs with the block.

The tests are statistics on plain arrays; this module gives them their place in the registry. Three
scores are fields of one test's record (of matrices: of :func:`matrix_periodicity`'s), the fourth takes
the tests of a fixed family together.
"""

from __future__ import annotations

from typing import Any

from depthsig.metrics.registry import metric
from depthsig.statistics.multiplicity import holm
from depthsig.statistics.period_search import find_period
from depthsig.statistics.period_search_matrix import find_matrix_period
from depthsig.statistics.periodicity import PeriodTest, block_periodicity, period_strength
from depthsig.statistics.periodicity_matrix import matrix_periodicity

__all__ = [
    "PeriodTest", "block_periodicity", "find_matrix_period", "find_period", "holm", "matrix_periodicity",
    "period_strength",
]  # fmt: skip

_PERIOD: dict[str, Any] = {
    "on": "periods", "level": "table", "source": "depthsig (no published statistic); error rates in data/studies",
    "worst": None, "section": "Periodicity",
}  # fmt: skip

metric(
    "period.strength", label="strength of the block period", result="strength",
    formula="adjusted R² of the phases after trend and edge impulses (matrices: of 1[same phase], with its sign)",
    **_PERIOD,
)(block_periodicity)  # fmt: skip
metric(
    "period.p", label="p of the block period", result="p",
    formula="GLS F test of phases after trend, averaged over AR(1) φ, calibrated by simulation; "
    "matrices: the larger of a phase-relabelling and a lag test",
    **_PERIOD,
)(block_periodicity)  # fmt: skip
metric(
    "period.nested", label="a divisor suffices", result="nested",
    formula="1 if the phases of a divisor of the block account for the period, else 0", **_PERIOD,
)(block_periodicity)  # fmt: skip
metric(
    "period.combined", label="combined p of the block period", result="p",
    formula="smallest p after Holm over contribution.relative and .cosine (layer, attn, mlp), skip.output_l2 "
    "(layer, current) and contribution.cosine_matrix (layer)",
    **_PERIOD,
)(block_periodicity)  # fmt: skip
