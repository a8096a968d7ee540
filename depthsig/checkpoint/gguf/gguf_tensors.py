"""That every tensor of a GGUF file is used: transformers drops those that it has no place for."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

import gguf
import numpy as np
import torch
from torch import nn
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

from depthsig.checkpoint.gguf.gguf_header import GgufHeader
from depthsig.checkpoint.gguf.gguf_keys import ROPE_FACTORS, head_dim, stretching
from depthsig.errors import UnsupportedModelError, shown


def rope_factors(header: GgufHeader) -> np.ndarray | None:
    """What each rotary frequency is divided by, where the file says so."""
    held = next((tensor for tensor in header.tensors if tensor.name == ROPE_FACTORS), None)
    if held is None:
        return None
    if held.kind not in ("F32", "F16"):
        raise UnsupportedModelError(
            f"{str(header.file)!r}: {ROPE_FACTORS} is of the type {held.kind}; F32 was expected"
        )
    plain = np.dtype("<f4" if held.kind == "F32" else "<f2")
    return np.fromfile(header.file, plain, held.count, offset=header.offsets[held.name]).astype(np.float32)


def check_tensors_used(header: GgufHeader, module: nn.Module, unexpected: Collection[str]) -> None:
    """Refuse a file with tensors that the loaded model did not take.

    Args:
        unexpected: what transformers itself says that it did not take, under its own names.

    Raises:
        UnsupportedModelError: with their number and the first name.
    """
    if _told_by_loader(header.architecture):
        left = sorted(unexpected)
    else:
        taken = {*_taken(header, module), ROPE_FACTORS}
        left = sorted(tensor.name for tensor in header.tensors if tensor.name not in taken)
    if left:
        raise UnsupportedModelError(
            f"{str(header.file)!r}: {len(left)} of its tensors (first: {shown(left[0])}) have no place in "
            f"transformers' {type(module).__name__}; the checkpoint that the file was made from works"
        )


def check_rotary(header: GgufHeader, module: nn.Module, factors: np.ndarray | None) -> None:
    """The frequencies that the model rotates by, against those of the file.

    Raises:
        UnsupportedModelError: if they differ by more than rounding.
    """
    own, rope = header.own(), getattr(module.config, "rope_parameters", None)
    base, (kind, scale) = own.get("rope.freq_base"), stretching(header)
    width = own.get("rope.dimension_count") or head_dim(module.config)
    # Where kinds of layers have frequencies of their own, or some are stretched more, the keys alone were compared.
    plain = isinstance(rope, dict) and "rope_theta" in rope and kind in ("none", "linear")
    if not isinstance(base, float) or not plain or not isinstance(width, int):
        return
    wanted = 1.0 / (torch.tensor(base, dtype=torch.float64) ** (torch.arange(0, width, 2, dtype=torch.float64) / width))
    wanted = wanted / scale / (1.0 if factors is None else torch.from_numpy(factors).double())
    for name, found in module.named_buffers():
        if name.rpartition(".")[2] == "inv_freq" and not (
            found.shape == wanted.shape and torch.allclose(found.double().cpu(), wanted, rtol=1e-4, atol=0)
        ):
            raise UnsupportedModelError(
                f"{str(header.file)!r}: {name} of the loaded model are not the rotary frequencies of the file; "
                "the checkpoint that the file was made from works"
            )


def _told_by_loader(architecture: str) -> bool:
    """Whether transformers reads this architecture by renaming, and so knows itself what it leaves out."""
    if find_spec("transformers.integrations.gguf") is None:  # before 5.20
        return False
    from transformers.integrations.gguf import is_gguf_arch_supported  # lazily: not in every version

    return bool(is_gguf_arch_supported(architecture))


def _taken(header: GgufHeader, module: nn.Module) -> set[str]:
    """The names that transformers' older reader looks up.

    It asks for every part of the model under the names within that part; here they are asked for at once.
    """
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == header.architecture)
    names = gguf.get_tensor_name_map(architecture, int(header.own()["block_count"]))
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config={})
    found: dict[str, str] = {}
    for full in module.state_dict():
        pieces = processor.preprocess_name(full).split(".")
        for name in (".".join(pieces[at:]) for at in range(len(pieces))):
            stem, dot, last = name.rpartition(".")
            stem, suffix = (stem, dot + last) if last in ("weight", "bias") else (name, "")
            known = names.get_name(stem)
            if known is None:
                processor.perform_fallback_tensor_mapping(found, suffix, "", name)
            else:
                found[known + suffix] = full
    return set(found)
