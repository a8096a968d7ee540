"""A comparison of signatures: its tables with provenance, saved and loaded without any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from depthsig.arguments import check_arguments
from depthsig.errors import InputError
from depthsig.metrics import Metric
from depthsig.metrics.registry import with_own
from depthsig.metrics.rules import CLAIM_QUANTITIES, CLAIM_STATEMENTS
from depthsig.signature import storage, tabular
from depthsig.signature.consistency import wrong_comparison
from depthsig.signature.costs import HELD_COLUMNS, held_in_words
from depthsig.signature.folders.kinds import COMPARE
from depthsig.signature.folders.writing import writing
from depthsig.signature.reading import read_as, read_table
from depthsig.signature.records import ComparisonRecord
from depthsig.signature.tabular import NAME, NUMBER, TEXT, Columns
from depthsig.terms import NONE
from depthsig.untrusted import is_there

SCHEMA = "depthsig-compare/3"
READS = ("depthsig-compare/1", "depthsig-compare/2", SCHEMA)
"""Schemas that are read; before the third there was no table of what was held equal."""
RECORD = COMPARE

_INTERVAL = {"ci_low": NUMBER, "ci_high": NUMBER}
_PROFILE = {"metric": TEXT, "part": NAME, "scope": NAME}
TABLES: dict[str, Columns] = {
    "claims": {
        "claim": TEXT, "a": TEXT, "b": TEXT, "c": TEXT, "estimate": NUMBER, **_INTERVAL, "verdict": TEXT, "note": TEXT,
    },
    "distances": {"level": TEXT, "a": TEXT, "b": TEXT, **_PROFILE, "axis": TEXT, "distance": NUMBER, **_INTERVAL},
    "late": {
        "level": TEXT, "a": TEXT, "b": TEXT, "score": TEXT, "part": NAME, "scope": NAME, "value_a": NUMBER,
        "value_b": NUMBER, "difference": NUMBER, **_INTERVAL, "note": TEXT,
    },
    "scores": {"model": TEXT, "role": TEXT, "score": TEXT, "part": NAME, "scope": NAME, "value": NUMBER, **_INTERVAL},
    "recurrence": {
        "a": TEXT, "c": TEXT, **_PROFILE, "strength_a": NUMBER, "strength_c": NUMBER, "difference": NUMBER, **_INTERVAL,
        "p_a": NUMBER, "p_c": NUMBER, "note": TEXT,
    },
    "held_equal": HELD_COLUMNS,
    "profiles": {"model": TEXT, "role": TEXT, **_PROFILE, "axis": TEXT, "depth": NUMBER, "value": NUMBER, **_INTERVAL},
    "unit_tests": {
        "claim": TEXT, "a": TEXT, "c": TEXT, "test": TEXT, "passed": TEXT, "value": NUMBER, **_INTERVAL, "note": TEXT,
        "strict": TEXT,
    },
}  # fmt: skip
"""Every table's columns. ``level`` is ``model`` (two signatures) or ``role`` (two arms, over their seeds);
the metric ``mean`` is the mean over all the profiles that took part; ``depth`` is relative."""
ONLY_WHERE_ASKED = frozenset({"unit_tests"})
"""Tables that have no file where they have no row: those of options, and of later versions."""


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class Comparison:
    """What comparing signatures found.

    Attributes:
        info: what ``compare.json`` holds: inputs, roles, prompts, profiles that took part, options, versions.
        claims: one row a claim with its verdict.
        distances: between models and between roles, a row a profile and one for their mean.
        late: paired differences of ``late_share`` and depth scores.
        scores: those scores model by model.
        recurrence: strengths of the block period, side by side over the same steps.
        profiles: the compared profiles on relative depth, at unit mean absolute value.
        held_equal: parameters, FLOPs, KV memory and training of each, and where two are equal; empty where a folder
            of an earlier version was read.
        unit_tests: with ``strict``, a row a supported claim and test: ``passed`` is ``yes``, ``no`` or ``not tested``,
            ``strict`` says what all of a claim's tests say together: it ``stands``, ``falls`` or is ``untested``.
    """

    info: dict[str, Any]
    claims: pd.DataFrame = field(default_factory=_empty, repr=False)
    distances: pd.DataFrame = field(default_factory=_empty, repr=False)
    late: pd.DataFrame = field(default_factory=_empty, repr=False)
    scores: pd.DataFrame = field(default_factory=_empty, repr=False)
    recurrence: pd.DataFrame = field(default_factory=_empty, repr=False)
    profiles: pd.DataFrame = field(default_factory=_empty, repr=False)
    held_equal: pd.DataFrame = field(default_factory=_empty, repr=False)
    unit_tests: pd.DataFrame = field(default_factory=_empty, repr=False)

    def __post_init__(self) -> None:
        for name, columns in TABLES.items():
            object.__setattr__(self, name, tabular.conform(getattr(self, name), columns, name))

    @property
    def entries(self) -> Mapping[str, Metric]:
        """Every metric that its tables may hold, by id: the built-in ones, and its users' own as they were declared."""
        return with_own(self.info.get("metrics", []))

    @property
    def models(self) -> list[str]:
        """Names of the compared models, in the order they were given."""
        return [m["name"] for m in self.info["models"]]

    def distance_matrix(self, metric: str = "mean", part: str = NONE, scope: str = NONE) -> pd.DataFrame:
        """Distances between models as a symmetric table, of one profile or of their mean."""
        check_arguments(Comparison.distance_matrix, locals())
        rows = self.distances[self.distances["level"] == "model"]
        rows = rows[(rows["metric"] == metric) & (rows["part"] == part) & (rows["scope"] == scope)]
        if rows.empty:
            known = ", ".join(dict.fromkeys(self.distances["metric"]))
            raise InputError(f"no distances of {metric!r} ({part!r}, {scope!r}); there are {known or 'none'}")
        table = pd.DataFrame(0.0, index=self.models, columns=self.models)
        for row in rows.to_dict("records"):
            table.loc[row["a"], row["b"]] = table.loc[row["b"], row["a"]] = row["distance"]
        return table

    def sentences(self) -> list[str]:
        """The verdicts in plain language, each with its numbers, and where they were tested what they fail or pass."""
        return [say(claim, self.tests_of(claim)) for claim in self.claims.to_dict("records")]

    def tests_of(self, claim: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows of the unit tests of one row of the claims; none where it was not tested."""
        rows = self.unit_tests
        same = (rows["claim"] == claim["claim"]) & (rows["a"] == claim["a"]) & (rows["c"] == claim["c"])
        return rows[same].to_dict("records")

    def held_in_words(self) -> list[str]:
        """What was held equal between roles, or where there are none between models, a sentence for every two."""
        return held_in_words(self.held_equal)

    def plot(self, name: str, ax: Any = None) -> Any:
        """Draw one figure: ``claims``, ``tree``, ``distances``, ``late.models`` ..., or a compared profile by its id.

        Raises:
            InputError: for a name of no figure; the message lists those that there are.

        Returns:
            The axes (the figure is ``ax.figure``).
        """
        check_arguments(Comparison.plot, locals())
        from depthsig.report.comparison_plot import plot_comparison  # lazily: computing never plots

        return plot_comparison(self, name, ax=ax)

    def rows(self, name: str) -> pd.DataFrame:
        """What :meth:`plot` draws under this name, as a table.

        Raises:
            InputError: for a name of no figure; the message lists those that there are.
        """
        check_arguments(Comparison.rows, locals())
        from depthsig.report.comparison_plot import comparison_rows  # lazily: figures read comparisons

        return comparison_rows(self, name)

    def save(self, directory: str | Path) -> Path:
        """Write tables and record, whole or not at all; an older comparison is replaced."""
        check_arguments(Comparison.save, locals())
        with writing(directory, RECORD) as partial:
            self.write(partial)
        return Path(directory)

    def write(self, folder: Path) -> None:
        """Write ``compare.json`` and the tables into a folder that exists."""
        for name, columns in TABLES.items():
            if name not in ONLY_WHERE_ASKED or len(getattr(self, name)):
                tabular.write(getattr(self, name), folder / f"{name}.csv", columns)
        storage.write_record(folder / RECORD, self.info)

    @classmethod
    def load(cls, directory: str | Path) -> Comparison:
        """Read a comparison's folder.

        Raises:
            InputError: naming what is missing or damaged.
        """
        check_arguments(cls.load, locals())
        folder = Path(directory)
        info = read_as(folder / RECORD, READS, ComparisonRecord, _check_names)
        there = {n: c for n, c in TABLES.items() if n not in ONLY_WHERE_ASKED or is_there(folder / f"{n}.csv")}
        if info["schema"] != SCHEMA:
            del there["held_equal"]
        frames = {name: read_table(folder / f"{name}.csv", columns) for name, columns in there.items()}
        for name, wrong in wrong_comparison(info, frames):
            raise InputError(f"{str(folder / f'{name}.csv')!r} is damaged: {wrong}")
        return cls(info, **frames)

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{c.claim} ({c.a}) {c.verdict}" for c in self.claims.itertuples())
        profiles = len(self.info["profiles"]["compared"])
        return f"Comparison of {len(self.models)} signatures over {profiles} profiles: {verdicts or 'no claim judged'}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>" + self.claims.to_html(index=False, na_rep="", escape=True)


def say(claim: dict[str, Any], tests: Sequence[Mapping[str, Any]] = ()) -> str:
    """One claim's verdict, what it says, its quantity with the interval, its note and its unit tests, as a line."""
    line = f"{claim['claim']} ({claim['a']}): {claim['verdict']}{failing(tests)}. {stated(claim)}. {in_numbers(claim)}"
    line = f"{line}. {claim['note']}" if claim["note"] else line
    return f"{line}. {tested_in_words(tests)}" if tests else line


def failing(tests: Sequence[Mapping[str, Any]]) -> str:
    """``, but fails: …`` with the unit tests that a supported claim fails; empty where it fails none."""
    failed = [f"{one['test']} ({one['note']})" for one in tests if one["passed"] == "no"]
    return f", but fails: {'; '.join(failed)}" if failed else ""


def tested_in_words(tests: Sequence[Mapping[str, Any]]) -> str:
    """What all unit tests of a claim say together, and which of them say nothing."""
    names = {passed: [one["test"] for one in tests if one["passed"] == passed] for passed in ("yes", "not tested")}
    said = [f"strict: {tests[0]['strict']}", f"passes {', '.join(names['yes']) or 'no test'}"]
    return "; ".join([*said, *([f"not tested: {', '.join(names['not tested'])}"] if names["not tested"] else [])])


def stated(claim: dict[str, Any]) -> str:
    """What the verdict says in words, as a sentence without its stop."""
    words = CLAIM_STATEMENTS[claim["claim"]][claim["verdict"]].format(**{name: claim[name] for name in ("a", "b", "c")})
    return words[0].upper() + words[1:]


def in_numbers(claim: dict[str, Any]) -> str:
    """The quantity behind a verdict, with its interval."""
    quantity = CLAIM_QUANTITIES[claim["claim"]].format(**{name: claim[name] for name in ("a", "b", "c")})
    interval = f" [{number(claim['ci_low'])}, {number(claim['ci_high'])}]" if np.isfinite(claim["ci_low"]) else ""
    return f"{quantity} = {number(claim['estimate'])}{interval}"


def number(value: float) -> str:
    """A signed number of three digits, or that it is undefined."""
    return f"{value:+.3g}" if np.isfinite(value) else "undefined"


def _check_names(record: ComparisonRecord) -> None:
    names = [model.name for model in record.models]
    if len(set(names)) < len(names):
        raise InputError("two of its models have one name")
