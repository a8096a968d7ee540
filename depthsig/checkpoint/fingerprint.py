"""Whether a model's weights are still those that were loaded: results carry the hash of the files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from depthsig.checkpoint.anatomy.offloaded import stored
from depthsig.checkpoint.streaming.stream import streamed_names
from depthsig.errors import InputError

Fingerprint = Mapping[str, str]
"""A digest of every weight."""


def fingerprint(module: nn.Module) -> Fingerprint:
    """Digests of sums over the bits of each weight's rows: exact, and as fast as memory is read.

    Weights that are read as they are needed have none: their files are looked at every time.
    """
    apart = streamed_names(module)
    kept = ((name, weight) for name, weight in stored(module) if name not in apart)
    return {name: digest_of(weight) for name, weight in kept if weight is not None}


def digest_of(weight: Tensor) -> str:
    """Of sums over the bits of a weight's rows."""
    flat = weight.contiguous().view(-1).view(torch.uint8)
    whole = flat.numel() // 8 * 8
    if flat.storage_offset() % 8:
        flat = flat.clone()
    words = flat[:whole].view(torch.int64)
    rows = len(weight) if whole and weight.ndim > 1 and weight[0].nbytes % 8 == 0 else 1
    sums = torch.cat([words.view(rows, -1).sum(1), flat[whole:].long()])
    return hashlib.sha256(sums.cpu().numpy().tobytes()).hexdigest()


def check_unchanged(module: nn.Module, loaded: Fingerprint, source: str) -> None:
    """Refuse weights that were changed after loading.

    Args:
        loaded: their fingerprint then; empty where nothing vouches for them.

    Raises:
        InputError: naming the first changed weight, and how to analyse what is there now.
    """
    now = fingerprint(module) if loaded else {}
    changed = next((name for name, digest in loaded.items() if now.get(name) != digest), None)
    if changed is not None:
        raise InputError(
            f"weight {changed!r} was changed after {source!r} was loaded, so results would carry the hash of other "
            "weights; give the changed model itself to depthsig.load(module, tokenizer)"
        )
