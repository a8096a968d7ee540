"""What changes when steps are taken away, exchanged, reversed, left out or run again.

*Skip* and *local* replace what one step's part adds by nothing (or by its mean), *maintained* what the part of
one step's layer adds in its pass of a loop and in every later one. ``scope=current``:
positions 1..T−1 are edited and measured. ``scope=future``: for each cut t, positions 1..t−1 are
edited and only positions ≥ t are measured, so that what is seen has travelled through attention.
Position 0 is never edited and never measured. *Orders* run the whole sequence in another order, as
``--order`` does; measured at positions ≥ 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from depthsig.metrics.distributions import kl_reverse, loss_increase, probability_l2, top1_agreement
from depthsig.metrics.entries.fields import Domain
from depthsig.metrics.registry import metric
from depthsig.metrics.vectors import relative_change
from depthsig.terms import PARTS, SCOPES

_CSORDAS = "Csordás, Manning & Potts 2505.13898"
_LAD = "Lad et al. 2406.19384"
_PAINTERS = "Sun et al. 2407.09298; Kapl et al. 2512.08819"
_BY_PART: dict[str, Any] = {"parts": PARTS, "scopes": SCOPES}
_LATER: dict[str, Any] = {
    **_BY_PART, "rows": "step", "cols": "step", "col_label": "step affected", "limits": (0, None),
    "source": _CSORDAS, "unit": "", "norm": "log", "drawn": (5e-3, 5),
}  # fmt: skip
_LOSS: dict[str, Any] = {"centre": 0.0, "norm": "symlog", "drawn": (-10, 10)}


def _taken_away(run: str, section: str, row_label: str, effect: str, domain: Domain, about: str = "") -> None:
    """What taking a part away changes: later updates, and the output.

    Args:
        effect: which updates are compared, in words. about: what is taken away, where it is not one step's part.
    """
    kind: dict[str, Any] = {**_BY_PART, "on": run, "axis": "step", "section": section}
    said = f"; {about}" if about else ""
    metric(
        f"{run}.effect", on=run, label="relative change of later updates", row_label=row_label,
        formula=f"‖Δ_l − Δ'_l‖ / max(‖Δ_l‖, ε), Δ_l the whole layer's update, {effect}", section=section,
        domain=domain, **_LATER,
    )(relative_change)  # fmt: skip
    metric(
        f"{run}.output_l2", label="change of output", unit="probability", formula=f"‖p − p'‖₂{said}", source=_CSORDAS,
        fused="l2", limits=(0, 2**0.5), log=True, norm="log", drawn=(1e-4, 2**0.5), **kind,
    )(probability_l2)  # fmt: skip
    metric(
        f"{run}.kl", label="KL(p ‖ p')", unit="nats", formula=f"KL(p‖p'){said}", source=_LAD, fused="kl_reverse",
        limits=(0, None), norm="log", drawn=(1e-5, 30), **kind,
    )(kl_reverse)  # fmt: skip
    metric(
        f"{run}.loss", label="loss increase", unit="nats",
        formula=f"NLL' − NLL of the next token, positions ≤ T−2{said}", source=_LAD, fused="loss", **_LOSS, **kind,
    )(loss_increase)  # fmt: skip
    metric(
        f"{run}.top1", label="top-1 agreement", unit="fraction", formula=f"[argmax p' = argmax p]{said}", source=_LAD,
        fused="top1", worst="min", limits=(0, 1), **kind,
    )(top1_agreement)  # fmt: skip


_taken_away("skip", "Layer skip", "step skipped", "' with step s's part removed", "later")
_taken_away(
    "maintained", "Layer skip, maintained", "step skipped from",
    "' with the part of step s's layer removed in its pass and in every later one; l is none of these steps",
    "later, where run", "' with the part of step s's layer removed in its pass and in every later one",
)  # fmt: skip
metric(
    "local.effect", on="local", label="relative change of a later update", row_label="step taken away",
    formula="‖Δ_l − Δ'_l‖ / max(‖Δ_l‖, ε), layer l seeing its clean input minus step s's part",
    section="Local effects", domain="later", **_LATER,
)(relative_change)  # fmt: skip


def _order(name: str, what: str, **cells: Any) -> None:
    """The two measures of an order edit."""
    common: dict[str, Any] = {
        "on": f"order.{name}", "unit": "nats", "source": _PAINTERS, "groups": ("order",), "section": "Order edits",
        **cells,
    }  # fmt: skip
    metric(
        f"order.{name}.kl", label="KL", formula=f"KL(p‖p'), {what}", fused="kl_reverse", limits=(0, None), norm="log",
        drawn=(1e-6, 30), **common,
    )(kl_reverse)  # fmt: skip
    metric(
        f"order.{name}.loss", label="loss increase", formula=f"NLL' − NLL of the next token, {what}", fused="loss",
        **_LOSS, **common,
    )(loss_increase)  # fmt: skip


_order("swap_next", "steps s and s+1 exchanged", axis="step")
_order("reverse", "steps s..s+3 reversed", axis="step")
_order("skip_block", "steps s..s+b−1 left out (b the declared block, else 4)", axis="step")
_order("swap_blocks", "blocks i and j exchanged", rows="block", cols="block", row_label="block i", col_label="block j")
metric(
    "repeat.loss", on="repeat", rows="start", cols="end", col_label="end (exclusive)", label="loss change by repeating",
    unit="nats", formula="NLL' − NLL of the next token with layers start..end−1 run twice in all",
    source="RYS; Saunshi et al. 2502.17416", fused="loss", section="Repeats", **_LOSS,
)(loss_increase)  # fmt: skip


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
