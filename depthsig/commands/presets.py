"""Options in short: ``--quick``, and the settings of papers by name (``presets.toml``). Nothing heavy is imported."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import EllipsisType
from typing import Any

from depthsig.errors import InputError, shown
from depthsig.measure.request import Request, option

QUICK: Mapping[str, Any] = {"n": 8, "max_tokens": 64, "scopes": ("current",), "control": False}
"""What ``--quick`` sets."""


@dataclass(frozen=True)
class Preset:
    """A paper's settings.

    Attributes:
        paper: its authors, title and number. about: what is measured so, and what is not set, and why.
        options: values of options of ``analyze``, by their names in Python.
    """

    name: str
    paper: str
    about: str
    options: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """As ``depthsig presets --json`` prints it."""
        return asdict(self)

    def written(self) -> list[str]:
        """Its options, as the command line has them."""
        pieces: list[str] = []
        for name, value in self.options.items():
            shown_value = ",".join(value) if isinstance(value, list) else str(value)
            pieces += [option(name)] if value is True else [option(name), shown_value]
        return pieces


@cache
def presets() -> Mapping[str, Preset]:
    """Every preset by its name."""
    told = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {name: Preset(name, **what) for name, what in told.items()}


@dataclass(frozen=True)
class InShort:
    """What was asked for in short, and which options were given by themselves: those win.

    Attributes:
        budget: as it was written. seconds: the same as a number.
        given: names of the options that nothing in short may change.

    Raises:
        InputError: for a preset or a budget that there is not, and for two that choose the same.
    """

    quick: bool = False
    budget: str | float | None = None
    preset: str | None = None
    given: frozenset[str] = frozenset()
    seconds: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in presets():
            raise InputError(f"--preset {shown(self.preset)} is unknown; there are {', '.join(presets())}")
        if self.budget is not None:
            object.__setattr__(self, "seconds", parse_duration(self.budget))
        if not isinstance(self.quick, bool):
            raise InputError(f"--quick is {shown(self.quick)}; it is True or False")
        if self.quick and self.budget is not None:
            raise InputError("--quick and --budget both choose how many prompts there are; give one of them")

    @property
    def left(self) -> bool:
        """Whether the metrics were left to us: those of spans and loops are then added."""
        return "metrics" not in self.given

    def record(self) -> dict[str, Any]:
        """What was asked for, for ``signature.json``; empty where everything was given in full."""
        asked = {"quick": self.quick or None, "budget": self.budget, "preset": self.preset}
        return {k: v for k, v in asked.items() if v is not None}


@dataclass(frozen=True)
class Settled:
    """Options as they are after all that was asked for in short.

    Attributes:
        n_listed: how many prompts of a list; None for all.
    """

    request: Request
    prompts: Any
    n_listed: int | None
    short: InShort


def settled(
    options: Mapping[str, Any], *, quick: bool = False, budget: str | float | None = None, preset: str | None = None
) -> Settled:
    """Options with what was asked for in short: what is given wins over ``quick``, that over the preset.

    Args:
        options: of a request, and ``prompts``, by name; None (of ``n``, whose None means all: ``...``) is not given.

    Raises:
        InputError: for a preset or a budget that there is not, two that choose the same, and options that cannot
            be used as given.
    """
    given = {k: v for k, v in options.items() if not (isinstance(v, EllipsisType) if k == "n" else v is None)}
    short = InShort(quick, budget, preset, frozenset(given))
    from_preset = {} if preset is None else presets()[preset].options
    chosen = {**from_preset, **(QUICK if quick else {}), **given}
    prompts = chosen.pop("prompts", None)
    return Settled(Request(**chosen), prompts, chosen.get("n"), short)


def parse_duration(text: str | float) -> float:
    """Seconds of ``5min``, ``90s``, ``2h``, or a plain number of seconds.

    Raises:
        InputError: for anything else, and for nothing at all.

    >>> parse_duration("5min"), parse_duration("1.5 h"), parse_duration(90)
    (300.0, 5400.0, 90.0)
    """
    given = str(text).strip().lower() if isinstance(text, (str, int, float)) and not isinstance(text, bool) else ""
    match = _DURATION.fullmatch(given) if given.isascii() else None
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= LONGEST_BUDGET:
        raise InputError(f"--budget {shown(text)} is no time; write for example 5min, 90s, 2h or a number of seconds")
    return seconds


_UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_DURATION = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,9}})?)\s*({'|'.join(_UNITS)})")
LONGEST_BUDGET = 366 * 24 * 3600
"""Seconds, of time that somebody may have."""
