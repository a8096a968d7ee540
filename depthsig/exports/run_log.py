"""What a run of an experiment tracker shows of a signature: numbers of summary, curves, and what was asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from depthsig.terms import NONE

if TYPE_CHECKING:
    from depthsig.signature import Signature

_NOT_IN_A_TAG = re.compile(r"[^\w.-]+", re.ASCII)
_BY = ["metric", "part", "scope", "agg"]


@dataclass(frozen=True)
class Curve:
    """A profile: its tag, what it is over, and its defined values.

    Attributes:
        tag: as ``contribution.norm/attn``. axis: ``depth``, ``step`` or another of the table's axes.
    """

    tag: str
    axis: str
    index: Int[ndarray, "cell"]
    value: Float[ndarray, "cell"]


def tag_of(*pieces: Any) -> str:
    """What tells a row from others, as trackers group them; ``mean``, the usual aggregation, goes without saying.

    >>> tag_of("late_share", "-", "layer", "current", "mean"), tag_of("my score!", "max")
    ('late_share/layer/current', 'my_score_/max')
    """
    said = [str(piece) for piece in pieces if str(piece) not in (NONE, "", "mean")]
    return "/".join(_NOT_IN_A_TAG.sub("_", piece) for piece in said)


def scores_of(signature: Signature) -> dict[str, float]:
    """Every score that is defined, by its tag."""
    rows = signature.scores[["score", "metric", "part", "scope", "agg", "value"]].itertuples(index=False)
    return {tag_of(*about): float(value) for *about, value in rows if pd.notna(value) and math.isfinite(value)}


def curves_of(signature: Signature) -> Iterator[Curve]:
    """Every profile, without its undefined cells."""
    for about, rows in signature.profiles.groupby(_BY, sort=False):
        found = rows[np.isfinite(rows["value"].to_numpy(float, na_value=np.nan))].sort_values("index")
        if len(found):
            axis = str(found["axis"].iloc[0])
            yield Curve(tag_of(*about), axis, found["index"].to_numpy(int), found["value"].to_numpy(float))  # type: ignore[misc]


def config_of(signature: Signature) -> dict[str, Any]:
    """What was measured of what, one plain value a key: checkpoint, options, versions."""
    info = signature.info
    checkpoint = info.get("checkpoint") or {}
    found: dict[str, Any] = {key: checkpoint.get(key) for key in ("name", "revision", "content_hash", "family")}
    found |= {
        "steps": len(info.get("plan", [])),
        "prompts_measured": len(signature.prompts),
        "dtype": info.get("dtype"),
    }
    found |= {name: _plain(value) for name, value in (info.get("options") or {}).items() if name != "asked"}
    return found | {f"version.{name}": _plain(value) for name, value in (info.get("versions") or {}).items()}


def _plain(value: Any) -> Any:
    """A value that any tracker takes."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
