"""The sums of blocks of rows as Triton kernels: one program a row, float32 arithmetic, float64 sums.

Only what every Triton has is used (exp, log, reductions), so that the interpreter of the tests runs the same code.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from depthsig.errors import DepthsigWarning
from depthsig.measure.blocks import fallback

try:
    import triton
    import triton.language as tl
except ImportError:  # torch's builds without CUDA come without it
    triton = tl = None

TILE = 4096
WARPS = 8


@functools.cache
def usable() -> bool:
    """Whether the kernels run here, and give what plain tensor code gives; where not, a warning says why, once."""
    why = "" if triton is None else lacking(torch.device("cuda"))
    if why:
        warnings.warn(
            f"Triton's kernels are not used here: {why}; readouts take plain tensor code, which is slower",
            DepthsigWarning, stacklevel=2,
        )  # fmt: skip
    return triton is not None and not why


def lacking(device: torch.device) -> str:
    """Why the kernels cannot be used on a device; empty where nothing is wrong with them."""
    generator = torch.Generator().manual_seed(0)
    p = (4 * torch.randn(3, 300, generator=generator)).bfloat16().to(device)
    q = (p.cpu().float() + torch.randn(3, 300, generator=generator)).to(device, p.dtype)
    targets = torch.tensor([0, -1, 299], device=device)
    try:
        found = _both(row_stats, divergences, q, p, targets)
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    expected = _both(fallback.row_stats, fallback.divergences, q, p, targets)
    same = all(
        torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6) for a, b in zip(found, expected, strict=True)
    )
    return "" if same else "they give other numbers than plain tensor code"


def _both(of_rows: Any, of_pairs: Any, q: Tensor, p: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    own, ids, values = of_rows(q, targets, 5)
    return own, ids, values, of_pairs(q, p, own, of_rows(p, targets, 0)[0], [True] * 4)


def row_stats(
    logits: Shaped[Tensor, "row vocab"], targets: Int[Tensor, "row"], top: int
) -> tuple[Float[Tensor, "row 5"], Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """As :func:`depthsig.measure.blocks.operations.row_stats`."""
    logits = _rows(logits)
    rows, vocab = logits.shape
    stats = logits.new_empty(rows, 5, dtype=torch.float64)
    ids = logits.new_empty(rows, 5, dtype=torch.long)
    values = logits.new_empty(rows, 5, dtype=torch.float32)
    if rows:
        with _on(logits):
            _row_stats[(rows,)](
                logits, targets.contiguous(), stats, ids, values, vocab, logits.stride(0),
                TOP=top > 0, TILE=_tile(vocab), num_warps=WARPS,
            )  # fmt: skip
    return stats, ids[:, :top].contiguous(), values[:, :top].contiguous()


def divergences(
    logits: Shaped[Tensor, "row vocab"], final: Shaped[Tensor, "row vocab"], own: Float[Tensor, "row 5"],
    stats: Float[Tensor, "row 5"], apart: list[bool],
) -> Float[Tensor, "4 row"]:  # fmt: skip
    """As :func:`depthsig.measure.blocks.fallback.divergences`."""
    logits, final = _rows(logits), _rows(final)
    rows, vocab = logits.shape
    found = stats.new_full((4, rows), float("nan"))
    if rows and any(apart):
        kl, reverse, jsd, l2 = apart
        # The logarithm of the sums' ratio is taken in float64, which keeps what is left of 1.
        gap = own[:, 1].log() - stats[:, 1].log()
        numbers = torch.stack([own[:, 0], stats[:, 0], gap, 1 / own[:, 1], 1 / stats[:, 1]], dim=1).float()
        with _on(logits):
            _divergences[(rows,)](
                logits, final, numbers, found, rows, vocab, logits.stride(0), final.stride(0),
                KL=kl, REVERSE=reverse, JSD=jsd, L2=l2, TILE=_tile(vocab), num_warps=WARPS,
            )  # fmt: skip
        found[3].sqrt_()
    return found


def _rows(logits: Tensor) -> Tensor:
    return logits if logits.stride(-1) == 1 else logits.contiguous()


def _on(logits: Tensor) -> Any:
    """Kernels are started on the current device, which need not be the tensor's."""
    return torch.cuda.device(logits.device) if logits.is_cuda else torch.no_grad()


