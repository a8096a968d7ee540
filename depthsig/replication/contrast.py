"""The difference between arms, with an interval over prompts and networks, and the verdict that it allows.

Prompts are drawn anew, the same ones in all networks. That says nothing of another training run: networks of one
recipe that are trained apart differ, too. So the interval is widened by how far they do: by the arms' own standard
deviation where they have networks enough (:data:`OWN_DF` degrees of freedom), else by that of the reference family,
which stands in the criterion, else by the arms' own, however few; all with Student's t, and the two parts added in
quadrature. Where nothing tells, the interval is about these networks, and does not decide between arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import stdtrit

from depthsig.replication.criteria import Claim
from depthsig.statistics.convergence import COVERAGE, percentile_interval, verdict
from depthsig.statistics.resampling import widening

OWN_DF = 4
"""With fewer degrees of freedom the arms' own networks tell too little of how far networks differ."""


@dataclass(frozen=True, eq=False)
class ArmValues:
    """An arm's values, and whether they count for or against.

    Attributes:
        values: [row, network], row 0 the estimate.
    """

    values: Float[ndarray, "row network"]
    sign: int = 1


@dataclass(frozen=True)
class Contrast:
    """A difference with its interval.

    Attributes:
        low, high: over prompts and networks. prompts_low, prompts_high: over prompts alone.
        network_sd, network_df: how far networks were taken to differ; NaN and 0 where that is not known.
        own: whether the arms' own networks told it. arms: how many there are; one is held against a number.
    """

    estimate: float
    low: float
    high: float
    prompts_low: float
    prompts_high: float
    network_sd: float
    network_df: int
    own: bool
    arms: int = 2

    def verdict(self, above: bool) -> str:
        """``supported``, ``contradicted`` or ``undecided``.

        Between arms nothing is decided where it is not known how far networks differ: prompts are no
        replicates of a training run. Against a number the verdict is about these networks.
        """
        if self.arms > 1 and np.isnan(self.network_sd):
            return "undecided"
        return verdict(self.low, self.high, above=above)

    def note(self) -> str:
        """Where the interval comes from."""
        if np.isnan(self.network_sd):
            said = "how far networks trained apart differ is not known"
            return said if np.isnan(self.low) else f"{said}: the interval is about these networks alone"
        whose = "of these arms" if self.own else "of the reference family"
        prompts = (
            ""
            if np.isnan(self.prompts_low)
            else f"; over prompts alone [{self.prompts_low:+.3g}, {self.prompts_high:+.3g}]"
        )
        return f"networks trained apart differ by {self.network_sd:.2g} ({whose}, {self.network_df} df){prompts}"


def contrast(sides: Sequence[ArmValues], claim: Claim, n: int = 0, strata: int = 1) -> Contrast:
    """Σ sign · mean over an arm's networks, less the claim's reference.

    Args:
        n: how many prompts or items were drawn anew, within so many strata; 0 where no prompts take part.

    >>> import numpy as np
    >>> from depthsig.replication.criteria import Claim
    >>> claim = Claim("E0.x", (), "", "", "", "", network_sd=1.0, network_df=1000000)
    >>> rows = np.ones((101, 1))
    >>> found = contrast([ArmValues(3 * rows), ArmValues(rows, -1)], claim)
    >>> round(found.estimate, 3), round(found.low, 3), found.verdict(True)
    (2.0, -0.772, 'undecided')
    """
    rows = sum((s.sign * s.values.mean(1) for s in sides), np.zeros(len(sides[0].values))) - claim.reference
    estimate, low, high = percentile_interval(rows)
    below, above = (estimate - low, high - estimate) if n else (0.0, 0.0)
    if n:
        factor = widening(n, strata)
        below, above = below * factor, above * factor
    df = sum(s.values.shape[1] - 1 for s in sides)
    own = df >= OWN_DF or (df > 0 and not claim.network_df)
    sd, df = (_pooled(sides, df), df) if own else (claim.network_sd, claim.network_df)
    known = df > 0 and bool(np.isfinite(sd))
    half = 0.0
    if known:
        half = float(stdtrit(df, (100 + COVERAGE) / 200)) * sd * sum(1 / s.values.shape[1] for s in sides) ** 0.5
    prompts = (estimate - below, estimate + above) if n else (np.nan, np.nan)
    wide = (estimate - np.hypot(below, half), estimate + np.hypot(above, half)) if n or known else (np.nan, np.nan)
    return Contrast(
        estimate, float(wide[0]), float(wide[1]), *prompts, float(sd) if known else np.nan, int(df) if known else 0,
        own, len(sides),
    )  # fmt: skip


def _pooled(sides: Sequence[ArmValues], df: int) -> float:
    """Pooled over the arms, each around its own mean."""
    squares = sum(float(((s.values[0] - s.values[0].mean()) ** 2).sum()) for s in sides)
    return float((squares / df) ** 0.5)
