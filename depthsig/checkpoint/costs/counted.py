"""Parameters, FLOPs and KV memory of a token, counted from the modules as they are and from how often each runs.

Nothing is run and no field of a config is guessed: sizes are those of the parameters that the layers hold. Where
attention has a form that is not known, what depends on it is left out, with a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from depthsig.checkpoint.anatomy.parameters import weight_groups

CONTEXT = 1024
"""Tokens of context at which FLOPs are told, where a model reaches as far."""

_NO_PRODUCT = re.compile(r"norm|bias|^ln|A_log|ada_?ln|modulation|^time", re.I)
"""Norms, biases and decays; and what is made of a pass's time, once a pass whatever the tokens."""
_ATTENDS = re.compile(r"attn|attention", re.I)
_EXPERTS = re.compile(r"(^|\.)experts(\.|$)")
_CHOSEN = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts", "moe_topk", "moe_top_k",
)  # fmt: skip
"""Where configs say how many experts a token goes through; a router's own ``top_k`` comes after them."""


@dataclass(frozen=True)
class Costs:
    """What one token costs in inference; None where it is not known.

    Attributes:
        parameters: all that are stored, shared ones once.
        parameters_without_embeddings: without the tables of tokens and positions and without the head, tied or not.
        parameters_read: those that one forward reads, each once however often its layer runs. A look-up in a table
            is not counted, a tied head is; of a mixture of experts, as many as a token goes through.
        parameters_read_repeated: the same, as often as each is read: a loop's block once a pass.
        matmul_flops: 2 × the parameters of matrix products × how often each runs, a token. Norms, rotations and
            what else is element-wise do not count.
        attention_flops: of queries with keys and of weights with values, 2 + 2 operations a number of a head and
            step, a token and each position of context: what masks and windows hide is computed all the same.
        kv_bytes: keys and values that a token leaves, in the model's dtype; a loop has a slot for each pass and layer.
        context: tokens at which :attr:`flops` are told.
        notes: what is not known, and why.
    """

    parameters: int
    parameters_without_embeddings: int
    parameters_read: int | None
    parameters_read_repeated: int | None
    matmul_flops: int | None
    attention_flops: int | None
    kv_bytes: int | None
    context: int
    notes: tuple[str, ...] = field(default=())

    @property
    def flops(self) -> int | None:
        """FLOPs of a token at :attr:`context`: ``matmul_flops + context × attention_flops``."""
        if self.matmul_flops is None or self.attention_flops is None:
            return None
        return self.matmul_flops + self.context * self.attention_flops

    def __str__(self) -> str:
        known = [f"{self.parameters:,} parameters"]
        if self.parameters_read is not None:
            known.append(f"{self.parameters_read:,} read a token")
        if self.flops is not None:
            known.append(f"{self.flops:,} FLOPs a token at a context of {self.context}")
        if self.kv_bytes is not None:
            known.append(f"{self.kv_bytes:,} bytes of keys and values a token")
        return ", ".join(known)

    def record(self) -> dict[str, Any]:
        """As ``signature.json`` keeps them."""
        return {**asdict(self), "notes": list(self.notes)}


