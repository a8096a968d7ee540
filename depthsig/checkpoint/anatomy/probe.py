"""One small forward of the actual model, watched from every module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.checkpoint.anatomy.offloaded import device_of
from depthsig.checkpoint.hooks import (
    first_tensor,
    forward,
    hidden_of,
    hooked,
    undisturbed,
    with_first,
    with_hidden,
)

PROBE_TOKENS = 6


@dataclass
class Tail:
    """A module that ran after the last layer, with what it was given and gave."""

    name: str
    module: nn.Module
    input: Tensor | None
    output: Tensor | None


@dataclass
class Probe:
    """What a forward showed: a layer's first input, every watched output, and the way to logits."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    tails: list[Tail] = field(default_factory=list)
    last: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def embedding_of(module: nn.Module) -> Tensor | None:
    """The weight [token, d] of the embedding of tokens, where the model tells which it is; else None."""
    return _weight(module, "get_input_embeddings")


def head_of(module: nn.Module) -> Tensor | None:
    """The weight [token, d] of the head, where the model tells which it is; else None."""
    return _weight(module, "get_output_embeddings")


def _weight(module: Any, getter: str) -> Tensor | None:
    try:
        weight = getattr(getattr(module, getter)(), "weight", None)
    except (NotImplementedError, AttributeError):  # classes that do not say where their ends are
        return None
    return weight if isinstance(weight, Tensor) else None


def probe_ids(module: nn.Module, rows: int = 1, tokens: int = PROBE_TOKENS) -> Tensor:
    """Small valid token ids [rows, tokens] on the device of the model's embedding."""
    weight = embedding_of(module)
    if weight is None:
        weight = next((m.weight for m in module.modules() if isinstance(m, nn.Embedding)), None)
    size, device = (weight.shape[0], weight.device) if weight is not None else (64, torch.device("cpu"))
    device = device_of(module) if device.type == "meta" else device
    return (torch.arange(1, 1 + rows * tokens, device=device) % size).reshape(rows, tokens)


def residual_mappers(module: nn.Module, members: Sequence[nn.Module]) -> dict[int, int]:
    """Those ``members`` that run and map [prompt, token, d] to the same shape: id to rank of first call."""
    called: dict[int, int] = {}

    def note(layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        hidden, out = hidden_of(args, kwargs), first_tensor(output)
        if hidden is not None and out is not None and hidden.ndim == 3 and out.shape == hidden.shape:
            called.setdefault(id(layer), len(called))

    with undisturbed(module), hooked(post=[(m, note) for m in members]):
        forward(module, probe_ids(module))
    return called


def run_probe(module: nn.Module, layers: Sequence[nn.Module], parts: Sequence[nn.Module]) -> Probe:
    """One forward that records layers, ``parts``, and what runs after the last layer."""
    probe = Probe()
    members, watched = {id(m) for m in layers}, {id(m) for m in parts}
    names = {id(m): n for n, m in module.named_modules()}
    holds_layers = {id(m) for m in module.modules() if any(id(c) in members for c in m.modules())}
    tails_at_entry: list[int] = []

    def enter(m: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = hidden_of(args, kwargs)
        if id(m) in members:
            probe.tails.clear()
            if hidden is not None:
                probe.inputs.setdefault(id(m), hidden.clone())
        tails_at_entry.append(len(probe.tails))

    def leave(m: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        first = tails_at_entry.pop()
        tensor = first_tensor(output)
        if tensor is not None and id(m) in members | watched:
            probe.outputs.setdefault(id(m), tensor.clone())
        if id(m) in members:
            probe.tails.clear()
            probe.last = tensor.clone() if tensor is not None else torch.empty(0)
        elif id(m) not in holds_layers:
            del probe.tails[first:]  # what ran inside this module is part of it
            hidden = hidden_of(args, kwargs)
            kept = [None if t is None else t.clone() for t in (hidden, tensor)]
            probe.tails.append(Tail(names.get(id(m), "?"), m, *kept))

    everything = list(module.modules())
    with (
        undisturbed(module),
        hooked(pre=[(m, enter) for m in everything], post=[(m, leave) for m in everything]),
    ):
        probe.logits = forward(module, probe_ids(module)).clone()
    return probe


def outputs_without(
    module: nn.Module,
    inputs: dict[int, Tensor],
    layers: Sequence[nn.Module],
    silenced: Sequence[nn.Module],
    watched: Sequence[nn.Module],
) -> dict[int, Tensor]:
    """What ``watched`` give when ``silenced`` give zero and every layer sees its clean input."""
    seen: dict[int, Tensor] = {}

    def clean_input(m: nn.Module, args: tuple, kwargs: dict) -> Any:
        return with_hidden(args, kwargs, inputs[id(m)].clone()) if id(m) in inputs else None

    def zero(m: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        tensor = first_tensor(output)
        return output if tensor is None else with_first(output, torch.zeros_like(tensor))

    def read(m: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            seen.setdefault(id(m), tensor.clone())

    post = [(m, zero) for m in silenced] + [(m, read) for m in watched]
    with undisturbed(module), hooked(pre=[(m, clean_input) for m in layers], post=post):
        forward(module, probe_ids(module))
    return seen
