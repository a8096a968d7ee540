"""Hooks and forwards that leave the caller's model exactly as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.errors import UnsupportedModelError


class StopForward(Exception):
    """Raised inside a hook to end a forward whose remainder is not needed."""


def hidden_of(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The residual stream in a layer's call: its first argument or ``hidden_states``."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    value = kwargs.get("hidden_states")
    return value if isinstance(value, Tensor) else None


def with_hidden(args: tuple, kwargs: dict[str, Any], hidden: Any) -> tuple[tuple, dict[str, Any]]:
    """The same call with another residual stream."""
    if args and (isinstance(args[0], Tensor) or args[0] is None):
        return (hidden, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hidden}


def first_tensor(output: Any) -> Tensor | None:
    """The tensor a module returns, alone or first in a tuple (GPT-J, Falcon, BLOOM, MPT …)."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def with_first(output: Any, tensor: Tensor) -> Any:
    """``output`` with its tensor replaced, its structure kept."""
    if isinstance(output, tuple):
        return (tensor, *output[1:])
    if isinstance(output, list):
        return [tensor, *output[1:]]
    return tensor


def as_residual(tensor: Tensor, like: Tensor) -> Tensor:
    """A sublayer's output in the shape of the residual stream: OPT flattens rows and tokens."""
    return tensor if tensor.shape == like.shape else tensor.reshape(like.shape)


@contextmanager
def hooked(
    pre: Iterable[tuple[nn.Module, Callable]] = (), post: Iterable[tuple[nn.Module, Callable]] = ()
) -> Iterator[None]:
    """Forward pre-hooks ``f(module, args, kwargs)`` and hooks ``f(module, args, kwargs, output)``.

    All of them are removed on the way out, exceptions and Ctrl-C included.
    """
    with ExitStack() as stack:
        for module, function in pre:
            handle = module.register_forward_pre_hook(function, with_kwargs=True)
            stack.callback(handle.remove)
        for module, function in post:
            handle = module.register_forward_hook(function, with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes and random state are restored afterwards."""
    training = [m for m in module.modules() if m.training]
    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        for m in training:
            m.training = False
        try:
            yield
        finally:
            for m in training:
                m.training = True


def forward(module: nn.Module, ids: Tensor, **kwargs: Any) -> Tensor:
    """The model's own logits ``[prompt, token, vocab]`` for token ids ``[prompt, token]``."""
    parameters = inspect.signature(module.forward).parameters
    # Only transformers' models take use_cache among arguments that they don't name.
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and hasattr(module, "config")
    if "use_cache" in parameters or open_ended:
        kwargs.setdefault("use_cache", False)
    return logits_of(module(ids, **kwargs), module)


def logits_of(output: Any, module: nn.Module) -> Tensor:
    """The logits [prompt, token, vocab] in what a model returns: alone, named, or in a tuple."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(found, (tuple, list)):
        found = next((t for t in found if isinstance(t, Tensor) and t.ndim == 3), None)
    if not isinstance(found, Tensor) or found.ndim != 3:
        raise UnsupportedModelError(
            f"{type(module).__name__} returns no logits of shape [prompt, token, vocabulary]; "
            "depthsig analyses causal language models"
        )
    return found


def resolve(root: Any, path: str) -> Any:
    """``getattr`` along a dotted path, ``None`` where a piece is missing."""
    for name in path.split(".") if path else []:
        root = getattr(root, name, None) if not name.isdigit() else root[int(name)]
        if root is None:
            return None
    return root
