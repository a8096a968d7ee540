"""Looping at inference time: spans of layers run several times, judged by tasks with answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from torch.nn import functional as F

from depthsig.checkpoint.hooks import undisturbed
from depthsig.commands.opening import longest, token_prompts, too_long
from depthsig.commands.repeats.grammar import answered_prompts, parse_damping, parse_times
from depthsig.engine.batch import batches
from depthsig.engine.edits import Edit, OrderEdit, Repeat, compile_edit
from depthsig.engine.memory import parse_memory, sizes
from depthsig.engine.rows import Clean
from depthsig.engine.run import run_programs
from depthsig.errors import DepthsigWarning, InputError
from depthsig.model import Model
from depthsig.plan.order import Span, parse_span
from depthsig.plan.plan import Plan
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt, load_prompts
from depthsig.prompts.primitives import TASKS
from depthsig.statistics.resampling import bootstrap_mean

MEASURES = ("loss", "accuracy", "delta_loss", "delta_accuracy")


@dataclass(frozen=True)
class Run:
    """One way of running the model: a span of layers, how often in all, and how far each more pass goes."""

    start: int
    end: int
    times: int
    damping: float = 1.0


@dataclass(frozen=True)
class TaskScores:
    """Per task and run, what every prompt gave.

    Attributes:
        runs: in the order of the columns.
        loss, accuracy: by task [prompt, run]; the mean loss of the answer's tokens in nats, and
            whether each of them is the likeliest one after those before it (which is when greedy
            decoding gives the answer).
        base_loss, base_accuracy: by task [prompt], of the model as it is.
    """

    runs: tuple[Run, ...]
    loss: dict[str, ndarray]
    accuracy: dict[str, ndarray]
    base_loss: dict[str, ndarray]
    base_accuracy: dict[str, ndarray]
    seed: int = 0

    def table(self) -> pd.DataFrame:
        """One row a task and run, with 95 % bootstrap intervals over prompts; times = 1 is the model as it is.

        ``delta_*`` are differences to the model as it is on the same prompts (paired).
        """
        frames = []
        for task in self.loss:
            base = {"loss": self.base_loss[task][:, None], "accuracy": self.base_accuracy[task][:, None]}
            values = {"loss": self.loss[task], "accuracy": self.accuracy[task]}
            values = {k: np.hstack([base[k], v]) for k, v in values.items()}
            values |= {f"delta_{k}": values[k] - base[k] for k in ("loss", "accuracy")}
            plain = {"start": pd.NA, "end": pd.NA, "times": 1, "damping": 1.0}
            frame = pd.DataFrame([plain, *(vars(run) for run in self.runs)]).astype({"start": "Int64", "end": "Int64"})
            frame.insert(0, "task", task)
            for name in MEASURES:
                mean, low, high, n = bootstrap_mean(values[name], seed=self.seed)
                frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = mean, low, high
                frame["n_prompts"] = n
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def deltas(self, times: int, damping: float) -> tuple[list[tuple[int, int]], ndarray]:
        """Spans, and loss changes [prompt, span] over all tasks' prompts, each task weighing the same."""
        columns = [i for i, r in enumerate(self.runs) if r.times == times and r.damping == damping]
        spans = [(self.runs[i].start, self.runs[i].end) for i in columns]
        pieces = [self.loss[t][:, columns] - self.base_loss[t][:, None] for t in self.loss]
        total = sum(len(p) for p in pieces)
        weighted = [p * total / (len(pieces) * len(p)) for p in pieces]
        return spans, np.concatenate(weighted)

    def ranking(self, times: int, damping: float) -> pd.DataFrame:
        """Spans from the most helpful to the most harmful: mean loss change over tasks, with interval."""
        spans, values = self.deltas(times, damping)
        mean, low, high, n = bootstrap_mean(values, seed=self.seed)
        accuracy = self._accuracy_change(times, damping)
        frame = pd.DataFrame({
            "start": [a for a, _ in spans], "end": [b for _, b in spans], "times": times, "damping": damping,
            "delta_loss": mean, "delta_loss_low": low, "delta_loss_high": high, "delta_accuracy": accuracy,
            "n_prompts": n,
        })  # fmt: skip
        frame = frame.sort_values(["delta_loss", "start", "end"], ignore_index=True)
        frame.insert(0, "rank", frame.index + 1)
        return frame

    def _accuracy_change(self, times: int, damping: float) -> ndarray:
        columns = [i for i, r in enumerate(self.runs) if r.times == times and r.damping == damping]
        return np.mean([(self.accuracy[t][:, columns].mean(0) - self.base_accuracy[t].mean()) for t in self.loss], 0)


