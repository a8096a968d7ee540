"""Files that ship with depthsig: in the wheel under ``depthsig/data``, in a checkout under ``data``."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def data_path(*parts: str) -> Path:
    """Path of a shipped file or folder, whether it exists or not.

    >>> data_path("prompts", "gsm8k.jsonl").exists()
    True
    """
    installed = _PACKAGE / "data"
    root = installed if installed.is_dir() else _PACKAGE.parent / "data"
    return root.joinpath(*parts)


def shipped_checkpoints() -> dict[str, Path]:
    """Name and folder of every checkpoint that ships."""
    folder = data_path("checkpoints")
    found = sorted(folder.glob("*/config.json")) if folder.is_dir() else []
    return {path.parent.name: path.parent for path in found}
