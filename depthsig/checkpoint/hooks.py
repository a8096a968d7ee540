"""Hooks and forwards that leave the caller's model exactly as it was."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from depthsig.checkpoint.anatomy.offloaded import devices_of
from depthsig.errors import InputError, UnsupportedModelError


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
    """The tensor a module returns, alone or first in a tuple (GPT-J, Falcon, BLOOM, MPT …) or a mapping."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def with_first(output: Any, tensor: Tensor) -> Any:
    """``output`` with its tensor replaced; all that comes with it, and its type, are kept."""
    if isinstance(output, tuple):
        rest = (tensor, *output[1:])
        return type(output)(*rest) if hasattr(output, "_fields") else rest
    if isinstance(output, list):
        return [tensor, *output[1:]]
    if isinstance(output, Mapping):
        changed: Any = copy.copy(output)
        changed[next(iter(output))] = tensor
        return changed
    return tensor


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in the same memory, so that changing one may change the other."""
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


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


Answer = Callable[[nn.Module, Callable[..., Any], tuple, dict[str, Any]], Any]
"""``answer(module, its own forward, args, kwargs)``: what stands for a forward."""


@contextmanager
def answered(modules: Sequence[nn.Module], answer: Answer) -> Iterator[None]:
    """Let ``answer`` stand for the forward of ``modules``; hooks on them still see what it gives."""

    def standing(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        made: Any = lambda *args, **kwargs: answer(module, original, args, kwargs)  # noqa: E731
        made.stands_for = original
        return made

    # An instance attribute shadows the class's forward; deleting it restores the module exactly.
    before = [m.__dict__.get("forward") for m in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = standing(module, module.forward)
        yield
    finally:
        for module, original in zip(modules, before, strict=True):
            module.__dict__.pop("forward", None)
            if original is not None:
                module.__dict__["forward"] = original


@contextmanager
def unanswered(module: nn.Module) -> Iterator[None]:
    """The forward that a module had before it was :func:`answered`, while an answer runs it."""
    standing: Any = module.__dict__.get("forward")
    own = getattr(standing, "stands_for", None)
    if own is None:
        yield
        return
    module.__dict__["forward"] = own
    try:
        yield
    finally:
        module.__dict__["forward"] = standing


_UNDISTURBED: ContextVar[frozenset[int]] = ContextVar("_UNDISTURBED", default=frozenset())
"""The models that are undisturbed already: what a batch does many times need not see to it each time."""


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients, caches or compiled code; everything is restored afterwards.

    Only what the model's own forward changes (a buffer that counts calls) stays as that leaves it.
    """
    if id(module) in _UNDISTURBED.get():
        with torch.no_grad():
            yield
        return
    modules = list(module.modules())
    devices = [one for one in devices_of(module) if one.type == "cuda"]
    with ExitStack() as stack:
        before = _UNDISTURBED.get()
        _UNDISTURBED.set(before | {id(module)})
        stack.callback(_UNDISTURBED.set, before)  # not by its token: a notebook may leave in another context
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        if any(_is_compiled(m) for m in modules):
            # Hooks and shadowed forwards are for eager code; compiled graphs may not see them.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for one in modules:
            if one.training:
                one.training = False
                stack.callback(setattr, one, "training", True)
        # A model inside a wrapper is not asked to leave its cache out, and would keep keys and values.
        configs = {id(c): c for c in (m.__dict__.get("config") for m in modules)}.values()
        for config in configs:
            if isinstance(config, PretrainedConfig) and getattr(config, "use_cache", None) is True:
                config.use_cache = False
                stack.callback(setattr, config, "use_cache", True)
        yield


def refuse_autocast(module: nn.Module) -> None:
    """Refuse to compute in another precision than what results would say.

    Raises:
        InputError: within ``torch.autocast``.
    """
    for device in sorted({one.type for one in devices_of(module)}):
        if torch.is_autocast_enabled(device):
            kind = str(torch.get_autocast_dtype(device)).removeprefix("torch.")
            raise InputError(
                f"torch.autocast is on, and would compute in {kind} what is reported in the model's own precision; "
                f"leave it, or load the model in {kind}"
            )


def _is_compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None or "_orig_mod" in module._modules


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
