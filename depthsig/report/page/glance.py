"""What a reader asks first, answered from the findings in a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from depthsig.findings.finding import DISAGREE, Finding

_ANSWERS = {"holds": ("Yes", "pass"), "does not hold": ("No", "fail"), "open": ("Open", "open")}


class Answer(NamedTuple):
    """A question with its answer in a word (and how that looks), and the sentence that it rests on."""

    question: str
    answer: str
    look: str
    text: str


def glance(findings: Iterable[Finding]) -> list[Answer]:
    """Late layers, period and trust; a question that nothing was found on is left out."""
    found = {one["id"]: one for one in findings}
    answers = []
    if "late" in found:
        answers.append(_late(found["late"]))
    period = _first(found, ("recurrence", "blocks"))
    if period is not None:
        word, look = _ANSWERS[period["verdict"]]
        answers.append(Answer("Is there a period, and of what?", word, look, period["sentence"]))
    if "exact" in found:
        answers.append(_trust(found))
    return answers


def _late(one: Finding) -> Answer:
    word, look = _ANSWERS[one["verdict"]]
    if DISAGREE in one["sentence"]:
        word += f", but the {DISAGREE}" if one["verdict"] != "open" else f": the {DISAGREE}"
        look = "open"
    return Answer("Does it rely on late layers more than evenly?", word, look, _first_statement(one))


def _trust(found: Mapping[str, Finding]) -> Answer:
    """Certificates decide; prompts that are too few for intervals are a reservation."""
    exact, prompts = found["exact"], found.get("prompts")
    word, look = _ANSWERS[exact["verdict"]]
    text = _first_statement(exact)
    if prompts is not None:
        text += " " + prompts["sentence"]
        if exact["verdict"] == "holds" and prompts["verdict"] != "holds":
            word, look = "With care", "open"
    return Answer("Can it be trusted?", word, look, text)


def _first_statement(one: Finding) -> str:
    """What a finding's sentence begins with; the table has the rest."""
    return re.split(r"[;.] ", one["sentence"])[0].rstrip(".") + "."


def _first(found: Mapping[str, Finding], names: Iterable[str]) -> Finding | None:
    """The first that could be judged; if none could, the first that there is."""
    there = [found[name] for name in names if name in found]
    return next((one for one in there if one["verdict"] != "open"), there[0] if there else None)
