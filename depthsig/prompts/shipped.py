"""Files that ship with depthsig: in the wheel under ``depthsig/data``, in a checkout under ``data``.

Of the reference family the wheel holds one member; the distribution ``depthsig-family`` holds the others.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent

SHIPPED_FAMILY = ("family-baseline", "family-lidas", "family-looped", "family-midas")
"""The names of the reference family, whether installed or not."""


def data_path(*parts: str) -> Path:
    """Path of a shipped file or folder, whether it exists or not.

    >>> data_path("prompts", "gsm8k.jsonl").exists()
    True
    """
    installed = _PACKAGE / "data"
    root = installed if installed.is_dir() else _PACKAGE.parent / "data"
    return root.joinpath(*parts)


def shipped_checkpoints() -> dict[str, Path]:
    """Name and folder of every checkpoint that is here: depthsig's own and those of ``depthsig-family``."""
    folders = [data_path("checkpoints"), *_family_folders()]
    found = {path.parent.name: path.parent for folder in folders for path in folder.glob("*/config.json")}
    return dict(sorted(found.items()))


def missing_checkpoints() -> list[str]:
    """Names of the reference family that are not here; ``pip install 'depthsig[family]'`` brings them."""
    here = shipped_checkpoints()
    return [name for name in SHIPPED_FAMILY if name not in here]


def _family_folders() -> list[Path]:
    """Where ``depthsig-family`` keeps its checkpoints; it is found, never imported."""
    spec = find_spec("depthsig_family")
    return [Path(place) / "checkpoints" for place in (spec.submodule_search_locations or ())] if spec else []
