"""The reference implementation's file of a Jacobian lens (anthropics/jacobian-lens, TransformerLens 4.3).

A ``.pt`` of plain tensors and numbers: ``J`` {layer: matrix}, ``n_prompts``, ``source_layers``, ``d_model``
and, from TransformerLens and from us, ``metadata``; or, kept while a fit goes on, ``jacobian_sum`` and
``n_done``, whose mean is taken. Nothing in it is executed, and nothing that it says is believed before it
was held against what is there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.checkpoint.files.tensors import read_pickled
from depthsig.checkpoint.finite import is_finite
from depthsig.checkpoint.lens_folder import LENS_PT
from depthsig.errors import InputError, shown
from depthsig.untrusted import is_file, is_folder, size_of

FIRST = "J_0"
"""In the metadata: the Jacobian of the embeddings, which the reference has no layer for."""

MOST_LENS_LAYERS = 4096
"""More than any model has steps; a file that says more is damaged."""

MOST_PLAIN_VALUES = 10_000
"""Of one entry of the metadata: a list that holds another many times unfolds to more than any machine holds."""

MOST_PROMPTS = 1 << 53
"""What a float still counts one by one."""


@dataclass(frozen=True)
class JacobianFile:
    """What a file holds, checked.

    Attributes:
        matrices: by layer l, J [width out, width in] of the state that leaves block l.
        steps: of the model: the depths are 0..steps−1.
        metadata: plain values; without what is no plain value.
    """

    matrices: dict[int, Float[Tensor, "d d"]] = field(repr=False)
    steps: int
    width: int
    prompts: int
    metadata: dict[str, Any]


def lens_pt(source: str | Path) -> Path:
    """The file of a lens: itself, or the one in a folder.

    Raises:
        InputError: where there is none, or a folder holds several.
    """
    path = Path(source).expanduser()
    if not is_folder(path):
        if is_file(path):
            return path
        raise InputError(f"--lens {shown(str(source))} is no file or folder; name a Jacobian lens' .pt or its folder")
    if is_file(path / LENS_PT):
        return path / LENS_PT
    try:
        found = sorted(one for one in path.glob("*.pt") if is_file(one))
    except OSError as error:
        raise InputError(f"--lens {str(source)!r} cannot be read ({error.strerror})") from None
    if len(found) != 1:
        held = "no .pt file" if not found else f"{len(found)} .pt files"
        raise InputError(f"--lens {str(source)!r} holds {held}; name the one of a Jacobian lens")
    return found[0]


def is_jacobian(payload: Mapping[Any, Any]) -> bool:
    """Whether what a file holds has the keys of a Jacobian lens."""
    return "J" in payload or "jacobian_sum" in payload


def read_pt(path: Path) -> JacobianFile:
    """The file of a lens, checked.

    Raises:
        InputError: in one line, for one that is damaged, or no Jacobian lens.
    """
    payload, name = read_pickled(path, mmap=True), str(path)
    if not is_jacobian(payload):
        raise InputError(
            f"{name!r} is no Jacobian lens: it has the keys {shown(sorted(map(str, payload))[:4])}, "
            "not J, n_prompts, d_model"
        )
    summed = "J" not in payload
    metadata = _metadata(payload, name)
    matrices = _layers(payload["jacobian_sum" if summed else "J"], name, size_of(path))
    prompts = _whole(payload.get("n_done" if summed else "n_prompts", 0), "n_done" if summed else "n_prompts", name)
    if prompts > MOST_PROMPTS:
        raise InputError(f"{name!r} says that it is of more than {MOST_PROMPTS:,} prompts; the lens is damaged")
    if summed and prompts < 1:
        raise InputError(f"{name!r} holds sums over n_done = {prompts} prompts; a mean needs one at least")
    width = _width(matrices, payload, name)
    if summed:
        matrices = {layer: matrix.float() / prompts for layer, matrix in matrices.items()}
    target = _whole(metadata.get("target_layer", max(matrices, default=-1) + 1), "target_layer", name)
    if not max(matrices, default=-1) < target < MOST_LENS_LAYERS:
        raise InputError(
            f"{name!r}: target_layer is {target}, with Jacobians of layers up to {max(matrices, default=-1)}; "
            f"one between that and {MOST_LENS_LAYERS} was expected"
        )
    return JacobianFile(matrices, target + 1, width, prompts, metadata)


def packed(first: Float[Tensor, "d d"] | None) -> dict[str, Any]:
    """J_0 as plain values: TransformerLens refuses to write a lens with tensors in its metadata."""
    if first is None:
        return {}
    return {FIRST: base64.b64encode(first.numpy().astype("<f4").tobytes()).decode("ascii")}


def unpacked(metadata: Mapping[str, Any], width: int, path: str) -> Float[Tensor, "d d"] | None:
    """The J_0 that :func:`packed` wrote; None where there is none.

    Raises:
        InputError: for one that is damaged.
    """
    text = metadata.get(FIRST)
    if text is None:
        return None
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 4 * width * width:
        raise InputError(
            f"{path!r}: {FIRST} in its metadata is no matrix of width {width} in float32; the lens is damaged"
        )
    found = torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float32).reshape(width, width))
    if not is_finite(found):
        raise InputError(f"{path!r}: {FIRST} holds values that are not finite; the lens is damaged")
    return found


def _metadata(payload: Mapping[Any, Any], path: str) -> dict[str, Any]:
    """What the file says of itself; plain values alone, as TransformerLens keeps them."""
    said = payload.get("metadata") or {}
    if not isinstance(said, Mapping):
        raise InputError(f"{path!r}: its metadata is a {type(said).__name__}; a mapping was expected")
    beside = {k: payload[k] for k in ("model_name", "model_revision", "corpus", "target_layer") if k in payload}
    return {str(k): v for k, v in {**beside, **said}.items() if _is_plain(v)}


def _is_plain(value: Any, deepest: int = 16) -> bool:
    """Whether a value is made of numbers and text alone, of at most :data:`MOST_PLAIN_VALUES`."""
    level: list[Any] = [value]
    for _ in range(deepest + 1):
        inner: list[Any] = []
        for one in level:
            if type(one) is dict and all(type(key) is str for key in one):
                inner.extend(one.values())
            elif type(one) in (list, tuple):
                inner.extend(one)
            elif one is not None and type(one) not in (bool, int, float, str):
                return False
            if len(inner) > MOST_PLAIN_VALUES:
                return False
        level = inner
    return not level


def _layers(found: Any, path: str, size: int) -> dict[int, Tensor]:
    """The matrices by layer, each a plain tensor that the file can hold."""
    if not isinstance(found, Mapping):
        raise InputError(f"{path!r}: its Jacobians are a {type(found).__name__}; layer → matrix was expected")
    layers: dict[int, Tensor] = {}
    for key, value in found.items():
        text = str(key)
        layer = int(text) if isinstance(key, (int, str)) and text.isdecimal() and len(text) < 6 else -1
        if isinstance(key, bool) or not 0 <= layer < MOST_LENS_LAYERS or layer in layers:
            raise InputError(
                f"{path!r} has a Jacobian of the layer {shown(key)}; different whole numbers from 0 were expected"
            )
        if not isinstance(value, Tensor):
            raise InputError(f"{path!r}: the Jacobian of layer {layer} is a {type(value).__name__}; no tensor")
        if value.layout != torch.strided or value.is_meta:
            kind = "without numbers (of the device meta)" if value.is_meta else str(value.layout)[6:]
            raise InputError(f"{path!r}: the Jacobian of layer {layer} is {kind}; plain tensors can be read")
        if value.numel() * value.element_size() > size:
            raise InputError(
                f"{path!r}: the Jacobian of layer {layer} has {value.numel():,} numbers, more than the file's "
                f"{size:,} bytes hold"
            )
        layers[layer] = value
    return dict(sorted(layers.items()))


def _width(matrices: Mapping[int, Tensor], payload: Mapping[Any, Any], path: str) -> int:
    """The one width of all matrices, all of them floating-point and finite."""
    first = next(iter(matrices.values()), None)
    told = payload.get("d_model")
    width = int(first.shape[-1]) if first is not None and first.ndim else _whole(told or 0, "d_model", path)
    if width < 1:
        raise InputError(f"{path!r} has no Jacobians and says no d_model; the lens is empty")
    for layer, matrix in matrices.items():
        if tuple(matrix.shape) != (width, width):
            raise InputError(
                f"{path!r}: the Jacobian of layer {layer} has the shape {tuple(matrix.shape)}; "
                f"{(width, width)} was expected"
            )
        if matrix.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise InputError(
                f"{path!r}: the Jacobian of layer {layer} is {str(matrix.dtype)[6:]}; float32, float16 or "
                "bfloat16 was expected"
            )
        if not is_finite(matrix) or not is_finite(matrix.float()):  # float64 holds more than float32
            raise InputError(
                f"{path!r}: the Jacobian of layer {layer} holds values that are not finite; the lens is damaged"
            )
    if told is not None and _whole(told, "d_model", path) != width:
        raise InputError(f"{path!r}: d_model is {shown(told)}, but its Jacobians have the width {width}")
    return width


def _whole(value: Any, name: str, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{path!r}: {name} is {shown(value)}; a whole number from 0 was expected")
    return value
