"""Certificates that were proved before, for the same files, prompts, order and versions, need not be proved again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from depthsig import kept
from depthsig.engine.certificates import Certificate, certify, chosen_of
from depthsig.model import Model
from depthsig.signature.provenance import versions

KIND = "certificates"


class Proved(NamedTuple):
    """Certificates, and when they were proved."""

    certificates: list[Certificate]
    when: str


_RECORD = TypeAdapter(Proved)


def certified(model: Model, prompts: Sequence[Sequence[int]], *, keep: bool, recheck: bool = False) -> Proved:
    """The certificates of a model on prompts: those that are kept, else proved now, and kept if all hold.

    Args:
        keep: whether the model is as its files say. One that came as an object may have been changed since, so
            that it is always proved again.
        recheck: prove them in any case.
    """
    key = _key(model, prompts) if keep else None
    found = None if key is None or recheck else _kept(key)
    if found is None:
        found = Proved(certify(model, prompts), datetime.now(UTC).isoformat(timespec="seconds"))
        if key is not None and all(one.passed for one in found.certificates):
            kept.write(KIND, key, _RECORD.dump_json(found))
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


def _kept(key: str) -> Proved | None:
    data = kept.read(KIND, key)
    try:
        found = None if data is None else _RECORD.validate_json(data)
    except ValidationError:
        return None
    return found if found and found.certificates and all(one.passed for one in found.certificates) else None
