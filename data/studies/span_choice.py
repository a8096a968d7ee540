"""Can the best span to repeat be told without running them all? ``python -m data.studies.span_choice --work FOLDER``.

On every model the whole map of spans run twice is measured (``span_maps.py``), and each way of choosing (``CHOOSERS``)
picks a span, or none, from a share of it: it sees the gains of those spans only that it pays for. The pick is judged on
held-out prompts, against the best of the spans that the whole map ranks highest, of all that was picked, and of none.
The rule was made on the models that say *built on*, and frozen before one of the others was looked at.

``span_maps.csv`` gets the maps, ``span_choice.csv`` the picks; ``--table`` prints the tables of the page. What
is measured is kept in FOLDER, which must have the checkpoints that do not ship (``Case.where``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy import ndarray

from data.studies.span_maps import CASES, JUDGED, Case, Measured, Spans

HERE = Path(__file__).resolve().parent
MAPS, CHOICES = HERE / "span_maps.csv", HERE / "span_choice.csv"
SHARE = 0.02
"""Of the map's runs, all that may be spent."""
CLEAN, GRADIENT = 1, 3
"""Runs that a signature costs: one forward; with a backward pass, which costs two."""
HIGHEST = 16
"""Spans of the whole map that are measured on held-out prompts."""
DRAWS = 5
RESAMPLES = 1000
NONE = (0, 0)
SIGNATURE = ("first_order", "angular", "relative")


@dataclass(frozen=True)
class Chooser:
    """One way of choosing: which spans are worth a run, most wanted first.

    Attributes:
        cost: runs before the first span's.
    """

    name: str
    cost: int
    wanted: Callable[[pd.DataFrame], list[int]]

    def runs(self, spans: int) -> int:
        """Spans that it runs, of a map of so many: what is left of the share, and at least one."""
        return max(int(SHARE * spans) - self.cost, 1)

    def choose(self, rows: pd.DataFrame) -> tuple[tuple[int, int], int]:
        """The span that it picks (``NONE`` for none), from a case's map, and what it ran in all."""
        tried = rows.iloc[self.wanted(rows)[: self.runs(len(rows))]]
        best = tried.loc[tried["gain"].idxmax()]
        picked = (int(best["start"]), int(best["end"])) if best["gain"] > 0 else NONE
        return picked, self.cost + len(tried)


def by(column: str) -> Callable[[pd.DataFrame], list[int]]:
    """Spans from the highest value on."""
    return lambda rows: [int(i) for i in np.argsort(-rows[column].to_numpy(), kind="stable")]


def apart(column: str, most: float) -> Callable[[pd.DataFrame], list[int]]:
    """As :func:`by`, but for spans that share more than ``most`` of their union with one that was taken."""

    def wanted(rows: pd.DataFrame) -> list[int]:
        ends = rows[["start", "end"]].to_numpy()
        taken: list[int] = []
        for i in by(column)(rows):
            if all(_overlap(ends[i], ends[j]) <= most for j in taken):
                taken.append(i)
        return taken

    return wanted


def _overlap(one: ndarray, other: ndarray) -> float:
    both = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return float(both / (one[1] - one[0] + other[1] - other[0] - both))


def middle(rows: pd.DataFrame) -> list[int]:
    """Spans around the model's middle, the shortest first."""
    centre = rows["end"].max() / 2
    off = ((rows["start"] + rows["end"]) / 2 - centre).abs()
    return [int(i) for i in np.lexsort((rows["end"] - rows["start"], off))]


def drawn(seed: int) -> Callable[[pd.DataFrame], list[int]]:
    """Spans at random."""
    return lambda rows: [int(i) for i in np.random.default_rng(seed).permutation(len(rows))]


SHARED = 0.8
"""Frozen on the models that say *built on*, as the rule itself was."""
CHOOSERS = (
    Chooser("the rule", GRADIENT, apart("first_order", SHARED)),
    Chooser("first order alone", GRADIENT, by("first_order")),
    Chooser("angular", CLEAN, by("angular")),
    Chooser("relative", CLEAN, by("relative")),
    Chooser("middle", CLEAN, middle),
    *(Chooser(f"random {seed}", CLEAN, drawn(seed)) for seed in range(DRAWS)),
)


EVERY = "the whole map"
NOTHING = "nothing"
COLUMNS = [
    "model", "outcome", "chooser", "start", "end", "runs", "share", "gain", "gain_low", "gain_high",
    "best_start", "best_end", "best", "best_low", "regret", "regret_low", "regret_high",
]  # fmt: skip


def frame(measured: Measured) -> pd.DataFrame:
    """Rows of ``span_maps.csv``: a span each, with its gain on calibration prompts and what the signature says."""
    found = measured.map()
    rows = pd.DataFrame(found["spans"], columns=["start", "end"])
    rows.insert(0, "model", measured.case.name)
    rows.insert(1, "outcome", measured.case.outcome)
    rows["gain"] = found["gains"].mean(0)
    told = measured.signature([(int(a), int(b)) for a, b in found["spans"]])
    return rows.assign(**{name: told[name] for name in SIGNATURE})


def picks(rows: pd.DataFrame) -> dict[str, tuple[tuple[int, int], int]]:
    """What each chooser picks on one map, and how many runs it takes."""
    found = {one.name: one.choose(rows) for one in CHOOSERS}
    best = rows.loc[rows["gain"].idxmax()]
    whole = (int(best["start"]), int(best["end"])) if best["gain"] > 0 else NONE
    return found | {EVERY: (whole, len(rows) + 1), NOTHING: (NONE, 0)}


