"""What a metric's function asks for by the names of its parameters, and which run offers it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, get_args

from depthsig.errors import DepthsigError, InputError
from depthsig.metrics.entries.runs import BY_DEFAULT, RUNS, Axis, Level, Offer, RunKind
from depthsig.terms import NONE, PARTS


def place(
    where: str, function: Callable[..., Any], on: str | None, level: Level | None, cells: tuple[Axis, ...],
    needs: tuple[str, ...],
) -> tuple[RunKind, Level]:  # fmt: skip
    """The run and the level at which everything that a function asks for is offered.

    Raises:
        InputError: naming what is not, and what is.
    """
    if on is not None and on not in RUNS:
        raise InputError(f"{where}: there is no run {on!r}; there are {', '.join(RUNS)}")
    if on is None and needs:
        on = "scores"
    runs = [RUNS[on]] if on is not None else [RUNS[name] for name in BY_DEFAULT]
    levels = [level] if level is not None else list(get_args(Level))
    tried: list[tuple[RunKind, Offer]] = []
    for run in runs:
        for at in levels:
            offer = run.offer(at, cells)
            if offer is None:
                continue
            tried.append((run, offer))
            if not _lacking(function, offer, needs) and (offer.level == "table" or not needs):
                return run, at
    over = " x ".join(cells) or "nothing"
    if not tried:
        there = {" x ".join(o.cells) or "nothing" for run in runs for o in run.offers if level in (None, o.level)}
        said = f"{' and '.join(r.name for r in runs)}: {', '.join(sorted(there)) or 'none'}"
        raise InputError(f"{where}: nothing is offered over {over}; there is, on {said}")
    run, offer = min(tried, key=lambda pair: len(_lacking(function, pair[1], needs)))
    lacking = _lacking(function, offer, needs) or ["other entries' values"]
    known = "; ".join(f"{r.name} offers {', '.join(o.names) or 'nothing'}" for r, o in tried)
    raise InputError(f"{where} asks for {', '.join(map(repr, lacking))}, which nothing offers over {over}: {known}")


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _lacking(function: Callable[..., Any], offer: Offer, needs: tuple[str, ...]) -> list[str]:
    """Parameters that must be given and are not offered."""
    asked = _parameters(function)[len(needs) :]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in asked if p.name not in offer.names and (p.default is p.empty or p.kind in variadic)]


def asked(
    function: Callable[..., Any], run: RunKind, level: Level, cells: tuple[Axis, ...], needs: tuple[str, ...]
) -> tuple[str, ...]:
    """The names that a function is given by its run, which come after the entries that it needs."""
    offer = run.offer(level, cells)
    names = () if offer is None else offer.names
    return tuple(p.name for p in _parameters(function)[len(needs) :] if p.name in names)


def parts_of(function: Callable[..., Any], run: RunKind) -> tuple[str, ...]:
    """The parts of a metric that does not say: those of ``--parts``, or the whole layer's contribution."""
    contributions = {"u", "r", "us", "rs"} & {p.name for p in _parameters(function)}
    return PARTS if run.by_part else ("layer",) if contributions else (NONE,)


@contextmanager
def blamed(id: str, own: bool, given: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """A user's own function that fails is bad input, named as such; ours is a fault of ours, and stays one.

    Raises:
        InputError: naming the metric and what its function said.
    """
    try:
        yield
    except (DepthsigError, MemoryError):
        raise
    except Exception as error:
        if not own or "out of memory" in str(error):
            raise
        said = " ".join(str(error).split())
        shapes = ", ".join(f"{name} {list(a.shape)}" for name, a in given.items() if hasattr(a, "shape"))
        told = f" (given {shapes})" if shapes else ""
        raise InputError(f"metric {id!r} failed: {type(error).__name__}: {said}{told}") from error
