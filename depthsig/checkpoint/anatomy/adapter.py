"""Where a model's steps, sublayers, final norm and head are: candidates, decided by measuring.

TransformerLens names the places; one small forward of the actual model tells which of them hold
(a post-norm, a residual multiplier, or a sublayer that adds the residual itself would otherwise
go wrong in silence). What cannot be found is refused by name or left out, never guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.checkpoint.anatomy.components import Candidates, find_candidates, transforms_in
from depthsig.checkpoint.anatomy.probe import Probe, Tail, outputs_without, residual_mappers, run_probe
from depthsig.checkpoint.anatomy.readout import Readout
from depthsig.checkpoint.finite import refuse_not_finite
from depthsig.checkpoint.hooks import as_residual, resolve
from depthsig.errors import UnsupportedModelError


@dataclass(frozen=True)
class Sublayer:
    """A place whose output, times ``scale``, is what a sublayer adds to the residual stream."""

    path: str
    module: nn.Module = field(repr=False)
    scale: float = 1.0


@dataclass(frozen=True)
class Layer:
    """A physical layer: its module, and where its attention and MLP contributions are.

    ``parallel``: attention and MLP read the same residual state.
    """

    index: int
    path: str
    module: nn.Module = field(repr=False)
    attn: Sublayer | None = field(default=None, repr=False)
    mlp: Sublayer | None = field(default=None, repr=False)
    parallel: bool = False

    @property
    def has_parts(self) -> bool:
        """Whether both contributions are known (and add up to the layer's update)."""
        return self.attn is not None and self.mlp is not None


@dataclass(frozen=True)
class Anatomy:
    """The places depthsig needs.

    Attributes:
        layers: the physical layers, in checkpoint order.
        readout: from the last residual state to logits.
        family: the model's class name. known: whether TransformerLens has an adapter for it.
        stacks: paths of the module lists that hold the layers.
    """

    layers: tuple[Layer, ...] = field(repr=False)
    readout: Readout
    family: str
    known: bool
    stacks: tuple[str, ...]

    @property
    def has_parts(self) -> bool:
        """Whether any layer's attention and MLP contributions are known."""
        return any(layer.has_parts for layer in self.layers)


def find_anatomy(module: nn.Module, config: Any) -> Anatomy:
    """Find the layers, parts and readout of a causal language model.

    Raises:
        UnsupportedModelError: when the layers or the readout cannot be found exactly.
        InputError: when the model computes NaN or infinity.
    """
    candidates = find_candidates(module, config)
    stacks, found = _find_layers(module, candidates)
    layer_modules = [m for _, m in found]
    paths = [*candidates.attn, *candidates.mlp]
    parts = [p for m in layer_modules for p in (resolve(m, path) for path in paths)]
    probe = run_probe(module, layer_modules, [p for p in parts if isinstance(p, nn.Module)])
    states = [(f"layer {i} ({path})", probe.outputs.get(id(m))) for i, (path, m) in enumerate(found)]
    refuse_not_finite([*states, ("the logits", probe.logits)])
    layers = [_with_parts(Layer(i, path, layer), candidates, probe) for i, (path, layer) in enumerate(found)]
    readout = _find_readout(module, config, candidates, probe)
    return Anatomy(
        tuple(_with_parallel(module, layers, probe)),
        readout,
        type(module).__name__,
        candidates.known,
        tuple(stacks),
    )


def _find_layers(module: nn.Module, candidates: Candidates) -> tuple[list[str], list[tuple[str, nn.Module]]]:
    """Lists whose members pass a residual stream on, and these members, each once."""
    members = [m for path in candidates.layer_lists for m in resolve(module, path)]
    called = residual_mappers(module, members)
    first = {
        path: min(called[id(m)] for m in resolve(module, path) if id(m) in called)
        for path in candidates.layer_lists
        if any(id(m) in called for m in resolve(module, path))
    }
    # Several stacks (a prelude, a core, a coda) are numbered in the order in which they first run.
    stacks, found, seen = sorted(first, key=lambda path: first[path]), [], set()
    for path in stacks:
        for position, member in enumerate(resolve(module, path)):
            if id(member) not in seen:
                seen.add(id(member))
                found.append((f"{path}.{position}", member))
    if not found:
        raise UnsupportedModelError(
            f"{type(module).__name__}: no list of decoder layers that pass a residual stream on "
            "was found; causal language models that keep their layers in a ModuleList work"
        )
    return stacks, found


def tolerance(dtype: torch.dtype) -> float:
    """Relative tolerance of a certificate: 1e-4 in fp32, 3e-2 in bf16 and fp16."""
    return 3e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-4


def _with_parts(layer: Layer, candidates: Candidates, probe: Probe) -> Layer:
    """The layer with the pair of places whose outputs add up to its update, if there is one."""
    start, end = probe.inputs.get(id(layer.module)), probe.outputs.get(id(layer.module))
    if start is None or end is None:
        return layer
    update, size = end.double() - start.double(), float(end.double().norm()) or 1.0
    best, best_error = layer, tolerance(end.dtype)
    for a_path, m_path, scale in itertools.product(candidates.attn, candidates.mlp, dict.fromkeys(candidates.scales)):
        attn, mlp = resolve(layer.module, a_path), resolve(layer.module, m_path)
        a, m = probe.outputs.get(id(attn)), probe.outputs.get(id(mlp))
        if attn is mlp or a is None or m is None or not a.numel() == m.numel() == end.numel():
            continue
        both = as_residual(a, end).double() + as_residual(m, end).double()
        error = float((scale * both - update).norm()) / size
        # A later candidate must be clearly better: a projection equals its module's output.
        if error < best_error * (0.3 if best.has_parts else 1.0):
            parts = Sublayer(a_path, attn, scale), Sublayer(m_path, mlp, scale)
            best, best_error = replace(layer, attn=parts[0], mlp=parts[1]), error
    return best


def _with_parallel(module: nn.Module, layers: list[Layer], probe: Probe) -> list[Layer]:
    """Mark the layers whose MLP does not notice when their attention is silenced."""
    whole = [layer for layer in layers if layer.has_parts]
    if not whole:
        return layers
    without = outputs_without(
        module,
        probe.inputs,
        [layer.module for layer in layers],
        [layer.attn.module for layer in whole if layer.attn],
        [layer.mlp.module for layer in whole if layer.mlp],
    )

    def is_parallel(layer: Layer) -> bool:
        key = id(layer.mlp.module) if layer.mlp else 0
        return key in without and torch.equal(without[key], probe.outputs[key])

    return [replace(layer, parallel=is_parallel(layer)) for layer in layers]


def _find_readout(module: nn.Module, config: Any, candidates: Candidates, probe: Probe) -> Readout:
    """The chain of modules and the transform that reproduce the probe's logits best."""
    transforms: list[Callable[[Tensor], Tensor]] = transforms_in(config)
    if candidates.transform is not None:
        transforms.insert(0, candidates.transform)
    scale = float(probe.logits.float().abs().max()) or 1.0
    best, best_error = None, tolerance(probe.logits.dtype)
    for names, chain in _chains(module, candidates, probe):
        for transform in transforms:
            readout = Readout(tuple(chain[:-1]), chain[-1], transform, names, probe.logits.shape[-1])
            error = _readout_error(readout, probe) / scale
            if error < best_error * (0.3 if best else 1.0):
                best, best_error = readout, error
    if best is None:
        raise UnsupportedModelError(
            f"{type(module).__name__}: its logits could not be reproduced from its last residual "
            f"state (tried {_tried(module, candidates, probe)}); a lens would be wrong, so none is given"
        )
    return replace(best, transform=None if _is_identity(best, probe) else best.transform)


def _chains(module: nn.Module, candidates: Candidates, probe: Probe) -> list[tuple[tuple[str, ...], list[nn.Module]]]:
    """Ways from the last state to logits: TransformerLens' paths, then what the probe saw."""
    chains: list[tuple[tuple[str, ...], list[nn.Module]]] = []
    for head in candidates.heads:
        for norm in candidates.norms:
            chains.append(((norm, head), [resolve(module, norm), resolve(module, head)]))
    for route in _routes(probe.last, probe.tails, probe.logits.shape):
        chains.append((tuple(n for n, _ in route), [m for _, m in route]))
    return [(n, c) for n, c in chains if all(isinstance(m, nn.Module) for m in c)]


def _routes(state: Tensor, tails: Sequence[Tail], end: torch.Size, depth: int = 6) -> list[list[tuple[str, nn.Module]]]:
    """Every chain of modules, in the order they ran, from a state to something of the logits' shape.

    Branches off the way (an exit gate reads the same normed state as the head) lead nowhere.
    """
    found: list[list[tuple[str, nn.Module]]] = []
    for number, tail in enumerate(tails):
        if tail.input is None or tail.output is None or tail.input.shape != state.shape:
            continue
        if not torch.equal(tail.input, state):
            continue
        here = (tail.name, tail.module)
        if tail.output.shape == end:
            found.append([here])
        if depth:
            rest = _routes(tail.output, tails[number + 1 :], end, depth - 1)
            found += [[here, *route] for route in rest]
    return found


def _readout_error(readout: Readout, probe: Probe) -> float:
    try:
        with torch.no_grad():
            logits = readout(probe.last)
    except RuntimeError:  # shapes that do not fit: not this chain
        return float("inf")
    if logits.shape != probe.logits.shape:
        return float("inf")
    return float((logits.float() - probe.logits.float()).abs().max())


def _is_identity(readout: Readout, probe: Probe) -> bool:
    with torch.no_grad():
        bare = replace(readout, transform=None)(probe.last)
        return readout.transform is None or torch.equal(bare, readout(probe.last))


def _tried(module: nn.Module, candidates: Candidates, probe: Probe) -> str:
    chains = [" > ".join(names) for names, _ in _chains(module, candidates, probe)]
    return "; ".join(chains) or "nothing: no final norm or head was seen"
