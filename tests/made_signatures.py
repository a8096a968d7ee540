"""Signatures made of known numbers, and what a comparison says of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from depthsig.signature import Comparison, Signature

CLAIMS = ["claim", "a", "b", "c", "estimate", "ci_low", "ci_high", "verdict", "note"]

Values = dict[tuple[str, str, str, str], np.ndarray]
"""(metric, part, scope, axis) to one row a prompt; three axes for a matrix."""


def signature(
    values: Values, steps: int, *, name: str = "model", span: tuple[int, int, int, str] | None = None,
    texts: list[str] | None = None, tokens: str = "", options: dict[str, Any] | None = None,
) -> Signature:  # fmt: skip
    """A signature with these per-prompt values; ``span`` is (start, block, count, kind)."""
    n = len(next(iter(values.values())))
    texts = [f"prompt {i}" for i in range(n)] if texts is None else texts
    spans = []
    if span is not None:
        start, block, count, kind = span
        spans = [{"start": start, "end": start + block * count, "size": block, "count": count, "kind": kind,
                  "source": "declared"}]  # fmt: skip
    info = {
        "schema": "depthsig-signature/1", "seed": 0, "dtype": "float32",
        "checkpoint": {"id": name, "name": name, "content_hash": None},
        "plan": [
            {"step": s, "layer": s, "iteration": 0, "span": None, "block": None, "phase": None} for s in range(steps)
        ],
        "spans": {"declared": {}, "executed": [], "labelled": spans, "found": []},
        "options": {"prompts": "made", "positions": "all", "ablation": "zero", "keep_first": False, **(options or {})},
        "certificates": [], "warnings": [],
    }  # fmt: skip
    samples, profiles, matrices = [], [], []
    for (metric, part, scope, axis), array in values.items():
        about = {"metric": metric, "part": part, "scope": scope, "agg": "mean"}
        cells = np.indices(array.shape).reshape(array.ndim, -1)
        places = dict(zip(("prompt", "row", "col") if array.ndim == 3 else ("prompt", "index"), cells, strict=True))
        samples.append(pd.DataFrame({**about, "axis": axis, **places, "value": array.ravel()}))
        mean = np.nanmean(array, 0)
        where = np.indices(mean.shape).reshape(mean.ndim, -1)
        if array.ndim == 3:
            matrices.append(pd.DataFrame({**about, "row": where[0], "col": where[1], "value": mean.ravel()}))
        else:
            profiles.append(pd.DataFrame({**about, "axis": axis, "index": where[0], "value": mean}))

    def table(frames: list[pd.DataFrame], extra: tuple[str, ...]) -> pd.DataFrame:
        if not frames:
            return pd.DataFrame()
        frame = pd.concat(frames, ignore_index=True)
        return frame.assign(**{c: pd.NA for c in extra if c not in frame})

    labels = ("layer", "iteration", "span", "block", "phase", "ci_low", "ci_high", "n_prompts")
    return Signature(
        info, table(profiles, labels), table(matrices, ("ci_low", "ci_high", "n_prompts")),
        prompts=pd.DataFrame({
            "prompt": range(n), "sha256": [hashlib.sha256(t.encode()).hexdigest() for t in texts],
            "tokens_sha256": [hashlib.sha256((t + tokens).encode()).hexdigest() for t in texts],
            "n_tokens": 9, "cuts": "",
        }),
        samples_table=table(samples, ("index", "row", "col")),
    )  # fmt: skip


def noisy(profile: np.ndarray, n: int = 12, seed: int = 0, size: float = 0.02) -> np.ndarray:
    return profile * (1 + size * np.random.default_rng(seed).standard_normal((n, len(profile))))


def skip_only(profile: np.ndarray, seed: int = 0, n: int = 12) -> Values:
    return {("skip.output_l2", "layer", "current", "step"): noisy(profile, n, seed)}


def late(steps: int, share: float) -> np.ndarray:
    """A profile whose last third has this share (``steps`` a multiple of 3)."""
    return np.r_[np.full(2 * steps // 3, (1 - share) / 2), np.full(steps // 3, share)]


def periodic(steps: int, strength: float, seed: int, block: int = 4) -> Values:
    """The fixed family's profiles: a smooth trend, noise, and a pattern of the block as strong as told."""
    rng = np.random.default_rng(seed)
    found: Values = {}
    for metric in ("contribution.relative", "contribution.cosine"):
        for part in ("layer", "attn", "mlp"):
            pattern = np.resize(strength * np.array([0.0, 1.0, 0.5, -0.5]), steps)
            profile = np.exp(0.3 * (np.arange(steps) / steps + pattern) + 0.05 * rng.standard_normal(steps))
            found[metric, part, "", "step"] = noisy(profile, seed=seed)
    found["skip.output_l2", "layer", "current", "step"] = noisy(np.exp(0.1 * rng.standard_normal(steps)), seed=seed)
    phases = np.eye(block)[np.arange(steps) % block]
    vectors = rng.standard_normal((steps, 24)) + 3 * strength * phases @ rng.standard_normal((block, 24))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found["contribution.cosine_matrix", "layer", "", ""] = np.repeat((vectors @ vectors.T)[None], 12, 0)
    return found


def claim(found: Comparison, name: str, a: str = "looped") -> dict[str, Any]:
    rows = found.claims[(found.claims["claim"] == name) & (found.claims["a"] == a)]
    assert len(rows) == 1
    return rows.iloc[0].to_dict()


def three_arms(**names: str) -> list[Signature]:
    loop, grown = (0, 4, 3, "loop"), (0, 4, 3, "grown")
    kinds = {"looped": loop, "grown": grown, "baseline": None}
    return [
        signature(periodic(12, 1.0 if span else 0.0, i), 12, name=names.get(role, role), span=span)
        for i, (role, span) in enumerate(kinds.items())
    ]
