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
            f"{self.uncertain} verdicts rest on intervals or tests, each wrong in at most {LEVEL:.0%} of repetitions with "
            f"other prompts; that any of them is wrong: at most {most:.0%}."
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

    def _repr_html_(self) -> str:
        cells = [("", *HEAD[1:]), *((f"{row[0]}", *row[1:]) for row in self.rows())]
        head, *body = [[escape(cell) for cell in row] for row in cells]
        table = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body)
        return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{table}</table><p>{escape(self.rate)}</p>"


def _text(value: Any) -> str:
    return "" if value is None else plain(float(value))
