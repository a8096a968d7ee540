"""The block in the middle of a model, run one to four times in all, on tasks with answers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from depthsig.commands.repeats.tasks import load_task, measure_answers
from depthsig.engine.edits import Repeat
from depthsig.engine.memory import parse_memory
from depthsig.errors import InputError
from depthsig.model import Model
from depthsig.progress import Progress
from depthsig.signature.tested import TestedSpan

TIMES = (1, 2, 3, 4)
BLOCK = 4
"""The length of the block where none is declared: that of the papers."""


def middle_block(steps: int, span: TestedSpan | None, block: int = BLOCK) -> tuple[int, int]:
    """The block of steps in the middle: of the declared span, else one of so many.

    >>> middle_block(24, None), middle_block(3, None), middle_block(24, None, 8)
    ((12, 16), (0, 3), (8, 16))
    """
    block = min(span.block if span is not None else block, steps)
    first, last = (span.start, span.start + span.block * (span.count - 1)) if span is not None else (0, steps - block)
    start = first + (max(steps // 2 - first, 0) // block) * block
    return (min(start, last), min(start, last) + block)


def repeat_runs(
    model: Model, span: TestedSpan | None, tasks: Sequence[str], *, block: int = BLOCK, n: int, seed: int,
    max_tokens: int, memory: str | int, show: Progress,
) -> pd.DataFrame:  # fmt: skip
    """Loss and exact answers of every item with the middle block run so many times: a row each.

    Args:
        block: its length where no span is known.

    Raises:
        InputError: where something happens between the block's steps, so that it cannot be run again.
    """
    start, end = middle_block(len(model.plan), span, block)
    if not model.is_chain and not all(model.trace.chained[start + 1 : end]):
        raise InputError(f"steps {start}:{end} cannot be run again: the model does something between them")
    edits = [None, *(Repeat(start, end, times) for times in TIMES[1:])]
    frames = []
    ready = {task: load_task(task, model, n, seed, max_tokens) for task in tasks}
    with show.stage("a block run again", len(edits) * sum(map(len, ready.values()))) as tick:
        for task, prompts in ready.items():
            found = measure_answers(model, prompts, edits, parse_memory(memory), tick)
            for column, times in enumerate(TIMES):
                frames.append(pd.DataFrame({
                    "run": "repeat", "task": task, "item": [p.index for p in prompts], "condition": times,
                    "loss": found["loss"][:, column], "exact": found["accuracy"][:, column],
                }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)
