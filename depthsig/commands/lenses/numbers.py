"""The numbers that a lens is fitted with, checked without a model."""

from __future__ import annotations

from typing import Any

from depthsig.errors import InputError, near, shown
from depthsig.measure.request import check_least, option

STEPS, RATE, DECAY = 100, 0.3, 1e-3

MAX_TOKENS = {"tuned": 256, "jacobian": 128}
"""By the kind of lens: prompts are cut after so many tokens, where nothing is said."""

_OWN: dict[str, dict[str, Any]] = {
    "tuned": {"steps": STEPS, "lr": RATE, "weight_decay": DECAY},
    "jacobian": {"skip_first": 16, "target": "end"},
}
"""Options of one kind of lens alone, and their defaults."""

TARGETS = ("end", "pass")


def check_kind(kind: str, **options: Any) -> None:
    """Refuse a kind that there is none of, and options that belong to the other one.

    Raises:
        InputError: naming it.
    """
    if kind not in _OWN:
        raise InputError(f"--kind {shown(kind)} is no kind of lens{near(kind, _OWN)}; {' and '.join(_OWN)} are")
    for other, own in _OWN.items():
        for name, default in own.items():
            if other != kind and options.get(name, default) != default:
                raise InputError(f"{option(name)} goes with --kind {other}; this is a {kind} lens")
    target = options.get("target", "end")
    if target not in TARGETS:
        raise InputError(f"--target {shown(target)} is not known{near(target, TARGETS)}; {' and '.join(TARGETS)} are")


def check_numbers(kind: str, **options: Any) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        InputError: naming the option and the least that it may be.
    """
    least = {"n": 2 if kind == "tuned" else 1, "max_tokens": 2, "steps": 0, "batch_size": 1, "weight_decay": 0.0}
    for name, value in options.items():
        if name == "lr" and not (value > 0 and value < float("inf")):
            raise InputError(f"{option(name)} is {value:g}; it must be above 0")
        if name in least or name == "skip_first":
            check_least(name, value, least.get(name, 0))
