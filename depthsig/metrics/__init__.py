"""Metrics: pure functions on tensors and arrays, usable without a model, and their registry.

Names are looked up on first use, so importing this package costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "distributions": (
        "kl_divergence", "js_divergence", "entropy", "top_ids", "topk_overlap", "target_nll",
        "target_rank", "probability_l2",
    ),
    "lens": (
        "settling_depth", "effective_depth_kl", "effective_depth_overlap", "first_from_which",
    ),
    "residual": (
        "residual_norm", "io_cosine", "block_influence", "cosine", "cosine_matrix",
        "angular_distance", "cka_matrix",
    ),
    "contribution": (
        "contribution_norm", "contribution_relative", "contribution_cosine", "effective_depth_cosine",
    ),
    "weights": ("weight_cosine",),
    "loops": (
        "step_norm", "step_relative", "turn_cosine", "acceleration", "fixed_point_gap", "distance_to_last", "output_kl",
        "attention_entropy", "principal_components",
    ),
    "period": (
        "PeriodTest", "block_periodicity", "find_matrix_period", "find_period", "holm", "matrix_periodicity",
    ),
    "comparison": ("compare_logits",),
    "registry": ("Metric", "all_metrics", "metric", "select"),
}  # fmt: skip
_HOME = {name: module for module, names in _WHERE.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"depthsig.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
