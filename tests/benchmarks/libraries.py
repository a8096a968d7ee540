"""The sweeps of peers.py as the documentation of other libraries would write them for speed.

nnsight 0.8: all prompts as one input, one trace for all that is read, metrics inside the trace, so that no logits
have to be kept; *invokes*: several edits as invokes of one trace, which run as one batch. A layer is edited by
assigning its output, not by ``skip``: position 0 stays. TransformerLens 4: ``run_with_hooks`` on a
TransformerBridge, all prompts in one batch, and ``run_with_cache`` with a ``names_filter`` for the lens. Its
``start_at_layer`` is not used: the earlier blocks still run inside (``TransformerBridge.forward`` says so).
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

import plain
import torch
from random_models import number_tokenizer
from torch import Tensor, nn

INVOKES = 5
"""Edits in one nnsight trace: as many tokens at once as depthsig runs on a CPU for 8 prompts of 64."""


class Library(Protocol):
    """A way to skip layers and to read depths.

    Attributes:
        steps: how many layers there are.
        together: how many edits it runs in one batch.
    """

    name: str
    steps: int
    together: int

    def skip(self, ids: Tensor, steps: Sequence[int]) -> plain.Means:
        """Skip metrics of each of ``steps``, against the clean run."""

    def lens(self, ids: Tensor, names: Sequence[str]) -> plain.Means:
        """Lens metrics at every depth."""


def libraries(module: nn.Module) -> list[Library]:
    """All that are installed, around the same weights; who is missing is said."""
    found: list[Library] = []
    if importlib.util.find_spec("nnsight") is None:
        print("nnsight is not installed and left out: pip install nnsight")
    else:
        model = traceable(module)
        found += [Nnsight(model, 1), Nnsight(model, INVOKES)]
    return [*found, TransformerLens(module)]


def traceable(module: nn.Module) -> Any:
    """nnsight around a copy, so that what it puts into modules slows nobody else."""
    from nnsight import TransformersModel

    device = next(module.parameters()).device
    model = TransformersModel(copy.deepcopy(module), tokenizer=number_tokenizer(module.config.vocab_size))
    model.to(device)  # its pipeline prefers a GPU wherever there is one
    return model


class Nnsight:
    """nnsight with a trace for each skipped layer, or with several as invokes of one trace."""

    def __init__(self, model: Any, invokes: int) -> None:
        self.name = "nnsight, a trace a run" if invokes == 1 else f"nnsight, {invokes} invokes a trace"
        self.model, self.together, self.steps = model, invokes, len(model.model.layers)

    @torch.no_grad()
    def skip(self, ids: Tensor, steps: Sequence[int]) -> plain.Means:
        """Skip metrics of each of ``steps``, against the clean run."""
        model, rows = self.model, []
        with model.trace(ids, use_cache=False):
            logits = model.lm_head.output.save()
        clean = plain.Compared(logits, ids)
        for start in range(0, len(steps), self.together):
            some = steps[start : start + self.together]
            rows += self._one(clean, ids, some[0]) if self.together == 1 else self._several(clean, ids, some)
        return plain.listed(rows)

    def _one(self, clean: plain.Compared, ids: Tensor, step: int) -> list[dict[str, Tensor]]:
        model, rows = self.model, []
        with model.trace(ids, use_cache=False):
            layer = model.model.layers[step]
            hidden = layer.input
            layer.output = torch.cat([layer.output[:, :1], hidden[:, 1:]], dim=1)
            rows.append(clean.skip(model.lm_head.output[:, clean.seen]))
        return rows

    def _several(self, clean: plain.Compared, ids: Tensor, steps: Sequence[int]) -> list[dict[str, Tensor]]:
        model, rows = self.model, []
        with model.trace(use_cache=False) as tracer:
            for step in steps:
                with tracer.invoke(ids):
                    layer = model.model.layers[step]
                    hidden = layer.input
                    layer.output = torch.cat([layer.output[:, :1], hidden[:, 1:]], dim=1)
                    rows.append(clean.skip(model.lm_head.output[:, clean.seen]))
        return rows

    @torch.no_grad()
    def lens(self, ids: Tensor, names: Sequence[str]) -> plain.Means:
        """Lens metrics at every depth: one trace."""
        model, states = self.model, []
        with model.trace(ids, use_cache=False):
            for layer in model.model.layers:
                states.append(layer.input)
            logits = model.lm_head.output.save()
        return readouts(model._module.model.norm, model._module.lm_head, states, logits, ids, names)


class TransformerLens:
    """TransformerLens: a TransformerBridge around a copy, which it changes (eager attention, wrapped modules)."""

    name, together = "TransformerLens", 1

    def __init__(self, module: nn.Module) -> None:
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        architecture = type(module).__name__
        self.bridge = build_bridge_from_module(copy.deepcopy(module), architecture, hf_config=module.config)
        self.steps = len(module.model.layers)

    @torch.no_grad()
    def skip(self, ids: Tensor, steps: Sequence[int]) -> plain.Means:
        """Skip metrics of each of ``steps``, against the clean run: ``run_with_hooks`` each."""
        clean = plain.Compared(self.bridge(ids), ids)
        return plain.listed([clean.skip(self._skipped(ids, step)[:, clean.seen]) for step in steps])

    def _skipped(self, ids: Tensor, step: int) -> Tensor:
        kept: list[Tensor] = []

        def keep(value: Tensor, hook: Any) -> None:
            kept.append(value)

        def put_back(value: Tensor, hook: Any) -> Tensor:
            return torch.cat([value[:, :1], kept[0][:, 1:]], dim=1)

        hooks = [(f"blocks.{step}.hook_resid_pre", keep), (f"blocks.{step}.hook_resid_post", put_back)]
        return self.bridge.run_with_hooks(ids, fwd_hooks=hooks)

    @torch.no_grad()
    def lens(self, ids: Tensor, names: Sequence[str]) -> plain.Means:
        """Lens metrics at every depth: one ``run_with_cache`` of the residual stream."""
        wanted = [f"blocks.{step}.hook_resid_pre" for step in range(self.steps)]
        logits, cache = self.bridge.run_with_cache(ids, names_filter=wanted)
        states = [cache[name] for name in wanted]
        return readouts(self.bridge.ln_final, self.bridge.unembed, states, logits, ids, names)


def readouts(
    norm: nn.Module, head: nn.Module, states: Sequence[Tensor], logits: Tensor, ids: Tensor, names: Sequence[str]
) -> plain.Means:
    """Lens metrics of the states, read at the measured positions, and of the model's own logits."""
    final = plain.Compared(logits, ids)
    rows = [final.lens(head(norm(state[:, final.seen])), names) for state in states]
    return plain.listed([*rows, final.lens(final.logits, names)])
