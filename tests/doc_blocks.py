"""What a page of the docs tells its reader to type: its fenced commands and Python, and how each is tried.

A comment on the line above a fence says so where it is not simply run, with the reason in brackets::

    <!-- run: slow (3 minutes) -->

``slow``: run with ``--slow``, planned by ``--dry-run`` otherwise. ``dry``: only planned, since it takes hours.
``parse``: only parsed, since it needs the network or files of the reader's own.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import typer
from sources import ROOT

from depthsig.cli.main import app

WAYS = ("run", "slow", "dry", "parse")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"(?:^<!-- run: (\w+) \(([^)\n]+)\) -->\n)?^```(bash|console|python)\n(.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fence: its language, text, and way of trying it."""

    language: str
    text: str
    way: str

    @property
    def commands(self) -> list[str]:
        """The lines that call depthsig; a backslash at the end of one goes on in the next."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language != "python" else []
        found = [line.removeprefix("$ ").strip() for line in lines]
        return [line for line in found if line.startswith("depthsig ")]


def blocks(page: Path) -> list[Block]:
    """The fences of a page, in order."""
    return [Block(m[3], m[4], m[1] or "run") for m in _FENCE.finditer(page.read_text(encoding="utf-8"))]


def arguments(line: str) -> list[str]:
    """What a command line gives to depthsig; what a shell would put in for ``$(…)`` is one word."""
    return shlex.split(re.sub(r'"\$\(.*\)"', "CHECKPOINT", line), comments=True)[1:]


def parse(line: str) -> None:
    """Raise where a command, or an option of it, does not exist."""
    name, *rest = arguments(line)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    command.make_context(name, rest)


def planned(line: str) -> list[str] | None:
    """The arguments of the same command that only plans; None where it cannot."""
    name, *rest = arguments(line)
    options = {o for p in typer.main.get_command(app).commands[name].params for o in p.opts}  # type: ignore[attr-defined]
    return [name, *rest, *(["--dry-run"] * ("--dry-run" not in rest))] if "--dry-run" in options else None
