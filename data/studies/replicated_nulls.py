"""How often does ``depthsig replicate`` support a claim about roles that mean nothing?

    python -m data.studies.replicated_nulls             # everything: half an hour to measure, as long to judge
    python -m data.studies.replicated_nulls --quick     # five networks, two draws: five minutes
    python -m data.studies.replicated_nulls --only 1,2 --out FOLDER
    python -m data.studies.replicated_nulls --table     # what stands in docs/planted.md

The claims of 2602.16490 are put to the test on the baseline alone: its three seeds, and null models of the planted
bench (the trained baseline changed without consequence). Each declares a block that is not there. All are measured
once, as ``depthsig replicate --quick`` measures; then roles are drawn again and again, and each time the same evidence
is judged by the shipped judge. ``replicated_nulls_draws.csv`` gets a draw's verdicts as soon as they are known, and
what was measured stays in ``--work``: a program that was stopped goes on where it was. ``replicated_nulls.csv`` counts
them.

What is drawn depends on seed, roles, networks an arm and number alone, so a study that was stopped is a part of the
whole one.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

import depthsig
from depthsig.commands.replicate import FEW, asked
from depthsig.commands.replicating.pieces import Pieces
from depthsig.errors import DepthsigWarning
from depthsig.progress import Progress
from depthsig.prompts.shipped import data_path
from depthsig.replication.criteria import Claim, criteria
from depthsig.replication.gathered import Gathered
from depthsig.replication.judging import NOT_MEASURABLE, judge
from depthsig.signature import Signature

from .planting import null_models

HERE = Path(__file__).resolve().parent
PAPER = "2602.16490"
NULLS, SOME = 20, 3
"""Null models, in full and ``quick``."""
BASELINE = "family-baseline"
OTHER_SEEDS = (1, 3)
SPAN = "0:24/4"
"""The block that every network declares; none has it."""
MEASURED_AS = "midas"
"""A role that every claim is about, so that a network that has it is measured for all."""
DRAW = ["seed", "roles", "networks", "draw"]
COLUMNS = [*DRAW, "claim", "role", "verdict", "estimate"]
"""``estimate``: the difference between arms that the verdict is about, in the claim's own unit."""
VERDICTS = ("supported", "contradicted", "undecided", NOT_MEASURABLE)
ALL = "all"
RESAMPLES = 10_000
"""Of draws, for the interval of what all claims together come to."""


@dataclass(frozen=True)
class Giving:
    """One way of giving roles.

    Attributes:
        arms: the roles that are given. change: whether it is about claims of before and after, or about the others.
        draws: how often, by networks an arm; ``quick`` twice.
    """

    name: str
    arms: tuple[str, ...]
    change: bool
    draws: dict[int, int]

    def claims(self) -> list[Claim]:
        """The paper's claims that these roles are about."""
        told = criteria().of_paper(PAPER)
        return [c for c in told if any("-after" in arm for role in c.roles for arm in c.arms(role)) == self.change]


GIVINGS = (
    Giving("three roles", ("looped", "midas", "baseline"), False, {1: 20, 2: 15, 3: 15, 6: 10}),
    Giving(
        "before and after", tuple(f"{role}-{when}" for role in ("looped", "midas", "baseline")
                                  for when in ("before", "after")), True, {1: 20, 2: 15, 3: 15},
    ),
)  # fmt: skip


def gathered(checkpoints: Sequence[str], seed: int, work: Path, only: Sequence[str] = ()) -> Gathered:
    """All that claims are judged by, of checkpoints and, last, of the baseline's other seeds; kept in ``work``.

    The other seeds ship as tables, which hold no answers, no examples in context and no sublayers left out.

    Args:
        only: experiments; empty: all of the paper.
    """
    kept = work / f"sublayers-{seed}"
    named = checkpoints if not only or "E2" in only else ()
    sublayers = [_sublayers(path, seed, kept / Path(path).name) for path in named]
    names = (f"baseline-seed{n}-{prompts}" for n in OTHER_SEEDS for prompts in ("lookup", "gsm8k"))
    tables = [str(data_path("signatures") / name) for name in names]
    declared = [f"{path}[grown={SPAN}]" if path == BASELINE else path for path in checkpoints]
    job = asked(
        PAPER, roles={MEASURED_AS: [*declared, *sublayers], "baseline": tables}, only=tuple(only), quick=True,
        dtype=None, device="cpu", device_map=None, revision=None, trust_remote_code=False, allow_pickle=False,
        memory="1GiB", seed=seed,
    )  # fmt: skip
    units = Pieces(work / f"evidence-{seed}", resume=True)
    try:
        found = job.gather(units, Progress.of(True))
    finally:
        units.leave()
    # The other seeds' tables declare no block: they get the one that the others declare.
    span = next(one.span for one in found.networks if one.span is not None)
    return replace(found, networks=tuple(replace(one, span=span) for one in found.networks))


