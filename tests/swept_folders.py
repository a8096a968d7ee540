"""Sweeps of small checkpoints, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from checkpoint_folders import change_weights

import depthsig
from depthsig.signature.sweeps.swept import Swept


def write(folder: Path, text: str) -> Path:
    file = folder / "few.yaml"
    file.write_text(text)
    return file


def sweep(file: Path, out: Path, **how: Any) -> Swept:
    return depthsig.sweep(file, out=out, progress=False, **how)


def grown(folder: Path, checkpoint: Path, by: float) -> None:
    """The checkpoint with another weight, as a later revision of its training."""
    shutil.copytree(checkpoint, folder)

    def change(state: dict[str, Any]) -> None:
        state["model.layers.3.mlp.down_proj.weight"] *= by

    change_weights(folder, change)
