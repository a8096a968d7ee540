"""The stability card of a loop, as a folder keeps it: numbers of the whole, of passes, and of iteration counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from depthsig.errors import InputError
from depthsig.signature import storage, tabular
from depthsig.signature.folders.kinds import CARDED, STABILITY_CARD
from depthsig.signature.reading import read_as, read_table
from depthsig.signature.records import Count, Index, Record, Seed, StudiedCheckpoint, as_record
from depthsig.signature.tabular import INTEGER, NAME, NUMBER, TEXT, Columns

SCHEMA = "depthsig-stability/1"
_ENDS: Columns = {"value": NUMBER, "ci_low": NUMBER, "ci_high": NUMBER}
SUMMARY: Columns = {"span": TEXT, "quantity": TEXT, **_ENDS, "control": NUMBER, "unit": NAME, "says": TEXT}
PASSES: Columns = {
    "span": TEXT, "metric": TEXT, "iteration": INTEGER, "phase": INTEGER, **_ENDS, "n_prompts": INTEGER,
    "control": NUMBER,
}  # fmt: skip
COUNTED: Columns = {
    "count": INTEGER, "loss": NUMBER, "ci_low": NUMBER, "ci_high": NUMBER, "chosen_on": NUMBER, "held_out": NUMBER,
    "held_low": NUMBER, "held_high": NUMBER, "safe": INTEGER,
}  # fmt: skip
LOSSES: Columns = {"prompt": INTEGER, "held_out": INTEGER, "count": INTEGER, "loss": NUMBER}
_TABLES = dict(zip(CARDED, (SUMMARY, PASSES, COUNTED, LOSSES), strict=True))
MOST_CELLS = 100_000


class LoopRegime(Record):
    """One loop that runs, and the regime that it is in."""

    span: str
    regime: str
    passes: Count
    phases: Count


class SafeRange(Record):
    """Iteration counts whose loss stays within a band of the best; see :class:`~depthsig.statistics.loop_stability`."""

    band: float
    best: Count
    low: Count
    high: Count
    low_ends: list[Count] | None = None
    high_ends: list[Count] | None = None
    excess: float | None = None
    excess_low: float | None = None
    excess_high: float | None = None
    holds: bool | None = None
    held_low: Count | None = None
    held_high: Count | None = None
    trained: Count | None = None
    tried: list[Count] | None = None


class StabilityRecord(Record):
    """``stability.json``."""

    created: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    checkpoint: StudiedCheckpoint = StudiedCheckpoint()
    plan: str = ""
    prompts: str = ""
    n: Index = 0
    seed: Seed = 0
    probes: Index = 0
    loops: list[LoopRegime] = Field(default_factory=list)
    range: SafeRange | None = None
    ran_by: str = ""
    warnings: list[str] = Field(default_factory=list)


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class StabilityCard:
    """A loop's card: prints as it is shown.

    Attributes:
        info: what ``stability.json`` says.
        summary: a row a quantity: value, interval, the re-initialised control's value, what it says.
        passes: a row a metric, pass and phase.
        counts: a row an iteration count: loss with its interval, over the prompts that choose, over those held out.
        losses: a row a prompt and count.
        name: of the checkpoint.
    """

    info: Mapping[str, Any]
    summary: pd.DataFrame = field(default_factory=_empty, repr=False)
    passes: pd.DataFrame = field(default_factory=_empty, repr=False)
    counts: pd.DataFrame = field(default_factory=_empty, repr=False)
    losses: pd.DataFrame = field(default_factory=_empty, repr=False)
    name: str = "model"

    def __post_init__(self) -> None:
        for name, columns in zip(("summary", "passes", "counts", "losses"), _TABLES.values(), strict=True):
            object.__setattr__(self, name, tabular.conform(getattr(self, name), columns, name))

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the names of their files."""
        return dict(zip(CARDED, (self.summary, self.passes, self.counts, self.losses), strict=True))

    def write(self, folder: Path) -> None:
        """Record and tables into a folder that exists."""
        for name, frame in self.tables().items():
            tabular.write(frame, folder / f"{name}.csv", _TABLES[name])
        storage.write_record(folder / STABILITY_CARD, dict(self.info))

    @classmethod
    def load(cls, directory: str | Path) -> StabilityCard:
        """Read a card's folder.

        Raises:
            InputError: naming what is missing or damaged.
        """
        folder = Path(directory)
        info = read_as(folder / STABILITY_CARD, (SCHEMA,), StabilityRecord)
        summary, passes, counts, losses = (read_table(folder / f"{n}.csv", c) for n, c in _TABLES.items())
        if summary.duplicated(["span", "quantity"]).any():
            raise InputError(f"{str(folder / 'stability.csv')!r} is damaged: a quantity of it stands there twice")
        places = passes[["iteration", "phase"]]
        if len(passes) > MOST_CELLS or places.isna().any(axis=None) or ((places < 0) | (places > 4096)).any(axis=None):
            raise InputError(f"{str(folder / 'passes.csv')!r} is damaged: a cell of it has no place")
        if passes.duplicated(["span", "metric", "iteration", "phase"]).any():
            raise InputError(f"{str(folder / 'passes.csv')!r} is damaged: a cell of it stands there twice")
        if counts["count"].isna().any() or counts["count"].duplicated().any() or (counts["count"] < 1).any():
            raise InputError(f"{str(folder / 'counts.csv')!r} is damaged: its counts are no different whole numbers")
        return cls(info, summary, passes, counts, losses)

    def __str__(self) -> str:
        info = as_record(self.info, StabilityRecord)
        lines = []
        for (span,), rows in self.summary.groupby(["span"], sort=False):
            regime = next((one.regime for one in info.loops if one.span == span), "")
            lines.append(f"loop {span}: {regime}")
            for row in rows.to_dict("records"):
                ends = "" if pd.isna(row["ci_low"]) else f" [{row['ci_low']:.3g}, {row['ci_high']:.3g}]"
                unit = "" if row["unit"] == "-" else f" {row['unit']}"
                control = "" if pd.isna(row["control"]) else f" (re-initialised {row['control']:.3g})"
                lines.append(f"  {row['quantity']}: {row['value']:.3g}{ends}{unit}{control}")
        lines += range_in_words(info.range)
        return "\n".join([*lines, *(f"warning: {one}" for one in info.warnings)])


