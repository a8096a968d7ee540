"""A saved study of repeats: what its figures are drawn from, read without any model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from depthsig.errors import InputError
from depthsig.signature.folders.kinds import REPEAT
from depthsig.signature.reading import read_as, read_table
from depthsig.signature.records import RepeatRecord
from depthsig.signature.tabular import INTEGER, NUMBER, TEXT, Columns, conform
from depthsig.untrusted import is_there

SCHEMA = "depthsig-repeat/1"

_RUN: Columns = {"start": INTEGER, "end": INTEGER, "times": INTEGER, "damping": NUMBER}
_MEASURED: Columns = {f"{name}{end}": NUMBER for name in ("loss", "accuracy") for end in ("", "_low", "_high")}
_CHANGE: Columns = dict.fromkeys(("delta_loss", "delta_loss_low", "delta_loss_high", "delta_accuracy"), NUMBER)
REPEATED: Columns = {"task": TEXT, **_RUN, "n_prompts": INTEGER, **_MEASURED, **_CHANGE}
RANKING: Columns = {**_RUN, **_CHANGE, "n_prompts": INTEGER}
PREDICTION: Columns = {
    "predictor": TEXT, "meaning": TEXT, "times": INTEGER, "damping": NUMBER, "spearman": NUMBER, "ci_low": NUMBER,
    "ci_high": NUMBER, "n_spans": INTEGER,
}  # fmt: skip
"""Columns of its tables that figures and page show."""

MOST_LAYERS = 2000
"""A map has a cell for every two layers; no model comes near."""


@dataclass(frozen=True)
class Repeated:
    """A study's runs, and its spans from the most helpful on (none where nothing was run more than once).

    Attributes:
        runs: one row a task and run; ``times`` = 1 is the model as it is.
        prediction: does the signature tell which span is worth it? Empty where that was not asked.
        info: what ``repeat.json`` says.
    """

    runs: pd.DataFrame
    ranking: pd.DataFrame
    prediction: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(PREDICTION)))
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scanned(self) -> bool:
        """Whether more than one span was run."""
        return len(self.runs[["start", "end"]].dropna().drop_duplicates()) > 1

    @classmethod
    def of(cls, frames: Mapping[str, pd.DataFrame], info: Mapping[str, Any] | None = None) -> Repeated:
        """Of tables by their names, and the record."""
        tables = {"repeat": REPEATED, "ranking": RANKING, "prediction": PREDICTION}
        runs, ranking, prediction = (conform(frames.get(name, pd.DataFrame()), c, name) for name, c in tables.items())
        return cls(runs, ranking, prediction, dict(info or {}))

    @classmethod
    def load(cls, directory: str | Path) -> Repeated:
        """Read a study's folder.

        Raises:
            InputError: naming what is missing or damaged.
        """
        folder = Path(directory)
        info = read_as(folder / REPEAT, (SCHEMA,), RepeatRecord)
        frames = {"repeat": read_table(folder / "repeat.csv", REPEATED)}
        if (frames["repeat"]["times"] > 1).any():
            frames["ranking"] = read_table(folder / "ranking.csv", RANKING)
        if is_there(folder / "prediction.csv"):
            frames["prediction"] = read_table(folder / "prediction.csv", PREDICTION)
        for name in ("repeat", "ranking"):
            frame = frames.get(name, pd.DataFrame(columns=list(RANKING)))
            wrong = _wrong(frame)
            if wrong:
                raise InputError(f"{str(folder / f'{name}.csv')!r} is damaged: {wrong}")
        return cls.of(frames, info)


def _wrong(frame: pd.DataFrame) -> str:
    """Why no study wrote this table; empty where one could have."""
    if (frame["times"].isna() | (frame["times"] < 1) | frame["damping"].isna()).any():
        return "a run has no number of passes, or no damping"
    more = frame[frame["times"] > 1]
    places = more[["start", "end"]]
    inside = (places["start"] >= 0) & (places["end"] > places["start"]) & (places["end"] <= MOST_LAYERS)
    if places.isna().any(axis=None) or not inside.all():
        return f"a span of its runs is none of at most {MOST_LAYERS} layers"
    if "task" in frame:
        plain = frame.loc[frame["times"] == 1, "task"]
        if plain.duplicated().any() or not set(more["task"]) <= set(plain):
            return "a task lacks the model as it is, or has it twice"
    return ""
