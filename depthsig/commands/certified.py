"""Certificates that were proved before, for the same files, prompts, order and versions, need not be proved again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from depthsig import kept
from depthsig.engine.certificates import Certificate, certify, chosen_of
from depthsig.model import Model
from depthsig.signature.provenance import versions

KIND = "certificates"

_RECORDS = TypeAdapter(list[Certificate])


def certified(
    model: Model, prompts: Sequence[Sequence[int]], *, keep: bool, recheck: bool = False
) -> list[Certificate]:
    """The certificates of a model on prompts: those that are kept, else proved now, and kept if all hold.

    Args:
        keep: whether the model is as its files say. One that came as an object may have been changed since, so
            that it is always proved again.
        recheck: prove them in any case.
    """
    key = _key(model, prompts) if keep else None
    found = None if key is None or recheck else _kept(key)
    if found is None:
        found = certify(model, prompts)
        if key is not None and all(one.passed for one in found):
            _keep(key, found)
    return found


def are_kept(model: Model, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether the certificates of a model on prompts are there already."""
    key = _key(model, prompts)
    return key is not None and _kept(key) is not None


def _key(model: Model, prompts: Sequence[Sequence[int]]) -> str | None:
    """All that certificates depend on; None where the checkpoint has no hash."""
    if model.checkpoint.content_hash is None:
        return None
    ids = hashlib.sha256(json.dumps([list(map(int, one)) for one in chosen_of(prompts)]).encode()).hexdigest()
    depends: dict[str, Any] = {
        "weights": model.checkpoint.content_hash, "prompts": ids, "layers": list(model.plan.layers),
        "declared": model.declared.explicit_options().given(), "dtype": str(model.dtype), "device": str(model.device),
        "random_state": model.random_state, "versions": versions(),
    }  # fmt: skip
    return json.dumps(depends, sort_keys=True, default=str)


def _kept(key: str) -> list[Certificate] | None:
    data = kept.read(KIND, key)
    try:
        found = None if data is None else _RECORDS.validate_json(data)
    except ValidationError:
        return None
    return found if found and all(one.passed for one in found) else None


def _keep(key: str, found: Sequence[Certificate]) -> None:
    said = f"proved {datetime.now(UTC):%Y-%m-%d} and kept"
    records = [{**asdict(one), "note": "; ".join(filter(None, [one.note, said]))} for one in found]
    kept.write(KIND, key, json.dumps(records).encode())
