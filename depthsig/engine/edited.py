"""``Model.run``: prompts and edits in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from depthsig.engine.batch import batches
from depthsig.engine.edits import Edit, compile_edit
from depthsig.engine.model import Model, check_vocabulary
from depthsig.engine.run import Clean, Rows, StepObserver, run_programs
from depthsig.prompts import tokenize

BATCH_TOKENS = 512


@dataclass(frozen=True)
class EditedRun:
    """One edit's outcome; ``logits`` holds a tensor [token, vocab] for every prompt."""

    edit: Edit | None
    logits: list[Float[Tensor, "token vocab"]]

    def __repr__(self) -> str:
        return f"EditedRun({self.edit if self.edit is not None else 'no edit'}, {len(self.logits)} prompts)"


def run_edits(
    model: Model,
    prompts: Sequence[Any],
    edits: Sequence[Edit | None],
    *,
    observer: StepObserver | None = None,
    max_tokens: int = 256,
    memory: int | str = "1GiB",
) -> list[EditedRun]:
    """Run every edit on every prompt; see :meth:`depthsig.engine.model.Model.run`."""
    from depthsig.engine.memory import parse_memory

    budget = parse_memory(memory)
    has_parts = [model.anatomy.layers[s.layer].has_parts for s in model.plan]
    programs = [compile_edit(e, len(model.plan), has_parts) for e in edits]
    ready = tokenize(prompts, model.tokenizer, max_tokens=max_tokens, model_max=model.checkpoint.model_max)
    for prompt in ready:
        check_vocabulary(model, prompt.ids)
    logits: list[list[Tensor]] = [[] for _ in edits]
    order: list[int] = []
    parts = any(c.where in ("attn", "mlp") for p in programs for op in p.ops for c in op.changes)
    for batch in batches([p.ids for p in ready], model.device, max_tokens=BATCH_TOKENS):
        order += batch.rows
        clean = Clean.of(model, batch, parts=parts)
        watching = _OfPrompts(observer, batch.rows) if observer is not None else None
        for numbers, states in run_programs(clean, programs, watching, memory=budget):
            for number, state in zip(numbers, states, strict=True):
                read = [model.read(h[None, :n])[0] for h, n in zip(state, batch.lengths, strict=True)]
                logits[number] += read
    # Batches take prompts by length: back to the order they were given in.
    place = sorted(range(len(order)), key=order.__getitem__)
    return [EditedRun(e, [found[i] for i in place]) for e, found in zip(edits, logits, strict=True)]


class _OfPrompts:
    """Tells an observer the prompts' own numbers, not their rows in a batch."""

    def __init__(self, observer: StepObserver, rows: Sequence[int]) -> None:
        self.observer, self.rows = observer, rows

    def step(self, step: int, rows: Rows, before: Tensor, after: Tensor, update: Tensor) -> None:
        own = rows.prompts.new_tensor(self.rows)[rows.prompts]
        self.observer.step(step, Rows(rows.programs, own), before, after, update)
