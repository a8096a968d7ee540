"""Findings as people see them: a table in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from depthsig.findings.finding import LEVEL, Finding, Judged, Rule, plain
from depthsig.notebook import table

HEAD = ("verdict", "finding", "value", "95 % interval", "against")
RULE = 110
"""Letters of the line below the head, at most."""


@dataclass(frozen=True)
class Shown:
    """One finding as a row of text.

    Attributes:
        claim: with its detail. value, interval, against: as the rule writes them; empty where there is none.
        caveat: what has to be known with it: why it is open, or that scores disagree.
    """

    verdict: str
    claim: str
    value: str
    interval: str
    against: str
    caveat: str

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of :data:`HEAD`."""
        return self.verdict, self.claim, self.value, self.interval, self.against


def shown(rule: Rule, found: Judged) -> Shown:
    """What a rule found, as a row of text."""
    form, one, record = rule.form or plain, found.estimate, found.reference
    number = {name: form(value) for name, value in vars(one).items() if value - value == 0}
    interval = f"[{number['low']}, {number['high']}]" if "low" in number and "high" in number else ""
    against = "" if record is None or "value" not in number else f"{form(record)} ({rule.against})"
    claim = f"{rule.claim}: {found.detail}" if found.detail else rule.claim
    return Shown(found.verdict, claim, number.get("value", ""), interval, against, found.caveat)


class Findings(list[Finding]):
    """The findings of one signature: a list of records, which shows itself as a table.

    Attributes:
        shown: each as a row of text, in the same order.
        rates: of each verdict that rests on an interval or a test, how often it is wrong.
    """

    def __init__(self, found: Iterable[Finding], shown: Sequence[Shown], rates: Sequence[float]) -> None:
        super().__init__(found)
        self.shown, self.rates = list(shown), list(rates)

    @property
    def rate(self) -> str:
        """How often such a set of verdicts is wrong."""
        if not self.rates:
            return "No verdict rests on an interval or a test."
        few = "" if max(self.rates) == LEVEL else f" ({LEVEL:.0%} with many prompts)"
        return (
            f"{len(self.rates)} of {len(self)} verdicts rest on intervals or tests, each wrong in about "
            f"{max(self.rates):.0%} of cases{few}, any in at most {min(1.0, sum(self.rates)):.0%}."
        )

    def __str__(self) -> str:
        rows = [HEAD, *(one.cells for one in self.shown if one.value)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
        blank = " " * (widths[0] + 2)
        told = [self._line(HEAD, widths)]
        for one in self.shown:
            if one.value:
                told.append(self._line(one.cells, widths))
                told += [f"{blank}  {one.caveat}"] if one.caveat else []
            else:
                told.append(f"{one.verdict.ljust(widths[0])}  {one.claim}: {one.caveat}")
        told.insert(1, "-" * min(RULE, max(map(len, told))))
        return "\n".join([*told, self.rate])

    @staticmethod
    def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = [(one.verdict, "; ".join(filter(None, [one.claim, one.caveat])), *one.cells[2:]) for one in self.shown]
        return table(HEAD, rows) + f"<p>{escape(self.rate)}</p>"
