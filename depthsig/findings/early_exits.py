"""What an early exit says of a model, and what only of its readout: the share that recalibration recovers."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.findings.evidence import Evidence
from depthsig.findings.finding import Judged, Rule, Unjudged, judged, percent
from depthsig.findings.finding import thousandths as nats
from depthsig.metrics.rules import EARLY_EXIT, PREFIX_LOSS, RECALIBRATED_LOSSES, RECOVERED
from depthsig.metrics.truncation import SMALLEST_GAP, recovered_share

HALF_THE_GAP = 0.5
"""Of the gap: from here on most of what an early exit loses is its readout's."""
LEFT_OUT = 12
"""One step in so many, at least one, is left out: 22 of 24 steps, as in the protocol's own table."""


def _understates(seen: Evidence) -> Judged:
    option = seen.signature.entries[PREFIX_LOSS].groups[0]
    if not seen.has(PREFIX_LOSS, *RECALIBRATED_LOSSES):
        if not any(seen.has(name) for names in EARLY_EXIT for name in names):
            raise Unjudged(RECOVERED, "no early-exit curve was measured (--metrics lens does)")
        raise Unjudged(
            RECOVERED, f"how much of an early exit's loss is its readout's was not measured: add {option} to --metrics"
        )
    k = steps_read(seen.steps)
    prefix, *others = (seen.per_prompt(name) for name in (PREFIX_LOSS, *RECALIBRATED_LOSSES))
    if not 1 <= k < seen.steps or len({len(prefix), *map(len, others)}) > 1:
        raise Unjudged(RECOVERED, f"{seen.steps} steps leave none out, or prefixes were measured on different prompts")

    def share(own: Float[ndarray, "row step"], recalibrated: Float[ndarray, "row step"]) -> Float[ndarray, "row"]:
        return np.asarray(recovered_share(own, recalibrated)[..., k - 1])

    gap = seen.estimate(lambda own: own[:, k - 1] - own[:, -1], prefix)
    if not gap.value >= SMALLEST_GAP:
        raise Unjudged(
            RECOVERED, f"{k} of {seen.steps} steps, read out, lose {nats(gap.value)} nats, too little to have shares"
        )
    by_temperature, by_map = (seen.estimate(share, prefix, other) for other in others)
    sentence = (
        f"Read out after {k} of {seen.steps} steps, the model loses {gap.text(nats)} nats; of that an affine readout "
        f"fitted on other prompts recovers {by_map.text(percent)}, one temperature {by_temperature.text(percent)}"
    )
    caveat = _caveat(seen)
    said = "; ".join(filter(None, [sentence, caveat]))
    verdict = judged(by_map, HALF_THE_GAP)
    detail = f"{k} of {seen.steps} steps"
    return Judged(RECOVERED, f"{said}.", by_map, HALF_THE_GAP, verdict, detail=detail, caveat=caveat)


def steps_read(steps: int) -> int:
    """The k at which the finding looks, fixed beforehand.

    >>> steps_read(24), steps_read(4), steps_read(1)
    (22, 3, 0)
    """
    return steps - max(1, round(steps / LEFT_OUT))


def _caveat(seen: Evidence) -> str:
    """That the map had fewer tokens than dimensions, so that another one may recover more; empty where it had not."""
    record = seen.info.get("calibration") or {}
    tokens, width = record.get("tokens"), record.get("width")
    if tokens is None or width is None or tokens >= width:
        return ""
    return f"the map, of width {width}, was fitted to {tokens} tokens only: more may recover more"


EARLY_EXITS = (
    Rule(
        "early_exit",
        "most of what early exit loses is its readout's",
        "Depth Control Protocol 2609.19934",
        _understates,
        "half the gap",
        percent,
    ),
)
