"""How far networks of one recipe differ when they are trained apart: ``python -m data.studies.spread [FOLDER...]``.

Every number that a claim of ``depthsig replicate`` is judged by, of every network of the reference family that is at
hand: the shipped tables of every seed, and for what these cannot tell, with folders (as ``WORK/seed3`` of the recipe),
runs of the shipped checkpoints and of those that lie there. Within each arm the networks differ in their seed and in
nothing else; the standard deviation is pooled over arms. It is written to ``spread.csv`` and, as ``network_sd`` and
``network_df`` of each claim, into ``criteria.toml``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from depthsig.commands.replicate import replicate
from depthsig.commands.replicating.given_roles import shipped_family
from depthsig.replication.criteria import criteria
from depthsig.replication.members import means
from depthsig.signature.replications.replication import Replication

HERE = Path(__file__).resolve().parent
CRITERIA = HERE.parents[1] / "depthsig" / "replication" / "criteria.toml"
COLUMNS = ("claim", "arm", "networks", "mean", "sd")


def measured(folders: Iterable[Path], out: Path, quick: bool) -> list[Replication]:
    """Every paper's claims of the family: by its tables, and what these do not tell by running checkpoints.

    Args:
        folders: with the checkpoints of further seeds. Without any nothing is run: one checkpoint an arm tells nothing
            of how networks differ.
    """
    tables, checkpoints = {}, {}
    for role, (checkpoint, *names) in shipped_family().items():
        # Not those with blocks of another length: networks of an arm differ in their seed alone.
        tables[role] = [name for name in names if Path(name).name.startswith(f"{role}-seed")]
        checkpoints[role] = [checkpoint, *(str(p) for f in folders if (p := f / f"family-{role}").is_dir())]
    found: list[Replication] = []
    asked: set[str] = set()
    for paper in criteria().papers:
        found.append(replicate(paper, roles=tables, quick=quick, out=out / f"{paper}-tables", resume=True))
        silent = _untold(paper, found, asked)
        if silent and min(map(len, checkpoints.values())) > 1:
            found.append(replicate(paper, roles=checkpoints, only=silent, quick=quick, out=out / paper, resume=True))
    return found


def _untold(paper: str, found: Iterable[Replication], asked: set[str]) -> list[str]:
    """Experiments with claims about roles of the family of which nothing is told yet; each claim is asked once."""
    told = asked | {claim for one in found for claim in one.networks["claim"]}
    asked |= {claim.id for claim in criteria().of_paper(paper)}
    family = shipped_family()
    return sorted({
        claim.experiment for claim in criteria().of_paper(paper)
        if claim.id not in told and any(means(role, own) for role in claim.roles for own in family)
    })  # fmt: skip


def spread(found: Iterable[Replication]) -> pd.DataFrame:
    """Rows of ``spread.csv``: each arm's networks, their mean and standard deviation, claim by claim."""
    frames: list[pd.DataFrame] = []
    for one in found:
        roles = {n["name"]: n["role"] for n in one.info["networks"]}
        told = {claim for frame in frames for claim in frame["claim"]}
        new = one.networks[~one.networks["claim"].isin(told)]  # what tables told is not told again of fewer networks
        frames.append(new.assign(own=new["network"].map(roles)))
    table = pd.concat(frames, ignore_index=True)
    # Over the steps of another arm's span a network has another number: these are apart by the role of the row.
    table = table.drop_duplicates(["claim", "network", "value"])
    rows = []
    for (claim, _role, own), values in table.groupby(["claim", "role", "own"], sort=True)["value"]:
        if len(values) > 1:
            rows.append(dict(zip(COLUMNS, (claim, own, len(values), values.mean(), values.std()), strict=True)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def pooled(table: pd.DataFrame) -> dict[str, tuple[float, int]]:
    """Of each claim: the standard deviation pooled over arms, and its degrees of freedom.

    Claims by the same quantity (of other arms, or against a number) share what is known of it.
    """
    measured_by = {claim.id: (claim.quantity, claim.of) for claim in criteria().claims}
    keyed = table.assign(by=[measured_by[claim] for claim in table["claim"]])
    found = {}
    for by, rows in keyed.groupby("by"):
        rows = rows.assign(about=rows["mean"].round(6)).drop_duplicates(["arm", "about"])
        df = int((rows["networks"] - 1).sum())
        sd = float((((rows["networks"] - 1) * rows["sd"] ** 2).sum() / df) ** 0.5)
        found |= {claim: (sd, df) for claim, one in measured_by.items() if one == by}
    return found


def written(text: str, told: dict[str, tuple[float, int]]) -> str:
    """``criteria.toml`` with each claim's spread in its place."""
    head, *claims = re.split(r"(?m)^(?=\[\[claims\]\])", text)
    out = [head]
    for claim in claims:
        claim = re.sub(r"(?m)^network_(sd|df) = .*\n", "", claim)
        name = re.search(r'(?m)^id = "(.+)"$', claim)
        assert name is not None
        if name[1] in told:
            sd, df = told[name[1]]
            claim = re.sub(r"(?m)^(source = .*\n)", rf"\g<1>network_sd = {sd:.4g}\nnetwork_df = {df}\n", claim, count=1)
        out.append(claim)
    return "".join(out)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data.studies.spread", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders that hold family-ARM checkpoints of other seeds")
    parser.add_argument("--work", type=Path, default=Path("spread-work"), help="where the replications go")
    parser.add_argument("--quick", action="store_true", help="on few prompts")
    args = parser.parse_args(arguments)
    table = spread(measured(args.folders, args.work, args.quick))
    table.to_csv(HERE / "spread.csv", index=False, float_format="%.7g", lineterminator="\n")
    CRITERIA.write_text(written(CRITERIA.read_text(encoding="utf-8"), pooled(table)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
