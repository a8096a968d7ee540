"""Next-token distributions compared: pure functions on logits.

q is the distribution of ``logits`` (a readout, or an edited run's output), p that of ``final`` (the
model's own). Natural logarithms throughout; every function takes logits of shape [..., vocab] and
reduces the last axis. KL and JSD are sums of terms that are never negative: what is left of two large
sums that nearly agree would be their rounding.

These are the definitions; :mod:`depthsig.metrics.comparison` (a processor's cache) and
:mod:`depthsig.measure.blocks` (a GPU) compute many of them at once, and are held to these by the tests.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def kl_divergence(
    logits: Float[Tensor, "*batch vocab"], final: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(q‖p) in nats, of the distributions that two sets of logits stand for.

    With x = ln q − ln p: KL(q‖p) = Σ q·(x + e⁻ˣ − 1), whose terms are never negative. A word of logit −∞ in both
    counts nothing; one that q has and p rules out makes it infinite.

    >>> import torch
    >>> a = torch.tensor([0.0, 0.0]); b = torch.tensor([0.0, 2.0]).log1p()
    >>> round(float(kl_divergence(a, b)), 6)   # ½ ln(½/¼) + ½ ln(½/¾)
    0.143841
    """
    q, p = logits.double().softmax(-1), final.double().softmax(-1)
    x = _log_ratio(logits, final)
    small = x.abs() < 1
    # Beyond 1 nothing cancels, and e⁻ˣ could overflow.
    near = q * (x + (-x.where(small, x.new_zeros(()))).expm1())
    far = (p - q + (q * x).where(q > 0, x.new_zeros(()))).masked_fill(x == math.inf, math.inf)
    return near.where(small, far).sum(-1)


