"""What a checkpoint says, what its files hold and what runs are the same, or the user is told.

:func:`check_agreement` is the one place where this is decided, after loading and before anything is measured:
differences that make numbers wrong are refused, those that a user should know become warnings.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from depthsig.checkpoint.anatomy.probe import embedding_of, head_of
from depthsig.checkpoint.files.gguf_keys import head_dim
from depthsig.checkpoint.files.gguf_tensors import check_rotary, check_tensors_used, rope_factors
from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.files.tensors import HeldTensor, read_tensor
from depthsig.errors import UnsupportedModelError, shown

_HARMLESS = re.compile(
    r"(rotary_(pos_)?emb\.inv_freq|(attn|attention|self_attn)\.(masked_)?bias|position_ids|token_type_ids|"
    r"\.masked_bias|num_batches_tracked)$"
)
"""Tables that older versions saved: computed from the config, the same in every checkpoint."""
_QUANTISED = re.compile(
    r"(weight_scale(_inv)?|weight_(packed|shape|zero_point)|_scale_inv|\.q(weight|zeros)|\.g_idx|\.absmax|\.quant_map|"
    r"\.quant_state\..*|\.nested_(absmax|quant_map)|\.SCB|\.(input|output)_scale)$"
)
"""Names that only quantised weights have: without their meaning, the integers beside them are no weights."""
_SCALES = re.compile(r"(\.scales?|_scales|_blocks|\.biases|\.zeros|\.zero_points?)$")
"""Names that quantised weights share with others: telling only where the model has no place for them."""
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


def check_agreement(files: Files, module: nn.Module, unexpected: Collection[str], where: str) -> list[str]:
    """Hold what the files say and hold against the model that was loaded from them.

    Args:
        unexpected: names of tensors that transformers had no place for.
        where: what the user calls the checkpoint.

    Returns:
        What the user should know, a sentence each.

    Raises:
        UnsupportedModelError: where the numbers would be those of another model.
    """
    if files.gguf is not None:
        check_tensors_used(files.gguf, module, unexpected)
        check_rotary(files.gguf, module, rope_factors(files.gguf))
        unexpected = ()
    left = sorted(name for name in unexpected if not _HARMLESS.search(name))
    if not files.config.get("quantization_config") and files.gguf is None:
        _refuse_quantised(files, module, unexpected, where)
    found = list(_unused(left, module, where))
    found += _heads(files, module, where)
    found += _unknown_entries(files, module, where)
    return found


def _refuse_quantised(files: Files, module: nn.Module, unexpected: Collection[str], where: str) -> None:
    """Integers and scales that would be taken for plain weights, or left out."""
    names = [name for name in files.tensors if _QUANTISED.search(name)]
    names += [name for name in unexpected if _QUANTISED.search(name) or _SCALES.search(name)]
    if names:
        raise UnsupportedModelError(
            f"{where} holds quantised weights ({shown(names[0])[1:-1]}), but its config has no quantization_config "
            "that says how to read them; the unquantised checkpoint works"
        )
    own = {name: tensor for name, tensor in module.state_dict().items() if not tensor.is_floating_point()}
    for held in files.tensors.values():
        plain = held.is_floating or len(held.shape) < 2 or held.name in unexpected or held.name in own
        if not plain and not _HARMLESS.search(held.name):
            raise UnsupportedModelError(
                f"{where} holds {held.kind} numbers as {shown(held.name)[1:-1]}, and no quantization_config says what "
                "they mean; the unquantised checkpoint works"
            )


def _unused(left: Collection[str], module: nn.Module, where: str) -> Iterator[str]:
    if left:
        first = next(iter(left))
        yield (
            f"{where} holds {len(left)} weight{'s' * (len(left) > 1)} that {type(module).__name__} does not use "
            f"(first: {shown(first)[1:-1]})"
        )


def _heads(files: Files, module: nn.Module, where: str) -> Iterator[str]:
    """A head that the config ties to the embeddings, while the files hold another."""
    embedding, head = embedding_of(module), head_of(module)
    if embedding is None or head is None or embedding.is_meta or head.is_meta:
        return
    if embedding is head:
        held = _held_head(files, module)
        if held is not None and not _is_like(held, embedding):
            yield (
                f"the config of {where} ties the head to the embeddings, so {shown(held.name)[1:-1]} of its files, "
                "which differs from them, is not used"
            )
    elif _says_tied(module.config) and not (embedding.shape == head.shape and torch.equal(embedding, head)):
        yield (
            f"the config of {where} ties the head to the embeddings, but its files hold a head of its own, which is "
            "used; tie_word_embeddings=false in the config would say so"
        )


def _says_tied(config: Any) -> bool:
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    return bool(getattr(text, "tie_word_embeddings", False))


def _held_head(files: Files, module: Any) -> HeldTensor | None:
    """The head in the files of a model that ties it, where there is one."""
    head = module.get_output_embeddings()
    name = next((name for name, part in module.named_modules() if part is head), "")
    return files.tensors.get(f"{name}.weight") if files.gguf is None else None


def _is_like(held: HeldTensor, tensor: torch.Tensor) -> bool:
    if held.shape != tuple(tensor.shape):
        return False
    return torch.equal(read_tensor(held).to(tensor.device, tensor.dtype), tensor.detach())


def _unknown_entries(files: Files, module: nn.Module, where: str) -> Iterator[str]:
    """Entries of the config that the model's class does not know: those that compute elsewhere, and all others."""
    config: Any = module.config
    if not type(config).__module__.startswith("transformers."):
        return  # what a class of another's making reads cannot be told
    text = config.get_text_config(decoder=True)
    known = _known(config) | _known(text)
    known |= {"rope_theta", "rope_scaling", "partial_rotary_factor"} if hasattr(text, "rope_parameters") else set()
    nested = files.config.get("text_config")
    entries = {**(nested if isinstance(nested, dict) else {}), **files.config}
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
    with suppress(Exception):  # a few have entries without defaults
        names |= set(vars(kind()))  # those that it derives
    return names


def _derived(name: str, value: Any, config: Any) -> bool:
    """Whether an entry only states what holds without it."""
    if name == "head_dim":
        return value == head_dim(config)
    if name == "hidden_act":  # Gemma's files say it twice
        return value == getattr(config, "hidden_activation", None)
    return name == "layer_types" and isinstance(value, list) and set(map(str, value)) == {"full_attention"}
