"""Translators of a tuned lens, in tuned-lens' own file format.

A translator is one affine map a depth, added to the state that it translates: h_d + W_d h_d + b_d
is read out in the place of h_d (Belrose et al. 2303.08112). A folder holds ``config.json`` and
``params.pt``, a plain state dict with the keys ``0.weight``, ``0.bias``, ``1.weight`` … for the
states entering layers 0, 1 …; the last state needs none. Before April 2023 the keys were
``input_translator.*`` and ``layer_translators.{i}.*`` (older still, ``probe`` or ``adapter`` in
place of ``translator``), beside a copy of the model's readout, which is not used.
``params.safetensors`` with the same keys is read, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from depthsig.checkpoint.files.tensors import read_pickled, read_safetensors
from depthsig.checkpoint.finite import is_finite
from depthsig.checkpoint.lens_folder import CONFIG, LENS_RECORD, PARAMS, SAFE, LensKind, lens_files, own_record
from depthsig.errors import InputError, shown
from depthsig.untrusted import size_of

SCHEMA = "depthsig-lens/1"

_READOUT = ("layer_norm.", "unembedding.")
"""Pieces of the model's readout that early files carry; the model's own is used."""


@dataclass(frozen=True)
class TunedLens:
    """One affine translator a depth, for depths 0..S−1.

    Attributes:
        weights: W_d [d, d] of every depth, as in ``torch.nn.Linear``.
        biases: b_d [d] of every depth; None for a lens without.
        source: folder that it was read from or written to; empty for one in memory.
        config: what its ``config.json`` says: the model that it was fitted for.
        record: our own ``lens.json``, where depthsig fitted it.
    """

    kind: ClassVar[LensKind] = "tuned"
    weights: tuple[Float[Tensor, "d d"], ...] = field(repr=False)
    biases: tuple[Float[Tensor, "d"], ...] | None = field(repr=False)
    source: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def width(self) -> int:
        """Size of the residual states that it translates."""
        return int(self.weights[0].shape[0])

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the translators in float32: the same in whatever file they are."""
        digest = hashlib.sha256()
        for tensor in (*self.weights, *(self.biases or ())):
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.weights)

    def __str__(self) -> str:
        return self.source or "a lens in memory"

    def __repr__(self) -> str:
        fitted = self.config.get("base_model_name_or_path")
        of = f", fitted for {shown(fitted)}" if fitted else ""
        return f"TunedLens: {len(self)} translators of width {self.width}{of} ({self})"

    def to(self, device: torch.device | str) -> TunedLens:
        """The same lens on a device."""
        biases = None if self.biases is None else tuple(b.to(device) for b in self.biases)
        return replace(self, weights=tuple(w.to(device) for w in self.weights), biases=biases)

    def translate(self, hidden: Float[Tensor, "*batch d"], depth: int) -> Float[Tensor, "*batch d"]:
        """h + W_d h + b_d, added up in float32 and returned in the dtype of ``hidden``.

        >>> lens = TunedLens((torch.eye(2),), (torch.ones(2),))
        >>> lens.translate(torch.tensor([1.0, 2.0]), 0).tolist()
        [3.0, 5.0]
        """
        weight = self.weights[depth].to(hidden.device, torch.float32)
        bias = None if self.biases is None else self.biases[depth].to(hidden.device, torch.float32)
        state = hidden.float()
        return (state + linear(state, weight, bias)).to(hidden.dtype)

    def about(self) -> dict[str, Any]:
        """What ``signature.json`` keeps of it."""
        return {
            "path": self.source or None, "content_hash": self.content_hash, "translators": len(self),
            "width": self.width,
            "base_model": self.config.get("base_model_name_or_path"), "unembed_hash": self.config.get("unembed_hash"),
            "fitted": {k: self.record[k] for k in ("created", "options", "tokens") if k in self.record} or None,
        }  # fmt: skip


def unembed_hash(head: Float[Tensor, "vocab d"]) -> str:
    """tuned-lens' own mark of a model: SHA-256 of how NumPy prints its unembedding at one digit.

    Only the matrix' corners are printed, so that it stays the same under small changes of dtype.
    """
    # NumPy's own defaults, whatever the caller set: the mark is compared with other people's.
    with np.printoptions(threshold=1000, edgeitems=3, linewidth=75, suppress=False, floatmode="maxprec", sign="-"):
        return hashlib.sha256(np.array_str(head.detach().float().cpu().numpy(), precision=1).encode()).hexdigest()


