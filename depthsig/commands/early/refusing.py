"""What can be known to be wrong before any weight is read: options, files, and what they ask of a checkpoint.

One place for all commands, called by the command line before torch is imported and by :class:`Given` before
anything is loaded. What is not known of a checkpoint is not held against it: the check after loading decides.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthsig.checkpoint.known import Known
from depthsig.checkpoint.lens_folder import LensKind, check_lens_shape, lens_files, told_shape
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.streaming.unstreamable import refuse_all_at_once
from depthsig.commands.repeats.grammar import answered_prompts
from depthsig.errors import InputError
from depthsig.measure.request import Request
from depthsig.metrics.entries.runs import OF_PASSES
from depthsig.metrics.rules import JACOBIAN_OF_PASSES
from depthsig.plan.declared import PlanOptions
from depthsig.plan.foreseen import UNKNOWN_LAYERS, Foreseen, foresee
from depthsig.plan.order import parse_span
from depthsig.prompts import BUILTIN, load_prompts
from depthsig.signature.folders.writing import ensure_writable


@dataclass(frozen=True)
class Asked:
    """What is asked of a checkpoint beside how it is loaded and what runs.

    Attributes:
        prompts: a name or a file; what comes as objects is checked when it is tokenised.
        n, seed, shots: of them, and of tasks.
        lens: lenses, or where they are, by kind.
        tasks: names and files of prompts with answers.
        span: layers ``A:B`` to repeat.
        looping: families of metrics that need a loop that runs.
        exported: whether an order is to be written.
        calibration: prompts to fit readouts on, as ``prompts``.
        at_once: metrics that need the weights of all layers at once, or gradients through them.
    """

    prompts: Any = None
    n: int | None = None
    seed: int = 0
    shots: int = 0
    lens: Mapping[LensKind, Any] = field(default_factory=dict)
    tasks: Sequence[str | Path] = ()
    span: str | None = None
    looping: Sequence[str] = ()
    exported: bool = False
    calibration: Any = None
    at_once: Sequence[str] = ()


def asked_of(prompts: Any, request: Request) -> Asked:
    """What an analysis asks."""
    passes = [one for one in request.needed.values() if one.run.loops or one.id == JACOBIAN_OF_PASSES]
    looping = tuple(dict.fromkeys(one.family for one in passes))
    at_once = tuple(one.id for one in request.on("weights", "attribution", *OF_PASSES))
    return Asked(
        prompts, request.n, request.seed, request.shots, request.lenses, looping=looping,
        calibration=request.calibration, at_once=at_once,
    )  # fmt: skip


def refuse_early(source: Any, loading: LoadOptions, plan: PlanOptions, asked: Asked | None = None) -> None:
    """Refuse what can be known to be wrong without weights, in the words of the checks after loading.

    Args:
        source: of a checkpoint; with a live or loaded model nothing is refused here.

    Raises:
        InputError: for the first mistake that is found.
    """
    asked = asked or Asked()
    if not isinstance(source, (str, Path)):
        return
    if loading.stream:
        refuse_all_at_once(asked.at_once)
    _check_files(asked)
    found = foresee(source, loading, plan)
    if asked.span is not None:
        parse_span(asked.span, found.known.layers or UNKNOWN_LAYERS, option="--span")
    if asked.exported and found.known != Known():
        check_order_given(found.declared.order)
    if asked.looping and found.plan is not None:
        found.plan.loops_that_run(asked.looping)
    for kind, lens in asked.lens.items():
        _check_lens(kind, lens, found)


def _check_lens(kind: LensKind, lens: Any, found: Foreseen) -> None:
    """Of one that is read already, its shape; of a tuned lens' folder, what its config tells."""
    told: tuple[int, int] | None = None
    if not isinstance(lens, (str, Path)):
        told = (len(lens), lens.width)
    elif kind == "tuned":
        told = told_shape(lens_files(lens)[2])
    if told is not None and found.known.width is not None:
        steps = None if found.plan is None else len(found.plan)
        check_lens_shape(str(lens), told, steps, found.known.width, ordered=found.declared.order is not None, kind=kind)


def _check_files(asked: Asked) -> None:
    """Prompts, tasks and lenses: there, and readable."""
    if isinstance(asked.lens.get("tuned"), (str, Path)):
        lens_files(asked.lens["tuned"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is to be told is told when they are used
        if isinstance(asked.prompts, (str, Path)) and (asked.shots or str(asked.prompts) not in BUILTIN):
            load_prompts(asked.prompts, n=asked.n, seed=asked.seed, shots=asked.shots)
        if isinstance(asked.calibration, (str, Path)) and str(asked.calibration) not in BUILTIN:
            load_prompts(asked.calibration, n=None, seed=asked.seed)
        for task in asked.tasks:
            answered_prompts(load_prompts(task, n=asked.n, seed=asked.seed, shots=asked.shots), task)


def check_order_given(order: str | None) -> None:
    """Refuse to export nothing.

    Raises:
        InputError: where no order is given or declared.
    """
    if order is None:
        raise InputError("there is no order to export; give one, as in --order 0:4,4:8x2,8:12")


def ensure_new(out: str | Path) -> None:
    """Refuse a folder that exists: a checkpoint is never overwritten.

    Raises:
        InputError: if there is something at ``out``, or it cannot be written.
    """
    if os.path.lexists(out):
        raise InputError(f"--out {str(out)!r} exists already; name a folder that does not")
    ensure_writable(out, record=None)
