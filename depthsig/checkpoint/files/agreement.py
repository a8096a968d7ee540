"""What a checkpoint says, what its files hold and what runs are the same, or the user is told.

:func:`check_agreement` is the one place where this is decided, after loading and before anything is measured:
differences that make numbers wrong are refused, those that a user should know become warnings.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from depthsig.checkpoint.anatomy.probe import embedding_of, head_of
from depthsig.checkpoint.files.entries import other_class, unapplied_rope, unknown_entries
from depthsig.checkpoint.files.held import HeldTensor
from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.files.places import Place, find_places, refuse_collisions
from depthsig.checkpoint.files.rope import check_frequencies, partial_rotation, saved_frequencies
from depthsig.checkpoint.files.tensors import read_tensor
from depthsig.checkpoint.gguf.gguf_tensors import check_rotary, check_tensors_used, rope_factors
from depthsig.errors import UnsupportedModelError, shown

_HARMLESS = re.compile(
    r"(rotary_(pos_)?emb\.inv_freq|(attn|attention|self_attn)\.(masked_)?bias|position_ids|token_type_ids|"
    r"\.masked_bias|num_batches_tracked)$"
)
"""Tables that older versions saved: computed from the config, the same in every checkpoint."""
_MASK = re.compile(r"(attn|attention|self_attn)\.(masked_)?bias$")
_QUANTISED = re.compile(
    r"(weight_scale(_inv)?|weight_(packed|shape|zero_point)|_scale_inv|\.q(weight|zeros)|\.g_idx|\.absmax|\.quant_map|"
    r"\.quant_state\..*|\.nested_(absmax|quant_map)|\.SCB|\.(input|output)_scale)$"
)
"""Names that only quantised weights have: without their meaning, the integers beside them are no weights."""
_SCALES = re.compile(r"(\.scales?|_scales|_blocks|\.biases|\.zeros|\.zero_points?)$")
"""Names that quantised weights share with others: telling only where the model has no place for them."""


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
    places = find_places(files, module)
    refuse_collisions(files, module, places, where)
    check_frequencies(module, where)
    if not files.config.get("quantization_config") and files.gguf is None:
        _refuse_quantised(files, module, unexpected, places, where)
    left = {name for name in unexpected if not _HARMLESS.search(name)} | _no_masks(files, module, places)
    found = list(_unused(sorted(left), module, where))
    found += _heads(files, module, places, where)
    found += other_class(files, module, where)
    found += unknown_entries(files, module, where)
    found += _rope(files, module, places, where)
    return found


def _refuse_quantised(
    files: Files, module: nn.Module, unexpected: Collection[str], places: Mapping[str, Place], where: str
) -> None:
    """Integers and scales that would be taken for plain weights, or left out."""
    names = [name for name in files.tensors if _QUANTISED.search(name)]
    names += [name for name in unexpected if _QUANTISED.search(name) or _SCALES.search(name)]
    if names:
        raise UnsupportedModelError(
            f"{where} holds quantised weights ({shown(names[0])[1:-1]}), but its config has no quantization_config "
            "that says how to read them; the unquantised checkpoint works"
        )
    floats = {name for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    for name, held in files.tensors.items():
        if not held.is_floating and places[name].name in floats:
            raise UnsupportedModelError(
                f"{where} holds {held.kind} numbers as {shown(name)[1:-1]}, and no quantization_config says what "
                "they mean; the unquantised checkpoint works"
            )


def _no_masks(files: Files, module: nn.Module, places: Mapping[str, Place]) -> set[str]:
    """Tensors that are called as the masks of older versions are, and are none: those are square, or one number."""
    state = module.state_dict().keys()
    found = set()
    for name, place in places.items():
        shape = files.tensors[name].shape
        square = len(shape) > 1 and shape[-1] == shape[-2]
        if place.name not in state and _MASK.search(place.name) and not square and files.tensors[name].count != 1:
            found.add(name)
    return found


def _rope(files: Files, module: nn.Module, places: Mapping[str, Place], where: str) -> Iterator[str]:
    """What the config and the files say of rotary positions, and is not what the model rotates by."""
    if files.gguf is None and type(module.config).__module__.startswith("transformers."):
        yield from unapplied_rope(files, module, where)
        yield from partial_rotation(module, where)
        yield from saved_frequencies(files, module, places, where)


def _unused(left: Collection[str], module: nn.Module, where: str) -> Iterator[str]:
    if left:
        first = next(iter(left))
        yield (
            f"{where} holds {len(left)} weight{'s' * (len(left) > 1)} that {type(module).__name__} does not use "
            f"(first: {shown(first)[1:-1]})"
        )


def _heads(files: Files, module: nn.Module, places: Mapping[str, Place], where: str) -> Iterator[str]:
    """A head that the config ties to the embeddings, while the files hold another."""
    embedding, head = embedding_of(module), head_of(module)
    if embedding is None or head is None or embedding.is_meta or head.is_meta:
        return
    if embedding is head:
        held = _held_head(files, module, places)
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


def _held_head(files: Files, module: Any, places: Mapping[str, Place]) -> HeldTensor | None:
    """The head in the files of a model that ties it, where there is one."""
    head = module.get_output_embeddings()
    own = next((name for name, part in module.named_modules() if part is head), "") + ".weight"
    name = next((name for name, place in places.items() if place.name == own), "")
    return files.tensors.get(name) if files.gguf is None else None


def _is_like(held: HeldTensor, tensor: torch.Tensor) -> bool:
    if held.shape != tuple(tensor.shape):
        return False
    return torch.equal(read_tensor(held).to(tensor.device, tensor.dtype), tensor.detach())
