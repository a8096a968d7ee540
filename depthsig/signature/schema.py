"""Tables of a results folder: names, columns and types (DESIGN §10)."""

from __future__ import annotations

import numpy as np
import pandas as pd

SCHEMA = "depthsig-signature/1"

TEXT, INTEGER, NUMBER = "text", "integer", "number"

TABLES: dict[str, dict[str, str]] = {
    "profiles": {
        "metric": TEXT, "part": TEXT, "scope": TEXT, "agg": TEXT, "axis": TEXT, "index": INTEGER,
        "layer": INTEGER, "iteration": INTEGER, "span": TEXT, "block": INTEGER, "phase": INTEGER,
        "value": NUMBER, "ci_low": NUMBER, "ci_high": NUMBER, "n_prompts": INTEGER,
    },
    "matrices": {
        "metric": TEXT, "part": TEXT, "scope": TEXT, "agg": TEXT, "row": INTEGER, "col": INTEGER,
        "value": NUMBER, "ci_low": NUMBER, "ci_high": NUMBER, "n_prompts": INTEGER,
    },
    "scores": {
        "score": TEXT, "metric": TEXT, "part": TEXT, "scope": TEXT, "agg": TEXT, "value": NUMBER,
        "ci_low": NUMBER, "ci_high": NUMBER, "p_value": NUMBER, "n_prompts": INTEGER, "null": TEXT, "note": TEXT,
    },
    "prompts": {
        "prompt": INTEGER, "sha256": TEXT, "tokens_sha256": TEXT, "n_tokens": INTEGER, "cuts": TEXT,
    },
    "samples": {
        "metric": TEXT, "part": TEXT, "scope": TEXT, "agg": TEXT, "axis": TEXT, "prompt": INTEGER,
        "index": INTEGER, "row": INTEGER, "col": INTEGER, "value": NUMBER,
    },
    "tokens": {
        "metric": TEXT, "part": TEXT, "scope": TEXT, "prompt": INTEGER, "index": INTEGER,
        "position": INTEGER, "token": TEXT, "rank": INTEGER, "token_id": INTEGER, "value": NUMBER,
        "input_token": TEXT,
    },
}  # fmt: skip
"""Every table's columns with their types. Empty text is "", an undefined number NaN, an integer
that does not apply <NA>. In ``tokens``, ``token`` is the text of ``token_id`` where there is one
(the predicted token of lens.tokens), else of the token at ``position``; ``input_token`` always is
the token at ``position``."""

FILES = {
    "profiles": "profiles.csv", "matrices": "matrices.csv", "scores": "scores.csv",
    "prompts": "prompts.csv", "samples": "samples.parquet", "tokens": "tokens.parquet",
}  # fmt: skip


def conform(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with exactly the columns of ``table``, in their order and types.

    Raises:
        ValueError: if a column is missing or a value does not fit its type.
    """
    columns = TABLES[table]
    if frame.empty:
        frame = pd.DataFrame(columns=list(columns))
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise ValueError(f"{FILES[table]} lacks the columns {missing}")
    out = {}
    for name, kind in columns.items():
        values = frame[name]
        if kind == TEXT:
            out[name] = values.astype(object).where(values.notna(), "").astype(str).astype(object)
        elif kind == INTEGER:
            out[name] = pd.to_numeric(values).astype("Int64")
        else:
            out[name] = pd.to_numeric(values).astype(np.float64)
    return pd.DataFrame(out).reset_index(drop=True)
