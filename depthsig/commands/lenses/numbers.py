"""The numbers that a lens is fitted with, checked without a model."""

from __future__ import annotations

from typing import Any

from depthsig.errors import InputError
from depthsig.measure.request import check_least, option


def check_numbers(**options: Any) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        InputError: naming the option and the least that it may be.
    """
    least = {"n": 2, "max_tokens": 2, "steps": 0, "batch_size": 1, "weight_decay": 0.0}
    for name, value in options.items():
        if name == "lr" and not (value > 0 and value < float("inf")):
            raise InputError(f"{option(name)} is {value:g}; it must be above 0")
        if name in least:
            check_least(name, value, least[name])
