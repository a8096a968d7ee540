"""Tables and records of results folders, written, and read with care."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from depthsig.errors import InputError
from depthsig.metrics.entries.fields import read_entry
from depthsig.signature import tabular
from depthsig.signature.provenance import wrong_given
from depthsig.signature.schema import FILES, READS, TABLES
from depthsig.terms import described


def write_tables(directory: Path, info: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    """``signature.json`` and every table, into a folder that exists."""
    for name, frame in tables.items():
        tabular.write(frame, directory / FILES[name], TABLES[name])
    told = {**info, "rows": {FILES[name]: len(frame) for name, frame in tables.items()}}
    write_record(directory / "signature.json", told)


def write_record(path: Path, info: Any) -> None:
    """A record as JSON that people can read."""
    path.write_text(json.dumps(info, indent=1, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written to signature.json")


def read_tables(directory: str | Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """What :func:`write_tables` wrote.

    Raises:
        InputError: naming the file that is missing, truncated or of another schema.
    """
    path = Path(directory)
    if path.name.endswith(".partial"):
        raise InputError(f"{str(path)!r} is unfinished work, not a result; run the analysis with --resume")
    if not path.is_dir():
        raise InputError(f"{str(path)!r} is no folder; name a results folder")
    info = _read_info(path / "signature.json")
    written, tables = info.pop("rows", {}), {}
    for name, file in FILES.items():
        try:
            tables[name] = tabular.read(path / file, TABLES[name])
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{str(path / file)!r} cannot be read as a table of ours: {reason}") from None
        if written.get(file, len(tables[name])) != len(tables[name]):
            raise InputError(
                f"{str(path / file)!r} is damaged: {len(tables[name])} of its {written[file]} rows are there; "
                "analyze the checkpoint again"
            )
    _check_profiles(tables["profiles"], len(info["plan"]), str(path / FILES["profiles"]))
    return info, tables


def _check_profiles(profiles: pd.DataFrame, steps: int, where: str) -> None:
    """A profile has all its rows: S + 1 over depth, S over steps."""
    groups = profiles.groupby(["metric", "part", "scope", "agg", "axis"], sort=False)["index"]
    for (metric, part, scope, agg, axis), index in groups:
        size = steps + (axis == "depth")
        if sorted(index.dropna()) != list(range(size)):
            name = f"{metric} ({described(part, scope, agg)})"
            raise InputError(f"{where!r} is damaged: {name} has {len(index)} rows of {size} ({steps} steps)")


def read_record(path: Path, schemas: Sequence[str]) -> dict[str, Any]:
    """The record of a results folder (one of :data:`RECORDS`), of a schema that is read.

    Raises:
        InputError: if it is missing, damaged or of another schema.
    """
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{str(path.parent)!r} holds no {path.name}; it is no depthsig result of this kind") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from None
    found = info.get("schema") if isinstance(info, dict) else None
    if found not in schemas:
        known = " and ".join(map(repr, schemas))
        raise InputError(f"{str(path)!r} has schema {found!r}; this version reads {known}")
    return info


def _read_info(path: Path) -> dict[str, Any]:
    info = read_record(path, READS)
    wrong = _wrong_info(info)
    if wrong:
        raise InputError(f"{str(path)!r} is damaged: {wrong}")
    return info


_STEP: dict[str, type] = {"step": int, "layer": int}
_SPAN: dict[str, type] = {"start": int, "end": int, "size": int, "count": int, "kind": str, "source": str}


def _wrong_info(info: dict[str, Any]) -> str:
    """What a record lacks that everything that reads one relies on; empty if nothing."""
    for name, kind in (("plan", list), ("spans", dict), ("checkpoint", dict), ("options", dict), ("rows", dict)):
        if not isinstance(info.get(name, {} if name == "rows" else None), kind):
            return f"{name!r} is no {'list' if kind is list else 'object'}"
    lists = [("plan", info["plan"], _STEP)]
    lists += [(f"spans.{k}", info["spans"].get(k, []), _SPAN) for k in ("executed", "labelled")]
    for name, entries, fields in lists:
        if not isinstance(entries, list) or not all(_has(entry, fields) for entry in entries):
            return f"an entry of {name!r} lacks one of {', '.join(fields)}"
    wrong = wrong_entries(info) or wrong_given(info)
    if wrong:
        return wrong
    steps = len(info["plan"])
    outside = [s for _, spans, fields in lists[1:] for s in spans if not 0 <= s["start"] < s["end"] <= steps]
    if not steps or outside:
        return f"a span lies outside its {steps} steps" if steps else "its plan has no steps"
    return ""


def wrong_entries(info: Mapping[str, Any]) -> str:
    """What is wrong with the metrics that a record declares; empty if nothing."""
    records = info.get("metrics", [])
    if not isinstance(records, list):
        return "'metrics' is no list"
    for record in records:
        try:
            read_entry(record)
        except ValueError as error:
            return str(error)
    return ""


def _has(entry: Any, fields: dict[str, type]) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in fields.items())
