"""Changing a checkpoint's folder, and opening what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.open import Checkpoint, open_checkpoint
from depthsig.errors import DepthsigWarning, InputError


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Copies: the file itself is written over."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def configure(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = read_state(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as told:
        open_checkpoint(folder, options=LoadOptions(**options))
    assert "\n" not in str(told.value)
    return str(told.value)


def opened(folder: Path, told: str) -> Checkpoint:
    with pytest.warns(DepthsigWarning, match=told):
        found = open_checkpoint(folder)
    assert len(found.notes) == 1
    return found
