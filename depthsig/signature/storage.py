"""Tables and records of results folders, written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from depthsig.signature import tabular
from depthsig.signature.schema import FILES, TABLES


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
