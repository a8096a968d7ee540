"""Weights that accelerate keeps elsewhere (in a CPU's memory, on a disk) and brings in when a module runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def stored(module: nn.Module, *, buffers: bool = False) -> Iterator[tuple[str, Tensor | None]]:
    """Every parameter by name, read from where it is kept; None for one that is nowhere.

    What is offloaded is read when it is asked for, and not held.

    Args:
        buffers: buffers, too.
    """
    maps = _maps(module)
    for name, weight in (*module.named_parameters(), *(module.named_buffers() if buffers else ())):
        yield name, _read(maps, name) if weight.is_meta else weight.detach()


def is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate keeps any of its weights elsewhere."""
    return any(p.is_meta for p in module.parameters()) and bool(_maps(module))


def device_of(module: nn.Module) -> torch.device:
    """Where a model takes its token ids: beside its first parameter, or where that is brought in to run."""
    first = next(module.parameters())
    return first.device if not first.is_meta else next(iter(_brought(module)), first.device)


def devices_of(module: nn.Module) -> list[torch.device]:
    """Every device that a model computes on, in a fixed order."""
    found = {p.device for p in module.parameters() if not p.is_meta}
    return sorted(found | (set(_brought(module)) if is_offloaded(module) else set()), key=str)


def _brought(module: nn.Module) -> list[torch.device]:
    """Where what is offloaded is brought in to run."""
    hooks = [hook for part in module.modules() for hook in _hooks(part) if getattr(hook, "weights_map", None)]
    return [torch.device(hook.execution_device) for hook in hooks if hook.execution_device is not None]


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = getattr(module, "_hf_hook", None)
    return () if hook is None else tuple(getattr(hook, "hooks", (hook,)))


def _maps(module: nn.Module) -> list[tuple[str, Mapping[str, Any]]]:
    """What offloading hooks bring weights in from, by the module that they are on, the innermost first."""
    found = [
        (f"{path}." if path else "", hook.weights_map)
        for path, part in module.named_modules()
        for hook in _hooks(part)
        if getattr(hook, "weights_map", None) is not None
    ]
    return sorted(found, key=lambda one: -len(one[0]))


def _read(maps: list[tuple[str, Mapping[str, Any]]], name: str) -> Tensor | None:
    for path, kept in maps:
        if name.startswith(path):
            try:
                value = kept[name.removeprefix(path)]
            except KeyError:
                continue
            return torch.as_tensor(value).detach()
    return None
