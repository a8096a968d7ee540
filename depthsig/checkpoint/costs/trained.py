"""What a checkpoint's files say of its training: tokens and FLOPs, as the cards of the shipped family do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depthsig.errors import InputError
from depthsig.untrusted import is_there, read_json

TOLD_IN = "results.json"
SAYS = {"training_tokens": "tokens", "training_flops": "training_flops"}
"""What is recorded, and its key in the file."""
MOST = 1 << 120
"""No training takes more."""


def told_training(folder: Path) -> Mapping[str, int]:
    """Tokens and FLOPs of training, as far as ``results.json`` of a checkpoint's folder says; else nothing.

    Another program's file of that name is no mistake, so whatever does not fit is passed over.

    Returns:
        ``training_tokens`` and ``training_flops``, those that are told.
    """
    path = folder / TOLD_IN
    if not is_there(path):
        return {}
    try:
        said: Any = read_json(path)
    except (OSError, InputError):
        return {}
    found = {name: said.get(key) for name, key in SAYS.items()} if isinstance(said, dict) else {}
    return {k: v for k, v in found.items() if isinstance(v, int) and not isinstance(v, bool) and 0 < v < MOST}