def repeat_edit(plan: Plan, span: Span | tuple[int, int], times: int, damping: float = 1.0) -> Edit:
    """The edit that runs layers start..end−1 ``times`` times in all, wherever the plan runs them.

    In a loop, the span is repeated inside every pass.

    Raises:
        InputError: for a span that the plan does not run in order and together: it straddles the
            border of a loop, say.
    """
    start, end = (span.start, span.end) if isinstance(span, Span) else span
    layers, wanted = plan.layers, tuple(range(start, end))
    at, found, covered = 0, [], 0
    while at < len(layers):
        if layers[at : at + len(wanted)] == wanted:
            found.append(Repeat(at, at + len(wanted), times, damping))
            covered += len(wanted)
            at += len(wanted)
        else:
            at += 1
    if not found or covered != sum(layer in wanted for layer in layers):
        raise InputError(
            f"--span {start}:{end} straddles a loop boundary: the plan ({plan}) does not run these layers in order "
            "and together each time; choose a span inside one pass, or outside the loop"
        )
    edit: Edit = found[0]
    for more in found[1:]:
        edit = edit + more
    return edit


def spans_of(model: Model) -> list[tuple[int, int]]:
    """Every span of layers that can be repeated, (start, end) with end exclusive."""
    count, found = len(model.anatomy.layers), []
    for start in range(count):
        for end in range(start + 1, count + 1):
            try:
                edit = repeat_edit(model.plan, (start, end), 2)
            except InputError:
                continue
            if _inside_passes(model, edit):
                found.append((start, end))
    return found


def _inside_passes(model: Model, edit: Edit) -> bool:
    if model.is_chain:
        return True
    spans = [e.span() for e in edit if isinstance(e, OrderEdit)]
    return all(all(model.trace.chained[a + 1 : b]) for a, b in spans)


def load_task(name: str | Path, model: Model, n: int, seed: int, max_tokens: int, shots: int = 0) -> list[TokenPrompt]:
    """A task's prompts with their whole answers, after ``shots`` solved examples each.

    Raises:
        InputError: for a task without answers, or none that fits.
    """
    prompts = load_prompts(name, n=n, seed=seed, shots=shots)
    answered = answered_prompts(prompts, name)
    limit = longest(model, max_tokens)
    ready = token_prompts(answered, model, max_tokens=None, positions="answer")
    kept = [p for p in ready if p.positions and len(p.ids) <= limit]
    lost = len(prompts) - len(kept)
    if not kept and shots and min(len(p.ids) for p in ready) > limit:
        raise InputError(f"task {str(name)!r}: {too_long(shots, limit, min(len(p.ids) for p in ready), model)}")
    if not kept:
        raise InputError(
            f"task {str(name)!r}: no prompt has an answer within {limit} tokens that begins after the second token"
        )
    if lost:
        warnings.warn(
            f"{lost} of {len(prompts)} prompts of {name} are left out: no answer, or longer than {limit} tokens",
            DepthsigWarning,
            stacklevel=2,
        )
    return kept


