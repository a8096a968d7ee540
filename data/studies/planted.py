"""How often is depthsig wrong? Every verdict on models whose use of depth is known, because it was planted.

    python -m data.studies.planted                     # everything, about an hour on one core
    python -m data.studies.planted --quick             # a model or two of each case, three minutes
    python -m data.studies.planted --only "loop,dead" --out FOLDER

Each model is put through ``analyze`` (all findings), and where its construction says whether there is a block through
``find_blocks``; the claims of ``compare`` are judged on models with roles given at random, and on pairs with a known
difference. ``planted_models.csv`` gets a model's verdicts as soon as it is judged: a program that was stopped goes on
where it was. ``planted.csv`` counts them. A model depends on seed, case and number alone, so a quick study is a part
of the full one.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

import depthsig
from depthsig.errors import DepthsigError, DepthsigWarning

from .peer_tools import SPEAK, peer_verdicts
from .planted_cases import CASES, Case, Planted
from .planted_roles import DRAWS, Draw

HERE = Path(__file__).resolve().parent
METRICS = (
    "late_share", "settling_depth", "effective_depth.kl", "effective_depth.overlap", "effective_depth.cosine",
    "contribution.relative", "contribution.cosine", "contribution.cosine_matrix", "skip.output_l2", "skip.loss",
)  # fmt: skip
"""What findings are judged by; periods and loops are added where there are any."""
PEERS = 4
"""Models of a case that other tools are asked about, too."""
RIGHT, WRONG = "holds", "holds of another"
SUPPORTED = {"supported": "holds", "contradicted": "does not hold", "undecided": "open"}
MODEL = ["seed", "case", "strength", "number"]
COLUMNS = [*MODEL, "null", "verdict", "truth", "said", "seconds", "of"]
"""``of``: how many rows a model has, by which one that was cut off is known."""
TYPES = {"seed": int, "strength": float, "number": int, "null": bool, "truth": bool, "of": int}

Verdicts = Iterator[tuple[str, bool, str]]


def judged(planted: Planted) -> Verdicts:
    """Verdict, truth, and what was said, of all that a construction decides.

    ``holds of another`` is said of a claim that is true of some block or step, where another one was named.
    """
    options = {"control": False, **planted.options}
    loops = ("loop",) if "order" in options else ()
    spans = ("period",) if {"order", "grown"} & set(options) else ()
    try:
        metrics = [*METRICS, *loops, *spans]
        signature = depthsig.analyze(planted.model, planted.prompts, metrics=metrics, progress=False, **options)
    except DepthsigError:
        yield "exact", planted.truth["exact"], "does not hold"  # refused, which is the strongest way to say so
        return
    for found in signature.findings():
        if found["id"] in planted.truth:
            said = found["verdict"]
            if found["id"] == "most_damaging" and planted.step is not None and said == RIGHT:
                said = RIGHT if f"step {planted.step} " in found["sentence"] else WRONG
            if found["id"] == "blocks" and planted.block is not None and said == RIGHT:
                start, size, count = planted.block
                right = f"every {size} steps in {start}:{start + size * count} " in found["sentence"]
                said = RIGHT if right else WRONG
            yield found["id"], planted.truth[found["id"]], said
    if "find_blocks" in planted.truth:
        order = planted.options.get("order")
        blocks = depthsig.find_blocks(planted.model, planted.prompts, order=order, progress=False).blocks
        right = [(b.start, b.size, b.count) for b in blocks] == [planted.block]
        said = "does not hold" if not blocks else RIGHT if right or planted.block is None else WRONG
        yield "find_blocks", planted.truth["find_blocks"], said


def of_model(case: Case, number: int, seed: int) -> pd.DataFrame:
    """One model's verdicts, those of other tools after them."""
    rng = _numbers(case.name, case.strength, number, seed)
    started = time.perf_counter()
    planted = case.make(rng)
    rows = list(judged(planted))
    if case.peers and number < PEERS:
        others = peer_verdicts(planted.model, planted.prompts)
        rows += [
            (f"{tool}: {name}", planted.truth[name], "holds" if said else "does not hold")
            for tool, name, said in others if name in planted.truth
        ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["verdict", "truth", "said"])
    about = {"seed": seed, "case": case.name, "strength": case.strength, "number": number, "null": case.null}
    return _listed(table.assign(**about), started)


def of_draw(draw: Draw, number: int, seed: int, quick: bool) -> pd.DataFrame:
    """What was claimed of roles that were given once."""
    rng = _numbers(draw.name, 0.0, number, seed)
    started = time.perf_counter()
    table = pd.DataFrame(list(draw.make(rng, quick)), columns=["case", "strength", "verdict", "truth", "said"])
    table["said"] = table["said"].map(SUPPORTED)
    return _listed(table.assign(seed=seed, case=draw.name, number=number, null=~table["truth"]), started)


def _listed(table: pd.DataFrame, started: float) -> pd.DataFrame:
    seconds = round(time.perf_counter() - started, 2)
    return table.assign(seconds=seconds, of=len(table))[COLUMNS]


def _numbers(name: str, strength: float, number: int, seed: int) -> np.random.Generator:
    """Random numbers of one model, which do not depend on the others; those that edits draw from torch, too."""
    rng = np.random.default_rng((seed, zlib.crc32(f"{name}|{strength}".encode()), number))
    torch.manual_seed(int(rng.integers(1 << 31)))
    return rng


