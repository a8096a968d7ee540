"""What changes when a step's contribution is taken away, with and without propagation.

An edit replaces what one step's part adds by nothing (or by its mean). ``scope=current``:
positions 1..T−1 are edited and measured. ``scope=future``: for each cut t, positions 1..t−1 are
edited and only positions ≥ t are measured, so that what is seen has travelled through attention.
Position 0 is never edited and never measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthsig.metrics.registry import PARTS, SCOPES, Metric

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

EPSILON = 1e-6
_SOURCE = "Csordás, Manning & Potts 2505.13898"


def _profile(name: str, label: str, unit: str, formula: str, source: str = _SOURCE, **more: object) -> Metric:
    return Metric(
        f"skip.{name}", ("skip",), "profile", label, formula, source, axis="step", unit=unit,
        parts=PARTS, scopes=SCOPES, **more,  # type: ignore[arg-type]
    )  # fmt: skip


METRICS = (
    Metric(
        "skip.effect", ("skip",), "matrix", "relative change of later updates",
        "‖Δ_l − Δ'_l‖ / max(‖Δ_l‖, ε), Δ_l the whole layer's update, ' with step s's part removed",
        _SOURCE, parts=PARTS, scopes=SCOPES, rows="step skipped", cols="step affected", limits=(0, None),
    ),
    _profile("output_l2", "change of output", "probability", "‖p − p'‖₂", limits=(0, 2**0.5), log=True),
    _profile("kl", "KL(p ‖ p')", "nats", "KL(p‖p')", "Lad et al. 2406.19384", limits=(0, None)),
    _profile("loss", "loss increase", "nats", "NLL' − NLL of the next token, positions ≤ T−2", "Lad et al. 2406.19384"),
    _profile(
        "top1", "top-1 agreement", "fraction", "[argmax p' = argmax p]", "Lad et al. 2406.19384",
        worst="min", limits=(0, 1),
    ),
    Metric(
        "local.effect", ("local",), "matrix", "relative change of a later update",
        "‖Δ_l − Δ'_l‖ / max(‖Δ_l‖, ε), layer l seeing its clean input minus step s's part",
        _SOURCE, parts=PARTS, scopes=SCOPES, rows="step taken away", cols="step affected", limits=(0, None),
    ),
)  # fmt: skip


def relative_change(clean: Float[Tensor, "*batch d"], edited: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """‖clean − edited‖ / max(‖clean‖, ε): how much of an update an edit has changed, ε = 1e-6.

    >>> import torch
    >>> float(relative_change(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0])))
    1.0
    """
    return (clean - edited).norm(dim=-1) / clean.norm(dim=-1).clamp_min(EPSILON)


def future_cuts(tokens: int, most: int) -> tuple[int, ...]:
    """The cuts t of a prompt of ``tokens`` tokens, at most ``most`` of them (2505.13898).

    Of g = range(8, T−4, 8): all, or g[round(linspace(0, len(g)−1, most))], the middle one for 1.

    >>> future_cuts(64, 4), future_cuts(64, 1), future_cuts(12, 4)
    ((8, 24, 40, 56), (32,), ())
    """
    grid = range(8, tokens - 4, 8)
    if len(grid) <= most:
        return tuple(grid)
    if most == 1:
        return (grid[len(grid) // 2],)
    return tuple(grid[int(i)] for i in np.round(np.linspace(0, len(grid) - 1, most)))
