"""A finding: one claim about a model, judged by one number beside a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from depthsig.findings.evidence import Evidence

Verdict = Literal["holds", "does not hold", "open"]

DISAGREE = "scores disagree"
"""How a finding says that other scores of its claim say otherwise."""

LEVEL = 0.05
"""The error rate of one verdict: of a two-sided interval of 95 %, and of a test."""


class Finding(TypedDict):
    """As ``findings.json`` keeps it; numbers that there are not are None.

    ``value`` is in the unit of ``metric``, and ``reference`` is what it is judged against, in the same unit.
    """

    id: str
    sentence: str
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    reference: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def text(self, form: Callable[[float], str] | None = None) -> str:
        """The value, and its interval in brackets.

        >>> Estimate(0.295, 0.283, 0.308).text()
        '0.295 [0.283, 0.308]'
        """
        form = form or plain
        if math.isnan(self.low) or math.isnan(self.high):
            return form(self.value)
        return f"{form(self.value)} [{form(self.low)}, {form(self.high)}]"


@dataclass(frozen=True)
class Judged:
    """What a rule found.

    Attributes:
        by: what the verdict rests on: one by an interval or a test is wrong at times, one by a count never.
        detail: what ends the claim in a table, as *which* block. caveat: what has to be known with the verdict.
    """

    metric: str
    sentence: str
    estimate: Estimate
    reference: float | None
    verdict: Verdict
    by: Literal["interval", "test", "count"] = "interval"
    detail: str = ""
    caveat: str = ""


@dataclass(frozen=True)
class Rule:
    """A claim, and how it is judged.

    Attributes:
        id: by which it is found. claim: in a few words, as tables show it. source: where the measure comes from.
        against: what the reference is, in a word or two. form: how tables write a value.
    """

    id: str
    claim: str
    source: str
    judge: Callable[[Evidence], Judged]
    against: str
    form: Callable[[float], str] | None = None


class Unjudged(Exception):
    """Why a claim cannot be judged, as the end of a sentence; and what was measured all the same."""

    def __init__(self, metric: str, why: str, estimate: Estimate | None = None) -> None:
        super().__init__(why)
        self.metric, self.estimate = metric, estimate or Estimate(math.nan)


def judged(estimate: Estimate, reference: float, *, above: bool = True) -> Verdict:
    """Whether all of an interval lies beyond the reference.

    Args:
        above: which side the claim is of.

    >>> judged(Estimate(0.3, 0.28, 0.31), 1 / 3), judged(Estimate(0.3, 0.28, 0.4), 1 / 3)
    ('does not hold', 'open')
    """
    low, high = (estimate.low, estimate.high) if above else (-estimate.high, -estimate.low)
    reference = reference if above else -reference
    if low > reference:
        return "holds"
    return "does not hold" if high <= reference else "open"


def recorded(rule: Rule, found: Judged) -> Finding:
    """A rule's finding as it is kept."""
    one = found.estimate
    return Finding(
        id=rule.id, sentence=found.sentence, metric=found.metric, value=_number(one.value), ci_low=_number(one.low),
        ci_high=_number(one.high), reference=found.reference, verdict=found.verdict,
    )  # fmt: skip


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def plain(value: float) -> str:
    """Three digits, as people write them.

    >>> plain(0.29511), plain(12.83), plain(1234.6), plain(0.0000123), plain(12.0)
    ('0.295', '12.8', '1235', '1.2e-05', '12')
    """
    if not math.isfinite(value) or (abs(value) < 1000 and value == int(value)):
        return f"{value:g}"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if abs(value) < 1000 else f"{value:.0f}"


def thousandths(value: float) -> str:
    """Three decimals, of a share or a cosine, where what is smaller is nothing.

    >>> thousandths(0.00063), thousandths(-0.1161), thousandths(0.0)
    ('0.001', '-0.116', '0')
    """
    return f"{value:.3f}" if value else "0"


def p_text(p: float) -> str:
    """A p-value in two digits.

    >>> p_text(0.008), p_text(1.0)
    ('p = 0.008', 'p = 1')
    """
    return f"p = {p:.2g}"


def percent(value: float) -> str:
    """A share in percent.

    >>> percent(0.29511)
    '29.5 %'
    """
    return f"{100 * value:.1f} %"


def listed(words: Sequence[str]) -> str:
    """Words with commas, and an *and* before the last.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
