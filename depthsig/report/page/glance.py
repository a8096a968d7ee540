"""What a reader asks first, answered from the findings in a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from depthsig.findings.finding import DISAGREE, Finding

_ANSWERS = {"holds": ("Yes", "pass"), "does not hold": ("No", "fail"), "open": ("Open", "open")}


class Answer(NamedTuple):
    """A question with its answer in a word (and how that looks), and the sentence that it rests on."""

    question: str
    answer: str
    look: str
    text: str


def glance(findings: Iterable[Finding], warnings: Sequence[str] = ()) -> list[Answer]:
    """Late layers, period and trust; a question that nothing was found on is left out.

    Args:
        warnings: of the analysis, each a reservation.
    """
    found = {one["id"]: one for one in findings}
    answers = []
    if "late" in found:
        answers.append(_late(found["late"]))
    period = _period(found)
    if period is not None:
        answers.append(period)
    if "exact" in found:
        answers.append(_trust(found, warnings))
    return answers


def _late(one: Finding) -> Answer:
    word, look = _ANSWERS[one["verdict"]]
    if DISAGREE in one["sentence"]:
        word += f", but the {DISAGREE}" if one["verdict"] != "open" else f": the {DISAGREE}"
        look = "open"
    return Answer("Does it rely on late layers more than evenly?", word, look, _first_statement(one))


def _period(found: Mapping[str, Finding]) -> Answer | None:
    """What was declared or runs, where that could be judged; else what a blind search has found."""
    there = [found[name] for name in ("recurrence", "blocks") if name in found]
    if not there:
        return None
    measured = [one for one in there if one["value"] is not None]
    one = next((one for one in measured if one["verdict"] != "open"), (measured or there)[0])
    word, look = _ANSWERS[one["verdict"]]
    if one["id"] == "blocks" and one["verdict"] == "open" and measured:
        word = "None was found"
    return Answer("Is there a period, and of what?", word, look, one["sentence"].removeprefix("Open: "))


def _trust(found: Mapping[str, Finding], warnings: Sequence[str]) -> Answer:
    """Certificates decide; warnings, and prompts that are too few for intervals, are reservations."""
    exact, prompts = found["exact"], found.get("prompts")
    word, look = _ANSWERS[exact["verdict"]]
    text = _first_statement(exact)
    if prompts is not None:
        text += " " + prompts["sentence"]
    if exact["verdict"] == "holds" and (warnings or (prompts is not None and prompts["verdict"] != "holds")):
        word, look = "With care", "open"
    return Answer("Can it be trusted?", word, look, text)


def _first_statement(one: Finding) -> str:
    """What a finding's sentence begins with; the table has the rest."""
    return re.split(r"[;.] ", one["sentence"])[0].rstrip(".") + "."
