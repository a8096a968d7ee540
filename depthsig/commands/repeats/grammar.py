"""What is repeated, how often and on which tasks: read from options, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from depthsig.engine.memory import parse_memory
from depthsig.errors import InputError, shown, written
from depthsig.measure.request import Names, as_tuple
from depthsig.prompts import Prompt
from depthsig.prompts.primitives import TASKS
from depthsig.prompts.shots import check_shots

MAX_TIMES = 64


def parse_times(text: str | Sequence[int]) -> tuple[int, ...]:
    """``1,2,3`` as numbers, 1 (the model as it is) left out.

    Raises:
        InputError: for anything but counts from 1 to :data:`MAX_TIMES`.

    >>> parse_times("1,2,4")
    (2, 4)
    """
    pieces = text.split(",") if isinstance(text, str) else [written(t) for t in text]
    found = []
    for piece in pieces:
        piece = piece.strip()
        if not piece.isascii() or not piece.isdigit() or len(piece) > 6 or not 1 <= int(piece) <= MAX_TIMES:
            raise InputError(
                f"--times {shown(text)}: {shown(piece)} is no count from 1 to {MAX_TIMES}; write for example 1,2,3,4"
            )
        found.append(int(piece))
    return tuple(t for t in dict.fromkeys(found) if t != 1)


def parse_damping(text: str | float | Sequence[float]) -> tuple[float, ...]:
    """``1,0.5`` as numbers above 0 and at most 1.

    Raises:
        InputError: for anything else.
    """
    pieces = text.split(",") if isinstance(text, str) else text if isinstance(text, Sequence) else [text]
    texts = [written(p) for p in pieces]
    try:
        found = tuple(dict.fromkeys(float(p) if p.isascii() else np.nan for p in texts))
    except ValueError:
        found = ()
    if not found or not all(0.0 < d <= 1.0 for d in found):
        raise InputError(f"--damping {shown(text)}: a damping is above 0 and at most 1 (1 is a naive repeat)")
    return found


def answered_prompts(prompts: Sequence[Prompt], task: str | Path) -> list[Prompt]:
    """The prompts of a task that have an answer.

    Raises:
        InputError: if there is none.
    """
    found = [p for p in prompts if p.answer]
    if not found:
        raise InputError(
            f"task {str(task)!r} has no answers; the generated ones ({', '.join(TASKS)}), gsm8k and files with "
            "`text` and `answer` do"
        )
    return found


def check_options(
    task: Names | Path | Sequence[str | Path] | None, *, n: int, span: str | None, times: str | Sequence[int],
    damping: str | float | Sequence[float], predict: bool, memory: str | int = "1GiB",
    shots: int = 0,
) -> list[str | Path]:  # fmt: skip
    """Refuse what can be known to be wrong without a model; returns the tasks.

    Raises:
        InputError: naming the option.
    """
    parse_memory(memory)
    check_shots(shots)
    if n < 1:
        raise InputError(f"-n is {n}; it must be 1 or more")
    if predict and span is not None:
        raise InputError("--predict compares all spans; leave --span out")
    counts, _ = parse_times(times), parse_damping(damping)
    if predict and not counts:
        raise InputError(f"--predict needs a repeat, --times is {times!r}; write 2")
    tasks: list[str | Path] = list(TASKS)
    if task is not None:
        tasks = list(as_tuple(task)) if isinstance(task, str) else [task] if isinstance(task, Path) else list(task)
    if not tasks:
        raise InputError(f"--task {task!r} names nothing; there are {', '.join(TASKS)}, gsm8k, or a file")
    return tasks
