"""A saved study of repeats: what its figures are drawn from, read without any model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from depthsig.errors import InputError
from depthsig.signature.folders.kinds import REPEAT
from depthsig.signature.reading import read_record, read_table
from depthsig.signature.tabular import INTEGER, NUMBER, TEXT, Columns

SCHEMA = "depthsig-repeat/1"

_RUN: Columns = {"start": INTEGER, "end": INTEGER, "times": INTEGER, "damping": NUMBER}
_MEASURED: Columns = {f"{name}{end}": NUMBER for name in ("loss", "accuracy") for end in ("", "_low", "_high")}
REPEATED: Columns = {"task": TEXT, **_RUN, **_MEASURED, "delta_loss": NUMBER}
RANKING: Columns = {**_RUN, "delta_loss": NUMBER}
"""Columns of its tables that figures show."""

MOST_LAYERS = 2000
"""A map has a cell for every two layers; no model comes near."""


@dataclass(frozen=True)
class Repeated:
    """A study's runs, and its spans from the most helpful on (none where nothing was run more than once).

    Attributes:
        runs: one row a task and run; ``times`` = 1 is the model as it is.
    """

    runs: pd.DataFrame
    ranking: pd.DataFrame

    @property
    def scanned(self) -> bool:
        """Whether more than one span was run."""
        return len(self.runs[["start", "end"]].dropna().drop_duplicates()) > 1

    @classmethod
    def of(cls, frames: dict[str, pd.DataFrame]) -> Repeated:
        """Of tables by their names."""
        return cls(frames["repeat"], frames.get("ranking", pd.DataFrame(columns=list(RANKING))))

    @classmethod
    def load(cls, directory: str | Path) -> Repeated:
        """Read a study's folder.

        Raises:
            InputError: naming what is missing or damaged.
        """
        folder = Path(directory)
        read_record(folder / REPEAT, (SCHEMA,))
        frames = {"repeat": read_table(folder / "repeat.csv", REPEATED)}
        if (frames["repeat"]["times"] > 1).any():
            frames["ranking"] = read_table(folder / "ranking.csv", RANKING)
        for name, frame in frames.items():
            wrong = _wrong(frame)
            if wrong:
                raise InputError(f"{str(folder / f'{name}.csv')!r} is damaged: {wrong}")
        return cls.of(frames)


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