def _log_ratio(
    logits: Float[Tensor, "*batch vocab"], final: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch vocab"]:
    """ln q − ln p; 0 where both are ruled out."""
    of_q, of_p = logits.double().log_softmax(-1), final.double().log_softmax(-1)
    return (of_q - of_p).masked_fill(of_q == of_p, 0.0)


def kl_reverse(logits: Float[Tensor, "*batch vocab"], final: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch"]:
    """KL(p‖q) in nats: what is lost by taking q for the model's own distribution."""
    return kl_divergence(final, logits)


def js_divergence(
    logits: Float[Tensor, "*batch vocab"], final: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """Jensen-Shannon divergence in nats (0 .. ln 2): ½ KL(q‖m) + ½ KL(p‖m), m = (q + p)/2.

    >>> import torch
    >>> a = torch.tensor([100.0, 0.0]); b = torch.tensor([0.0, 100.0])
    >>> round(float(js_divergence(a, b)), 6)   # disjoint: ln 2
    0.693147
    """
    x = _log_ratio(logits, final)
    p, q = logits.double().softmax(-1), final.double().softmax(-1)
    # With t = tanh(x/2) = (p − q)/(p + q): p = m(1 + t), q = m(1 − t), term by term ≥ 0.
    t = (x / 2).tanh()
    one = 1.0 - 1e-16
    terms = (1 + t) * t.clamp(-one, one).log1p() + (1 - t) * (-t).clamp(-one, one).log1p()
    return (0.25 * (p + q) * terms).sum(-1)


def entropy(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch"]:
    """Entropy in nats, −Σ p ln p.

    >>> import torch
    >>> round(float(entropy(torch.zeros(4))), 6)   # ln 4
    1.386294
    """
    logs = logits.double().log_softmax(-1)
    return -(logs.exp() * logs.clamp_min(-1e30)).sum(-1)  # a word that is ruled out counts nothing


def top_ids(logits: Float[Tensor, "*batch vocab"], k: int = 5) -> Int[Tensor, "*batch k"]:
    """The k likeliest token ids, likeliest first; ties go to the lower id.

    >>> import torch
    >>> top_ids(torch.tensor([1.0, 3.0, 3.0, 2.0]), 3).tolist()
    [1, 2, 3]
    """
    vocab = logits.shape[-1]
    if not 1 <= k <= vocab:
        raise ValueError(f"k = {k} of a vocabulary of {vocab}; k is 1 .. {vocab}")
    values, ids = _topk(logits, min(k + 1, vocab))
    tied = (values[..., 1:] == values[..., :-1]).any(-1)
    ids = ids[..., :k].contiguous()
    if bool(tied.any()):
        # topk's order among equals is undefined; a stable sort keeps the lower id first.
        ids[tied] = logits[tied].sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return ids


def _topk(
    logits: Float[Tensor, "*batch vocab"], k: int, chunk: int = 64
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """``topk``, five times as fast on long rows: the k largest lie in the k chunks of the largest
    maxima (any element elsewhere is at most the k-th of these maxima)."""
    import torch  # lazily: entries are read where torch is not installed

    vocab = logits.shape[-1]
    whole = vocab // chunk * chunk
    if whole // chunk < 8 * k or logits.is_cuda:
        return logits.topk(k, dim=-1)
    pieces = logits[..., :whole].unflatten(-1, (-1, chunk))
    best = pieces.amax(-1).topk(k, dim=-1).indices
    ids = best[..., None] * chunk + torch.arange(chunk, device=logits.device)
    rest = torch.arange(whole, vocab, device=logits.device).expand(*ids.shape[:-2], -1)
    ids = torch.cat([ids.flatten(-2), rest], dim=-1)
    values, place = logits.gather(-1, ids).topk(k, dim=-1)
    return values, ids.gather(-1, place)


def first_max(
    logits: Float[Tensor, "*batch vocab"], chunk: int = 64
) -> tuple[Float[Tensor, "*batch 1"], Int[Tensor, "*batch 1"]]:
    """The largest logit and the id of the first word that has it, four times as fast as ``max(-1)``.

    >>> import torch
    >>> first_max(torch.tensor([1.0, 3.0, 3.0, 2.0]))[1].tolist()
    [1]
    """
    vocab = logits.shape[-1]
    whole = vocab // chunk * chunk
    if not whole or logits.is_cuda:
        return logits.max(-1, keepdim=True)
    pieces = logits[..., :whole].unflatten(-1, (-1, chunk))
    # Of equal maxima max(dim) gives the first, among the chunks and inside one.
    peak, where = pieces.amax(-1).max(-1, keepdim=True)
    inside = pieces.gather(-2, where[..., None].expand(*where.shape, chunk)).squeeze(-2).argmax(-1, keepdim=True)
    ids = where * chunk + inside
    if whole < vocab:
        rest, at = logits[..., whole:].max(-1, keepdim=True)
        ids = ids.where(rest <= peak, at + whole)
        peak = peak.maximum(rest)
    return peak, ids


def topk_overlap(
    logits: Float[Tensor, "*batch vocab"], final: Float[Tensor, "*batch vocab"], k: int = 5
) -> Float[Tensor, "*batch"]:
    """Share of the k likeliest tokens that two distributions have in common; of all there are, if fewer than k.

    >>> import torch
    >>> float(topk_overlap(torch.arange(10.), torch.arange(10.), 5))
    1.0
    """
    k = min(k, logits.shape[-1])
    return overlap(top_ids(logits, k), top_ids(final, k))


def top1_agreement(
    logits: Float[Tensor, "*batch vocab"], final: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """1 where both have the same likeliest token (of equals the one of lower id), else 0."""
    return (first_max(logits)[1] == first_max(final)[1]).squeeze(-1).double()


def overlap(a: Int[Tensor, "*batch k"], b: Int[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Share of the ids in ``a`` that are in ``b``, too."""
    shared: Bool[Tensor, "*batch k"] = (a[..., :, None] == b[..., None, :]).any(-1)
    return shared.double().mean(-1)


def target_nll(logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """−ln q(target) in nats; NaN where there is no target (−1)."""
    logits = logits.double()
    nll = logits.logsumexp(-1) - logits.gather(-1, targets.clamp_min(0)[..., None]).squeeze(-1)
    return nll.masked_fill(targets < 0, float("nan"))


def target_rank(logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """1 + how many tokens have a strictly larger logit than the target; NaN where there is no target (−1).

    >>> import torch
    >>> float(target_rank(torch.tensor([5.0, 7.0, 5.0]), torch.tensor(2)))
    2.0
    """
    at_target = logits.gather(-1, targets.clamp_min(0)[..., None])
    return ((logits > at_target).sum(-1) + 1).double().masked_fill(targets < 0, float("nan"))


def target_log_rank(logits: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """ln of the target's rank: an average that one hopeless token does not rule."""
    return target_rank(logits, targets).log()


def loss_increase(
    logits: Float[Tensor, "*batch vocab"], final: Float[Tensor, "*batch vocab"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """NLL of the target under q minus that under p, in nats; NaN where there is no target (−1)."""
    return target_nll(logits, targets) - target_nll(final, targets)


def probability_l2(
    logits: Float[Tensor, "*batch vocab"], final: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """‖q − p‖₂ of the two probability vectors (0 .. √2)."""
    return (logits.double().softmax(-1) - final.double().softmax(-1)).norm(dim=-1)


class TopTokens(NamedTuple):
    """The likeliest tokens, likeliest first, and how likely they are."""

    token_id: Int[Tensor, "*batch k"]
    value: Float[Tensor, "*batch k"]


def top_tokens(logits: Float[Tensor, "*batch vocab"], k: int = 5) -> TopTokens:
    """The k likeliest token ids with their probabilities.

    >>> import torch
    >>> top_tokens(torch.tensor([0.0, 1.0, 0.0]), 1).token_id.tolist()
    [1]
    """
    ids = top_ids(logits, min(k, logits.shape[-1]))
    return TopTokens(ids, logits.double().softmax(-1).gather(-1, ids))