def candidates(rows: pd.DataFrame) -> Spans:
    """Spans to measure on held-out prompts: those that the whole map ranks highest, and all that was picked."""
    ends = [(int(a), int(b)) for a, b in rows[["start", "end"]].to_numpy()]
    highest = [ends[i] for i in by("gain")(rows)[:HIGHEST]]
    return sorted({*highest, *(span for span, _ in picks(rows).values()), NONE} - {NONE})


def resampled(gains: ndarray, tasks: int, seed: int = 0) -> ndarray:
    """Mean gain of each span over prompts drawn anew within each task [resample, span]."""
    rng = np.random.default_rng(seed)
    by_task = gains.reshape(tasks, -1, gains.shape[1])
    n = by_task.shape[1]
    return np.mean([one[rng.integers(0, n, (RESAMPLES, n))].mean(1) for one in by_task], 0)


def judged(case: Case, rows: pd.DataFrame, spans: Spans, gains: ndarray) -> pd.DataFrame:
    """Rows of ``span_choice.csv``.

    Args:
        gains: on held-out prompts [prompt, span of ``spans``].
    """
    held = np.hstack([np.zeros((len(gains), 1)), gains])
    ends = [NONE, *spans]
    means, draws = held.mean(0), resampled(held, case.tasks)
    best, top = int(means.argmax()), draws.max(1)
    out = []
    for name, (span, runs) in picks(rows).items():
        at = ends.index(span)
        low, high = np.percentile(draws[:, at], [2.5, 97.5])
        out.append([
            case.name, case.outcome, name, *span, runs, runs / len(rows), means[at], low, high, *ends[best],
            means[best], np.quantile(draws[:, best], 0.025 / len(spans)), means[best] - means[at],
            *np.percentile(top - draws[:, at], [2.5, 97.5]),
        ])  # fmt: skip
    return pd.DataFrame(out, columns=COLUMNS)


def gaining(choices: pd.DataFrame) -> pd.Series:
    """Where some span surely gains: the best one's interval, corrected for the spans it is the best of, is above 0."""
    return choices["best_low"] > 0


def summary(choices: pd.DataFrame) -> pd.DataFrame:
    """Of each chooser over all cases: picks, regrets in nats, and the median share of a best gain that is sure."""
    told = choices.assign(
        chooser=choices["chooser"].str.replace(r" \d$", "", regex=True), none=choices["end"] == 0,
        part=(choices["regret"] / choices["best"]).where(gaining(choices)), harm=choices["gain_high"] < 0,
    )  # fmt: skip
    found = told.groupby("chooser", sort=False)
    return pd.DataFrame({
        "cases": found.size(), "share": found["share"].max(), "median": found["regret"].median(),
        "low": found["regret"].min(), "high": found["regret"].max(), "none": found["none"].sum(),
        "harm": found["harm"].sum(), "part": found["part"].median(), "sure": found["part"].count(),
    })  # fmt: skip


def table(choices: pd.DataFrame) -> str:
    """The rule's pick model by model, then every chooser's median, in Markdown."""
    lines = [
        "| model | prompts | picked | runs of the map's | gain, held out | best span | its gain | regret |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rule = choices[choices["chooser"] == CHOOSERS[0].name]
    for sure, row in zip(gaining(rule), rule.to_dict("records"), strict=True):
        part = f"{row['regret'] / row['best']:.0%}" if sure else "no sure gain"
        lines.append(
            f"| {row['model']} | {row['outcome']} | {_span(row['start'], row['end'])} | {row['runs']}: "
            f"{row['share']:.1%} | {row['gain']:.4f} [{row['gain_low']:.4f}, {row['gain_high']:.4f}] | "
            f"{_span(row['best_start'], row['best_end'])} | {row['best']:.4f} | {row['regret']:.4f}, {part} |"
        )
    lines += [
        "",
        "| chosen by | most runs | picks | none | surely harmful | median regret | from, to | where a gain is sure |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in summary(choices).iterrows():
        part = f"{one['part']:.0%} ({one['sure']:.0f})" if one["sure"] else ""
        lines.append(
            f"| {name} | {one['share']:.1%} | {one['cases']:.0f} | {one['none']:.0f} | {one['harm']:.0f} | "
            f"{one['median']:.4f} | {one['low']:.4f}, {one['high']:.4f} | {part} |"
        )
    return "\n".join(lines)


def _span(start: int, end: int) -> str:
    return f"{start}:{end}" if end else "none"


def run(home: Path, work: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every case's map, and what was picked where it is judged."""
    maps, found = [], []
    for case in CASES:
        measured = Measured(case, home, work)
        rows = frame(measured)
        maps.append(rows)
        if case.use == JUDGED:
            spans = candidates(rows)
            found.append(judged(case, rows, spans, measured.held_out(spans)))
        print(f"{case.name}, {case.outcome}: measured", file=sys.stderr, flush=True)
    return pd.concat(maps, ignore_index=True), pd.concat(found, ignore_index=True)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data.studies.span_choice", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("span-work"), help="checkpoints that do not ship, and maps")
    parser.add_argument("--table", action="store_true", help="print the table from what is stored")
    args = parser.parse_args(arguments)
    if not args.table:
        maps, choices = run(HERE.parent / "checkpoints", args.work)
        maps.to_csv(MAPS, index=False, float_format="%.9g", lineterminator="\n")
        choices.to_csv(CHOICES, index=False, float_format="%.6g", lineterminator="\n")
    print(table(pd.read_csv(CHOICES)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
