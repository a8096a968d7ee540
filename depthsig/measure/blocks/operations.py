"""The two operations of a block of rows: the sums of each row, and one row against another.

Each is one operator of torch (``depthsig::row_stats`` and ``depthsig::compare_rows``): on a CUDA device a Triton
kernel that reads the logits once or twice and keeps nothing, elsewhere plain tensor code. Neither looks at a value
on the host, so neither waits for the device.

With x = ln q − ln p, both KLs and the JSD are sums of terms that are never negative, so that nothing cancels
where two distributions nearly agree:

- KL(q‖p) = Σ q·(x + e⁻ˣ − 1)
- KL(p‖q) = Σ p·(−x + eˣ − 1)
- JSD = Σ ¼(p + q)·[(1 + t) ln(1 + t) + (1 − t) ln(1 − t)], t = (q − p)/(q + p)

For |x| < ½ the brackets are series, beyond it they are taken as they stand. x itself comes from logits that are
shifted to a maximum of 0, so that it is exact where it is small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from depthsig.measure.blocks import fallback

if TYPE_CHECKING:
    from collections.abc import Callable

VALUES = ("kl", "kl_reverse", "jsd", "l2", "entropy", "nll", "loss", "rank", "log_rank", "overlap5", "top1")
"""The quantities of :func:`compare_rows`, in the order of its first axis."""

STATS = ("peak", "total", "moment", "at_target", "rank")
"""Of each row: its maximum m, Σ eˣ⁻ᵐ, Σ eˣ⁻ᵐ(x − m), the target's logit, and the target's rank."""

Sums = tuple[Tensor, Tensor, Tensor]


def row_stats(logits: Tensor, targets: Tensor, top: int) -> Sums:
    """Sums of each row of logits [row, vocab]: stats [row, 5] in float64, and the ``top`` likeliest ids and logits."""
    found: Sums = torch.ops.depthsig.row_stats(logits, targets, top)
    return found


def compare_rows(
    logits: Tensor, final: Tensor, stats: Tensor, top_ids: Tensor, targets: Tensor, top: int, apart: list[bool]
) -> Sums:
    """Rows of q against rows of p: values [quantity, row] in float64, the ``top`` ids of q and their probabilities.

    Args:
        stats, top_ids: of ``final``. apart: which of kl, kl_reverse, jsd and l2 are wanted; others are NaN.
    """
    found: Sums = torch.ops.depthsig.compare_rows(logits, final, stats, top_ids, targets, top, apart)
    return found


@torch.library.custom_op(
    "depthsig::row_stats",
    mutates_args=(),
    schema="(Tensor logits, Tensor targets, int top) -> (Tensor, Tensor, Tensor)",
)
def _row_stats(logits, targets, top):  # type: ignore[no-untyped-def]
    return _stats_of(logits)(logits, targets, top)


@_row_stats.register_fake
def _(logits, targets, top):  # type: ignore[no-untyped-def]
    rows = len(logits)
    stats = logits.new_empty(rows, len(STATS), dtype=torch.float64)
    return stats, logits.new_empty(rows, top, dtype=torch.long), logits.new_empty(rows, top, dtype=torch.float32)


@torch.library.custom_op(
    "depthsig::compare_rows", mutates_args=(),
    schema="(Tensor logits, Tensor final, Tensor stats, Tensor top_ids, Tensor targets, int top, bool[] apart) "
    "-> (Tensor, Tensor, Tensor)",
)  # fmt: skip
def _compare_rows(logits, final, stats, top_ids, targets, top, apart):  # type: ignore[no-untyped-def]
    own, ids, logit_of_ids = _stats_of(logits)(logits, targets, top)
    four = _apart_of(logits)(logits, final, own, stats, apart)
    return (*_finished(four, own, stats, ids, top_ids, targets), _probabilities(logit_of_ids, own))


@_compare_rows.register_fake
def _(logits, final, stats, top_ids, targets, top, apart):  # type: ignore[no-untyped-def]
    rows = len(logits)
    values = logits.new_empty(len(VALUES), rows, dtype=torch.float64)
    return values, logits.new_empty(rows, top, dtype=torch.long), logits.new_empty(rows, top, dtype=torch.float64)


def _finished(
    four: Tensor, own: Tensor, stats: Tensor, ids: Tensor, top_ids: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """All values of rows whose sums are known: what is left is a few numbers a row, in float64."""
    nothing = targets < 0
    peak, total, moment, at_target, rank = own.unbind(1)
    logsum = total.log()
    nll = (logsum + (peak - at_target)).masked_fill(nothing, float("nan"))
    before = (stats[:, 1].log() + (stats[:, 0] - stats[:, 3])).masked_fill(nothing, float("nan"))
    rank = rank.masked_fill(nothing, float("nan"))
    values = [*four.unbind(0), logsum - moment / total, nll, nll - before, rank, rank.log()]
    if ids.shape[1] and top_ids.shape[1]:
        shared = (ids[:, :, None] == top_ids[:, None, :]).any(-1).sum(-1).double() / ids.shape[1]
        values += [shared, (ids[:, 0] == top_ids[:, 0]).double()]
    else:
        values += [torch.full_like(nll, float("nan"))] * 2
    return torch.stack(values), ids


def _probabilities(logits: Tensor, own: Tensor) -> Tensor:
    return (logits.double() - own[:, :1]).exp() / own[:, 1:2]


def _stats_of(logits: Tensor) -> Callable[..., Sums]:
    kernels = _kernels(logits)
    return fallback.row_stats if kernels is None else kernels.row_stats


def _apart_of(logits: Tensor) -> Callable[..., Tensor]:
    kernels = _kernels(logits)
    return fallback.divergences if kernels is None else kernels.divergences


def _kernels(logits: Tensor):  # type: ignore[no-untyped-def]
    """The Triton kernels where they run, else None."""
    if logits.device.type != "cuda":
        return None
    from depthsig.measure.blocks import kernels  # lazily: Triton comes with torch's builds for GPUs only

    return kernels if kernels.usable() else None