def range_in_words(found: SafeRange | None) -> list[str]:
    """The range of safe iteration counts in a line, and what other prompts say of it in another."""
    if found is None:
        return []
    ends = [f" [{e[0]}, {e[-1]}]" if e and e[0] != e[-1] else "" for e in (found.low_ends, found.high_ends)]
    said = [
        f"iterations within {found.band:g} nats of the best ({found.best}): {found.low}{ends[0]} to "
        f"{found.high}{ends[1]}{_as_far_as_tried(found)}"
    ]
    if found.holds is not None:
        most = "not finite" if found.excess is None else f"{found.excess:.3g}"
        between = "" if found.excess_low is None else f" [{found.excess_low:.3g}, {_or_infinite(found.excess_high)}]"
        theirs = "" if found.held_low is None else f" (they would choose {found.held_low} to {found.held_high})"
        said.append(
            f"on prompts held out, the range costs at most {most}{between} nats: it "
            f"{'holds' if found.holds else 'does not hold'} there{theirs}"
        )
    return said


def _or_infinite(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.3g}"


def _as_far_as_tried(found: SafeRange) -> str:
    """Where the range ends only because no further count was tried, or has counts inside that were not."""
    if not found.tried:
        return ""
    told = []
    if found.high == max(found.tried):
        told.append("no more were tried")
    if found.low == min(found.tried) > 1:
        told.append("no fewer were tried")
    if not {*range(found.low, found.high + 1)} <= {*found.tried}:
        told.append("not all between were tried")
    return f" ({', '.join(told)})" if told else ""
