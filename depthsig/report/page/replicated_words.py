"""What a replication found, in sentences: first on the page, and before each experiment's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from depthsig.findings.finding import listed
from depthsig.report.page.glance import Answer
from depthsig.report.replication_figures import standardised
from depthsig.signature.replications.replication import OUTCOMES, Replication, in_numbers, stated
from depthsig.terms import counted

CHOSEN_CLAIMS = 3
"""Sentences in the first box beside the counts."""
_LOOKS = {"supported": "pass", "contradicted": "fail"}
_QUESTIONS = {"contradicted": "What speaks against it most clearly?", "supported": "What holds most clearly?"}

_WOULD_HELP = (
    ("no network has the role ", "Name one: --roles {role}=CHECKPOINT, or a results folder of it."),
    ("nothing of it was measured in the role ", "Give a checkpoint of that role, or a results folder that holds it."),
    ("needs a checkpoint", "Give checkpoints in --roles: results folders hold no answers to runs."),
    ("needs networks with different blocks", "Give networks of several block lengths in one role, joined with +."),
    ("no span is declared", "Declare it: --roles ROLE=PATH[grown=A:B/b]."),
    ("no re-initialised control", "Give the checkpoint: the control is then measured beside it."),
    ("has learned nothing", "Give networks that were trained: what has learned nothing uses no depth."),
    ("was not measured", "Give a results folder of `depthsig analyze` with it (by a tuned lens: with --lens)."),
    ("blocks of different length", "Give networks whose blocks are of one length."),
    ("blocks that share their weights", "Nothing: an exchange of equal blocks cannot cost anything."),
    ("needs networks of one role", "Give more networks of a role, joined with +."),
)  # fmt: skip
"""What would make a claim measurable, by words of the reason why it is not."""


def counts_in_words(table: pd.DataFrame) -> str:
    """How many verdicts of each kind.

    >>> counts_in_words(pd.DataFrame({"verdict": ["supported", "undecided", "supported"]}))
    '2 supported and 1 undecided'
    """
    counts = table["verdict"].value_counts()
    return listed([f"{counts[verdict]} {verdict}" for verdict in OUTCOMES if verdict in counts])


def replicated_in_short(found: Replication) -> list[Answer]:
    """How many claims got which verdict, the clearest for and against, and on what that rests."""
    table = found.replication
    if table.empty:
        return [Answer("What became of the claims?", "Nothing was judged", "open", "No claim was asked for.")]
    counts = counts_in_words(table)
    networks = counted(len(found.info["networks"]), "network")
    said = f"{counted(len(table), 'judgement')}, one a claim and role, by {networks}."
    first = Answer("What became of the claims?", counts, "open", said)
    return [first, *clearest(found), _rest(found)]


def clearest(found: Replication) -> list[Answer]:
    """At most three sentences: the clearest contradiction, the clearest support, then the next of another experiment.

    Clearest is what lies most half-widths of its interval away from what would be nothing.
    """
    table = standardised(found).sort_values("value", key=np.abs, ascending=False, na_position="last", kind="stable")
    decided = table[table["verdict"].isin(list(_LOOKS))].to_dict("records")
    chosen: list[dict[Any, Any]] = []
    for verdict in ("contradicted", "supported"):
        chosen += [row for row in decided if row["verdict"] == verdict][:1]
    for row in decided:
        if len(chosen) < CHOSEN_CLAIMS and row["experiment"] not in {one["experiment"] for one in chosen}:
            chosen.append(row)
    claims = {c["id"]: c for c in found.info["claims"]}
    asked: set[str] = set()
    answers = []
    for row in chosen:
        again = row["verdict"] in asked
        asked.add(row["verdict"])
        question = "What else is clear?" if again else _QUESTIONS[row["verdict"]]
        verdict = f"{row['verdict']} for {row['role']}"
        text = f"{stated(row, claims[row['claim']])}: {in_numbers(row)} ({row['claim']})."
        answers.append(Answer(question, verdict[:1].upper() + verdict[1:], _LOOKS[row["verdict"]], text))
    return answers


def _rest(found: Replication) -> Answer:
    short = " Measured in short (--quick): few prompts and items." if found.info["options"].get("quick") else ""
    alone = found.replication["note"].str.contains("is about these networks").sum()
    text = f"Criteria were fixed beforehand; their hash is recorded.{short}"
    if alone:
        text += (
            f" For {alone} of them it is not known how far networks trained apart differ: they are about these "
            "networks alone."
        )
    seeds = found.info["networks"]
    by_role = listed(
        [f"{sum(n['role'] == role for n in seeds)} {role}" for role in dict.fromkeys(n["role"] for n in seeds)]
    )
    return Answer("What does it rest on?", by_role or "No network", "open", text)


def experiment_in_words(found: Replication, experiment: Mapping[str, Any]) -> str:
    """What became of an experiment's claims, in a sentence or two."""
    rows = found.replication[found.replication["experiment"] == experiment["id"]]
    if rows.empty:
        return "No claim of it was judged."
    said = f"Of {counted(len(rows), 'judgement')}: {counts_in_words(rows)}."
    mixed = [
        claim for claim, one in rows.groupby("claim", sort=False)
        if {"supported", "contradicted"} <= set(one["verdict"])
    ]  # fmt: skip
    if mixed:
        said += f" Roles disagree on {listed(mixed)}."
    return said


def would_help(note: str) -> str:
    """What would make a claim measurable that is not, by the reason in its note; empty where nobody knows.

    >>> would_help("no network has the role looped-after")
    'Name one: --roles looped-after=CHECKPOINT, or a results folder of it.'
    """
    for reason, help in _WOULD_HELP:
        if reason in note:
            role = note.partition(reason)[2].split(";")[0].split("/")[0].strip() or "ROLE"
            return help.replace("{role}", role)
    return ""


def judged(rows: Sequence[Mapping[str, Any]], claim: Mapping[str, Any]) -> list[dict[str, str]]:
    """A claim's verdicts role by role: statement with its numbers, and what is to be held against it."""
    found = []
    for row in rows:
        numbers = in_numbers(row) if np.isfinite(row["estimate"]) else ""
        none = row["verdict"] == "not measurable"
        found.append({
            "verdict": row["verdict"], "look": str(row["verdict"]).replace(" ", "-"), "role": row["role"],
            "stated": stated(row, claim), "numbers": numbers, "note": row["note"],
            "help": would_help(str(row["note"])) if none else "",
        })  # fmt: skip
    return found