def _sublayers(path: str, seed: int, folder: Path) -> Signature:
    """Attention and MLPs left out, as their claims read them: alone, or they were left out at later positions, too."""
    if folder.exists():
        return Signature.load(folder)
    found = depthsig.analyze(
        path, "gsm8k", n=FEW.prompts, metrics=["skip.output_l2"], parts=["attn", "mlp"], scopes=["current"],
        grown=SPAN if path == BASELINE else None, device="cpu", control=False, memory="1GiB", seed=seed,
    )  # fmt: skip
    found.save(folder)
    return found


def chosen(of: int, giving: Giving, networks: int, number: int, seed: int) -> list[int]:
    """Which of so many networks take part in a draw, arm after arm.

    Raises:
        ValueError: where there are fewer networks than places.
    """
    wanted = networks * len(giving.arms)
    if wanted > of:
        raise ValueError(f"{giving.name} takes {wanted} networks; there are {of}")
    rng = np.random.default_rng((seed, zlib.crc32(giving.name.encode()), networks, number))
    return [int(i) for i in rng.permutation(of)[:wanted]]


def given(evidence: Gathered, giving: Giving, places: Sequence[int]) -> Gathered:
    """The evidence of some networks in these roles, the first few in the first."""
    each = len(places) // len(giving.arms)
    roles = [giving.arms[n // each] for n in range(len(places))]
    networks = tuple(replace(evidence.networks[p], role=role) for p, role in zip(places, roles, strict=True))
    return Gathered(networks, evidence.runs, evidence.seed, evidence.resamples)


def of_draw(evidence: Gathered, giving: Giving, networks: int, number: int, seed: int) -> pd.DataFrame:
    """What is said of every claim when roles are given once: a row a claim and role."""
    places = chosen(len(evidence.networks), giving, networks, number, seed)
    found = judge(given(evidence, giving, places), giving.claims()).claims
    about = dict(zip(DRAW, (seed, giving.name, networks, number), strict=True))
    return found.assign(**about)[COLUMNS]


def planned(quick: bool, only: Sequence[int]) -> Iterator[tuple[Giving, int, int]]:
    """Roles, networks an arm and number of every draw, the first of each before the second of any."""
    sizes = [(g, n, 2 if quick else draws) for g in GIVINGS for n, draws in g.draws.items()]
    # Of quick's five networks there is one an arm only, and not for six arms.
    kept = [(g, n, d) for g, n, d in sizes if (not only or n in only) and not (quick and n * len(g.arms) > SOME + 2)]
    for number in range(max((draws for *_, draws in kept), default=0)):
        yield from ((giving, n, number) for giving, n, draws in kept if number < draws)


def counted(draws: pd.DataFrame) -> pd.DataFrame:
    """The summary: by roles and networks an arm, of each claim and role, and of all claims together.

    ``rate`` is the share supported of what was judged, ``of_all`` that of all rows, those included of which nothing
    could be measured. Of one claim and role the 95 % interval is Wilson's over draws; of all together it comes from
    drawing whole draws anew, whose claims are about the same networks. Draws are independent of each other given the
    networks that they are of; intervals are about these networks.
    """
    rows = []
    by_size = [((roles, str(n)), part) for (roles, n), part in draws.groupby(["roles", "networks"], sort=True)]
    for (roles, networks), part in [*by_size, ((ALL, ALL), draws)]:
        about = {"roles": roles, "networks": networks}
        rows.append(about | {"claim": ALL, "role": ALL} | _cell(part, *_of_draws(part)))
        for (claim, role), cell in part.groupby(["claim", "role"], sort=False):
            rows.append(about | {"claim": claim, "role": role} | _cell(cell, *_wilson(cell)))
    return pd.DataFrame(rows)


def _cell(cell: pd.DataFrame, low: float, high: float) -> dict[str, object]:
    said = {name: int((cell["verdict"] == name).sum()) for name in VERDICTS}
    judged = len(cell) - said[NOT_MEASURABLE]
    hits = said["supported"]
    return {
        "draws": len(cell[DRAW].drop_duplicates()), **{name.replace(" ", "_"): n for name, n in said.items()},
        "rate": round(hits / judged, 4) if judged else np.nan, "low": round(low, 4), "high": round(high, 4),
        "of_all": round(hits / len(cell), 4),
    }  # fmt: skip


def _wilson(cell: pd.DataFrame) -> tuple[float, float]:
    judged = cell[cell["verdict"] != NOT_MEASURABLE]
    if judged.empty:
        return np.nan, np.nan
    interval = binomtest(int((judged["verdict"] == "supported").sum()), len(judged)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _of_draws(cells: pd.DataFrame) -> tuple[float, float]:
    """Of all claims: whole draws are drawn anew; where nothing was supported, Wilson's interval of so many draws."""
    judged = cells[cells["verdict"] != NOT_MEASURABLE]
    by_draw = judged.assign(hit=judged["verdict"] == "supported").groupby(DRAW)["hit"].agg(["sum", "size"]).to_numpy()
    if not by_draw[:, 0].any():
        return 0.0, float(binomtest(0, max(len(by_draw), 1)).proportion_ci(method="wilson").high)
    picks = np.random.default_rng(0).integers(0, len(by_draw), (RESAMPLES, len(by_draw)))
    hits, of = by_draw[picks].sum(1).T
    low, high = np.percentile(hits / of, [2.5, 97.5])
    return float(low), float(high)


def table(summary: pd.DataFrame) -> str:
    """All claims together by networks an arm, then those that were ever supported, as the documentation shows it."""
    lines = [
        "| roles | networks an arm | draws | not measurable | supported of those judged |",
        "|---|---|---|---|---|",
    ]
    for row in summary[summary["claim"] == ALL].to_dict("records"):
        lines.append(
            f"| {row['roles']} | {row['networks']} | {row['draws']} | {row['not_measurable']} | {_rate(row)} |"
        )
    named = summary[(summary["claim"] != ALL) & (summary["supported"] > 0) & (summary["roles"] != ALL)]
    if not named.empty:
        lines += ["", "| claim | role | roles | networks an arm | supported of those judged |", "|---|---|---|---|---|"]
    for row in named.sort_values(["claim", "role", "roles", "networks"]).to_dict("records"):
        lines.append(f"| {row['claim']} | {row['role']} | {row['roles']} | {row['networks']} | {_rate(row)} |")
    return "\n".join(lines)


def _rate(row: dict[str, object]) -> str:
    judged = sum(int(str(row[v])) for v in VERDICTS[:3])
    return f"{row['supported']} of {judged}: {row['rate']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


def written(rows: pd.DataFrame, path: Path) -> None:
    """A table, whole or not at all."""
    scratch = path.with_name(path.name + ".tmp")
    rows.to_csv(scratch, index=False, float_format="%.5g", lineterminator="\n")
    scratch.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m data.studies.replicated_nulls", description=about)
    parser.add_argument("--quick", action="store_true", help="few networks and draws, to see that it runs")
    parser.add_argument("--only", default="", help="so many networks an arm, several with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print what was counted as a table, and run nothing")
    parser.add_argument("--work", type=Path, default=Path("nulls-work"), help="where models and measurements are kept")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for replicated_nulls.csv and its draws")
    args = parser.parse_args(arguments)
    if args.table:
        print(table(pd.read_csv(args.out / "replicated_nulls.csv", dtype={"networks": str})))
        return 0
    plan = list(planned(args.quick, [int(n) for n in args.only.split(",") if n]))
    if not plan:
        parser.error(f"no draw has {args.only!r} networks an arm")
    warnings.simplefilter("ignore", DepthsigWarning)  # prompts are cut where the models end
    nulls = null_models(SOME if args.quick else NULLS, args.seed, args.work / f"models-{args.seed}", grown=SPAN)
    evidence = gathered([*map(str, nulls), BASELINE], args.seed, args.work)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "replicated_nulls_draws.csv"
    found = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    done = set(found[["roles", "networks", "draw"]][found["seed"] == args.seed].itertuples(index=False, name=None))
    for giving, networks, number in plan:
        if (giving.name, networks, number) in done:
            continue
        started = time.perf_counter()
        new = of_draw(evidence, giving, networks, number, args.seed)
        found = new if found.empty else pd.concat([found, new], ignore_index=True)
        written(found, path)
        said = f"{giving.name}, {networks} an arm, draw {number}: {(new['verdict'] == 'supported').sum()} supported"
        print(f"{said}, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    written(counted(found), args.out / "replicated_nulls.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
