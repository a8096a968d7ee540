"""x-transformers: its attention and feedforward blocks as steps on one residual stream.

There a norm, a block and a residual sum are three modules that the stack's forward calls one by
one, so that no module maps the stream to the stream. A view of the model groups each three into
one step; parameters, and everything between the steps, stay the caller's own.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from depthsig.checkpoint.conduct import view_of
from depthsig.errors import UnsupportedModelError

_OTHER_STREAMS = (
    "reinject_input", "residual_attn", "cross_residual_attn", "add_value_residual", "need_condition",
)  # fmt: skip
"""Options of a stack under which a block reads more than one residual stream."""


def is_wrapper(module: nn.Module) -> bool:
    """Whether this is x-transformers' ``TransformerWrapper``."""
    return any(
        c.__name__ == "TransformerWrapper" and c.__module__.startswith("x_transformers.") for c in type(module).__mro__
    )


def step_view(wrapper: nn.Module) -> nn.Module:
    """A view of a ``TransformerWrapper`` whose stack runs :class:`BranchStep` modules.

    Raises:
        UnsupportedModelError: for options under which the blocks read more than one stream.
    """
    stack: Any = wrapper.attn_layers
    _check(stack)
    view, inner = view_of(wrapper), view_of(stack)
    steps = [
        BranchStep(*entry, attends=kind in "ac") for entry, kind in zip(stack.layers, stack.layer_types, strict=True)
    ]
    inner._modules["layers"] = StepList(steps)
    view._modules["attn_layers"] = inner
    return view


def _check(stack: Any) -> None:
    set_ = [name for name in _OTHER_STREAMS if getattr(stack, name, False)]
    streams = getattr(stack, "num_residual_streams", 1)
    if streams > 1:
        set_.append(f"num_residual_streams = {streams}")
    if any(m is not None for m in getattr(stack, "layer_integrators", [])):
        set_.append("integrate_layers")
    kinds = {type(entry[2]).__name__ for entry in stack.layers} - {"Residual"}
    set_ += sorted(kinds)
    if "c" in stack.layer_types:
        set_.append("cross attention")
    if set_:
        raise UnsupportedModelError(
            f"this x-transformers stack uses {', '.join(set_)}, where a block reads or writes more than one "
            "residual stream; stacks with plain residuals can be analysed"
        )


class BranchStep(nn.Module):
    """Norm, block, residual sum and norm after it: one step on the residual stream."""

    def __init__(self, norms: nn.ModuleList, block: nn.Module, residual: nn.Module, *, attends: bool) -> None:
        super().__init__()
        self.norms, self.block, self.residual, self.attends = norms, block, residual, attends
        self.training = block.training
        self.intermediates: Any = None

    def forward(self, hidden: Tensor, **arguments: Any) -> Tensor:
        pre, post_branch, post_main = self.norms
        branch = hidden if pre is None else pre(hidden)
        out = self.block(branch, **arguments)
        if self.attends:
            out, self.intermediates = out
        if post_branch is not None:
            out = post_branch(out)
        out = self.residual(out, hidden)
        return out if post_main is None else post_main(out)


class StepList(nn.Module):
    """Stands for the stack's list of (norms, block, residual): no norms, the step, no residual."""

    def __init__(self, steps: list[BranchStep]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.training = any(step.training for step in steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> tuple[tuple[None, None, None], Any, _NoResidual]:
        step: Any = self.steps[index]
        return (None, None, None), _Called(step) if step.attends else step, _NO_RESIDUAL

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))


class _Called:
    """An attention step, with the intermediates that the stack expects beside its output."""

    def __init__(self, step: BranchStep) -> None:
        self.step = step

    def __call__(self, hidden: Tensor, **arguments: Any) -> tuple[Tensor, Any]:
        self.step.intermediates = None
        out = self.step(hidden, **arguments)
        found, self.step.intermediates = self.step.intermediates, None
        # A step that was answered for has none; nobody reads them without a cache.
        return out, found if found is not None else _empty_intermediates(self.step.block)


class _NoResidual:
    def prepare(self, hidden: Tensor) -> tuple[Tensor, Tensor, dict]:
        return hidden, hidden, {}

    def __call__(self, out: Tensor, residual: Tensor, **ignored: Any) -> Tensor:
        return out


_NO_RESIDUAL = _NoResidual()


def _empty_intermediates(block: nn.Module) -> Any:
    home = next(c.__module__ for c in type(block).__mro__ if c.__module__.startswith("x_transformers."))
    return sys.modules[home].Intermediates()
