"""The memory that a unit of a sweep needs, told from its files, so that a scheduler can place it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from depthsig.checkpoint.files.held import HeldTensor
from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.files.size import held_numbers
from depthsig.commands.sweeps.beforehand import Trust, files_of
from depthsig.commands.sweeps.sweep_file import Unit
from depthsig.engine.memory import parse_memory

LIBRARIES = 1 << 30
"""Bytes of a process that has imported what opens models, rounded up."""
_LAYER = re.compile(r"\.\d+\.")
"""In the name of a weight: which layer it is of."""
_BYTES = {"bfloat16": 2, "float16": 2}


def need_of(unit: Unit, trust: Trust) -> int:
    """Bytes of weights, of the memory beside them and of the process.

    Weights count twice where a re-initialised control may be due. Those of a hub id that is not in the hub's cache are
    not known, and count nothing.
    """
    beside = parse_memory(unit.options.get("memory", "4GiB")) + LIBRARIES
    files = files_of(unit, trust)
    if files is None:
        return beside
    dtype = str(unit.options.get("dtype") or "float32")
    stored = sum(path.stat().st_size for path in files.weights)
    weights = stored if dtype == "auto" else _BYTES.get(dtype, 4) * held_numbers(files)
    if unit.options.get("stream"):
        return int(weights * _share_held(files.tensors.values())) + beside
    return weights * (2 if _has_control(unit, files) else 1) + beside


def _has_control(unit: Unit, files: Files) -> bool:
    asked = unit.options.get("control")
    if asked is not None or unit.options.get("quick"):
        return bool(asked)
    declared = any(unit.options.get(name) for name in ("loop", "grown", "iterations"))
    return declared or unit.other_order is not None or "depthsig" in files.config


def _share_held(tensors: Iterable[HeldTensor]) -> float:
    """The share of a model's numbers that is in memory where layers are read as they run: two of them, and the rest."""
    layers: dict[str, int] = {}
    for tensor in tensors:
        number = _LAYER.search(tensor.name)
        name = number[0] if number else ""
        layers[name] = layers.get(name, 0) + tensor.count
    around, counts = layers.pop("", 0), sorted(layers.values())
    return (around + sum(counts[-2:])) / max(1, around + sum(counts))
