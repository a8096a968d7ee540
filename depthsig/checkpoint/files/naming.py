"""Names of checkpoints that a person recognises."""

from __future__ import annotations

import re
from pathlib import Path

_STEP = re.compile(r"((checkpoint|ckpt|step|epoch|iter|iteration|global_?step)s?[-_]?)?\d+", re.IGNORECASE)
"""Folders that a training run makes by the dozen: the run is what tells them apart."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def name_of(place: Path) -> str:
    """Short name of a folder or a file; never empty.

    >>> name_of(Path("/cache/models--owner--tiny/snapshots") / ("0" * 40)), name_of(Path("/runs/a/checkpoint-500"))
    ('tiny', 'a-checkpoint-500')
    >>> name_of(Path("/models/tiny.Q4.gguf")), name_of(Path("/"))
    ('tiny.Q4', 'checkpoint')
    """
    repository = repository_of(place)
    if repository is not None:
        return repository[0].split("/")[-1]
    if place.suffix.lower() == ".gguf":
        return place.stem  # not of what a link in a hub cache leads to, which is called by its hash
    path = place.resolve()
    if _STEP.fullmatch(path.name) and path.parent.name:
        return f"{path.parent.name}-{path.name}"
    return path.name or "checkpoint"


def repository_of(place: Path) -> tuple[str, str] | None:
    """Hub id and commit of a folder that is a snapshot in a hub cache, else None.

    >>> repository_of(Path("/cache/models--owner--tiny/snapshots") / ("0" * 40))[0]
    'owner/tiny'
    """
    parts = place.absolute().parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not _COMMIT.fullmatch(parts[-1]):
        parts = place.resolve().parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not _COMMIT.fullmatch(parts[-1]):
        return None
    folder = parts[-3]
    if not folder.startswith("models--") or folder == "models--":
        return None
    return folder.removeprefix("models--").replace("--", "/", 1), parts[-1]
