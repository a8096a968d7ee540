"""Models that are not what an analysis takes them for: it has to refuse them, or say that it is not exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SIZE = 0.05
"""How much a lie adds, relative to what it is added to."""


class _Lying(nn.Module):
    """An MLP that does a little more than an MLP does."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp, self.calls = mlp, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out = self.mlp(x)
        return out + SIZE * self.more(x) * out.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5

    def more(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class _Noise(_Lying):
    def more(self, x: Tensor) -> Tensor:
        return torch.randn_like(x)


class _Memory(_Lying):
    def more(self, x: Tensor) -> Tensor:
        return torch.cos(torch.arange(x.shape[-1]) * float(self.calls)).expand_as(x)


class _Batch(_Lying):
    def more(self, x: Tensor) -> Tensor:
        return x.sum((0, 1), keepdim=True).expand_as(x) / x.shape[0]


class _Foresight(_Lying):
    def more(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True).expand_as(x)


class _Head(nn.Module):
    """A head that adds something to the logits of what is not there."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.calls, self.weight = head, 0, head.weight

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(x) + SIZE * self.calls * torch.cos(torch.arange(self.head.weight.shape[0]))


def _with_mlp(kind: type[_Lying], model: Any) -> Any:
    layer = model.model.layers[len(model.model.layers) // 2]
    layer.mlp = kind(layer.mlp)
    return model


def _with_head(model: Any) -> Any:
    model.lm_head = _Head(model.lm_head)
    return model


MAKERS: dict[str, Callable[[Any], Any]] = {
    "adds noise": lambda model: _with_mlp(_Noise, model),
    "remembers calls": lambda model: _with_mlp(_Memory, model),
    "mixes prompts": lambda model: _with_mlp(_Batch, model),
    "sees later tokens": lambda model: _with_mlp(_Foresight, model),
    "has a head that remembers": _with_head,
}
