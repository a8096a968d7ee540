"""A Jacobian lens: one matrix a depth, by which a state is carried on to the end of the model.

J_d h_d is read out in the place of h_d (Gurnee et al. 2026); J_d is a mean of ∂h_S/∂h_d over tokens
and prompts, so that J = I is the plain lens. The file is the reference implementation's
(:mod:`depthsig.checkpoint.jacobian.jacobian_file`); d counts steps of the plan, so that a loop has
one matrix a pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from depthsig.checkpoint.jacobian.jacobian_file import FIRST, lens_pt, packed, read_pt, unpacked
from depthsig.checkpoint.lens_folder import LENS_PT, LENS_RECORD, LensKind, own_record
from depthsig.errors import InputError, shown
from depthsig.untrusted import made_visible


@dataclass(frozen=True)
class JacobianLens:
    """One Jacobian a depth, for depths 0..S−1.

    Attributes:
        jacobians: J_d [d, d], width out by width in, of the state entering step d; None at a depth
            that the file has none for (a published one has no J_0).
        source: file or folder that it was read from or written to; empty for one in memory.
        config: what the file says besides: the model that it was fitted for, its options.
        record: our own ``lens.json``, where depthsig fitted it.
    """

    kind: ClassVar[LensKind] = "jacobian"
    jacobians: tuple[Float[Tensor, "d d"] | None, ...] = field(repr=False)
    source: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse a lens without any matrix: it would have no width."""
        if all(one is None for one in self.jacobians):
            raise InputError("a Jacobian lens needs a matrix of one depth at least; found none")

    @property
    def width(self) -> int:
        """Size of the residual states that it carries on."""
        return int(next(j for j in self.jacobians if j is not None).shape[0])

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths that there is a matrix for."""
        return tuple(d for d, j in enumerate(self.jacobians) if j is not None)

    @property
    def prompts(self) -> int:
        """How many prompts it is the mean of; 0 where nothing says so."""
        number = self.config.get("n_prompts", 0)
        return number if isinstance(number, int) and not isinstance(number, bool) else 0

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the matrices in float32 and their depths: the same in whatever file they are."""
        digest = hashlib.sha256()
        for depth in self.depths:
            digest.update(f"{depth}:".encode())
            digest.update(self._at(depth).detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _at(self, depth: int) -> Float[Tensor, "d d"]:
        found = self.jacobians[depth] if -len(self) <= depth < len(self) else None
        if found is None:
            raise InputError(f"{self} has no Jacobian of depth {depth}; it has {shown(list(self.depths))}")
        return found

    def __len__(self) -> int:
        return len(self.jacobians)

    def __str__(self) -> str:
        return self.source or "a Jacobian lens in memory"

    def __repr__(self) -> str:
        fitted = self.config.get("base_model_name_or_path") or self.config.get("model_name")
        of = f", fitted for {shown(fitted)}" if fitted else ""
        return f"JacobianLens: {len(self.depths)} Jacobians of width {self.width} at {len(self)} depths{of} ({self})"

    def to(self, device: torch.device | str) -> JacobianLens:
        """The same lens on a device."""
        return replace(self, jacobians=tuple(None if j is None else j.to(device) for j in self.jacobians))

    def transport(self, hidden: Float[Tensor, "*batch d"], depth: int) -> Float[Tensor, "*batch d"]:
        """J_d h, added up in float32 and returned in the dtype of ``hidden``.

        Raises:
            InputError: at a depth that there is no matrix for.

        >>> lens = JacobianLens((None, torch.tensor([[0.0, 2.0], [1.0, 0.0]])))
        >>> lens.transport(torch.tensor([1.0, 3.0]), 1).tolist()
        [6.0, 1.0]
        """
        matrix = self._at(depth).to(hidden.device, torch.float32)
        return linear(hidden.float(), matrix).to(hidden.dtype)

    def _said(self, name: str) -> str | None:
        """What the file says in words; another program's file may say anything, also what JSON has no word for."""
        found = self.config.get(name)
        return found if isinstance(found, str) else None

    def about(self) -> dict[str, Any]:
        """What ``signature.json`` keeps of it."""
        return {
            "kind": "jacobian", "path": self.source or None, "content_hash": self.content_hash,
            "depths": list(self.depths), "width": self.width, "prompts": self.prompts,
            "base_model": self._said("base_model_name_or_path") or self._said("model_name"),
            "unembed_hash": self._said("unembed_hash"), "target": self._said("target") or "end",
            "fitted": {k: self.record[k] for k in ("created", "options", "tokens") if k in self.record} or None,
        }  # fmt: skip


def read_jacobian_lens(source: str | Path) -> JacobianLens:
    """The lens in a ``.pt`` file of the reference implementation, or in a folder that holds one.

    A published file's index l is the output of block l: depth l + 1. Nothing in it is executed.

    Raises:
        InputError: in one line, for a file that is missing, damaged, or no Jacobian lens.
    """
    path = lens_pt(source)
    found = read_pt(path)
    matrices: dict[int, Tensor] = {layer + 1: matrix for layer, matrix in found.matrices.items()}
    first = unpacked(found.metadata, found.width, str(path))
    if first is not None:
        matrices[0] = first
    said = {k: v for k, v in found.metadata.items() if k != FIRST}
    config = made_visible({**said, "n_prompts": found.prompts, "d_model": found.width})
    jacobians = tuple(matrices.get(depth) for depth in range(found.steps))
    return JacobianLens(jacobians, str(source), config, _record(path.parent))


def write_jacobian_lens(lens: JacobianLens, folder: Path, record: Mapping[str, Any]) -> None:
    """Write a lens into a folder that exists: the reference's file, and our own ``lens.json`` beside.

    Matrices are kept in float32. J_0 has no place among the reference's layers, and goes into the
    metadata of the file, which TransformerLens reads, keeps and writes again.
    """
    matrices = {d: j.detach().float().cpu().contiguous() for d, j in enumerate(lens.jacobians) if j is not None}
    metadata = {**lens.config, "target_layer": len(lens) - 1, "n_prompts": lens.prompts}
    metadata |= packed(matrices.get(0))
    layers = {depth - 1: matrix for depth, matrix in matrices.items() if depth}
    payload = {
        "J": layers, "n_prompts": lens.prompts, "source_layers": sorted(layers), "d_model": lens.width,
        "metadata": metadata,
    }  # fmt: skip
    torch.save(payload, folder / LENS_PT)
    (folder / LENS_RECORD).write_text(json.dumps(dict(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _record(folder: Path) -> dict[str, Any]:
    """Our own record, where it is of this kind of lens."""
    record = own_record(folder)
    return record if record.get("kind") == "jacobian" else {}
