"""Findings as people see them: a table in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from depthsig.findings.finding import LEVEL, Finding, plain

HEAD = ("finding", "value", "95 % interval", "against", "verdict")


class Findings(list[Finding]):
    """The findings of one signature: a list of records, which shows itself as a table.

    Attributes:
        claims: what each is about, in a few words, by its id.
        uncertain: how many verdicts rest on an interval or a test.
    """

    def __init__(self, found: Iterable[Finding], claims: Mapping[str, str], uncertain: int) -> None:
        super().__init__(found)
        self.claims, self.uncertain = claims, uncertain

    @property
    def rate(self) -> str:
        """How often such a set of verdicts is wrong."""
        if not self.uncertain:
            return "No verdict rests on an interval or a test."
        most = min(1.0, LEVEL * self.uncertain)
        return (
            f"{self.uncertain} of {len(self)} verdicts rest on intervals or tests: with other prompts each would be "
            f"wrong at most {LEVEL:.0%} of the time, and any of them at most {most:.0%}."
        )

    def rows(self) -> list[tuple[str, ...]]:
        """A line of text a finding: claim, value, interval, reference, verdict."""
        return [
            (
                self.claims[one["id"]], _text(one["value"]),
                "" if one["ci_low"] is None else f"[{_text(one['ci_low'])}, {_text(one['ci_high'])}]",
                _text(one["reference"]), one["verdict"],
            )
            for one in self
        ]  # fmt: skip

    def __str__(self) -> str:
        rows = [HEAD, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        lines = [("td" if number else "th", row) for number, row in enumerate([HEAD, *self.rows()])]
        table = "".join(f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>" for tag, row in lines)
        return f"<table>{table}</table><p>{escape(self.rate)}</p>"


def _text(value: Any) -> str:
    return "" if value is None else plain(float(value))
