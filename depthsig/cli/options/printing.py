"""JSON on standard output, and nothing else there."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO

import typer

_OUT: ContextVar[TextIO | None] = ContextVar("standard output")


@contextmanager
def json_alone(wanted: bool) -> Iterator[None]:
    """Where JSON is wanted, whatever else is printed meanwhile (by a plug-in, say) goes to standard error."""
    if not wanted:
        yield
        return
    before = _OUT.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _OUT.reset(before)


def print_json(told: Any) -> None:
    """Print one document; what JSON has no number for (NaN, infinity) is null."""
    out = _OUT.get(sys.stdout)
    if out is not None:  # None: closed by whoever started the command
        typer.echo(json.dumps(_finite(told), allow_nan=False, default=str), file=out)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
