"""The memory that a unit of a sweep needs, told from its files, so that a scheduler can place it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from depthsig.checkpoint.files.held import HeldTensor
from depthsig.checkpoint.files.listing import list_files
from depthsig.checkpoint.files.size import held_numbers
from depthsig.checkpoint.known import locate
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.sweeps.sweep_file import Unit
from depthsig.engine.memory import parse_memory
from depthsig.errors import DepthsigError

LIBRARIES = 1 << 30
"""Bytes of a process that has imported what opens models, rounded up."""
_LAYER = re.compile(r"\.\d+\.")
"""In the name of a weight: which layer it is of."""
_BYTES = {"bfloat16": 2, "float16": 2}


def need_of(unit: Unit) -> int:
    """Bytes of weights, of the memory beside them and of the process; of a hub id that is not here, without weights."""
    beside = parse_memory(unit.options.get("memory", "4GiB"))
    try:
        place = locate(unit.source)
        files = None if isinstance(place, str) else list_files(Path(place), LoadOptions(), unit.source)
    except (DepthsigError, OSError):
        files = None  # whoever opens it says why
    if files is None:
        return beside + LIBRARIES
    dtype = str(unit.options.get("dtype") or "float32")
    stored = sum(path.stat().st_size for path in files.weights)
    weights = stored if dtype == "auto" else _BYTES.get(dtype, 4) * held_numbers(files)
    if unit.options.get("stream"):
        weights = int(weights * _share_held(files.tensors.values()))
    return weights + beside + LIBRARIES


def _share_held(tensors: Iterable[HeldTensor]) -> float:
    """The share of a model's numbers that is in memory where layers are read as they run: two of them, and the rest."""
    layers: dict[str, int] = {}
    for tensor in tensors:
        number = _LAYER.search(tensor.name)
        name = number[0] if number else ""
        layers[name] = layers.get(name, 0) + tensor.count
    around, counts = layers.pop("", 0), sorted(layers.values())
    return (around + sum(counts[-2:])) / max(1, around + sum(counts))