def count_costs(
    module: nn.Module, layers: Sequence[nn.Module], head: nn.Module, order: Sequence[int], calls: Mapping[str, int],
    config: Any = None, *, longest: int | None = None,
) -> Costs:  # fmt: skip
    """Count what a token costs.

    Args:
        layers: the physical layers. head: the unembedding.
        order: the layer of every step.
        calls: how often a forward calls each module outside the layers, by name.
        config: tells how a fused projection is split, and how many experts a token goes through.
        longest: the longest context of the model.
    """
    runs = list(_runs(module, layers, order, calls))
    inside = {id(m) for layer in layers for m in layer.modules()}
    outside = [m for m in module.modules() if isinstance(m, nn.Embedding) and id(m) not in inside]
    tables = {_key(p) for m in (*outside, head) for p in m.parameters()}
    stored = {_key(p): p.numel() for p in module.parameters()}
    notes: list[str] = []
    once: dict[Any, Fraction] = {}
    repeated, products = Fraction(0), Fraction(0)
    for one in runs:
        active = one.active(config)
        if active is None:
            notes.append("how many experts a token goes through is not known")
            break
        for name, parameter in one.module.named_parameters(recurse=False):
            size = active * parameter.numel()
            once[_key(parameter)] = max(size, once.get(_key(parameter), size))
            repeated += one.times * size
            if parameter.ndim > 1 and not any(_NO_PRODUCT.search(piece) for piece in (one.leaf, name)):
                products += 2 * one.times * size
    read = not notes
    sizes = _attention_sizes(layers, order, config)
    shared = bool(getattr(config, "num_kv_shared_layers", None))
    if sizes is None:
        notes.append("a layer's attention has a form whose keys and values are not known")
    elif shared:
        notes.append("layers of this model share keys and values, so its KV memory is not known")
    elif any(not one.q for one in sizes):
        notes.append("what a layer without attention does beside its matrix products is not counted")
    kv = None if sizes is None or shared else sum(s.kv for s in sizes)
    return Costs(
        parameters=sum(stored.values()),
        parameters_without_embeddings=sum(size for key, size in stored.items() if key not in tables),
        parameters_read=int(sum(once.values())) if read else None,
        parameters_read_repeated=int(repeated) if read else None,
        matmul_flops=int(products) if read else None,
        attention_flops=None if sizes is None else sum(2 * (s.q + s.o) for s in sizes),
        kv_bytes=None if kv is None else kv * next(module.parameters()).element_size(),
        context=min(longest or CONTEXT, CONTEXT),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Run:
    """A module that runs: where it is, how often, and the layer that holds it."""

    module: nn.Module
    path: str
    times: int
    layer: nn.Module | None = None

    @property
    def leaf(self) -> str:
        return self.path.rsplit(".", 1)[-1]

    def active(self, config: Any) -> Fraction | None:
        """The share of its parameters that a token uses; None where that is not known."""
        found = None if self.layer is None else _EXPERTS.search(self.path)
        if found is None or self.layer is None or not list(self.module.parameters(recurse=False)):
            return Fraction(1)
        experts = self.layer.get_submodule(self.path[: found.end()].rstrip("."))
        held = len(experts) if isinstance(experts, nn.ModuleList) else _first_size(experts)
        chosen = _chosen(self.layer, config)
        return None if chosen is None or not held else min(Fraction(chosen, held), Fraction(1))


def _runs(
    module: nn.Module, layers: Sequence[nn.Module], order: Sequence[int], calls: Mapping[str, int]
) -> Iterator[_Run]:
    """Every module that runs; tables, of which a token reads a row, left out."""
    runs = Counter(order)
    for index, layer in enumerate(layers):
        for path, one in layer.named_modules():
            if runs[index] and not isinstance(one, nn.Embedding):
                yield _Run(one, path, runs[index], layer)
    inside = {id(m) for layer in layers for m in layer.modules()}
    for path, one in module.named_modules():
        if id(one) in inside or isinstance(one, nn.Embedding):
            continue
        holds = any(id(m) in inside for m in one.modules())
        times = 1 if holds else calls.get(path, 0)
        if times:
            yield _Run(one, path, times)


def _key(parameter: nn.Parameter) -> Any:
    """What two parameters have in common that are one in memory."""
    if parameter.is_meta or not parameter.numel():
        return id(parameter)
    return parameter.device, parameter.data_ptr(), tuple(parameter.shape)


def _first_size(experts: nn.Module) -> int:
    """How many experts a module keeps in one tensor: its matrices are stacked along the first axis."""
    return next((p.shape[0] for p in experts.parameters() if p.ndim == 3), 0)


def _chosen(layer: nn.Module, config: Any) -> int | None:
    said = [getattr(config, name, None) for name in _CHOSEN] + [getattr(m, "top_k", None) for m in layer.modules()]
    return next((n for n in said if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)


@dataclass(frozen=True)
class _Sizes:
    """Numbers of all heads together: queries, what goes into the output projection, and keys with values."""

    q: int
    o: int
    kv: int


def _attention_sizes(layers: Sequence[nn.Module], order: Sequence[int], config: Any) -> list[_Sizes] | None:
    """Of every step; None where a layer's attention is not understood."""
    known = {index: _sizes_of(layers[index], config) for index in set(order)}
    found = [known[index] for index in order]
    return [one for one in found if one is not None] if None not in found else None


def _sizes_of(layer: nn.Module, config: Any) -> _Sizes | None:
    try:
        groups = weight_groups(layer, config)
    except (AttributeError, TypeError, ValueError, RuntimeError, ZeroDivisionError):
        return None  # a fused projection whose config does not say how it is split
    plain = any(type(m).__name__ == "Conv1D" for m in layer.modules())  # of transformers: [in, out]
    widths = {  # out and in
        name: (sum(_split(t, plain)[1] for t in tensors), sum(_split(t, plain)[0] for t in tensors))
        for name, tensors in groups.items()
    }
    if {"kv_a_proj_with_mqa", "o"} <= groups.keys() and groups.keys() & {"q", "q_b_proj"}:
        # Latent attention keeps what keys and values of all heads are made of.
        return _Sizes(widths["q" if "q" in groups else "q_b_proj"][0], widths["o"][1], widths["kv_a_proj_with_mqa"][0])
    if {"q", "k", "v", "o"} <= groups.keys():
        return _Sizes(widths["q"][0], widths["o"][1], widths["k"][0] + widths["v"][0])
    attends = any(_ATTENDS.search(path) and list(m.parameters()) for path, m in layer.named_modules())
    return None if attends else _Sizes(0, 0, 0)


def _split(weight: Tensor, transposed: bool) -> tuple[int, int]:
    """Sizes in and out of a projection, or of a piece of one."""
    into = weight.shape[0] if transposed and weight.ndim == 2 else weight.shape[-1]
    return into, weight.numel() // into
