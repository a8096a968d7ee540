"""Rules about metrics by their names: read from ``rules.toml``, the one place where they stand."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

_RULES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

Member = tuple[str, str, str]
"""(metric, part, scope)."""

DEFAULT_METRICS = tuple(_RULES["default"]["metrics"])
WITH_SPAN = tuple(_RULES["default"]["with_span"])
WITH_LOOP = tuple(_RULES["default"]["with_loop"])
WITH_LENS: dict[str, tuple[str, ...]] = {k: tuple(v) for k, v in _RULES["default"]["with_lens"].items()}
"""By the kind of lens that is given."""

FAMILY: tuple[Member, ...] = tuple((m, part, scope) for m, part, scope in _RULES["period"]["family"])
"""The tests that ``period.combined`` is over."""
OF_LAYERS: str = _RULES["period"]["of_layers"]
PERIOD: str = _RULES["period"]["group"]
STRENGTH: str = _RULES["period"]["strength"]
P_VALUE: str = _RULES["period"]["p"]
NESTED: str = _RULES["period"]["nested"]
COMBINED: str = _RULES["period"]["combined"]

SHOWN_TOKENS: str = _RULES["tokens"]["shown"]

ACTIVATIONS: tuple[str, str] = tuple(_RULES["find_blocks"]["activations"])

LATE: Member = tuple(_RULES["claims"]["late"])
LATE_SCORES = tuple(_RULES["claims"]["beside_late"])
CHEAP_LATE: tuple[Member, ...] = tuple((m, part, scope) for m, part, scope in _RULES["claims"]["cheap_late"])
"""What needs no edited run, and might tell the same of late layers."""

CLAIM_QUANTITIES: dict[str, str] = _RULES["claims"]["quantities"]
CLAIM_STATEMENTS: dict[str, dict[str, str]] = _RULES["claims"]["statements"]

SETTLING: str = _RULES["findings"]["settling"]
EFFECTIVE: dict[str, str] = _RULES["findings"]["effective"]
"""The definitions of effective depth, with what they read in words."""
CENTRES: dict[str, str] = _RULES["findings"]["centres"]
"""The centres of mass of what skipping does, with to what."""
LOSS: Member = tuple(_RULES["findings"]["loss"])
MOVES: str = _RULES["findings"]["moves"]
ALIGNED: str = _RULES["findings"]["aligned"]
LOOP_MOVES: str = _RULES["findings"]["loop_moves"]
LOOP_STEPS: str = _RULES["findings"]["loop_steps"]
LOOP_GAP: str = _RULES["findings"]["loop_gap"]
PREFIX_LOSS: str = _RULES["findings"]["prefix"]
RECALIBRATED_LOSSES: tuple[str, str] = (_RULES["findings"]["temperature"], _RULES["findings"]["affine"])
"""Of the same prefix, by one number and by an affine map."""
RECOVERED: str = _RULES["findings"]["recovered"]
SHOWN_PROFILES = tuple(_RULES["findings"]["profiles"])

STABILITY: dict[str, Any] = _RULES["stability"]
"""Of the stability of a loop: the metrics, and the thresholds of regimes."""

PREDICTORS: dict[str, str] = dict(_RULES["repeat"]["predictors"])
ANGULAR: str = _RULES["repeat"]["angular"]

FITTED: str = _RULES["fit_lens"]["fitted"]
"""What a tuned lens is fitted to make small, as the plain lens has it."""

JACOBIAN: str = _RULES["jacobian"]["group"]
JACOBIAN_OF_PASSES: str = _RULES["jacobian"]["of_passes"]

EARLY_EXIT = tuple(tuple(measure) for measure in _RULES["early_exit"]["measures"])
EARLY_EXIT_LENSES = tuple(_RULES["early_exit"]["lenses"])
EARLY_EXIT_LOSS: str = _RULES["early_exit"]["loss"]

GAIN_BAND: float = _RULES["gain"]["band"]
"""Nats: a token whose loss a pass moves by no more is the same after it."""
CONFIDENT: float = _RULES["gain"]["confident"]
SETTLED: float = _RULES["gain"]["settled"]
GAIN_EXITS: dict[str, str] = dict(_RULES["gain"]["exits"])
"""Of every token the pass that it leaves at, with what the exit is called where it is marked."""

MAINTAINED = tuple(tuple(measure) for measure in _RULES["maintained"]["measures"])
MAINTAINED_LINES = tuple(_RULES["maintained"]["lines"])
