"""What ``depthsig replicate`` says of the reference family: ``python -m data.studies.replicated_family``.

The paper's claims, judged on the shipped checkpoints and on the tables of the other seeds, as the command does by
itself in the repository. ``replicated_family.csv`` gets every verdict and what supported claims survived, with the hash
of the criteria that were used; ``--table`` prints the tables of ``docs/replication.md`` from it. Seven minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

import depthsig
from depthsig.replication.criteria import criteria
from depthsig.signature.replications.replication import OUTCOMES, Replication

HERE = Path(__file__).resolve().parent
STORED = HERE / "replicated_family.csv"
PAPER = "2602.16490"
COLUMNS = ["experiment", "claim", "role", "verdict", "estimate", "ci_low", "ci_high", "tests", "note", "criteria"]


def rows(found: Replication) -> pd.DataFrame:
    """Every verdict, what unit tests say of it (stands, falls, untested), and by which criteria."""
    tests = found.unit_tests.drop_duplicates(["claim", "role"])
    survived = {(row.claim, row.role): row.strict for row in tests.itertuples()}
    table = found.replication.assign(criteria=found.info["criteria_sha256"])
    table["tests"] = [survived.get((row.claim, row.role), "") for row in table.itertuples()]
    return table[COLUMNS]


def tables(stored: pd.DataFrame) -> str:
    """Counts by experiment, then decided claims with their numbers, then why the others are open; in Markdown."""
    return "\n\n".join([_counts(stored), _decided(stored), _open(stored)])


def _counts(stored: pd.DataFrame) -> str:
    titles = criteria().experiments
    lines = [f"| experiment | {' | '.join(OUTCOMES)} |", f"|---|{'---|' * len(OUTCOMES)}"]
    for experiment, group in stored.groupby("experiment", sort=False):
        found = [str(int((group["verdict"] == one).sum())) for one in OUTCOMES]
        lines.append(f"| {experiment} {titles[str(experiment)].title} | {' | '.join(found)} |")
    return "\n".join(lines)


def _decided(stored: pd.DataFrame) -> str:
    lines = ["| claim | verdict | estimate | unit tests |", "|---|---|---|---|"]
    claims = {claim.id: claim for claim in criteria().claims}
    for row in stored[stored["verdict"].isin(OUTCOMES[:2])].to_dict("records"):
        claim = claims[row["claim"]]
        said = claim.statement.format(a=f"*{row['role']}*", c=f"*{claim.against}*")
        number = (
            f"{row['estimate']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
            if row["ci_low"] == row["ci_low"]
            else ""
        )
        tests = row["tests"] if isinstance(row["tests"], str) else ""
        lines.append(f"| {claim.id}: {said} | **{row['verdict']}** | {number} | {tests} |")
    return "\n".join(lines)


def _open(stored: pd.DataFrame) -> str:
    lines = ["| open | claims | |", "|---|---|---|"]
    left = stored[~stored["verdict"].isin(OUTCOMES[:2])]
    for (verdict, note), group in left.groupby(
        ["verdict", left["note"].str.split(";").str[0]], sort=False, dropna=False
    ):
        names = ", ".join(f"{row.claim} ({row.role})" for row in group.itertuples())
        lines.append(f"| {verdict} | {names} | {note} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data.studies.replicated_family", description=__doc__)
    parser.add_argument("--table", action="store_true", help="print the tables from what is stored")
    parser.add_argument("--out", type=Path, help="keep the whole replication here; depthsig report DIR draws its page")
    args = parser.parse_args(arguments)
    if not args.table:
        found = depthsig.replicate(PAPER, quick=True, out=args.out, resume=args.out is not None)
        rows(found).to_csv(STORED, index=False, float_format="%.5g", lineterminator="\n")
    print(tables(pd.read_csv(STORED)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
