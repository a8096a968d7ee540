"""Steps exchanged, reversed, left out, run again: what another order of steps costs.

These edits run the whole sequence in another order, as ``--order`` does; measured at
positions ≥ 1.
"""

from __future__ import annotations

from depthsig.metrics.registry import Metric

_PAINTERS = "Sun et al. 2407.09298; Kapl et al. 2512.08819"


def _pair(name: str, what: str, kind: str, source: str = _PAINTERS, **more: object) -> tuple[Metric, Metric]:
    formulas = {"kl": "KL(p‖p')", "loss": "NLL' − NLL of the next token"}
    axis = {"axis": "step"} if kind == "profile" else {}
    return tuple(  # type: ignore[return-value]
        Metric(
            f"order.{name}.{measure}", ("order",), kind, label, f"{formula}, {what}",  # type: ignore[arg-type]
            source, unit="nats", limits=(0, None) if measure == "kl" else (None, None), **axis, **more,  # type: ignore[arg-type]
        )
        for (measure, formula), label in zip(formulas.items(), ("KL", "loss increase"), strict=True)
    )  # fmt: skip


METRICS = (
    *_pair("swap_next", "steps s and s+1 exchanged", "profile"),
    *_pair("reverse", "steps s..s+3 reversed", "profile"),
    *_pair("skip_block", "steps s..s+b−1 left out (b the declared block, else 4)", "profile"),
    *_pair("swap_blocks", "blocks i and j exchanged", "matrix", rows="block i", cols="block j"),
    Metric(
        "repeat.loss", ("repeat",), "matrix", "loss change by repeating",
        "NLL' − NLL of the next token with layers start..end−1 run twice in all", "RYS; Saunshi et al. 2502.17416",
        unit="nats", rows="start", cols="end (exclusive)", diverging=0.0,
    ),
)  # fmt: skip
