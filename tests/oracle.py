"""Every metric, for one prompt, by plain hooks and plain float64 arithmetic.

Slow on purpose and written from the formulas: it shares nothing with the package, not even a way
of doing things. One prompt at a time, unpadded, no batching, no fused sums.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from families import Places
from torch import Tensor, nn


def get(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = root[int(name)] if name.isdigit() else getattr(root, name)
    return root


def first(value: Any) -> Tensor:
    return value[0] if isinstance(value, (tuple, list)) else value


class Clean:
    """States, parts and logits of one prompt."""

    def __init__(self, model: nn.Module, places: Places, ids: list[int]) -> None:
        self.model, self.places, self.ids = model, places, ids
        self.h: list[np.ndarray] = []
        self.read: dict[int, np.ndarray] = {}
        self.a: list[np.ndarray] = []
        self.m: list[np.ndarray] = []
        self.out: list[np.ndarray] = []
        handles = []
        for layer in get(model, places.layers):
            handles.append(layer.register_forward_pre_hook(self._entering, with_kwargs=True))
            handles.append(layer.register_forward_hook(self._keep(self.out)))
            if places.attn and places.mlp:
                handles.append(get(layer, places.attn).register_forward_hook(self._keep(self.a)))
                handles.append(get(layer, places.mlp).register_forward_hook(self._keep(self.m)))
        with torch.no_grad():
            self.logits = model(torch.tensor([ids]), use_cache=False).logits[0].double().numpy()
        for handle in handles:
            handle.remove()
        self.h.append(self.out[-1])
        self.a = [places.scale * x for x in self.a]
        self.m = [places.scale * x for x in self.m]

    def _entering(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        value = args[0] if args else kwargs["hidden_states"]
        self.h.append(value[0].double().numpy().copy())

    def _keep(self, store: list[np.ndarray]) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            value = first(output)
            value = value[0] if value.ndim == 3 else value
            store.append(value.double().numpy().copy())

        return hook

    @property
    def steps(self) -> int:
        return len(self.h) - 1

    def lens(self, d: int) -> np.ndarray:
        """Logits read from h_d; the model's own at the end."""
        if d == self.steps:
            return self.logits
        if d in self.read:
            return self.read[d]
        with torch.no_grad():
            x = torch.tensor(self.h[d], dtype=torch.float32)[None]
            if self.places.norm:
                x = get(self.model, self.places.norm)(x)
            self.read[d] = self.places.after(self.model.get_output_embeddings()(x))[0].double().numpy()
        return self.read[d]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - x.max() - math.log(np.exp(x - x.max()).sum())


def kl(p_logits: np.ndarray, q_logits: np.ndarray) -> float:
    a, b = log_softmax(p_logits), log_softmax(q_logits)
    return float((np.exp(a) * (a - b)).sum())


def jsd(p_logits: np.ndarray, q_logits: np.ndarray) -> float:
    p, q = softmax(p_logits), softmax(q_logits)
    total = 0.0
    for x in (p, q):
        m = (p + q) / 2
        total += 0.5 * float((x[x > 0] * np.log(x[x > 0] / m[x > 0])).sum())
    return total


def top5(x: np.ndarray) -> list[int]:
    return np.lexsort((np.arange(len(x)), -x))[:5].tolist()


def lens_values(run: Clean, d: int, t: int) -> dict[str, float]:
    """All lens profiles at one depth and position."""
    q, p = run.lens(d)[t], run.logits[t]
    shared = set(top5(q)) & set(top5(p))
    values = {
        "lens.kl": kl(q, p), "lens.kl_reverse": kl(p, q), "lens.jsd": jsd(q, p), "lens.overlap5": len(shared) / 5,
        "lens.top1": float(top5(q)[0] == top5(p)[0]), "lens.entropy": -float((softmax(q) * log_softmax(q)).sum()),
    }  # fmt: skip
    if t + 1 < len(run.ids):
        y = run.ids[t + 1]
        values["lens.target_nll"] = -float(log_softmax(q)[y])
        values["lens.target_rank"] = 1.0 + float((q > q[y]).sum())
        values["lens.target_log_rank"] = math.log(values["lens.target_rank"])
    return values


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    na, nb = math.sqrt(float(a @ a)), math.sqrt(float(b @ b))
    return 0.0 if na == 0 or nb == 0 else max(-1.0, min(1.0, float(a @ b) / (na * nb)))


def settling(run: Clean, t: int) -> float:
    below = [jsd(run.lens(d)[t], run.logits[t]) / math.log(2) < 0.5 for d in range(run.steps + 1)]
    depth = run.steps + 1
    while depth > 0 and below[depth - 1]:
        depth -= 1
    return float(depth) if depth <= run.steps else math.nan


def contributions(run: Clean, part: str, s: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """(u, r) of a part at one step and position."""
    h = run.h[s][t]
    if part == "layer":
        return run.out[s][t] - h, h
    if part == "attn":
        return run.a[s][t], h
    return run.m[s][t], h if run.places.parallel else h + run.a[s][t]


def step_values(run: Clean, part: str, s: int, t: int) -> dict[str, float]:
    u, r = contributions(run, part, s, t)
    norm = float(np.linalg.norm(u))
    return {
        "contribution.norm": norm,
        "contribution.relative": norm / max(float(np.linalg.norm(r)), 1e-6),
        "contribution.cosine": cosine(u, r),
    }


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased linear CKA by U-centring both Gram matrices, entry by entry."""
    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    n = len(x)
    k, m = (centred(z @ z.T) for z in (x, y))
    return float((k * m).sum()) / (n * (n - 3))


def centred(k: np.ndarray) -> np.ndarray:
    n = len(k)
    k = k - np.diag(np.diag(k))
    rows, total = k.sum(1), k.sum()
    out = k - (rows[:, None] + rows[None, :]) / (n - 2) + total / ((n - 1) * (n - 2))
    return out - np.diag(np.diag(out))


def close(found: Any, wanted: Any, absolute: float = 0.0) -> None:
    """Equal as the contract says: within 1e-4 of max(|value|, 1 % of the series), or ``absolute``."""
    found, wanted = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    assert (np.isnan(found) == np.isnan(wanted)).all(), (found, wanted)
    series = np.nanmax(np.abs(wanted)) if np.isfinite(wanted).any() else 0.0
    allowed = np.maximum(1e-4 * np.maximum(np.abs(wanted), 0.01 * series), absolute)
    gap = np.abs(found - wanted)
    worst = np.nanmax(np.where(np.isnan(gap), 0, gap - allowed)) if gap.size else 0.0
    assert worst <= 0, f"off by {np.nanmax(gap)} where {allowed.ravel()[np.nanargmax(gap)]} is allowed"


def plain_directions(ids: list[int], step: int, part: str, width: int, seed: int = 0) -> torch.Tensor:
    """The unit vectors, by the recipe alone: normal numbers seeded by seed, step, part and the ids' hash."""
    digest = hashlib.sha256(np.array(ids, dtype="<i8").tobytes()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8, 12)]
    rng = np.random.default_rng([seed, step, ["layer", "attn", "mlp"].index(part), *words])
    drawn = torch.tensor(rng.standard_normal((len(ids), width)))
    return (drawn / drawn.norm(dim=-1, keepdim=True)).float()