def repeat_task(
    model: Model,
    tasks: Sequence[str | Path],
    *,
    span: str | tuple[int, int] | None = None,
    times: str | Sequence[int] = (2,),
    damping: str | float | Sequence[float] = 1.0,
    n: int = 100,
    shots: int = 0,
    seed: int = 0,
    max_tokens: int = 256,
    memory: str | int = "1GiB",
    progress: Progress | None = None,
) -> TaskScores:
    """Loss and accuracy on tasks with spans of layers repeated.

    Args:
        tasks: names of built-in prompts with answers, or files.
        span: one span of layers ``A:B``; None for every one that can be repeated.
        times: how often a span runs in all. damping: α of x ← x + α(F(x) − x) for each pass after
            the first; 1 is naive.
        n: prompts a task. shots: solved examples before each.

    Raises:
        InputError: for a span that straddles a loop's border, a task without answers, bad counts.
    """
    counts, alphas = parse_times(times), parse_damping(damping)
    spans = spans_of(model)
    if span is not None:
        wanted = parse_span(span, len(model.anatomy.layers), option="--span") if isinstance(span, str) else Span(*span)
        repeat_edit(model.plan, wanted, 2)
        if (wanted.start, wanted.end) not in spans:
            raise InputError(
                f"--span {wanted} straddles a loop boundary, where this model does something between its steps "
                "(`depthsig plan` shows where); choose a span inside one pass"
            )
        spans = [(wanted.start, wanted.end)]
    runs = tuple(Run(a, b, t, d) for a, b in spans for t in counts for d in alphas)
    ready = {_name(task): load_task(task, model, n, seed, max_tokens, shots) for task in tasks}
    show = progress or Progress(False)
    found: dict[str, dict[str, ndarray]] = {}
    edits = [None, *(repeat_edit(model.plan, (r.start, r.end), r.times, r.damping) for r in runs)]
    with show.stage("repeats", len(edits) * sum(map(len, ready.values()))) as tick:
        for task, prompts in ready.items():
            found[task] = measure_answers(model, prompts, edits, parse_memory(memory), tick)
    return TaskScores(
        runs,
        loss={t: f["loss"][:, 1:] for t, f in found.items()},
        accuracy={t: f["accuracy"][:, 1:] for t, f in found.items()},
        base_loss={t: f["loss"][:, 0] for t, f in found.items()},
        base_accuracy={t: f["accuracy"][:, 0] for t, f in found.items()},
        seed=seed,
    )


def _name(task: str | Path) -> str:
    return str(task) if str(task) in TASKS or not Path(task).suffix else Path(task).stem


@torch.no_grad()
def measure_answers(
    model: Model, prompts: Sequence[TokenPrompt], edits: Sequence[Edit | None], memory: int, tick: Any
) -> dict[str, ndarray]:
    """Loss and accuracy of answers [prompt, edit], under the names of :class:`TaskScores`.

    Args:
        edits: None is the model as it is. tick: told of every prompt and edit that is done.
    """
    programs = [compile_edit(edit, model.plan) for edit in edits]
    found = {name: np.full((len(prompts), len(edits)), np.nan) for name in ("loss", "accuracy")}
    for batch in batches([p.ids for p in prompts], model.device, max_tokens=sizes(model.device).step_tokens):
        clean = Clean.of(model, batch)
        where = list(_answers(batch.rows, prompts))
        for numbers, states in run_programs(clean, programs, memory=memory):
            for number, state in zip(numbers, states, strict=True):
                with undisturbed(model.module):
                    logits = model.readout(torch.cat([state[row, at] for row, at, _ in where])).float()
                first = 0
                for (_, at, targets), row in zip(where, batch.rows, strict=True):
                    piece = logits[first : first + len(at)]
                    first += len(at)
                    goal = torch.tensor(targets, device=piece.device)
                    found["loss"][row, number] = float(F.cross_entropy(piece, goal))
                    found["accuracy"][row, number] = float((piece.argmax(-1) == goal).all())
            tick(len(numbers) * len(batch.rows))
    return found


def _answers(rows: Sequence[int], prompts: Sequence[TokenPrompt]) -> Iterator[tuple[int, list[int], list[int]]]:
    """For every row of a batch: the positions that predict the answer, and the answer's tokens."""
    for place, row in enumerate(rows):
        prompt = prompts[row]
        positions = list(prompt.positions)
        yield place, positions, [prompt.ids[p + 1] for p in positions]
