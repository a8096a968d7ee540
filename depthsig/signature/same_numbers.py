"""Whether an analysis that was done again says the same: which numbers moved, and what was different in its making."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from depthsig.errors import shown
from depthsig.signature.signature import Signature

TOLERANCE = 1e-6
"""Of a metric's largest value: two runs by the same number of threads on one machine differ by less."""

_KEYS = {
    "profiles": ["metric", "part", "scope", "agg", "axis", "index"],
    "matrices": ["metric", "part", "scope", "agg", "row", "col"],
    "scores": ["score", "metric", "part", "scope", "agg"],
    "samples_table": ["metric", "part", "scope", "agg", "axis", "prompt", "index", "row", "col"],
    "tokens_table": ["metric", "part", "scope", "prompt", "index", "position", "rank"],
}
_NUMBERS = ("value", "ci_low", "ci_high", "p_value", "token_id")
MOVED = ("table", "metric", "part", "scope", "agg", "column", "rows", "moved", "largest", "most", "agrees")


@dataclass(frozen=True)
class Agreement:
    """Two analyses, one done again, side by side.

    Attributes:
        numbers: a row a table, metric, part, scope, aggregation and column of numbers: ``rows`` that either has,
            how many of them ``moved`` (or are there once), the ``largest`` difference, the ``most`` that is allowed.
        differs: what was different in their making, a sentence each.
        control: the same of their re-initialised controls, where either has one.
    """

    numbers: pd.DataFrame = field(repr=False)
    differs: tuple[str, ...] = ()
    control: Agreement | None = None

    @property
    def agrees(self) -> bool:
        """Whether every number is the same within tolerance."""
        return bool(self.numbers["agrees"].all()) and (self.control is None or self.control.agrees)

    @property
    def moved(self) -> pd.DataFrame:
        """The rows of ``numbers`` that do not agree, those of the control among them, as ``control: TABLE``."""
        own = self.numbers[~self.numbers["agrees"]]
        if self.control is None:
            return own
        theirs = self.control.moved
        return pd.concat([own, theirs.assign(table="control: " + theirs["table"])], ignore_index=True)

    def lines(self) -> list[str]:
        """What is to be said of it, in lines."""
        count = len(self.numbers) + (0 if self.control is None else len(self.control.numbers))
        moved = self.moved
        head = (
            f"{count - len(moved)} of {count} kinds of numbers agree within {TOLERANCE:g} of a metric's largest value"
        )
        said = [f"{'The same' if self.agrees else 'Not the same'}: {head}."]
        said += [_moved(row) for row in moved.head(10).to_dict("records")]
        if len(moved) > 10:
            said.append(f"… and {len(moved) - 10} more.")
        said += [f"Different: {one}." for one in self.differs]
        if not self.agrees and not self.differs:
            said.append(
                "Nothing that is recorded was different: weights, prompts, options, versions, device and threads."
            )
        return said

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "agrees": self.agrees, "tolerance": TOLERANCE, "differs": list(self.differs),
            "moved": self.moved.to_dict("records"),
        }  # fmt: skip


def agreement(before: Signature, now: Signature) -> Agreement:
    """Hold an analysis against the same one done again."""
    rows = [row for table in _KEYS for row in _of_table(table, getattr(before, table), getattr(now, table))]
    numbers = pd.DataFrame(rows, columns=list(MOVED))
    differs = list(differences(before.info, now.info))
    if list(before.prompts["tokens_sha256"]) != list(now.prompts["tokens_sha256"]):
        differs.append(_prompts(before.prompts, now.prompts))
    control = None
    if before.control is not None and now.control is not None:
        control = agreement(before.control, now.control)
        control = Agreement(control.numbers)  # made of the same; what differs is said once
    elif before.control is not None or now.control is not None:
        gone = "is none now" if now.control is None else "was none before"
        numbers = pd.concat([numbers, pd.DataFrame([_whole("control")])], ignore_index=True)
        differs.append(f"there {gone} of the re-initialised control")
    return Agreement(numbers, tuple(differs), control)


def _of_table(table: str, before: pd.DataFrame, now: pd.DataFrame) -> Iterator[dict[str, Any]]:
    if before.empty and now.empty:
        return
    keys = [key for key in _KEYS[table] if key in before.columns]
    both = before.merge(now, how="outer", on=keys, suffixes=("_before", "_now"), indicator=True)
    about = [key for key in ("score", "metric", "part", "scope", "agg") if key in keys]
    named = table.removesuffix("_table")
    for values, rows in both.groupby(about, sort=False, dropna=False):
        labels = dict(zip(about, values, strict=True))
        if "score" in labels:
            labels["metric"] = " of ".join(v for v in (labels.pop("score"), labels["metric"]) if v != "-")
        for column in _NUMBERS:
            if f"{column}_before" not in rows:
                continue
            old, new = (rows[f"{column}_{when}"].to_numpy(float, na_value=np.nan) for when in ("before", "now"))
            if column != "value" and np.isnan(old).all() and np.isnan(new).all():
                continue
            yield {
                "table": named,
                "agg": "-",
                **labels,
                **_held(column, old, new, (rows["_merge"] != "both").to_numpy()),
            }


