"""Which weight files of a folder are read: those that transformers would, found as it finds them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthsig.checkpoint.files.names import file_inside, read_object
from depthsig.errors import InputError, UnsupportedModelError, shown
from depthsig.untrusted import is_file

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_ELSEWHERE = re.compile(r"(optimizer|scheduler|scaler|rng_state|training_args|trainer_state).*")
"""What a training run keeps beside a model, and no weights of it."""


@dataclass(frozen=True)
class WeightFiles:
    """The weight files that are read.

    Attributes:
        pickled: whether they are pickles, which can run code when loaded.
        unused: an index beside them that names other files and is not followed; None where there is none.
    """

    paths: tuple[Path, ...]
    pickled: bool = False
    unused: Path | None = None


def find_weights(folder: Path, config: Mapping[str, Any], allow_pickle: bool, where: str) -> WeightFiles:
    """The weight files of a folder, in transformers' own order of preference.

    Args:
        where: what the user calls it.

    Raises:
        InputError: if there are none, if only pickles are there and not allowed, if an index is damaged, or names a
            file that is missing, outside the folder, or a pickle that is not allowed.
        UnsupportedModelError: for a distributed checkpoint.
    """
    _refuse_distributed(folder, where)
    found = _named_by_config(folder, config) or _usual(folder, allow_pickle)
    if found is None:
        raise InputError(_nothing(folder, where))
    kinds = {path.suffix == ".safetensors" for path in found.paths}
    if len(kinds) > 1:
        raise InputError(f"the weight files of {where} are partly safetensors and partly pickles")
    if kinds == {False} and not allow_pickle:
        raise InputError(
            f"{where} has pickled weights ({found.paths[0].name}), which can run code when loaded; "
            "--allow-pickle loads them, or convert them to safetensors"
        )
    return WeightFiles(found.paths, kinds == {False}, found.unused)


def _refuse_distributed(folder: Path, where: str) -> None:
    shard = next((p.name for p in sorted(folder.iterdir()) if _DISTRIBUTED.fullmatch(p.name)), None)
    if shard is not None:
        raise UnsupportedModelError(
            f"{where} is a distributed checkpoint ({shard}); save_pretrained of the whole model works"
        )


def _named_by_config(folder: Path, config: Mapping[str, Any]) -> WeightFiles | None:
    """The file that the config's ``transformers_weights`` names, where it does."""
    said_by = repr(str(folder / "config.json"))
    nested = [value for value in config.values() if isinstance(value, dict) and value.get("transformers_weights")]
    if nested:
        raise InputError(f"{said_by} names its weights in a part of the config; transformers_weights beside it works")
    name = config.get("transformers_weights")
    if name is None:
        return None
    path = file_inside(folder, name, said_by)
    if path.name.endswith(".safetensors.index.json"):
        return WeightFiles(_shards(folder, path))
    if path.suffix != ".safetensors":
        raise InputError(f"{said_by} names {shown(name)} as its weights, which is no safetensors file")
    return WeightFiles((path,))


def _usual(folder: Path, allow_pickle: bool) -> WeightFiles | None:
    safe, index = folder / SAFE, folder / SAFE_INDEX
    if is_file(safe):
        beside = is_file(index) and set(_shards(folder, index)) - {safe}
        return WeightFiles((safe,), unused=index if beside else None)
    if is_file(index):
        return WeightFiles(_shards(folder, index))
    pickle, index = folder / PICKLE, folder / PICKLE_INDEX
    if is_file(pickle):
        return WeightFiles((pickle,))
    if is_file(index):
        # Not looked into before it is allowed: the name says what it leads to.
        return WeightFiles(_shards(folder, index) if allow_pickle else (index,))
    return None


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    """The files that an index names, each once."""
    said_by, content = repr(str(index)), read_object(index)
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{said_by} is damaged (its weight_map is {shown(names)}); it maps weights to files")
    if not isinstance(content.get("metadata"), dict):
        raise InputError(f"{said_by} is damaged (its metadata is {shown(content.get('metadata'))}, not an object)")
    paths = {str(name): file_inside(folder, name, said_by) for name in names.values()}
    return tuple(paths[name] for name in sorted(paths))


def _nothing(folder: Path, where: str) -> str:
    kinds = ("*.safetensors", "*.safetensors.index*.json", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.msgpack")
    others = sorted({p.name for kind in kinds for p in folder.glob(kind) if not _ELSEWHERE.fullmatch(p.name)})
    beside = f" (there is {others[0]!r}, which is not read under that name)" if others else ""
    return f"{where} holds no weights; {SAFE} or {SAFE_INDEX} was expected{beside}"
