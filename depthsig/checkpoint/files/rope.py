"""What a config and its files say of rotary positions, held against what the model rotates by."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.checkpoint.files.held import HeldTensor
from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.files.places import Place
from depthsig.checkpoint.files.tensors import read_tensor
from depthsig.checkpoint.gguf.gguf_keys import head_dim
from depthsig.errors import InputError, shown

INV_FREQ = re.compile(r"rotary_(pos_)?emb\.inv_freq$")
"""Frequencies that older versions saved."""
_SAME_TYPE = {("su", "longrope"), ("yarn", "longrope"), ("mrope", "default"), ("default", "axial")}
"""Older names of kinds of rope, with the kind that transformers reads them as."""
_OLDER = {
    "rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor", "rope_local_base_freq": "rope_theta",
    "global_rope_theta": "rope_theta", "local_rope_theta": "rope_theta",
}  # fmt: skip
"""Entries of some families, with the parameter that they become."""
_UNREAD = re.compile(r"Unrecognized keys in `rope_parameters` for 'rope_type'='(.*)': (\{.*\})")


def rope_entries(entries: Mapping[str, Any], config: Any, where: str) -> Iterator[str]:
    """Entries about rotary positions that are not what the config has become, or that its kind of rope does not read.

    Args:
        entries: of config.json, those of the language model.
        config: of the language model, as it runs.
    """
    ropes = list(_by_layer_type(config).values())
    if not ropes:
        return
    for name, key, value, own in _claims(entries, config):
        if not any(_is_applied(key, value, rope) for rope in ([own] if own is not None else ropes)):
            became = next((rope[key] for rope in ([own] if own is not None else ropes) if key in rope), None)
            yield (
                f"the config of {where} says {name} = {shown(value)}, which is not applied "
                f"({key} is {shown(became)} in what is run)"
            )
    for kind, keys in sorted(_unread_keys(config)):
        yield f"the config of {where} has rope parameters that the rope type {shown(kind)} does not read: {keys}"


def check_frequencies(module: nn.Module, where: str) -> None:
    """Refuse frequencies that are no numbers: of a base that is zero or negative.

    Raises:
        InputError: with the rope parameters.
    """
    for name, found in _frequencies(module):
        if not bool(found.isfinite().all()):
            rope = shown(getattr(_text(module), "rope_parameters", None), 200)
            raise InputError(
                f"{where}: its config gives rotary frequencies that are not finite ({name}; rope_parameters is {rope})"
            )


def partial_rotation(module: nn.Module, where: str) -> Iterator[str]:
    """A part of each head that the config says is rotated, where the model rotates all of it."""
    config = _text(module)
    factors = [rope.get("partial_rotary_factor") for rope in _by_layer_type(config).values()]
    factor = next((f for f in factors if isinstance(f, (int, float)) and 0 < f < 1), None)
    width = head_dim(config)
    if factor is None or width is None or hasattr(config, "qk_rope_head_dim"):  # of MLA, whose heads have two parts
        return
    rotated = [2 * int(found.count_nonzero()) for _, found in _frequencies(module)]
    if rotated and min(rotated) >= width:
        yield (
            f"the config of {where} says partial_rotary_factor = {factor}, which {type(module).__name__} does not "
            "read: it rotates whole heads"
        )


def saved_frequencies(files: Files, module: nn.Module, places: Mapping[str, Place], where: str) -> Iterator[str]:
    """Frequencies that the files hold, and that are not those of the model."""
    own = [found.detach().double().cpu() for _, found in _frequencies(module)]
    bases = [rope.get("rope_theta") for rope in _by_layer_type(_text(module)).values()]
    for name, place in places.items():
        if INV_FREQ.search(place.name) and not _is_like(files.tensors[name], own, bases):
            yield (
                f"{where} holds rotary frequencies ({shown(name)[1:-1]}) that are not those which its config gives; "
                "the config's are used"
            )
            return


def _is_like(held: HeldTensor, own: list[Tensor], bases: list[Any]) -> bool:
    """Whether saved frequencies are some of the model's own, or those before they are stretched, but for rounding."""
    if len(held.shape) != 1 or not held.is_floating:
        return False
    saved, size = read_tensor(held).double(), held.count
    powers = torch.arange(size, dtype=torch.float64) / max(size, 1)
    plain = [base**-powers for base in bases if isinstance(base, (int, float)) and base > 0]
    # Half precision has steps of 6e-8 near zero.
    return any(w.shape == saved.shape and torch.allclose(saved, w, rtol=1e-2, atol=1e-7) for w in [*own, *plain])


def _frequencies(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, found in module.named_buffers():
        if name.endswith("inv_freq") and not name.endswith("original_inv_freq") and not found.is_meta:
            yield name, found


def _text(module: nn.Module) -> Any:
    config: Any = module.config
    return config.get_text_config(decoder=True)


def _by_layer_type(config: Any) -> dict[str, Mapping[str, Any]]:
    """The rope parameters of each kind of layer; of all under ``""`` where they are the same."""
    found = getattr(config, "rope_parameters", None)
    if not isinstance(found, dict) or not found:
        return {}
    nested: dict[str, Mapping[str, Any]] = {name: rope for name, rope in found.items() if isinstance(rope, dict)}
    return nested or {"": found}


def _claims(entries: Mapping[str, Any], config: Any) -> Iterator[tuple[str, str, Any, Mapping[str, Any] | None]]:
    """What a config says: name of the entry, parameter, value, and the rope that it is about where that is known."""
    ropes = _by_layer_type(config)
    for name in ("rope_theta", "partial_rotary_factor"):
        yield name, name, entries.get(name), None
    for name, key in _OLDER.items():
        if any(key in rope for rope in ropes.values()):  # else the entry means nothing here, which is told elsewhere
            yield name, key, entries.get(name), None
    for entry in ("rope_scaling", "rope_parameters"):
        said = entries.get(entry)
        for key, value in said.items() if isinstance(said, dict) else ():
            if isinstance(value, dict):
                for inner, one in value.items():
                    yield f"{entry}.{key}.{inner}", _parameter(inner), one, ropes.get(key)
            elif "" in ropes or entry == "rope_scaling":
                yield f"{entry}.{key}", _parameter(key), value, None


def _parameter(key: str) -> str:
    return "rope_type" if key == "type" else key


def _is_applied(key: str, value: Any, rope: Mapping[str, Any]) -> bool:
    found = rope.get(key)
    return value is None or found == value or (key == "rope_type" and (value, found) in _SAME_TYPE)


def _unread_keys(config: Any) -> set[tuple[str, str]]:
    """Kinds of rope with the keys that they do not read: transformers knows, and says so in its log."""
    found = set()
    # Its log says that it has said something once; a config that it refuses was refused before.
    with _watched("transformers.modeling_rope_utils") as said, suppress(Exception):
        config.validate_rope()
    for message in said:
        told = _UNREAD.search(message)
        if told:
            keys = sorted(map(str, ast.literal_eval(told[2])))
            found.add((told[1], ", ".join(shown(key)[1:-1] for key in keys[:5]) + ", ..." * (len(keys) > 5)))
    return found


@contextmanager
def _watched(name: str) -> Iterator[list[str]]:
    """What a log is told, and nobody else is."""
    said: list[str] = []
    log, handler = logging.getLogger(name), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    level, passes_on = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = passes_on
