"""Tables of a results folder: names, columns and types."""

from __future__ import annotations

from depthsig.signature.tabular import INTEGER, NAME, NUMBER, TEXT, VERBATIM, Columns

SCHEMA = "depthsig-signature/2"
READS = ("depthsig-signature/1", SCHEMA)
"""Schemas that are read; the first had empty cells where a name does not apply."""

_ABOUT = {"metric": TEXT, "part": NAME, "scope": NAME}
_SUMMARY = {"value": NUMBER, "ci_low": NUMBER, "ci_high": NUMBER}

TABLES: dict[str, Columns] = {
    "profiles": {
        **_ABOUT, "agg": TEXT, "axis": TEXT, "index": INTEGER, "layer": INTEGER, "iteration": INTEGER, "span": TEXT,
        "block": INTEGER, "phase": INTEGER, **_SUMMARY, "n_prompts": INTEGER,
    },
    "matrices": {**_ABOUT, "agg": TEXT, "row": INTEGER, "col": INTEGER, **_SUMMARY, "n_prompts": INTEGER},
    "scores": {
        "score": TEXT, "metric": NAME, "part": NAME, "scope": NAME, "agg": TEXT, **_SUMMARY, "p_value": NUMBER,
        "n_prompts": INTEGER, "null": TEXT, "note": TEXT,
    },
    "prompts": {"prompt": INTEGER, "sha256": TEXT, "tokens_sha256": TEXT, "n_tokens": INTEGER, "cuts": TEXT},
    "samples": {
        **_ABOUT, "agg": TEXT, "axis": TEXT, "prompt": INTEGER, "index": INTEGER, "row": INTEGER, "col": INTEGER,
        "value": NUMBER,
    },
    "tokens": {
        **_ABOUT, "prompt": INTEGER, "index": INTEGER, "position": INTEGER, "token": VERBATIM, "rank": INTEGER,
        "token_id": INTEGER, "value": NUMBER, "input_token": VERBATIM,
    },
}  # fmt: skip
"""Every table's columns with their types. In ``tokens``, ``token`` is the text of ``token_id`` where there
is one (a predicted token), else of the token at ``position``; ``input_token`` always is the token at
``position``."""

FILES = {
    "profiles": "profiles.csv", "matrices": "matrices.csv", "scores": "scores.csv",
    "prompts": "prompts.csv", "samples": "samples.parquet", "tokens": "tokens.parquet",
}  # fmt: skip
