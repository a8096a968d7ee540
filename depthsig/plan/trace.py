"""Observe one forward: which layer runs when. The plan is never guessed from the config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from depthsig.checkpoint.anatomy.adapter import Layer
from depthsig.checkpoint.anatomy.readout import Readout
from depthsig.checkpoint.hooks import (
    first_tensor,
    forward,
    hidden_of,
    hooked,
    undisturbed,
    with_hidden,
)
from depthsig.errors import UnsupportedModelError
from depthsig.plan.independence import reading_layer, trace_ids


@dataclass(frozen=True)
class Trace:
    """What a forward showed.

    Attributes:
        layers: the layer of every step, in the order they ran.
        chained: for every step, whether its input is the previous step's output untouched.
        outputs: for every layer that ran, one of its outputs: what it returns beside the stream, in its form.
        width: size of the residual stream.
        boundaries: for every step, what happens between the previous step and it, as
            ``norm(model.norm)`` or ``injection(transformer.adapter)``; empty where nothing does.
        normed: for every step, whether its input has just been through the readout's own norm,
            so that a lens there must not apply it again.
        varying: the first layer that is given other arguments in another pass (a time), or None.
        reads: the first layer whose output also depends on what other layers left when they ran (keys
            and values, a router's state, chosen tokens), or None.
        calls: how often each module outside the layers was called, by name.
    """

    layers: tuple[int, ...]
    chained: tuple[bool, ...]
    outputs: dict[int, Any] = field(repr=False, compare=False)
    width: int
    boundaries: tuple[str, ...] = ()
    normed: tuple[bool, ...] = ()
    varying: int | None = None
    reads: int | None = None
    calls: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_chain(self) -> bool:
        """Whether nothing goes past the steps and nothing happens between them: they can be run one by one."""
        return all(self.chained) and self.reads is None

    @property
    def why_no_chain(self) -> str:
        """What the model does beside running layers on one stream; empty for a chain."""
        if self.reads is not None:
            return f"layer {self.reads} uses what other layers left when they ran, such as their keys and values"
        at = next((i for i, chained in enumerate(self.chained) if not chained), None)
        if at is None:
            return ""
        return f"this model does something between steps {at - 1} and {at} ({self.boundaries[at]})"


@dataclass
class _Seen:
    layers: list[int] = field(default_factory=list)
    chained: list[bool] = field(default_factory=list)
    outputs: dict[int, Any] = field(default_factory=dict)
    inputs: list[Tensor] = field(default_factory=list)
    results: list[Tensor] = field(default_factory=list)
    width: int = 0
    boundaries: list[str] = field(default_factory=list)
    gaps: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    arguments: dict[int, list] = field(default_factory=dict)
    varying: int | None = None
    calls: dict[str, int] = field(default_factory=dict)


def trace_forward(module: nn.Module, layers: Sequence[Layer], readout: Readout | None = None) -> Trace:
    """Trace ``module`` on two small batches.

    Args:
        readout: tells which states have been through its norm already.

    Raises:
        UnsupportedModelError: if the order of layers depends on the batch size.
    """
    one, two = (_Watch(module, layers, rows).seen for rows in (1, 2))
    if one.layers != two.layers:
        raise UnsupportedModelError(
            f"{type(module).__name__} runs its layers in another order for another batch; "
            "only models whose order of layers is fixed can be analysed"
        )
    normed = [s in two.gaps and _is_normed(module, readout, *two.gaps[s]) for s in range(len(two.layers))]
    return Trace(
        tuple(two.layers), tuple(two.chained), two.outputs, two.width, tuple(two.boundaries), tuple(normed),
        two.varying, reading_layer(module, layers, two.inputs, two.results), two.calls,
    )  # fmt: skip


def _is_normed(module: nn.Module, readout: Readout | None, before: Tensor, after: Tensor) -> bool:
    if readout is None or not readout.norms:
        return False
    with undisturbed(module):
        return torch.equal(readout.normed(before), after)


@dataclass(frozen=True)
class _Between:
    """A module that ran between two steps: its name, its class, and what it was given and gave."""

    name: str
    kind: str
    input: Tensor | None
    output: Tensor | None


class _Watch:
    """One forward, watched: layers, and every module that runs between them."""

    def __init__(self, module: nn.Module, layers: Sequence[Layer], rows: int) -> None:
        self.seen = _Seen()
        self.index = {id(layer.module): layer.index for layer in layers}
        self.last: Tensor | None = None
        self.between: list[_Between] = []
        self.depth = 0
        members = [layer.module for layer in layers]
        inside = {id(m) for member in members for m in member.modules()}
        others = {
            id(m): (name, m)
            for name, m in module.named_modules()
            if id(m) not in inside and not any(id(c) in self.index for c in m.modules())
        }
        self.names = {key: name for key, (name, _) in others.items()}
        aside = [m for _, m in others.values()]
        pre = [(m, self._enter_layer) for m in members] + [(m, self._enter) for m in aside]
        post = [(m, self._leave_layer) for m in members] + [(m, self._leave) for m in aside]
        with undisturbed(module), hooked(pre=pre, post=post):
            forward(module, trace_ids(module, rows))

    def _enter_layer(self, m: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden, seen = hidden_of(args, kwargs), self.seen
        if hidden is None:
            raise UnsupportedModelError(f"layer {self.index[id(m)]} is called without a residual stream")
        step = len(seen.layers)
        seen.layers.append(self.index[id(m)])
        chained = self.last is None or torch.equal(self.last, hidden)
        seen.chained.append(chained)
        seen.boundaries.append("" if chained or self.last is None else boundary(self.last, hidden, self.between))
        if not chained and self.last is not None:
            seen.gaps[step] = (self.last, hidden.clone())
        seen.inputs.append(hidden.clone())
        seen.width = hidden.shape[-1]
        leaves = tree_flatten(with_hidden(args, kwargs, None))[0]
        first = seen.arguments.setdefault(seen.layers[-1], leaves)
        if seen.varying is None and not _same_leaves(first, leaves):
            seen.varying = seen.layers[-1]

    def _leave_layer(self, m: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            self.last = tensor.clone()
            self.seen.results.append(self.last)
        self.between.clear()
        self.seen.outputs[self.index[id(m)]] = output

    def _enter(self, m: nn.Module, args: tuple, kwargs: dict) -> None:
        self.depth += 1

    def _leave(self, m: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self.depth -= 1
        self.seen.calls[self.names[id(m)]] = self.seen.calls.get(self.names[id(m)], 0) + 1
        if self.depth == 0 and self.last is not None:
            tensors = (hidden_of(args, kwargs), first_tensor(output))
            kept = [None if t is None else t.clone() for t in tensors]
            self.between.append(_Between(self.names[id(m)], type(m).__name__, *kept))


def boundary(last: Tensor, hidden: Tensor, between: Sequence[_Between]) -> str:
    """What happens from ``last``, leaving a step, to ``hidden``, entering the next.

    A chain of modules from one to the other is a ``norm`` or a ``map``; an input that holds more
    than the last output is an ``injection``.
    """
    state, used = last, []
    for one in between:
        if one.input is None or one.output is None or one.output.shape != state.shape:
            continue
        if one.input.shape == state.shape and torch.equal(one.input, state):
            used.append(one)
            state = one.output
            if torch.equal(state, hidden):
                break
    pieces = [f"{'norm' if _is_norm(one) else 'map'}({one.name})" for one in used]
    if not torch.equal(state, hidden):
        through = [b.name for b in between if b.output is not None and _same(b.output, hidden)]
        pieces.append("injection" + (f"({through[-1]})" if through else ""))
    return " + ".join(pieces)


def _same_leaves(a: Sequence[Any], b: Sequence[Any]) -> bool:
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            if not _same(x, y):
                return False
        elif x is not y and isinstance(x, (int, float, str, bool)) and x != y:
            return False
    return True


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _is_norm(one: _Between) -> bool:
    leaf = one.name.rsplit(".", 1)[-1]
    return "norm" in one.kind.lower() or "norm" in leaf.lower() or leaf.lower().startswith("ln")
