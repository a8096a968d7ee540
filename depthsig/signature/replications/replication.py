"""A replication: claims of a paper with their verdicts, saved and loaded without any model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from depthsig.arguments import check_arguments
from depthsig.errors import InputError
from depthsig.signature import storage, tabular
from depthsig.signature.costs import HELD_COLUMNS
from depthsig.signature.folders.kinds import LATEX, REPLICATION, RUNS, SIGNATURES
from depthsig.signature.folders.writing import writing
from depthsig.signature.reading import read_as, read_table
from depthsig.signature.replications.latex import as_latex
from depthsig.signature.replications.replication_record import ReplicationRecord
from depthsig.signature.signature import Signature
from depthsig.signature.tabular import INTEGER, NUMBER, TEXT, Columns
from depthsig.untrusted import is_there

SCHEMA = "depthsig-replicate/1"
OUTCOMES = ("supported", "contradicted", "undecided", "not measurable")

_INTERVAL = {"ci_low": NUMBER, "ci_high": NUMBER}
TABLES: dict[str, Columns] = {
    "replication": {
        "experiment": TEXT, "claim": TEXT, "criterion": TEXT, "role": TEXT, "estimate": NUMBER, **_INTERVAL,
        "verdict": TEXT, "note": TEXT,
    },
    "networks": {"claim": TEXT, "role": TEXT, "arm": TEXT, "network": TEXT, "value": NUMBER, **_INTERVAL},
    "curves": {
        "claim": TEXT, "role": TEXT, "arm": TEXT, "network": TEXT, "axis": TEXT, "shows": TEXT, "x": NUMBER,
        "value": NUMBER, **_INTERVAL,
    },
    "held_equal": HELD_COLUMNS,
    "unit_tests": {
        "claim": TEXT, "role": TEXT, "test": TEXT, "passed": TEXT, "value": NUMBER, **_INTERVAL, "note": TEXT,
        "strict": TEXT,
    },
}  # fmt: skip
"""Every table's columns: verdicts; each network's own number; what a figure shows of it; what was held equal; what
supported claims survived."""
RUN_COLUMNS: Columns = {
    "run": TEXT, "network": TEXT, "task": TEXT, "item": INTEGER, "condition": INTEGER, "loss": NUMBER, "exact": NUMBER,
}  # fmt: skip


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class Replication:
    """What putting a paper's claims to the test found.

    Attributes:
        info: what ``replicate.json`` holds: paper, claims with criteria, their hash, networks, options, versions.
        replication: one row a claim and role, with its verdict.
        networks: every network's own number behind it.
        curves: what lies behind the numbers, point by point.
        held_equal: parameters, FLOPs, KV memory and training of networks and roles, and where they are equal.
        unit_tests: a row a supported claim, role and test: ``passed`` is ``yes``, ``no`` or ``not tested``, ``strict``
            says what all of them come to: the claim ``stands``, ``falls`` or is ``untested``.
        runs: what was run beside analyses, item by item.
        signatures: the analyses that were made for it, by the names of their folders.
    """

    info: dict[str, Any]
    replication: pd.DataFrame = field(default_factory=_empty, repr=False)
    networks: pd.DataFrame = field(default_factory=_empty, repr=False)
    curves: pd.DataFrame = field(default_factory=_empty, repr=False)
    held_equal: pd.DataFrame = field(default_factory=_empty, repr=False)
    unit_tests: pd.DataFrame = field(default_factory=_empty, repr=False)
    runs: pd.DataFrame = field(default_factory=_empty, repr=False)
    signatures: Mapping[str, Signature] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, columns in TABLES.items():
            object.__setattr__(self, name, tabular.conform(getattr(self, name), columns, name))
        object.__setattr__(self, "runs", tabular.conform(self.runs, RUN_COLUMNS, RUNS))

    def plot(self, name: str, ax: Any = None) -> Any:
        """Draw one of the page's figures (``claims``, or an experiment, as ``E4``) on ``ax``, else on a new figure.

        Returns:
            The axes; of an experiment with several panels the first one's.

        Raises:
            InputError: for a name of no figure; the message lists those that there are.
        """
        check_arguments(Replication.plot, locals())
        from depthsig.report.replication_figures import plot_replication  # start-up time

        return plot_replication(self, name, ax)

    def rows(self, name: str) -> pd.DataFrame:
        """What the figure of this name shows, as a table; raises as :meth:`plot`."""
        check_arguments(Replication.rows, locals())
        from depthsig.report.replication_figures import replication_rows  # start-up time

        return replication_rows(self, name)

    def verdicts(self) -> pd.DataFrame:
        """How many claims of each experiment got each verdict: a row an experiment, a column a verdict."""
        table = self.replication
        counts = table.groupby(["experiment", "verdict"], sort=False).size().unstack(fill_value=0)
        order = sorted(counts.index, key=lambda e: (len(e), e))
        return counts.reindex(index=order, columns=list(OUTCOMES), fill_value=0)

    def sentences(self) -> list[str]:
        """Every verdict in plain language, with its numbers."""
        claims = {c["id"]: c for c in self.info["claims"]}
        return [say(row, claims[row["claim"]]) for row in self.replication.to_dict("records")]

    def latex(self) -> str:
        """The table of verdicts for a paper (needs the package ``booktabs``)."""
        return as_latex(self.info, self.replication)

    def save(self, directory: str | Path) -> Path:
        """Write tables, record and the analyses behind them, whole or not at all; an older replication is replaced."""
        check_arguments(Replication.save, locals())
        with writing(directory, REPLICATION) as partial:
            self.write(partial)
        return Path(directory)

    def write(self, folder: Path) -> None:
        """Write everything but figures and page into a folder that exists."""
        for name, columns in TABLES.items():
            tabular.write(getattr(self, name), folder / f"{name}.csv", columns)
        tabular.write(self.runs, folder / RUNS, RUN_COLUMNS)
        (folder / LATEX).write_text(self.latex(), encoding="utf-8")
        for name, signature in self.signatures.items():
            (folder / SIGNATURES / name).mkdir(parents=True)
            signature.write(folder / SIGNATURES / name)
        storage.write_record(folder / REPLICATION, self.info)

    @classmethod
    def load(cls, directory: str | Path) -> Replication:
        """Read a replication's folder, without the analyses behind it (which are results folders of their own).

        Raises:
            InputError: naming what is missing or damaged.
        """
        check_arguments(cls.load, locals())
        folder = Path(directory)
        info = read_as(folder / REPLICATION, (SCHEMA,), ReplicationRecord)
        frames = {name: read_table(folder / f"{name}.csv", columns) for name, columns in TABLES.items()}
        if is_there(folder / RUNS):
            frames["runs"] = read_table(folder / RUNS, RUN_COLUMNS)
        wrong = _wrong(info, frames)
        if wrong:
            raise InputError(f"{str(folder / 'replication.csv')!r} is damaged: {wrong}")
        return cls(info, **frames)

    def __repr__(self) -> str:
        counts = self.replication["verdict"].value_counts()
        said = ", ".join(f"{counts[v]} {v}" for v in OUTCOMES if v in counts)
        return f"Replication of {self.info['paper']['id']} by {len(self.info['networks'])} networks: {said}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>" + self.replication.drop(columns="criterion").to_html(
            index=False, na_rep="", escape=True
        )


def say(row: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    """One row as a line of text: the verdict, what is claimed of whom, the number with its interval, and the note."""
    line = f"{row['claim']} ({row['role']}): {row['verdict']}. {stated(row, claim)}"
    if np.isfinite(row["estimate"]):
        line += f": {in_numbers(row)}"
    return f"{line}. {row['note']}" if row["note"] else line


def stated(row: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    """What is claimed, of the row's role, as a sentence without its stop."""
    words = str(claim["statement"]).replace("{a}", str(row["role"])).replace("{c}", str(claim["against"]))
    return words[:1].upper() + words[1:]


def in_numbers(row: Mapping[str, Any]) -> str:
    """The estimate with its interval."""
    interval = f" [{row['ci_low']:+.3g}, {row['ci_high']:+.3g}]" if np.isfinite(row["ci_low"]) else ""
    return f"{row['estimate']:+.3g}{interval}"


def _wrong(info: Mapping[str, Any], frames: Mapping[str, pd.DataFrame]) -> str:
    """Why no replication wrote these tables; empty where one could have."""
    claims = {c["id"] for c in info["claims"]}
    if unknown := set(frames["replication"]["claim"]) - claims:
        return f"the claim {sorted(unknown)[0]!r} is not in its record"
    if unknown := set(frames["replication"]["verdict"]) - set(OUTCOMES):
        return f"{sorted(unknown)[0]!r} is no verdict"
    return ""
