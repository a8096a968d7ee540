"""``--budget``: as many prompts, as long, and as much of the future, as the forecast says fit the time."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from depthsig.commands.analysis.prepared import Prepared
from depthsig.commands.analysis.record import identity
from depthsig.commands.forecasting.forecast import Forecast, duration, estimate
from depthsig.commands.forecasting.pace import Pace
from depthsig.commands.presets import InShort
from depthsig.errors import DepthsigWarning, InputError
from depthsig.measure.request import Request
from depthsig.signature.folders.choosing import IDENTITY, REQUEST, identity_of
from depthsig.signature.folders.kinds import record_in
from depthsig.signature.folders.writing import UNITS, partial_path

CURRENT, BOTH = ("current",), ("current", "future")
SIZES: tuple[tuple[int, int, tuple[str, ...], int], ...] = (
    (20, 256, BOTH, 4), (20, 256, BOTH, 2), (20, 256, BOTH, 1), (20, 256, CURRENT, 4), (20, 128, CURRENT, 4),
    (20, 64, CURRENT, 4), (12, 64, CURRENT, 4), (8, 64, CURRENT, 4), (5, 64, CURRENT, 4), (5, 32, CURRENT, 4),
    (3, 32, CURRENT, 4), (2, 32, CURRENT, 4), (2, 16, CURRENT, 4),
)  # fmt: skip
"""Number of prompts, their length, scopes and cuts, the most first: the future goes first, then the prompts' length,
then their number; fewer than 5 have no intervals."""

CHOSEN = ("n", "max_tokens", "scopes", "cuts")
"""The options that a budget chooses, where they are not given."""

Begun = Callable[[Prepared], bool]
"""Whether unfinished work of this very analysis waits to be gone on with."""


def nothing_begun(ready: Prepared) -> bool:
    """There is no unfinished work."""
    return False


def begun_at(place: Callable[[str, str], str | Path]) -> Begun:
    """Looks for unfinished work where results will go.

    Args:
        place: from a checkpoint's name and the identity of an analysis to its results folder.
    """

    def begun(ready: Prepared) -> bool:
        name = identity_of(identity(ready.model, ready.prompts.tokens, ready.request, ready.prompts.calibrating))
        partial = partial_path(place(ready.model.checkpoint.name, name))
        return record_in(partial / UNITS / REQUEST).get(IDENTITY) == name

    return begun


def sizes(request: Request, short: InShort) -> Iterator[Request]:
    """The requests that a budget chooses from, the largest first, each once.

    What was given stays; what a preset sets is the most that there is of it.
    """
    by_part = any(one.run.by_part for one in request.needed.values())
    preset = short.preset is not None
    tried: list[tuple[Any, ...]] = []
    for n, max_tokens, scopes, cuts in SIZES:
        wanted: dict[str, Any] = {
            "n": n if request.n is None or not preset else min(n, request.n),
            "max_tokens": min(max_tokens, request.max_tokens) if preset else max_tokens,
            "scopes": tuple(s for s in scopes if not preset or s in request.scopes) or request.scopes,
            "cuts": min(cuts, request.cuts) if preset else cuts,
        }
        if not by_part:
            del wanted["scopes"], wanted["cuts"]
        if request.shots:
            del wanted["max_tokens"]  # with its examples a prompt is used whole or not at all
        new = {name: value for name, value in wanted.items() if name not in short.given}
        sized = replace(request, **new)
        key = tuple(getattr(sized, name) for name in CHOSEN if name != "cuts" or "future" in sized.scopes)
        if key not in tried:
            tried.append(key)
            yield sized


def within(ready: Prepared, short: InShort, begun: Begun) -> Prepared:
    """The largest of :func:`sizes` that fits the budget; said on standard error before anything is measured.

    Where an interrupted run chose one, that is gone on with, whatever fits by today's forecast.

    Raises:
        InputError: if nothing fits, with what the least would take.
    """
    assert short.seconds is not None, "there is no budget"
    requests = list(sizes(ready.request, short))
    with heard(False):
        every = [ready.sized(request) for request in requests]
        resumed = next((one for one in every if begun(one)), None)
        if resumed is None:
            pace = Pace.of(every[0])
    if resumed is not None:
        return _chosen(short, ready.sized(resumed.request), "as it was begun")
    told: Forecast | None = None
    for one in every:
        told = estimate(one, pace)
        if told.seconds <= short.seconds:
            return _chosen(short, ready.sized(one.request), f"about {duration(told.seconds)}")
    assert told is not None, "there is always a size"
    least = every[-1].request
    raise InputError(
        f"--budget {short.budget} is too little: {_in_words(least)} would take about {duration(told.seconds)}; "
        "give more time, or fewer --metrics"
    )


def _in_words(request: Request) -> str:
    of = "all prompts" if request.n is None else f"{request.n} prompt{'s' * (request.n != 1)}"
    scopes = "and ".join(f"{s} " for s in request.scopes).strip()
    cuts = f", at most {request.cuts} cuts" if "future" in request.scopes else ""
    by_part = any(one.run.by_part for one in request.needed.values())
    return f"{of} of at most {request.max_tokens} tokens" + (f", scope {scopes}{cuts}" if by_part else "")


def _chosen(short: InShort, ready: Prepared, rest: str) -> Prepared:
    print(f"depthsig: --budget {short.budget}: {_in_words(ready.request)} ({rest})", file=sys.stderr)
    return ready


@contextmanager
def heard(all_of_it: bool) -> Iterator[None]:
    """Warnings as usual, or none of ours: what is only tried out is not what will be measured."""
    with warnings.catch_warnings():
        if not all_of_it:
            warnings.simplefilter("ignore", DepthsigWarning)
        yield
