"""How the model uses its depth: late layers, and where predictions are made."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from depthsig.findings.evidence import Evidence
from depthsig.findings.finding import (
    DISAGREE,
    Estimate,
    Judged,
    Rule,
    Unjudged,
    Verdict,
    judged,
    listed,
    percent,
    plain,
)
from depthsig.metrics.rules import CENTRES, EFFECTIVE, LATE, SETTLING

EVEN_SHARE = 1 / 3
"""Of the last third of the steps, where every step matters alike."""
EVEN_CENTRE = 0.5
"""The centre of mass of effects that are alike, as a share of the way to the last step."""

_CSORDAS = "Csordás et al. 2505.13898"


def _late(seen: Evidence) -> Judged:
    name, part, scope = LATE
    share = seen.score(name, part=part, scope=scope)
    verdict = judged(share, EVEN_SHARE)
    said = [
        f"The last third of the steps carries {share.text(percent)} of what skipping a step does to the output, "
        f"where an even share is {percent(EVEN_SHARE)}"
    ]
    caveat = ""
    centres = {words: found for score, words in CENTRES.items() if (found := _centre(seen, score, part, scope))}
    if centres:
        about = listed([f"{found.text()} ({words})" for words, found in centres.items()])
        said.append(f"the effects' centre lies at {about} of the way, where {EVEN_CENTRE} is even")
        caveat = _against(verdict, {words: judged(found, EVEN_CENTRE) for words, found in centres.items()})
        said += [caveat] if caveat else []
    return Judged(name, _sentence(said), share, EVEN_SHARE, verdict, caveat=caveat)


def _against(verdict: Verdict, centres: Mapping[str, Verdict]) -> str:
    """Which centres decide otherwise, or where the share is open; empty where none does."""
    said = []
    for other, words in (("holds", "later than even"), ("does not hold", "no later than even")):
        of = [on for on, found in centres.items() if found == other != verdict]
        said += [f"the centre of the effects on {listed(of)} lies {words}"] if of else []
    return f"{DISAGREE}: {listed(said)}" if said else ""


_OPPOSED: set[Verdict] = {"holds", "does not hold"}


def _centre(seen: Evidence, score: str, part: str, scope: str) -> Estimate | None:
    try:
        return seen.score(score, part=part, scope=scope)
    except Unjudged:
        return None


def _sentence(said: list[str]) -> str:
    return "; ".join(said) + "."


def _settling(seen: Evidence) -> Judged:
    depth, half = seen.score(SETTLING), seen.steps / 2
    sentence = (
        f"A position's prediction settles (its JSD to the final one stays below half) at depth {depth.text()} of "
        f"{seen.steps} on average; half of the depth is {plain(half)}."
    )
    return Judged(SETTLING, sentence, depth, half, judged(depth, half))


def _effective(seen: Evidence) -> Judged:
    found = {name: one for name in EFFECTIVE if (one := _defined(seen, name))}
    if not found:
        raise Unjudged(next(iter(EFFECTIVE)), "no effective depth was measured (--metrics lens,residual does)")
    half = seen.steps / 2
    verdicts = {name: judged(one, half) for name, one in found.items()}
    each = listed([f"{one.text()} by {EFFECTIVE[name]}" for name, one in found.items()])
    said = [f"The effective depth is {each} of {seen.steps}; half of the depth is {plain(half)}"]
    alike = set(verdicts.values())
    caveat = f"{DISAGREE}: " + listed([f"{plain(one.value)} by {EFFECTIVE[name]}" for name, one in found.items()])
    if alike >= _OPPOSED:
        said.append("its definitions disagree")
    first = next(iter(found))
    verdict: Verdict = alike.pop() if len(alike) == 1 else "open"
    return Judged(first, _sentence(said), found[first], half, verdict, caveat=caveat if len(said) > 1 else "")


def _defined(seen: Evidence, score: str) -> Estimate | None:
    row = seen.score_row(score)
    if row is None or np.isnan(row["value"]):
        return None
    return seen.score(score)


USING_DEPTH = (
    Rule(
        "late",
        "late layers carry more than an even share",
        f"Kapl et al. 2602.16490; {_CSORDAS}",
        _late,
        "even",
        percent,
    ),
    Rule("settling", "predictions settle in the second half", "Chen et al. 2602.13517", _settling, "half the steps"),
    Rule(
        "effective_depth",
        "the second half computes something new",
        "Hu et al. 2512.14064",
        _effective,
        "half the steps",
    ),
)
