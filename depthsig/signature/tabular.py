"""Tables by schema: one writer and one reader for every table of every results folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from depthsig.errors import visible
from depthsig.terms import NONE
from depthsig.untrusted import size_of

TEXT, NAME, VERBATIM, INTEGER, NUMBER = "text", "name", "verbatim", "integer", "number"
Columns = Mapping[str, str]
"""Every column of a table, in order, with its kind: empty text is "", a name that does not apply "-", an
undefined number NaN, an integer that does not apply <NA>. Text and names are for people: control characters in
them are made visible when they are read. Verbatim text is data, as tokens, and stays as it is."""


UNREADABLE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, pa.ArrowException)
"""What pandas and Arrow raise for files that are damaged or no tables of ours."""

FEW_ROWS, ROWS_PER_BYTE = 5_000_000, 100
"""A table of at most so many rows is read; a larger one only if its file is large, too: a few bytes can stand
for any number of equal rows."""


def conform(frame: pd.DataFrame, columns: Columns, what: str = "the table") -> pd.DataFrame:
    """``frame`` with exactly ``columns``, in their order and types.

    Raises:
        ValueError: if a column is missing or a value does not fit its type.
    """
    if frame.empty:
        return _nothing(tuple(columns.items())).copy()
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise ValueError(f"{what} lacks the columns {missing}")
    out = {name: _typed(frame[name], kind) for name, kind in columns.items()}
    return pd.DataFrame(out).reset_index(drop=True)


@lru_cache
def _nothing(columns: tuple[tuple[str, str], ...]) -> pd.DataFrame:
    """A table of no rows."""
    return pd.DataFrame({name: pd.Series(dtype=_EMPTY.get(kind, object)) for name, kind in columns})


_EMPTY = {INTEGER: "Int64", NUMBER: np.float64}


def _typed(values: pd.Series, kind: str) -> pd.Series:
    if kind == INTEGER:
        return values if values.dtype == "Int64" else pd.to_numeric(values).astype("Int64")
    if kind == NUMBER:
        return values if values.dtype == np.float64 else pd.to_numeric(values).astype(np.float64)
    if values.dtype == object and pd.api.types.infer_dtype(values, skipna=False) == "string":
        # Most are: a table is conformed whenever a signature is made of it.
        return values.replace("", NONE) if kind == NAME and (values == "").any() else values
    if isinstance(values.dtype, pd.StringDtype):
        text = pd.Series(values.to_numpy(dtype=object, na_value=""), index=values.index, name=values.name, dtype=object)
    else:
        text = values.astype(object).where(values.notna(), "").astype(str).astype(object)
    # Before schema 2 a name that does not apply was empty, which pandas reads as NaN and drops in a groupby.
    return text.replace("", NONE) if kind == NAME else text


def write(frame: pd.DataFrame, path: Path, columns: Columns | None = None) -> None:
    """Write a table as .csv or .parquet, by its file's name; nothing is an empty cell.

    Text that a spreadsheet would run as a formula gets a quotation mark before it, which :func:`read` takes away.
    """
    if columns is not None:
        frame = conform(frame, columns, path.name)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        told = frame.copy()
        for name in frame.columns:
            if not pd.api.types.is_numeric_dtype(frame[name]):
                told[name] = frame[name].map(_quoted, na_action="ignore")
        told.to_csv(path, index=False, na_rep="", lineterminator="\n")


_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How text begins that a spreadsheet would run, or would once a quotation mark before it is taken away."""


def _quoted(text: Any) -> Any:
    """A cell's text, behind the quotation mark that spreadsheets know where it would be run as a formula."""
    return f"'{text}" if isinstance(text, str) and text != NONE and _FORMULA.match(text) else text


def _unquoted(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read(path: Path, columns: Columns) -> pd.DataFrame:
    """A table that was written with these columns.

    Raises:
        ValueError, OSError: where it was not, or is damaged.
    """
    size = size_of(path)
    frame = _read_parquet(path, size, columns) if path.suffix == ".parquet" else _read_csv(path, columns)
    found = conform(frame, columns, path.name)
    for name, kind in columns.items():
        if kind in (TEXT, NAME):
            found[name] = _made_visible(found[name])
    return found


def _made_visible(values: pd.Series) -> pd.Series:
    """Of a column that says few things many times, each once."""
    changed = {text: made for text in values.unique() if (made := visible(text)) != text}
    return values.replace(changed) if changed else values


def _read_csv(path: Path, columns: Columns) -> pd.DataFrame:
    kinds: dict[str, Any] = {TEXT: str, NAME: str, VERBATIM: str, INTEGER: "Int64", NUMBER: float}
    # "" is empty text but a missing number; "nan" and "null" are words that may be meant.
    missing = {c: [""] for c, kind in columns.items() if kind in (INTEGER, NUMBER)}
    frame = pd.read_csv(
        path, dtype={c: kinds[k] for c, k in columns.items()}, keep_default_na=False, na_values=missing,
        float_precision="round_trip",
    )  # fmt: skip
    for name, kind in columns.items():
        if kind in (TEXT, NAME, VERBATIM) and name in frame:
            frame[name] = frame[name].map(_unquoted)
    return frame


def _read_parquet(path: Path, size: int, columns: Columns) -> pd.DataFrame:
    """The columns of a parquet file that are ours; what pandas or others keep beside them is not looked at."""
    about = pq.read_metadata(path)
    if about.num_rows > max(FEW_ROWS, ROWS_PER_BYTE * size):
        raise ValueError(f"{about.num_rows:,} rows in {size:,} bytes")
    there = [name for name in columns if name in about.schema.names]
    return pq.read_table(path, columns=there).replace_schema_metadata(None).to_pandas()