def _tile(vocab: int) -> int:
    return min(TILE, max(16, triton.next_power_of_2(vocab)))


if triton is not None:

    @triton.jit
    def _row_stats(logits, targets, stats, ids, values, vocab, stride, TOP: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0).to(tl.int64)
        base = logits + row * stride
        # -1e30 stands for minus infinity, so that differences of such words are numbers.
        target = tl.maximum(tl.load(targets + row), 0)
        at_target = tl.load(base + target).to(tl.float32)
        peak = tl.full([], -1e30, tl.float32)
        total = tl.full([], 0.0, tl.float64)
        moment = tl.full([], 0.0, tl.float64)
        above = tl.full([], 0, tl.int32)
        v0 = tl.full([], float("-inf"), tl.float32)
        v1 = v0
        v2 = v0
        v3 = v0
        v4 = v0
        i0 = tl.full([], 0, tl.int32)
        i1 = i0
        i2 = i0
        i3 = i0
        i4 = i0
        for start in range(0, vocab, TILE):
            columns = start + tl.arange(0, TILE)
            inside = columns < vocab
            x = tl.load(base + columns, mask=inside, other=float("-inf")).to(tl.float32)
            x = tl.where(inside, tl.maximum(x, -1e30), float("-inf"))
            high = tl.max(x, 0)
            new = tl.maximum(peak, high)
            weights = tl.exp(x - new)
            shrink = tl.exp(peak - new).to(tl.float64)
            part = tl.sum(tl.where(inside, weights * (x - new), 0.0), 0).to(tl.float64)
            moment = (moment + (peak - new).to(tl.float64) * total) * shrink + part
            total = total * shrink + tl.sum(weights, 0).to(tl.float64)
            above += tl.sum((x > tl.maximum(at_target, -1e30)).to(tl.int32), 0)
            peak = new
            if TOP:
                # Few tiles hold a word that belongs to the five; ties keep the word that came first.
                while high > v4:
                    token = start + tl.argmax(x, 0).to(tl.int32)
                    i4 = tl.where(high > v3, i3, token)
                    v4 = tl.where(high > v3, v3, high)
                    i3 = tl.where(high > v2, i2, tl.where(high > v3, token, i3))
                    v3 = tl.where(high > v2, v2, tl.where(high > v3, high, v3))
                    i2 = tl.where(high > v1, i1, tl.where(high > v2, token, i2))
                    v2 = tl.where(high > v1, v1, tl.where(high > v2, high, v2))
                    i1 = tl.where(high > v0, i0, tl.where(high > v1, token, i1))
                    v1 = tl.where(high > v0, v0, tl.where(high > v1, high, v1))
                    i0 = tl.where(high > v0, token, i0)
                    v0 = tl.where(high > v0, high, v0)
                    x = tl.where(columns == token, float("-inf"), x)
                    high = tl.max(x, 0)
        tl.store(stats + row * 5, peak.to(tl.float64))
        tl.store(stats + row * 5 + 1, total)
        tl.store(stats + row * 5 + 2, moment)
        tl.store(stats + row * 5 + 3, at_target.to(tl.float64))
        tl.store(stats + row * 5 + 4, (above + 1).to(tl.float64))
        if TOP:
            tl.store(ids + row * 5, i0.to(tl.int64))
            tl.store(ids + row * 5 + 1, i1.to(tl.int64))
            tl.store(ids + row * 5 + 2, i2.to(tl.int64))
            tl.store(ids + row * 5 + 3, i3.to(tl.int64))
            tl.store(ids + row * 5 + 4, i4.to(tl.int64))
            tl.store(values + row * 5, v0)
            tl.store(values + row * 5 + 1, v1)
            tl.store(values + row * 5 + 2, v2)
            tl.store(values + row * 5 + 3, v3)
            tl.store(values + row * 5 + 4, v4)

    @triton.jit
    def _bracket(x):  # type: ignore[no-untyped-def]
        series = 0.001388888888888889 - x * (0.0001984126984126984 - x * 0.0000248015873015873)
        return x * x * (0.5 - x * (0.16666666666666666 - x * (0.041666666666666664 - x * (
            0.008333333333333333 - x * series
        ))))  # fmt: skip

    @triton.jit
    def _divergences(  # type: ignore[no-untyped-def]
        logits, final, numbers, found, rows, vocab, stride, final_stride,
        KL: tl.constexpr, REVERSE: tl.constexpr, JSD: tl.constexpr, L2: tl.constexpr, TILE: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        q_base = logits + row * stride
        p_base = final + row * final_stride
        q_peak = tl.load(numbers + row * 5)
        p_peak = tl.load(numbers + row * 5 + 1)
        gap = tl.load(numbers + row * 5 + 2)
        q_scale = tl.load(numbers + row * 5 + 3)
        p_scale = tl.load(numbers + row * 5 + 4)
        kl = tl.full([], 0.0, tl.float64)
        reverse = tl.full([], 0.0, tl.float64)
        jsd = tl.full([], 0.0, tl.float64)
        l2 = tl.full([], 0.0, tl.float64)
        for start in range(0, vocab, TILE):
            columns = start + tl.arange(0, TILE)
            inside = columns < vocab
            mine = tl.load(q_base + columns, mask=inside, other=float("-inf")).to(tl.float32) - q_peak
            other = tl.load(p_base + columns, mask=inside, other=float("-inf")).to(tl.float32) - p_peak
            same = mine == other  # so are two words that are ruled out
            x = tl.where(same, 0.0, mine - tl.where(same, 0.0, other)) - gap
            q = tl.exp(mine) * q_scale
            p = tl.exp(other) * p_scale
            size = tl.abs(x)
            near = size < 0.5
            small = tl.where(near, x, 0.0)
            bracket = _bracket(small)
            difference = tl.where(near, q * (small - bracket), q - p)
            if KL:
                far = tl.where(q > 0.0, q * x, 0.0) - difference
                far = tl.where(x == float("inf"), float("inf"), far)  # even where float32 has none of it left
                kl += tl.sum(tl.where(near, q * bracket, far), 0).to(tl.float64)
            if REVERSE:
                far = difference - tl.where(p > 0.0, p * x, 0.0)
                far = tl.where(x == float("-inf"), float("inf"), far)
                reverse += tl.sum(tl.where(near, p * _bracket(-small), far), 0).to(tl.float64)
            if JSD:
                both = p + q
                t = difference / tl.maximum(both, 1e-37)
                t = t * t
                series = 0.25 * both * t * (1.0 + t * (0.16666666666666666 + t * (0.06666666666666667 + t * (
                    0.03571428571428571 + t * 0.022222222222222223
                ))))  # fmt: skip
                least = tl.minimum(p, q)
                logarithm = tl.log(1.0 + tl.exp(-size)) - 0.6931471805599453
                far = -0.5 * (both * logarithm + tl.where(least > 0.0, least * size, 0.0))
                jsd += tl.sum(tl.where(near, series, far), 0).to(tl.float64)
            if L2:
                l2 += tl.sum(difference * difference, 0).to(tl.float64)
        if KL:
            tl.store(found + row, kl)
        if REVERSE:
            tl.store(found + rows + row, reverse)
        if JSD:
            tl.store(found + 2 * rows + row, jsd)
        if L2:
            tl.store(found + 3 * rows + row, l2)