class Record:
    """Verdicts of models that are done, in a file that grows."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.table = pd.DataFrame(columns=COLUMNS)
        if path.exists():
            lines = path.read_text(encoding="utf-8").rpartition("\n")[0]  # without one that was cut off
            found = pd.read_csv(io.StringIO(lines))
            whole = found.groupby([*MODEL, "of"])["verdict"].transform("size") == found["of"]
            self.table = found[whole & (found["seed"] == seed)].astype(TYPES)
        self.write()
        self.done = {(str(c), int(n), float(s)) for c, n, s in self.table[["case", "number", "strength"]].to_numpy()}
        self.cases = {(c, n) for c, n, _ in self.done}

    def write(self) -> None:
        """All of it, whole or not at all."""
        scratch = self.path.with_name(self.path.name + ".tmp")
        self.table.to_csv(scratch, index=False, lineterminator="\n")
        scratch.replace(self.path)

    def add(self, rows: pd.DataFrame) -> None:
        """Rows of one more model."""
        self.table = rows if self.table.empty else pd.concat([self.table, rows], ignore_index=True)
        rows.to_csv(self.path, mode="a", header=False, index=False, lineterminator="\n")


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """The summary: verdict by truth, over all models and case by case, with 95 % Wilson intervals.

    A hit is a claim: wrong where the truth is false, right where it is true.
    """
    rows = []
    for name in dict.fromkeys(table["verdict"]):
        of_name = table[table["verdict"] == name]
        for truth in (False, True):
            of_truth = of_name[of_name["truth"].astype(bool) == truth]
            if of_truth.empty:
                continue
            rows.append(_cell(of_truth, name, truth, "all", np.nan))
            for (case, strength), cell in of_truth.groupby(["case", "strength"], sort=False):
                rows.append(_cell(cell, name, truth, str(case), strength))
    return pd.DataFrame(rows)


def _cell(cell: pd.DataFrame, verdict: str, truth: bool, case: str, strength: float) -> dict[str, object]:
    said = cell["said"].value_counts()
    # Of what is false any claim is a false one; of what is true only one of the right step or block was found.
    hits = int(said.get(RIGHT, 0)) + (0 if truth else int(said.get(WRONG, 0)))
    interval = binomtest(hits, len(cell)).proportion_ci(method="wilson")
    return {
        "verdict": verdict, "truth": truth, "case": case, "strength": strength, "hits": hits, "models": len(cell),
        "rate": round(hits / len(cell), 4), "low": round(interval.low, 4), "high": round(interval.high, 4),
        "misnamed": int(said.get(WRONG, 0)), "denied": int(said.get("does not hold", 0)) if truth else 0,
        "open": int(said.get("open", 0)), "seconds": round(float(cell["seconds"].mean()), 2),
    }  # fmt: skip


def table(summary: pd.DataFrame) -> str:
    """The rows over all models, as the documentation shows them."""
    of_all = summary[summary["case"] == "all"].set_index(["verdict", "truth"])
    lines = [
        "| verdict | claimed where false | found where true | another named | denied | open |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(summary["verdict"]):
        cells = [_rate(of_all.loc[(name, truth)]) if (name, truth) in of_all.index else "" for truth in (False, True)]
        more = [of_all.loc[[name], column].sum() for column in ("misnamed", "denied", "open")]
        lines.append(f"| {name} | {' | '.join([*cells, *map(str, more)])} |")
    for tool, spoken in SPEAK.items():
        silent = [v for v in dict.fromkeys(summary["verdict"]) if ": " not in v and v not in spoken]
        lines.append(f"| {tool}: {', '.join(silent)} | says nothing | says nothing | | | |")
    return "\n".join(lines)


def _rate(row: pd.Series) -> str:
    return f"{row['hits']} of {row['models']}: {row['rate']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


def main() -> None:
    """Run, model by model, and count."""
    parser = argparse.ArgumentParser(prog="python -m data.studies.planted", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a model or two of each case, to see that it runs")
    parser.add_argument("--only", default="", help="cases whose names hold one of these words, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print what was counted as a table, and run nothing")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for planted.csv and planted_models.csv")
    options = parser.parse_args()
    if options.table:
        print(table(pd.read_csv(options.out / "planted.csv")))
        return
    wanted = [w.strip() for w in options.only.split(",")]
    cases: list[Case | Draw] = [c for c in (*CASES, *DRAWS) if any(w in c.name for w in wanted)]
    if not cases:
        names = ", ".join(dict.fromkeys(c.name for c in (*CASES, *DRAWS)))
        parser.error(f"no case is called {options.only!r}; there are {names}")
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", DepthsigWarning)  # no span is declared, where that is the case
    record = Record(options.out / "planted_models.csv", options.seed)
    for case in cases:
        started = time.perf_counter()
        if isinstance(case, Case):
            for number in range(case.quick if options.quick else case.models):
                if (case.name, number, float(case.strength)) not in record.done:
                    record.add(of_model(case, number, options.seed))
        else:
            for number in range(case.quick if options.quick else case.draws):
                if (case.name, number) not in record.cases:
                    record.add(of_draw(case, number, options.seed, options.quick))
        print(f"{case.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        scratch = options.out / "planted.csv.tmp"
        counted(record.table).to_csv(scratch, index=False, lineterminator="\n")
        scratch.replace(options.out / "planted.csv")


if __name__ == "__main__":
    main()
