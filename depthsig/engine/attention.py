"""The attention that runs, step by step: seen in passing, never kept whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from depthsig.checkpoint.hooks import hooked
from depthsig.engine.network import Network

_SOFTMAXES = (F.softmax, torch.softmax, torch.Tensor.softmax)

Seen = Callable[[Float[Tensor, "row head query key"]], Tensor]


class AttentionWatch(TorchFunctionMode):
    """What ``seen`` makes of the weights of every attention, by step: a list of tensors each.

    Attention is the fused kernel, or, where a model computes it in pieces ("eager"), a softmax over the
    last axis of [row, head, query, key] with as many keys as queries.
    """

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen
        self.steps: list[list[Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.steps:
            self.steps[-1].append(self.seen(attention_weights(*args, **kwargs)))
        out = func(*args, **kwargs)
        if func in _SOFTMAXES and self.steps and out.ndim == 4 and out.shape[-1] == out.shape[-2]:
            self.steps[-1].append(self.seen(out))
        return out


@contextmanager
def watching_attention(network: Network, seen: Seen) -> Iterator[AttentionWatch]:
    """See every step's attention while the network runs; nothing for steps without any."""
    watch = AttentionWatch(seen)

    def begin(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        watch.steps.append([])

    with hooked(pre=[(layer.module, begin) for layer in network.anatomy.layers]), watch:
        yield watch


def attention_weights(
    query: Float[Tensor, "*batch query d"], key: Float[Tensor, "*batch_k key d"], value: Tensor,
    attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "*batch query key"]:  # fmt: skip
    """The weights that ``scaled_dot_product_attention`` applies with these arguments."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = factor * query.float() @ key.float().mT
    if is_causal:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~causal, float("-inf"))
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1).nan_to_num(0.0)
