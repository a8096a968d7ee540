"""A sweep, saved: every unit's scores with what the unit is, and from which revision on claims hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from depthsig.arguments import check_arguments
from depthsig.errors import InputError
from depthsig.metrics.rules import LATE
from depthsig.signature import storage, tabular
from depthsig.signature.folders.kinds import SWEEP
from depthsig.signature.reading import read_as, read_table
from depthsig.signature.records import Count, Record, Scalar
from depthsig.signature.schema import TABLES
from depthsig.signature.tabular import NAME, TEXT, Columns
from depthsig.terms import counted

SCHEMA = "depthsig-sweep/1"
UNIT_FIELDS = ("checkpoint", "revision", "order", "prompts", "preset")
"""What a unit is."""
SCORES: Columns = {"folder": TEXT, **dict.fromkeys(UNIT_FIELDS, NAME), **TABLES["scores"]}
ONSETS: Columns = {
    **{name: NAME for name in UNIT_FIELDS if name != "revision"}, "claim": TEXT, "role": NAME, "onset": NAME,
    "earliest": NAME, "latest": NAME, "note": TEXT,
}  # fmt: skip
"""From which revision on a claim holds, and between which ones that lies; ``-`` where it does not come to hold."""
SWEPT_SCORES, ONSET = "sweep", "onset"
DONE, FAILED, LEFT = "done", "failed", "not run"
_ABOUT = ("score", "metric", "part", "scope", "agg")
_STEP = re.compile(r"step[-_ ]?(\d{1,15})(?!\d)", re.IGNORECASE)
_LAST = re.compile(r"(?<!\d)(\d{1,15})(?=\D*$)")
_TOKENS = re.compile(r"(?<![a-z])tokens?[-_ ]?[\d.]+[kmbt]?", re.IGNORECASE)
"""What a revision's name may tell beside its step: how many tokens those are."""


PlainName = Annotated[str, Field(pattern=r"^[^/\\:.\x00-\x1f][^/\\:\x00-\x1f]{0,254}$")]
"""Of a folder within the sweep's own: a record may come from anybody."""


class SweptUnit(Record):
    """One unit, and what became of it."""

    folder: PlainName
    checkpoint: str
    revision: str
    order: str
    prompts: str
    preset: str
    state: str
    why: str = ""
    steps: Count | None = None


