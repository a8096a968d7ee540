"""Where results go that nobody named a folder for: every analysis keeps its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depthsig.signature.folders.kinds import SIGNATURE, record_in, result_kind
from depthsig.signature.folders.writing import UNITS, ensure_writable, partial_path

RESULTS = Path("depthsig-results")
IDENTITY = "identity"
"""The key under which records keep what :func:`identity_of` gives."""

REQUEST = "request.json"
"""What pieces of unfinished work were measured for."""


def identity_of(told: Mapping[str, Any]) -> str:
    """One word for what makes a result what it is: checkpoint, prompts, options."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def ensure_results() -> None:
    """Check that folders can be made in :data:`RESULTS`, before anything is computed.

    Raises:
        InputError: if they cannot.
    """
    ensure_writable(RESULTS / f"new-{os.getpid()}")


def settle(name: str, identity: str, record: str = SIGNATURE) -> Path:
    """The folder of :data:`RESULTS` that holds this very result or its unfinished work, else the first free name.

    Args:
        name: of what was measured; ``name-2``, ``name-3`` ... follow where it is taken.
        record: the kind of result that will be written.

    Raises:
        InputError: if it cannot be written.
    """
    base = RESULTS / name
    numbered = re.compile(re.escape(base.name) + r"-(\d+)(?:\.partial)?")
    there = [p.name for p in base.parent.iterdir()] if base.parent.is_dir() else []
    taken = [int(m[1]) for m in map(numbered.fullmatch, there) if m and int(m[1]) < 10**6]
    paths = [base, *(base.with_name(f"{base.name}-{k}") for k in range(2, max(taken, default=1) + 2))]
    owners = {path: _owner(path, record) for path in paths}
    chosen = next((p for p, owner in owners.items() if owner == identity), None)
    chosen = chosen or next(p for p, owner in owners.items() if owner is None)
    ensure_writable(chosen, record)
    return chosen


def _owner(path: Path, record: str) -> str | None:
    """The identity of what lies at a name, empty where it has none that we know; None where nothing does."""
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        return str(record_in(path / record).get(IDENTITY, "")) if result_kind(path) == record else ""
    partial = partial_path(path)
    if not os.path.lexists(partial / UNITS):
        return None if partial.is_dir() or not os.path.lexists(partial) else ""
    return str(record_in(partial / UNITS / REQUEST).get(IDENTITY, ""))
