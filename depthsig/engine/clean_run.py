"""The clean run: every step's input, output and parts, observed or executed in a given order."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from depthsig.checkpoint.anatomy.adapter import Anatomy, Layer, Sublayer
from depthsig.checkpoint.hooks import (
    StopForward,
    as_residual,
    first_tensor,
    forward,
    hidden_of,
    hooked,
    share_memory,
    undisturbed,
)
from depthsig.engine.calls import LayerCall, passing_through
from depthsig.plan.plan import Plan
from depthsig.plan.trace import Trace


@dataclass
class CleanRun:
    """What an unedited run of one batch went through.

    Attributes:
        inputs: residual stream entering each step, S tensors [row, token, d].
        outputs: leaving each step; where nothing happens between steps, ``outputs[s]`` is
            ``inputs[s + 1]``.
        attn, mlp: what each step's parts added to the residual stream; None where unknown.
        calls: each step's call, to run it again.
    """

    inputs: list[Float[Tensor, "row token d"]]
    outputs: list[Float[Tensor, "row token d"]]
    attn: list[Float[Tensor, "row token d"] | None]
    mlp: list[Float[Tensor, "row token d"] | None]
    calls: list[LayerCall]

    @property
    def states(self) -> list[Float[Tensor, "row token d"]]:
        """h_0 .. h_S."""
        return [*self.inputs, self.outputs[-1]]


class _Recorder:
    """Hooks that keep what passes. Everything is cloned: some families add in place (Falcon)."""

    def __init__(self, layers: tuple[Layer, ...], trace: Trace, parts: bool, stop: bool) -> None:
        self.run = CleanRun([], [], [], [], [])
        self.layers, self.trace, self.parts, self.stop = layers, trace, parts, stop
        self.by_module = {id(layer.module): layer for layer in layers}
        self.current: dict[str, Tensor | None] = {}

    def hooks(self) -> dict[str, list]:
        """Arguments for :func:`hooked`."""
        pre = [(layer.module, self.enter) for layer in self.layers]
        post = [(layer.module, self.leave) for layer in self.layers]
        if self.parts:
            for layer in self.layers:
                if layer.has_parts:
                    post += [(sub.module, self._part(kind, sub)) for kind, sub in _sublayers(layer)]
        return {"pre": pre, "post": post}

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        step = len(self.run.inputs)
        hidden = hidden_of(args, kwargs)
        assert hidden is not None, "a traced layer was called without a residual stream"
        chained = step > 0 and self.trace.chained[step]
        self.run.inputs.append(self.run.outputs[-1] if chained else hidden.clone())
        self.run.calls.append(LayerCall.capture(module, args, kwargs))
        self.current = {"attn": None, "mlp": None}

    def leave(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        tensor = first_tensor(output)
        assert tensor is not None, "a traced layer returned no tensor"
        self.run.outputs.append(tensor.clone())
        self.run.attn.append(self.current["attn"])
        self.run.mlp.append(self.current["mlp"])
        if self.stop and len(self.run.outputs) == len(self.trace.layers):
            raise StopForward

    def _part(self, kind: str, sub: Sublayer) -> Any:
        def keep(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                self.current[kind] = _scaled(tensor, sub, self.run.inputs[-1])

        return keep


def _sublayers(layer: Layer) -> list[tuple[str, Sublayer]]:
    return [(k, s) for k, s in (("attn", layer.attn), ("mlp", layer.mlp)) if s is not None]


def native_run(
    module: nn.Module,
    anatomy: Anatomy,
    trace: Trace,
    ids: Int[Tensor, "row token"],
    *,
    parts: bool = False,
    logits: bool = False,
) -> tuple[CleanRun, Float[Tensor, "row token vocab"] | None]:
    """The model's own forward, observed; it ends after the last step unless ``logits`` are wanted."""
    recorder = _Recorder(anatomy.layers, trace, parts, stop=not logits)
    result = None
    with undisturbed(module), hooked(**recorder.hooks()), contextlib.suppress(StopForward):
        result = forward(module, ids)
    return recorder.run, result


def layer_calls(
    module: nn.Module, anatomy: Anatomy, trace: Trace, ids: Int[Tensor, "row token"]
) -> tuple[Float[Tensor, "row token d"], dict[int, list[LayerCall]]]:
    """h_0 and each layer's calls, pass by pass, from a forward in which no layer computes anything."""
    recorder = _Recorder(anatomy.layers, trace, parts=False, stop=True)
    modules = [layer.module for layer in anatomy.layers]
    outputs = [trace.outputs.get(layer.index) for layer in anatomy.layers]
    with (
        undisturbed(module),
        passing_through(modules, outputs),
        hooked(**recorder.hooks()),
        contextlib.suppress(StopForward),
    ):
        forward(module, ids)
    calls: dict[int, list[LayerCall]] = {}
    for layer, call in zip(trace.layers, recorder.run.calls, strict=True):
        calls.setdefault(layer, []).append(call)
    return recorder.run.inputs[0], calls


def ordered_run(
    module: nn.Module,
    anatomy: Anatomy,
    trace: Trace,
    plan: Plan,
    ids: Int[Tensor, "row token"],
    *,
    parts: bool = False,
) -> CleanRun:
    """Run the plan's layers one by one, each with the arguments its own call has.

    Attention type, mask and rotary tables travel with the layer; where a model's own loop gives a
    layer other arguments at every pass, so do these.
    """
    hidden, calls = layer_calls(module, anatomy, trace, ids)
    run = CleanRun([], [], [], [], [])
    with undisturbed(module):
        for step in plan:
            layer = anatomy.layers[step.layer]
            own = calls[step.layer]
            call = own[min(step.iteration, len(own) - 1)]
            kept: dict[str, Tensor | None] = {"attn": None, "mlp": None}
            post = [(sub.module, _keep(kept, kind, sub, hidden)) for kind, sub in _sublayers(layer)]
            with hooked(post=post if parts and layer.has_parts else []):
                output = call(hidden)
            run.inputs.append(hidden)
            # A layer may hand back its own input's storage, changed in place by the next one.
            hidden = output.clone() if share_memory(output, hidden) else output
            run.outputs.append(hidden)
            run.attn.append(kept["attn"])
            run.mlp.append(kept["mlp"])
            run.calls.append(call)
    return run


def _scaled(tensor: Tensor, sub: Sublayer, like: Tensor) -> Tensor:
    """A contribution as it is added, in storage of its own."""
    tensor = as_residual(tensor, like)
    return tensor.clone() if sub.scale == 1.0 else tensor * sub.scale


def _keep(kept: dict[str, Tensor | None], kind: str, sub: Sublayer, like: Tensor) -> Any:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            kept[kind] = _scaled(tensor, sub, like)

    return hook


def update_of(run: CleanRun, step: int) -> Float[Tensor, "row token d"]:
    """Δ of a step: a + m before they are added where they are known in half precision.

    In bf16 the rounding of the residual stream is a tenth of Δ, so out − in is the fallback.
    """
    attn, mlp = run.attn[step], run.mlp[step]
    out = run.outputs[step]
    if attn is not None and mlp is not None and out.dtype in (torch.bfloat16, torch.float16):
        return attn.float() + mlp.float()
    return out.float() - run.inputs[step].float()
