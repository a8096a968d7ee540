"""How a model's own forward is called: by a caller's function, with forced counts, with fixed noise.

All of it happens in a *view*: a shallow copy of the root module that shares everything with the
caller's model but has a forward of its own, so that the caller's stays exactly as it was.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from depthsig.checkpoint.draws import PositionalDraws
from depthsig.checkpoint.hooks import forward, logits_of

Setting = tuple[Any, str, Any]
"""An object, the name of one of its attributes, and the value it has during a forward."""

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


@dataclass(frozen=True)
class Conduct:
    """What is special about the way a model is called; empty for most.

    Attributes:
        function: ``f(module, ids)`` that gives the logits, in the place of ``module(ids)``.
        arguments: keyword arguments of the forward (Huginn's ``num_steps``).
        settings: attributes that hold the number of iterations.
        seed: of random initial states, fixed by position; None where nothing is random.
        targets: the argument that takes the ids once more, without which only the last token has logits (nanoGPT).
        notes: what a user should know of it.
    """

    function: Callable[[nn.Module, Tensor], Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: Sequence[Setting] = ()
    seed: int | None = None
    targets: str | None = None
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        special = (self.function, self.seed, self.targets)
        return bool(self.arguments) or bool(self.settings) or any(one is not None for one in special)


def view_of(module: nn.Module) -> nn.Module:
    """A shallow copy: the same children and parameters, hooks and list of children of its own."""
    view = copy.copy(module)
    view.__dict__["_modules"] = dict(module._modules)
    for name in _HOOKS:
        if name in view.__dict__:
            view.__dict__[name] = OrderedDict()
    return view


def conducted(module: nn.Module, conduct: Conduct) -> nn.Module:
    """A view of ``module`` whose forward calls it as ``conduct`` says."""
    if not conduct:
        return module
    view = view_of(module)

    def run(ids: Tensor) -> Tensor:
        with _during(module, view, conduct):
            if conduct.function is not None:
                return logits_of(conduct.function(module, ids), module)
            again = {} if conduct.targets is None else {conduct.targets: ids}
            return forward(module, ids, **conduct.arguments, **again)

    view.__dict__["forward"] = run
    return view


@contextmanager
def _during(module: nn.Module, view: nn.Module, conduct: Conduct) -> Iterator[None]:
    with ExitStack() as stack:
        if conduct.seed is not None:
            stack.enter_context(PositionalDraws(conduct.seed))
        # The view's own flag was set by whoever runs it; the module behind it must follow.
        for where, name, value in (*conduct.settings, (module, "training", view.training)):
            before = getattr(where, name)
            setattr(where, name, value)
            stack.callback(setattr, where, name, before)
        yield
