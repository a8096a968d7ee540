"""Depth control: what a model of k steps loses, and how much of that is its readout's fault (2609.19934).

An early exit mixes three things: how many steps write into the residual stream, how many *different*
ones run, and whether the readout can read a state that it never saw in training. Four controls tell
them apart, each over k = 1 .. S (index k−1): *prefix*, h_k through the model's own readout, as the
lens has it; *repeat*, k different steps but S that write; *suffix*, the last k steps, on the embeddings;
and prefix again through a readout that is recalibrated on other prompts, by one temperature or by an
affine map of h_k. All are the NLL of the same tokens in nats; at k = S each is the model itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthsig.metrics.distributions import target_nll
from depthsig.metrics.registry import metric

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from numpy import ndarray

SMALLEST_GAP = 0.01
"""Nats: what a prefix loses less than this is no gap, and has no share (EXPERIMENTS: the band of equal losses)."""

_DCP = "Depth Control Protocol 2609.19934"
_CONTROL: dict[str, Any] = {"axis": "step", "source": _DCP, "section": "Depth control"}
_NLL: dict[str, Any] = {
    "unit": "nats", "fused": "nll", "limits": (0, None), "drawn": (0, 16), "chance": "ln V", **_CONTROL
}  # fmt: skip

for _name, _label, _formula in (
    ("prefix", "loss of the first k steps", "NLL of the next token read from h_k, k = index + 1"),
    ("temperature", "loss of k steps, one temperature", "NLL with the logits of h_k divided by one fitted number"),
    ("affine", "loss of k steps, affine readout", "NLL read from A h_k + b, A and b fitted on other prompts"),
    ("repeat", "loss of k steps, the k-th repeated", "NLL after k steps and the k-th again until S steps have run"),
    ("suffix", "loss of the last k steps", "NLL after the last k steps on h_0"),
):
    metric(f"truncation.{_name}", on=f"truncated.{_name}", label=_label, formula=_formula, **_NLL)(target_nll)


@metric(
    "truncation.recoverable", on="truncated.made", level="table", needs=("truncation.prefix", "truncation.affine"),
    label="share that an affine readout recovers", unit="fraction", worst=None, drawn=(-0.25, 1.25),
    formula=f"(NLL prefix − NLL affine) / (NLL prefix − NLL full) of mean losses; none below {SMALLEST_GAP} nats",
    **_CONTROL,
)  # fmt: skip
def recovered_share(
    prefix: Real[ndarray, "*batch step"], recalibrated: Real[ndarray, "*batch step"]
) -> Float[ndarray, "*batch step"]:
    """The share of what truncation costs that another readout of the same states recovers.

    (prefix − recalibrated) / (prefix − full), full being the last of ``prefix``: means over prompts, in
    nats. NaN where prefix − full is below :data:`SMALLEST_GAP`; above 1 where the recalibrated prefix is
    better than the whole model, below 0 where the fit did harm.

    >>> recovered_share(np.array([5.0, 3.0, 2.005, 2.0]), np.array([4.4, 2.25, 2.0, 2.0])).round(6).tolist()
    [0.2, 0.75, nan, nan]
    """
    prefix = np.asarray(prefix, dtype=float)
    gap = prefix - prefix[..., -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (prefix - np.asarray(recalibrated, dtype=float)) / gap
    return np.where(gap >= SMALLEST_GAP, share, np.nan)
