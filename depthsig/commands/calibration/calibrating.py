"""The recalibrated readouts of an analysis: a temperature and an affine map for every prefix, fitted beforehand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from depthsig.checkpoint.hooks import undisturbed
from depthsig.checkpoint.translators import TunedLens
from depthsig.commands.calibration.affine_maps import AffineMap, fit_affine
from depthsig.commands.calibration.calibration_tokens import FollowingLoss, captured, split
from depthsig.commands.calibration.temperatures import fit_temperature
from depthsig.commands.opening import ReadyPrompts
from depthsig.errors import DepthsigWarning
from depthsig.measure.providers import Work
from depthsig.measure.truncated.recalibrated import Recalibrated
from depthsig.metrics.entries.runs import RECALIBRATED
from depthsig.progress import Progress


def recalibrated(work: Work, calibration: ReadyPrompts, show: Progress) -> Work:
    """The work with the recalibrated readouts that it needs."""
    temperature, affine = (bool(work.request.on(kind)) for kind in RECALIBRATED)
    network, request, prompts = work.network, work.request, calibration.tokens
    held = split(prompts, request.seed)
    tokens, width = calibration_size(calibration), network.trace.width
    if affine and tokens < width:
        warnings.warn(
            f"affine readouts of width {width} are fitted to {tokens} calibration tokens only, so that they recover "
            "less than more would; give more calibration prompts, or longer ones",
            DepthsigWarning,
            stacklevel=2,
        )
    temperatures: list[float] = []
    maps: list[AffineMap] = []
    with show.stage("calibration", work.steps - 1) as tick, undisturbed(network.module):
        every = captured(network, prompts, held, request.bytes, work.batch_size)
        for depth, found in enumerate(every, 1):
            loss = FollowingLoss.of(network, depth, request.bytes)
            if temperature:
                temperatures.append(fit_temperature(loss, found))
            if affine:
                maps.append(fit_affine(loss, found, request.seed))
            tick(1)
    record = {
        "prompts": calibration.name, "objects": calibration.objects, "n": len(prompts), "tokens": tokens,
        "width": width, "held_out": len(held), "sha256": [p.sha256 for p in prompts], "temperature": temperatures,
        "ridge": [one.ridge for one in maps],
    }  # fmt: skip
    return replace(work, recalibrated=Recalibrated(temperatures, _lens(maps), record))


def calibration_size(calibration: ReadyPrompts) -> int:
    """Tokens that readouts are fitted to: those at measured positions that another one follows."""
    return sum(t + 1 < len(p.ids) for p in calibration.tokens for t in p.positions)


def _lens(maps: Sequence[AffineMap]) -> TunedLens | None:
    weights: Any = tuple(one.weight for one in maps)
    return TunedLens(weights, tuple(one.bias for one in maps)) if maps else None
