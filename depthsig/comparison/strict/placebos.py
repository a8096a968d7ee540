"""Does a claim's quantity tell the arms apart better than what costs nothing, or than what means nothing?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.strict.arm_claim import Outcome
from depthsig.statistics.convergence import percentile_interval

CHEAP, PLACEBO = "cheap baseline", "placebo"


def standardised(rows: Float[ndarray, "row"]) -> Float[ndarray, "row"]:
    """A quantity in units of its own bootstrap standard deviation; NaN where it does not vary.

    >>> standardised(np.array([2.0, 1.0, 3.0])).tolist()
    [2.0, 1.0, 3.0]
    """
    spread = np.nanstd(rows[1:]) if len(rows) > 1 else np.nan
    return rows / (spread if spread > 0 else np.nan)


def cheap_baseline(claimed: Float[ndarray, "row"], cheap: Float[ndarray, "row"], name: str) -> Outcome:
    """Whether the claim's quantity tells the arms apart better than a statistic that needs no edited run.

    Both in units of their own bootstrap standard deviation, over the same resamples; passed where the 95 %
    interval of how much larger the claim's is lies above 0. The baseline counts by its size, whichever way it
    points: one that points the other way tells the arms apart, too.

    Args:
        claimed, cheap: row 0 the estimate, then a row a resample, positive in the claimed direction.
        name: of the baseline, for the note.
    """
    if len(claimed) < 2:
        return Outcome(CHEAP, "not tested", "no resamples: there are too few prompts for intervals")
    ours, theirs = standardised(claimed), standardised(cheap)
    if np.isnan(ours[0]) or np.isnan(theirs[0]):
        return Outcome(CHEAP, "not tested", f"{name} or the claim's quantity is the same in every resample")
    value, low, high = percentile_interval(ours - np.sign(theirs[0]) * theirs)
    note = f"the claim's quantity lies {ours[0]:.1f} standard deviations from 0, {name} {theirs[0]:+.1f}"
    return Outcome(CHEAP, "yes" if low > 0 else "no", note, value, low, high)


def placebo(beyond: Float[ndarray, "row"], note: str, test: str = PLACEBO) -> Outcome:
    """Whether a quantity lies above its placebo: the 95 % interval of their difference lies above 0.

    Args:
        beyond: the difference in every row, positive in the claimed direction.
    """
    value, low, high = percentile_interval(beyond)
    if np.isnan(low):
        return Outcome(test, "not tested", f"no interval: {note}", value)
    return Outcome(test, "yes" if low > 0 else "no", note, value, low, high)
