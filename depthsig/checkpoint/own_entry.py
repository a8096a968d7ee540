"""The ``"depthsig"`` entry of a config: the order and the labels that a checkpoint declares of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from depthsig.errors import InputError, shown

KEYS = ("order", "loop", "grown", "prompts", "arm", "seed", "history")
"""What an entry may hold: the plan, the prompts that suit it, and what is only a record of its training."""


def check_declared(entry: Any, where: str) -> Mapping[str, Any]:
    """The entry, or nothing where there is none.

    Raises:
        InputError: if it is no object, or has a key that would be passed over.
    """
    if entry is None:
        return {}
    if not isinstance(entry, dict):
        raise InputError(
            f'{where}: the "depthsig" entry of its config is {shown(entry)}; it must be an object such as '
            '{"order": "0:4,4:8x4,8:12"}'
        )
    unknown = [key for key in entry if key not in KEYS]
    if unknown:
        raise InputError(
            f'{where}: the "depthsig" entry of its config has the unknown key {shown(unknown[0])}; there are '
            f"{', '.join(KEYS)}"
        )
    return entry