class SweepRecord(Record):
    """``sweep.json``."""

    schema_: str = Field(alias="schema")
    created: str
    versions: dict[str, str]
    name: str
    units: list[SweptUnit]
    roles: dict[str, list[str]] = Field(default_factory=dict)
    options: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)
    comparisons: list[PlainName] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class Swept:
    """What a sweep came to.

    Attributes:
        info: what ``sweep.json`` holds: units with what became of each, roles, options, versions.
        scores: ``sweep.csv``: every unit's scores, with its folder and what it is.
        onset: ``onset.csv``: from which revision on each claim holds.
        directory: where the units' folders are; None where it was not saved.
    """

    info: Mapping[str, Any]
    scores: pd.DataFrame = field(default_factory=_empty, repr=False)
    onset: pd.DataFrame = field(default_factory=_empty, repr=False)
    directory: Path | None = None

    def __post_init__(self) -> None:
        for name, columns in (("scores", SCORES), ("onset", ONSETS)):
            object.__setattr__(self, name, tabular.conform(getattr(self, name), columns, name))

    @property
    def units(self) -> pd.DataFrame:
        """A row a unit: folder, what it is, ``state`` (done, failed, not run), ``why``, and its number of steps."""
        columns = ["folder", *UNIT_FIELDS, "state", "why", "steps"]
        return pd.DataFrame(list(self.info["units"]), columns=columns)

    @property
    def failed(self) -> pd.DataFrame:
        """The units that have no result, with the reason."""
        units = self.units
        return units[units["state"] != DONE]

    @property
    def swept(self) -> list[str]:
        """The fields that units differ in."""
        units = self.units
        return [name for name in UNIT_FIELDS if units[name].nunique() > 1]

    def measured(self) -> pd.DataFrame:
        """Scores that more than one unit has a number for, a row each: score, metric, part, scope, agg.

        Late reliance first, which most sweeps are about.
        """
        known = self.scores[np.isfinite(self.scores["value"])]
        counts = known.groupby(list(_ABOUT), sort=False)["folder"].nunique()
        found = counts[counts > 1].reset_index()[list(_ABOUT)]
        late = (found["score"] == LATE[0]) & (found["scope"] == LATE[-1])
        return pd.concat([found[late], found[~late]], ignore_index=True)

    def against(self, name: str, about: Mapping[str, Any]) -> pd.DataFrame:
        """One score against a swept field: columns ``line``, ``x``, ``label``, ``value``, ``ci_low``, ``ci_high``.

        Args:
            name: a field, or ``depth``: the number of steps.
            about: the score, as :meth:`measured` has it.

        Returns:
            ``line`` says what else the units are, ``label`` what stands at x: a training step, a number of steps or,
            where the values are no numbers, the place in the file.
        """
        rows = self.scores
        for column in _ABOUT:
            rows = rows[rows[column] == about[column]]
        others = [one for one in self.swept if one != name and not (name == "depth" and one in ("checkpoint", "order"))]
        line = rows[others].agg(", ".join, axis=1) if others and len(rows) else pd.Series("", index=rows.index)
        place, label = self._places(name)
        found = rows.assign(line=line, x=rows["folder"].map(place), label=rows["folder"].map(label))
        return found[["line", "x", "label", "value", "ci_low", "ci_high"]].sort_values(["line", "x"], kind="stable")

    def axes(self) -> list[str]:
        """What scores can be shown against: swept fields, and the depth where units differ in it."""
        deep = ["depth"] if self.units["steps"].dropna().nunique() > 1 else []
        return [*self.swept, *deep]

    def _places(self, name: str) -> tuple[dict[str, float], dict[str, str]]:
        units = self.units
        if name == "depth":
            known = units.dropna(subset=["steps"])
            return dict(zip(known["folder"], known["steps"].astype(float), strict=True)), dict(
                zip(known["folder"], known["steps"].astype(int).astype(str), strict=True)
            )
        values = list(dict.fromkeys(units[name]))
        numbers = numbered(values) if name == "revision" else None
        at = {value: float(place) for place, value in enumerate(values)} if numbers is None else numbers
        return dict(zip(units["folder"], units[name].map(at), strict=True)), dict(
            zip(units["folder"], units[name], strict=True)
        )

    def report(self) -> Path:
        """Write the page with its figures again, and the comparisons' pages; returns the path of the page.

        Raises:
            InputError: where it was not saved, or its folder cannot be written.
        """
        from depthsig.report import build  # lazily: computing never plots

        if self.directory is None:
            raise InputError("this sweep was not saved; its tables are .scores and .onset")
        for name in self.info["comparisons"]:
            build(self.directory / name)
        return build(self.directory)

    def write(self, folder: Path) -> None:
        """Record and tables into a folder that exists."""
        tabular.write(self.scores, folder / f"{SWEPT_SCORES}.csv", SCORES)
        tabular.write(self.onset, folder / f"{ONSET}.csv", ONSETS)
        storage.write_record(folder / SWEEP, dict(self.info))

    @classmethod
    def load(cls, directory: str | Path) -> Swept:
        """Read a sweep's folder; the units' signatures are results folders in it.

        Raises:
            InputError: naming what is missing or damaged.
        """
        check_arguments(cls.load, locals())
        folder = Path(directory)
        info = read_as(folder / SWEEP, (SCHEMA,), SweepRecord)
        scores, onset = (read_table(folder / f"{n}.csv", c) for n, c in ((SWEPT_SCORES, SCORES), (ONSET, ONSETS)))
        strangers = set(scores["folder"]) - {one["folder"] for one in info["units"]}
        if strangers:
            raise InputError(
                f"{str(folder / f'{SWEPT_SCORES}.csv')!r} is damaged: its record knows no unit {sorted(strangers)[0]!r}"
            )
        return cls(info, scores, onset, folder)

    def __repr__(self) -> str:
        states = self.units["state"].value_counts()
        said = ", ".join(f"{states[state]} {state}" for state in (DONE, FAILED, LEFT) if state in states)
        over = f", over {', '.join(self.swept)}" if self.swept else ""
        return f"Sweep {self.info['name']}: {counted(len(self.units), 'unit')}{over}: {said}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>" + self.units.to_html(index=False, na_rep="", escape=True)


def numbered(revisions: Sequence[str]) -> dict[str, float] | None:
    """The training step that each revision names: the number after ``step``, else its last one.

    None where not all have one of their own, or where they differ in more: their order is then the file's.

    >>> numbered(["step1000-tokens4B", "step5000-tokens21B"])
    {'step1000-tokens4B': 1000.0, 'step5000-tokens21B': 5000.0}
    >>> numbered(["main", "step5000"]) is None, numbered(["stage1-step900", "stage2-step100"]) is None
    (True, True)
    """
    found = {one: _STEP.search(one) or _LAST.search(one) for one in revisions}
    steps = {one: float(match[1]) for one, match in found.items() if match}
    rest = {_TOKENS.sub("", one[: match.start(1)] + one[match.end(1) :]) for one, match in found.items() if match}
    if len(steps) < len(found) or len(set(steps.values())) < len(found) or len(rest) > 1:
        return None
    return steps
