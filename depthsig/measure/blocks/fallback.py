"""The sums of blocks of rows in plain tensor code, in float32: what runs where Triton does not.

A piece of rows (1,365 of 49,152 words) takes 36 calls of operators to be read, and 137 to be compared in every way.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

PIECE_BYTES = 1 << 28
"""Rows are taken so many at a time that one float32 copy of their logits is not larger."""

SERIES_BELOW = 0.5
"""Below this |ln q − ln p| series are used."""

_MOST = 0x7FFFFFFF


def row_stats(
    logits: Shaped[Tensor, "row vocab"], targets: Int[Tensor, "row"], top: int
) -> tuple[Float[Tensor, "row 5"], Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """As :func:`depthsig.measure.blocks.operations.row_stats`."""
    pieces = [_stats(logits[s].float(), targets[s], top) for s in _pieces(logits)]
    stats, ids, values = (torch.cat(x) for x in zip(*pieces, strict=True))
    return stats, ids, values


def _stats(x: Float[Tensor, "row vocab"], targets: Int[Tensor, "row"], top: int) -> tuple[Tensor, Tensor, Tensor]:
    peak = x.amax(-1, keepdim=True)
    at_target = x.gather(-1, targets.clamp_min(0)[:, None])
    shifted = x - peak
    weights = shifted.exp()
    total = weights.sum(-1, dtype=torch.float64)
    # 0 · −inf is nothing here: a word that is ruled out.
    moment = weights.mul_(shifted.clamp_min(-1e30)).sum(-1, dtype=torch.float64)
    rank = (x > at_target).sum(-1).double() + 1
    stats = torch.stack([peak[:, 0].double(), total, moment, at_target[:, 0].double(), rank], dim=1)
    if not top:
        return stats, targets.new_empty(len(x), 0), x.new_empty(len(x), 0)
    ids = _top(x, top)
    return stats, ids, x.gather(-1, ids)


def _top(x: Float[Tensor, "row vocab"], top: int) -> Int[Tensor, "row k"]:
    """The likeliest ids; ties go to the lower id without a look at whether there are any: every key is another."""
    bits = (x + 0.0).view(torch.int32)  # −0.0 is 0.0
    ordered = torch.where(bits < 0, bits ^ _MOST, bits).long()
    behind = torch.arange(x.shape[-1] - 1, -1, -1, device=x.device)
    return x.shape[-1] - 1 - ((ordered << 32) + behind).topk(top, dim=-1).values.bitwise_and(0xFFFFFFFF)


def divergences(
    logits: Shaped[Tensor, "row vocab"], final: Shaped[Tensor, "row vocab"], own: Float[Tensor, "row 5"],
    stats: Float[Tensor, "row 5"], apart: list[bool],
) -> Float[Tensor, "4 row"]:  # fmt: skip
    """KL(q‖p), KL(p‖q), JSD and ‖q − p‖₂ of each row; NaN where not wanted."""
    nothing = stats.new_full((4, len(logits)), float("nan"))
    if not any(apart):
        return nothing
    pieces = [_apart(logits[s].float(), final[s].float(), own[s], stats[s], apart) for s in _pieces(logits)]
    return torch.cat(pieces, dim=1)


def _apart(q_logits: Tensor, p_logits: Tensor, own: Tensor, stats: Tensor, apart: list[bool]) -> Tensor:
    mine, other = q_logits - own[:, :1].float(), p_logits - stats[:, :1].float()
    gap = (own[:, 1:2].log() - stats[:, 1:2].log()).float()
    # Both ruled out: minus infinity less minus infinity.
    x = torch.where(mine == other, 0.0, mine - other) - gap
    q, p = mine.exp() / own[:, 1:2].float(), other.exp() / stats[:, 1:2].float()
    near, size = x.abs() < SERIES_BELOW, x.abs()
    small = torch.where(near, x, 0.0)
    beyond = torch.where(near, q * (small - _bracket(small)), q - p)  # q − p
    wants_kl, wants_reverse, wants_jsd, wants_l2 = apart
    rows = []
    if wants_kl:
        far = (torch.where(q > 0, q * x, 0.0) - beyond).masked_fill_(x == math.inf, math.inf)
        rows.append(torch.where(near, q * _bracket(small), far).sum(-1, dtype=torch.float64))
    if wants_reverse:
        far = (beyond - torch.where(p > 0, p * x, 0.0)).masked_fill_(x == -math.inf, math.inf)
        rows.append(torch.where(near, p * _bracket(-small), far).sum(-1, dtype=torch.float64))
    if wants_jsd:
        both = p + q
        t = (beyond / both.clamp_min(1e-37)) ** 2
        series = 0.25 * both * t * (1 + t * (1 / 6 + t * (1 / 15 + t * (1 / 28 + t / 45))))
        least = torch.minimum(p, q)
        far = -0.5 * (both * (((-size).exp() + 1).log() - math.log(2)) + torch.where(least > 0, least * size, 0.0))
        rows.append(torch.where(near, series, far).sum(-1, dtype=torch.float64))
    if wants_l2:
        rows.append(beyond.square_().sum(-1, dtype=torch.float64).sqrt())
    found = iter(rows)
    return torch.stack([next(found) if wanted else torch.full_like(own[:, 0], float("nan")) for wanted in apart])


def _bracket(x: Tensor) -> Tensor:
    """x + e⁻ˣ − 1 for |x| < ½, by its series."""
    series = 1 / 720 - x * (1 / 5040 - x / 40320)
    return x * x * (0.5 - x * (1 / 6 - x * (1 / 24 - x * (1 / 120 - x * series))))


def _pieces(logits: Tensor) -> list[slice]:
    rows = max(1, PIECE_BYTES // (4 * logits.shape[-1]))
    return [slice(i, min(i + rows, len(logits))) for i in range(0, len(logits), rows)] or [slice(0, 0)]
