"""Checkpoint folders and files, looked at before they are loaded: untrusted input."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from depthsig.errors import InputError, UnsupportedModelError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json as a dictionary.

    Raises:
        InputError: if it is missing, no JSON object, or names no model type.
    """
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedModelError(
            f"{str(folder)!r} is a PEFT adapter; merge it into its base model (merge_and_unload) and save that"
        )
    if not path.is_file():
        raise InputError(f"{str(folder)!r} has no config.json; a Hugging Face folder or a .gguf file works")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not valid JSON ({error})") from None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    if not isinstance(config, dict):
        raise InputError(f"{str(path)!r} holds a {type(config).__name__}, not a config")
    if not config.get("model_type") and not config.get("auto_map"):
        raise InputError(f"{str(path)!r} names no model_type; it is no config of a language model")
    return config


def check_config(config: dict[str, Any], where: str, trust_remote_code: bool) -> None:
    """Refuse what is no causal language model, or needs code that was not allowed.

    Raises:
        InputError, UnsupportedModelError: one line that names the flag or the kind.
    """
    if config.get("auto_map") and not trust_remote_code and not _is_native(config):
        raise InputError(f"{where} brings its own code (auto_map); --trust-remote-code runs it, if you trust it")
    if config.get("is_encoder_decoder"):
        raise UnsupportedModelError(
            f"{where} is an encoder-decoder model ({config.get('model_type')}); causal language models work"
        )
    entry = config.get("depthsig")
    if entry is not None and not isinstance(entry, dict):
        raise InputError(
            f'{where}: the "depthsig" entry of its config is {entry!r}; it must be an object such as '
            '{"order": "0:4,4:8x4,8:12"}'
        )


def _is_native(config: dict[str, Any]) -> bool:
    return config.get("model_type") in CONFIG_MAPPING_NAMES


def check_weights(folder: Path, allow_pickle: bool) -> bool:
    """Look at the weight files of a folder; True where they are safetensors.

    Raises:
        InputError: if there are none, if only pickles are there and not allowed, or if a
            safetensors file is damaged or a shard is missing.
    """
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _check_shards(folder, index)
    if files:
        for file in files:
            _check_safetensors(file)
        return True
    pickles = sorted({p for pattern in _PICKLES for p in folder.glob(pattern)})
    if not pickles:
        raise InputError(f"{str(folder)!r} holds no weights; model.safetensors was expected")
    if not allow_pickle:
        raise InputError(
            f"{str(folder)!r} has pickled weights only ({pickles[0].name}), which can run code when "
            "loaded; --allow-pickle loads them, or convert them to safetensors"
        )
    return False


def _check_shards(folder: Path, index: Path) -> None:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(index)!r} is damaged ({error})") from None
    missing = sorted(n for n in map(str, names) if not (folder / n).is_file())
    if missing:
        raise InputError(f"{str(folder)!r} lacks the weight file {missing[0]!r} that its index names")


def _check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(file)!r} is truncated or damaged ({error})") from None


def content_hash(paths: list[Path]) -> str:
    """SHA-256 over names and bytes of the files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def hashed_files(folder: Path) -> list[Path]:
    """The files that make a checkpoint what it is: its config and its weights."""
    weights = [p for pattern in ("*.safetensors", *_PICKLES) for p in folder.glob(pattern)]
    return [folder / "config.json", *weights]