def read_lens(source: str | Path) -> TunedLens:
    """The lens in a folder of tuned-lens, or written by ``depthsig fit-lens``.

    Nothing in the folder is executed: a ``params.pt`` that holds anything but tensors is refused.

    Raises:
        InputError: in one line, for a folder or file that is missing, damaged, or of a kind that
            is not an affine map a depth.
    """
    folder, path, config = lens_files(source)
    state = _translators(_state(path), config, str(path))
    weights, biases = _checked(state, config, str(path))
    return TunedLens(weights, biases, str(source), config, own_record(folder))


def write_lens(lens: TunedLens, folder: Path, record: Mapping[str, Any]) -> None:
    """Write a lens into a folder that exists, as tuned-lens does, with our own ``lens.json`` beside."""
    state = {f"{d}.weight": w.detach().float().cpu().contiguous() for d, w in enumerate(lens.weights)}
    if lens.biases is not None:
        state |= {f"{d}.bias": b.detach().float().cpu().contiguous() for d, b in enumerate(lens.biases)}
    torch.save(state, folder / PARAMS)
    (folder / CONFIG).write_text(json.dumps(dict(lens.config), indent=1) + "\n", encoding="utf-8")
    (folder / LENS_RECORD).write_text(json.dumps(dict(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _state(path: Path) -> dict[str, Tensor]:
    size = size_of(path)
    state = read_safetensors(path) if path.name == SAFE else read_pickled(path)
    if not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{str(path)!r} holds no state dict of tensors; tuned-lens' {PARAMS} was expected")
    for key, value in state.items():
        if value.layout != torch.strided or value.is_meta:
            raise InputError(f"{str(path)!r}: {shown(key)} is {_kind(value)}; plain tensors can be read")
        if value.numel() * value.element_size() > size:
            raise InputError(
                f"{str(path)!r}: {shown(key)} has {value.numel():,} numbers, more than the file's {size:,} bytes hold"
            )
    return {str(k): v for k, v in state.items()}


def _kind(tensor: Tensor) -> str:
    return "without numbers (of the device meta)" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")


def _translators(state: dict[str, Tensor], config: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """The state dict under today's keys."""
    if any(re.fullmatch(r"\d+\.(weight|bias)", key) for key in state):
        return state
    # Renamed twice by tuned-lens itself: probe, then adapter, then translator.
    state = {re.sub("probe|adapter", "translator", k): v for k, v in state.items() if not k.startswith(_READOUT)}
    if not any(key.startswith("layer_translators.") for key in state):
        raise InputError(
            f"{path!r} has no translators; found the keys {shown(sorted(state)[:3])}, not 0.weight, 0.bias …"
        )
    if "input_translator.weight" not in state:
        raise InputError(f"{path!r} has no translator of the embeddings (include_input=False); one a depth is needed")
    found = {}
    for key, value in state.items():
        stem, _, rest = key.partition(".")
        if stem == "input_translator":
            found[f"0.{rest}"] = value
        elif stem == "layer_translators" and re.fullmatch(r"\d+\.(weight|bias)", rest):
            index, _, name = rest.partition(".")
            found[f"{int(index) + 1}.{name}"] = value
        else:
            found[key] = value
    return found


def _checked(
    state: dict[str, Tensor], config: Mapping[str, Any], path: str
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """Weights and biases by depth, all there, of one width, floating-point and finite."""
    count = sum(key.endswith(".weight") for key in state)
    has_bias = any(key.endswith(".bias") for key in state)
    names = [f"{d}.{kind}" for d in range(count) for kind in ("weight", "bias")[: 1 + has_bias]]
    wrong = sorted(set(names) ^ set(state))
    if wrong or not count:
        kind = "lacks" if wrong and wrong[0] in names else "has the unknown key"
        raise InputError(
            f"{path!r} {kind} {shown(wrong[0] if wrong else '0.weight')}; {count} translators were expected"
        )
    width = state["0.weight"].shape[-1] if state["0.weight"].ndim else 0
    for name in names:
        tensor, shape = state[name], (width, width) if name.endswith("weight") else (width,)
        if tuple(tensor.shape) != shape:
            wanted = shape if width else "(width, width)"
            raise InputError(f"{path!r}: {name} has the shape {tuple(tensor.shape)}; {wanted} was expected")
        if not tensor.is_floating_point():
            raise InputError(f"{path!r}: {name} is {_dtype(tensor)}; float32, float16 or bfloat16 was expected")
        if not is_finite(tensor):
            raise InputError(f"{path!r}: {name} holds values that are not finite; the lens is damaged")
    for key, found in (("d_model", width), ("num_hidden_layers", count), ("num_layers", count)):
        if config.get(key, found) != found:
            raise InputError(
                f"{path!r}: {key} is {found} there, but {shown(config[key])} in {CONFIG}: two lenses mixed up?"
            )
    biases = tuple(state[f"{d}.bias"] for d in range(count)) if has_bias else None
    return tuple(state[f"{d}.weight"] for d in range(count)), biases


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
