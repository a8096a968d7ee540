"""The prompts that recalibrated readouts are fitted on: none of those that are measured."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from depthsig.commands.opening import ReadyPrompts, token_prompts
from depthsig.errors import DepthsigError, DepthsigWarning, InputError
from depthsig.measure.request import Request
from depthsig.metrics.entries.runs import RECALIBRATED
from depthsig.model import Model
from depthsig.prompts import BUILTIN, TokenPrompt, as_lines, load_prompts
from depthsig.prompts.primitives import TASKS

FALLBACK = "gsm8k"
"""Where the measured prompts are of no built-in set, so that there are no next ones of it."""
LEAST = 5
"""Calibration prompts of a built-in set, where fewer are measured: a fifth is held out."""


def with_calibration(measured: ReadyPrompts, model: Model, request: Request) -> ReadyPrompts:
    """The measured prompts with calibration prompts beside them, where the request has a readout that is fitted.

    Of a built-in set, by default the one that is measured, as many as are measured; of files and lists all. Whatever
    is among the measured prompts, or stands twice, is left out.

    Raises:
        InputError: where fewer than two calibration prompts are left, or they cannot be used.
    """
    if not request.on(*RECALIBRATED):
        return measured
    source = request.calibration
    own = measured.name if measured.name in BUILTIN and not measured.objects else FALLBACK
    named = isinstance(source, (str, Path)) or source is None
    name = own if source is None else str(source) if named else "given"
    n = max(LEAST, len(measured.tokens))
    ready = _tokens(source if not named else name, n + len(measured.tokens), name, model, request)
    found = _disjoint(ready, measured.tokens)
    if len(found) < 2:
        raise InputError(
            f"calibration takes two prompts or more that are not measured, one of them held out; {name} has "
            f"{len(found)} beside the {len(measured.tokens)} that are measured; give --calibration FILE with others"
        )
    if source is not None and (known := _among(ready, measured.tokens)):
        message = f"{known} of {len(ready)} calibration prompts are among the measured ones and are left out"
        warnings.warn(message, DepthsigWarning, stacklevel=4)
    kept = found[:n] if named and name in BUILTIN else found
    tokens = [replace(p, index=i) for i, p in enumerate(kept)]
    lines = "" if named else as_lines(load_prompts(source, n=None, seed=request.seed))
    return replace(measured, calibration=ReadyPrompts(tokens, name, not named, lines=lines))


def _tokens(source: Any, wanted: int, name: str, model: Model, request: Request) -> list[TokenPrompt]:
    """The prompts of a source as token ids, measured at the same kind of positions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DepthsigWarning)  # cuts and short ones are told of what is measured
            # Of a generated set there is no end; of others all, since the first may be those that are measured.
            texts = load_prompts(source, n=wanted if name in TASKS else None, seed=request.seed)
            return token_prompts(
                texts, model, max_tokens=request.max_tokens, chat_template=request.chat_template,
                positions=request.positions,
            )  # fmt: skip
    except DepthsigError as error:
        raise InputError(f"calibration prompts ({name}): {error}; give others with --calibration") from error


def _disjoint(prompts: Sequence[TokenPrompt], measured: Sequence[TokenPrompt]) -> list[TokenPrompt]:
    """Those with a token to predict that are not measured, neither their text nor what is left of it, each once."""
    known = _hashes(measured)
    found: dict[str, TokenPrompt] = {}
    for p in prompts:
        if not {p.sha256, p.tokens_sha256} & known and any(t + 1 < p.n_tokens for t in p.positions):
            found.setdefault(p.tokens_sha256, p)
    return list(found.values())


def _among(prompts: Sequence[TokenPrompt], measured: Sequence[TokenPrompt]) -> int:
    known = _hashes(measured)
    return sum(bool({p.sha256, p.tokens_sha256} & known) for p in prompts)


def _hashes(prompts: Sequence[TokenPrompt]) -> set[str]:
    return {one for p in prompts for one in (p.sha256, p.tokens_sha256)}
