"""What a config would build, held against what the weight files hold, before memory is taken for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as registration

from depthsig.checkpoint.files.listing import Files
from depthsig.errors import InputError, shown

_FREE = (
    "theta",
    "position",
    "window",
    "length",
    "ctx",
    "context",
    "seq",
    "seed",
    "token",
    "base",
    "max_",
    "_id",
    "freq",
)
"""Pieces of names of numbers that may be large and count nothing that is built one by one."""
_ALWAYS = 1 << 20
"""So much is allowed whatever the files hold: numbers that cost nothing."""
_BUFFERS = 1 << 30
"""Bytes of buffers that are allowed beside the weights: masks and tables."""


class _TooLarge(Exception):
    pass


def held_numbers(files: Files) -> int:
    """How many weights the files can hold at most."""
    if files.tensors and not files.config.get("quantization_config"):
        return sum(tensor.count for tensor in files.tensors.values())
    return 8 * sum(path.stat().st_size for path in files.weights)


def check_counts(config: Mapping[str, Any], files: Files, where: str) -> None:
    """Refuse counts that the files cannot hold, before a config is made of them: making one may already loop.

    Raises:
        InputError: naming the entry, its value and what is there.
    """
    numbers = max(held_numbers(files), _ALWAYS)
    layers = max(len(files.tensors), 1000) if files.tensors else numbers
    for name, value in _numbers(config, ""):
        most = layers if "layer" in name and "token" not in name else numbers
        if abs(value) > most and not any(piece in name for piece in _FREE):
            raise InputError(
                f"{where}: {name} is {shown(value)} in its config, but its weight files hold {len(files.tensors)} "
                f"tensors with {held_numbers(files)} numbers"
            )


def described_parameters(config: Any, files: Files, where: str) -> int:
    """How many parameters a config describes, built without allocating them; 0 where it cannot be built so.

    Raises:
        InputError: as soon as it describes far more than the files hold.
    """
    from transformers import AutoModelForCausalLM  # start-up time: seconds, where a live model needs none

    if getattr(config, "auto_map", None):
        return 0  # made by code that was trusted, which would ask again here
    most = 3 * held_numbers(files) + _ALWAYS
    modules = 100 * len(files.tensors) + (most >> 4 if files.pickled else 10_000)
    try:
        with torch.device("meta"), _bounded(most, 8 * most + _BUFFERS, modules):
            module: nn.Module = AutoModelForCausalLM.from_config(config)
    except _TooLarge as error:
        raise InputError(
            f"{where}: its config describes {error}, but its weight files hold {held_numbers(files)} numbers; "
            "one of them is of another model"
        ) from None
    except Exception:  # whatever is wrong with it, the load itself will say so
        return 0
    return sum(p.numel() for p in module.parameters())


@contextmanager
def _bounded(parameters: int, buffers: int, modules: int) -> Iterator[None]:
    """Within it, building modules ends in :class:`_TooLarge` when it has made more than this."""
    made = {"modules": 0, "parameters": 0, "buffers": 0}

    def count(kind: str, amount: int, most: int) -> None:
        made[kind] += amount
        if made[kind] > most:
            raise _TooLarge(f"more than {most} {kind}" if kind != "buffers" else f"buffers of more than {most} bytes")

    def on_parameter(_module: nn.Module, _name: str, value: Any) -> None:
        count("parameters", 0 if value is None else value.numel(), parameters)

    def on_buffer(_module: nn.Module, _name: str, value: Any) -> None:
        count("buffers", 0 if value is None else value.numel() * value.element_size(), buffers)

    def on_module(_module: nn.Module, _name: str, _value: Any) -> None:
        count("modules", 1, modules)

    handles = [
        registration.register_module_parameter_registration_hook(on_parameter),
        registration.register_module_buffer_registration_hook(on_buffer),
        registration.register_module_module_registration_hook(on_module),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _numbers(value: Any, name: str) -> Iterator[tuple[str, int]]:
    """Every whole number of a config, with the name it stands under."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, float) and value.is_integer():
        yield name, int(value)