def _held(column: str, old: np.ndarray, new: np.ndarray, once: np.ndarray) -> dict[str, Any]:
    both = np.concatenate([old, new])
    scale = np.max(np.abs(both[np.isfinite(both)]), initial=0.0)  # what is infinite must be so in both
    most = 0.0 if column == "token_id" else TOLERANCE * (max(scale, 1.0) if column == "p_value" else scale)
    same = (np.isnan(old) & np.isnan(new)) | (old == new)
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(old - new))
    moved = once | ~(gap <= most)  # a number that became none has moved
    largest = float(np.nanmax(gap, initial=0.0))
    return {
        "column": column, "rows": len(old), "moved": int(moved.sum()), "largest": largest, "most": most,
        "agrees": not moved.any(),
    }  # fmt: skip


def _whole(table: str) -> dict[str, Any]:
    nothing = {"metric": "-", "part": "-", "scope": "-", "agg": "-", "column": "-"}
    return {"table": table, **nothing, "rows": 0, "moved": 1, "largest": np.nan, "most": 0.0, "agrees": False}


def _moved(row: Mapping[str, Any]) -> str:
    about = ", ".join(v for v in (row["part"], row["scope"], row["agg"]) if isinstance(v, str) and v != "-")
    what = f"{row['table']}: {row['metric']}{about and f' ({about})'}, {row['column']}"
    if np.isnan(row["largest"]) or (row["moved"] and row["largest"] <= row["most"]):
        return f"{what}: {row['moved']} of {row['rows']} rows are there once, or are no number once."
    return (
        f"{what}: {row['moved']} of {row['rows']} moved, by {row['largest']:.3g} at most (allowed {row['most']:.3g})."
    )


ABOUT: Mapping[str, tuple[str, ...]] = {
    "the weights": ("checkpoint", "content_hash"),
    "the tokenizer": ("checkpoint", "tokenizer_hash"),
    "the revision": ("checkpoint", "revision"),
    "the device": ("device",),
    "the dtype": ("dtype",),
    "the number of threads": ("threads",),
    "the seed": ("seed",),
    "the random state": ("random_state",),
    "the lens": ("lens", "content_hash"),
    "the Jacobian lens": ("jacobian_lens", "content_hash"),
    "the schema": ("schema",),
}
"""What two records may differ in that makes numbers differ, by what it is called."""
_HASHES = ("content_hash", "tokenizer_hash")
_OTHERWISE = ("asked", "memory", "batch_size", "lens", "n", "prompts", "calibration")
"""Options that change no number beyond rounding, or that are held against each other in what they came to."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What was different in the making of two analyses, by their records, a sentence each."""
    for name, where in ABOUT.items():
        old, new = _at(before, where), _at(now, where)
        if old is not None and old != new:
            short = where[-1] in _HASHES
            yield f"{name} ({_said(old, short)} before, {_said(new, short)} now)"
    if _steps(before) != _steps(now):
        yield f"the plan ({len(before.get('plan', []))} steps before, {len(now.get('plan', []))} now)"
    versions = before.get("versions", {})
    for package, installed in now.get("versions", {}).items():
        known = versions.get(package)
        if known is not None and known != installed:
            yield f"{package} ({known} before, {installed} now)"
    options = before.get("options", {})
    for option, value in now.get("options", {}).items():
        if option in options and options[option] != value and option not in _OTHERWISE:
            yield f"--{option.replace('_', '-')} ({_said(options[option])} before, {_said(value)} now)"
    old_files, new_files = (_plugins(one) for one in (before, now))
    for path, digest in old_files.items():
        if digest is not None and digest not in new_files.values():
            yield f"the plug-in {shown(path)} (its content is another)"


def _at(record: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = record
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _steps(record: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    return [(step.get("layer"), step.get("iteration")) for step in record.get("plan", [])]


def _plugins(record: Mapping[str, Any]) -> dict[str, str | None]:
    given = (record.get("given") or {}).get("plugins") or []
    return {str(one.get("path")): one.get("sha256") for one in given}


def _said(value: Any, short: bool = False) -> str:
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)[:12] if short else shown(value) if isinstance(value, Mapping) else str(value)


def _prompts(before: pd.DataFrame, now: pd.DataFrame) -> str:
    if len(before) != len(now):
        return f"the prompts ({len(before)} before, {len(now)} now)"
    other = [
        int(p)
        for p, a, b in zip(before["prompt"], before["tokens_sha256"], now["tokens_sha256"], strict=True)
        if a != b
    ]
    return f"the tokens of {len(other)} of {len(now)} prompts (the first is prompt {other[0]})"
