"""What a config says, held against what its class reads and what is run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import CodeType
from typing import Any

from torch import nn
from transformers import GenerationConfig, PreTrainedConfig
from transformers.models.auto import modeling_auto

from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.files.rope import rope_entries
from depthsig.checkpoint.gguf.gguf_keys import head_dim
from depthsig.errors import shown

_LANGUAGE_MODELS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "VISION_2_SEQ")
"""Tasks whose classes are language models, or hold one whole."""
_COMPUTES: Mapping[str, tuple[Any, ...]] = {
    "alibi": (False,), "attention_bias": (False,), "attention_multiplier": (), "attn_logit_softcapping": (0,),
    "clip_qkv": (0,), "dim_model_base": (), "embedding_multiplier": (1,), "final_logit_softcapping": (0,),
    "head_dim": (), "layer_types": (), "logit_scale": (1,),
    "logits_scaling": (1,), "mlp_bias": (False,), "no_rope_layers": (), "partial_rotary_factor": (1,),
    "parallel_attn": (), "qk_layernorm": (False,), "qk_norm": (False,), "query_pre_attn_scalar": (),
    "residual_multiplier": (1,), "rope_scaling": ({},), "rope_theta": (), "scale_depth": (), "scale_emb": (1,),
    "sliding_window": (0,), "sliding_window_pattern": (), "use_parallel_residual": (), "use_qk_norm": (False,),
    "num_kv_shared_layers": (0,), "attention_sinks": (False,),
}  # fmt: skip
"""Entries of configs that change what is computed, each with the values (besides None) that change nothing."""
_QUIET = re.compile(
    r"^(_.*|.*(version|dropout|dropout_rate|_pdrop|layerdrop|_fixed)|auto_map|depthsig|finetuning_task|"
    r"(gradient|activation)_checkpointing|initializer_.*|init_.*|model_max_length|n_ctx|pretraining_tp|prefix|"
    r"quantization_config|summary_.*|task_specific_params|tokenizer_class|.*use_cache|.*_token_ids?|"
    r"(use_|attn_)?(flash_attn|flash_attention|implementation)(_2)?|unsloth_.*|vocab_file|max_window_layers)$"
)
"""Entries about training, saving, tokens and kernels, which change no output."""

_TWICE = {"hidden_act": "hidden_activation", "sliding_window_size": "sliding_window"}
"""Entries that Gemma's files state a second time, under a name that is not read."""


def unknown_entries(files: Files, module: nn.Module, where: str) -> Iterator[str]:
    """Entries of the config that the model's class does not know: those that compute elsewhere, and all others."""
    config: Any = module.config
    if not type(config).__module__.startswith("transformers."):
        return  # what a class of another's making reads cannot be told
    text = config.get_text_config(decoder=True)
    known = _known(config) | _known(text)
    known |= {"rope_theta", "rope_scaling", "partial_rotary_factor"} if hasattr(text, "rope_parameters") else set()
    entries = _entries(files)
    left = {name: entries[name] for name in entries.keys() - known if not _derived(name, entries[name], text)}
    kind = type(module).__name__
    for name in sorted(_COMPUTES.keys() & left):
        if left[name] is not None and left[name] not in _COMPUTES[name]:
            yield f"the config of {where} says {name} = {shown(left[name])}, which {kind} does not read"
    others = [shown(name)[1:-1] for name in left if name not in _COMPUTES and left[name] and not _QUIET.search(name)]
    if others:
        listed = ", ".join(sorted(others)[:5]) + ", ..." * (len(others) > 5)
        yield f"the config of {where} has entries that {kind} does not know: {listed}"


def _known(config: Any) -> set[str]:
    """Names that the class of a config gives a meaning."""
    kind = type(config)
    names = {*dir(kind), *getattr(kind, "attribute_map", {}), *inspect.signature(kind).parameters}
    names |= set(GenerationConfig().to_dict())  # older checkpoints keep them here
    for one in kind.__mro__:
        if issubclass(one, PreTrainedConfig) and one is not PreTrainedConfig:
            names |= {name for part in vars(one).values() for name in _quoted(getattr(part, "__code__", None))}
    with suppress(Exception):  # a few have entries without defaults
        names |= set(vars(kind()))  # those that it derives
    return names


def _quoted(code: Any) -> Iterator[str]:
    """Text that a function quotes: older names of entries are read so, ``kwargs.pop("rotary_pct", 0.25)``."""
    for constant in getattr(code, "co_consts", ()):
        if isinstance(constant, str) and constant.isidentifier():
            yield constant
        elif isinstance(constant, CodeType):
            yield from _quoted(constant)


def _derived(name: str, value: Any, config: Any) -> bool:
    """Whether an entry only states what holds without it."""
    if name == "head_dim":
        return bool(value == head_dim(config))
    if name in _TWICE:
        return bool(value == getattr(config, _TWICE[name], None))
    return name == "layer_types" and isinstance(value, list) and set(map(str, value)) == {"full_attention"}


def other_class(files: Files, module: nn.Module, where: str) -> Iterator[str]:
    """The class that a config names (``architectures``), where another is run that computes something else."""
    named, run = files.config.get("architectures"), type(module).__name__
    if named is None or named == []:
        return
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        yield f"the config of {where} says architectures = {shown(named)}, which is no list of classes; {run} is run"
        return
    if not _language_models(files, module) & {name.lower() for name in named}:
        listed = ", ".join(shown(name)[1:-1] for name in named[:3]) + ", ..." * (len(named) > 3)
        yield f"the config of {where} names the class {listed} (architectures), but {run} is run"


def unapplied_rope(files: Files, module: nn.Module, where: str) -> Iterator[str]:
    """Entries about rotary positions that change nothing."""
    config: Any = module.config
    yield from rope_entries(_entries(files), config.get_text_config(decoder=True), where)


def _language_models(files: Files, module: nn.Module) -> set[str]:
    """Names, in small letters, of the class that is run, of its like in its family, and of code that is told."""
    config: Any = module.config
    kinds = {files.config.get("model_type"), config.model_type, config.get_text_config(decoder=True).model_type}
    # A family that the config contradicts is not that of the class that is run.
    found = {type(module).__name__.lower()}
    for task in _LANGUAGE_MODELS:
        names = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {})
        found |= {str(names[kind]).lower() for kind in kinds if isinstance(kind, str) and kind in names}
    own = files.config.get("auto_map")
    for code in own.values() if isinstance(own, dict) else ():
        found |= {code.rpartition(".")[2].lower()} if isinstance(code, str) else set()
    return found


def _entries(files: Files) -> dict[str, Any]:
    """The entries of a config, with those of its language model where they are kept apart."""
    nested = files.config.get("text_config")
    return {**(nested if isinstance(nested, dict) else {}), **files.config}
