"""Token x depth maps: erasure and integrated gradients, prompt by prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from depthsig.analysis.accumulate import Key, Samples
from depthsig.analysis.edited import Cost, Work
from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.edits import Change, Op, Program
from depthsig.engine.run import run_programs
from depthsig.errors import UnsupportedModelError
from depthsig.metrics.attribution import integrated_gradients
from depthsig.prompts import TokenPrompt

IG_STEPS, IG_MOST, IG_ERROR = 32, 256, 0.05
"""Steps of an integral, doubled up to the most until the completeness error is below the last."""


def answer_predictions(prompt: TokenPrompt) -> list[int]:
    """Positions, never 0, that predict the answer's tokens; none without an answer."""
    return [t - 1 for t in range(*prompt.answer_span) if t >= 2] if prompt.answer_span else []


def token_row(metric: str, prompt: TokenPrompt, depth: int, position: int, value: float) -> dict[str, Any]:
    """One row of ``tokens.parquet``; the token's text is put in at the end."""
    return {
        "metric": metric, "part": "", "scope": "", "prompt": prompt.index, "index": depth,
        "position": position, "rank": None, "token_id": prompt.ids[position], "value": value,
    }  # fmt: skip


@dataclass
class ErasureJob:
    """``erasure.effect``: every state in turn replaced by the mean state of its depth."""

    name: str = "erasure"
    needs_parts: bool = False
    needs_means: bool = True

    def cost(self, steps: int, prompt: TokenPrompt) -> Cost:
        """Every depth and position."""
        runs = (steps + 1) * (prompt.n_tokens - 1)
        read = len(answer_predictions(prompt)) / prompt.n_tokens if prompt.answer_span else 0.5
        return Cost(runs, runs * steps / 2, runs * read)

    def run(self, work: Work, samples: Samples, rows: list[dict[str, Any]]) -> None:
        """Measure one batch."""
        steps, tokens = len(work.model.plan), work.batch.ids.shape[1]
        cells = [(d, t) for d in range(steps + 1) for t in range(1, tokens)]
        programs = [_erased(work, d, t) for d, t in cells]
        comparison = work.outputs(frozenset({"l2"}))
        for numbers, states in run_programs(work.clean, programs, memory=work.budget.states):
            for position in sorted({cells[n][1] for n in numbers}):
                members = [i for i, n in enumerate(numbers) if cells[n][1] == position]
                where = work.where_any(_affected(work, position))
                if not len(where):
                    continue
                values = comparison.compare(work.clean.state(steps), where, [states[i] for i in members])["l2"]
                for column, i in enumerate(members):
                    self._file(work, cells[numbers[i]], where.prompts, values[:, column], rows)
            work.done(len(numbers))

    def _file(
        self, work: Work, cell: tuple[int, int], owners: np.ndarray, values: np.ndarray, rows: list[dict[str, Any]]
    ) -> None:
        depth, position = cell
        for prompt in work.here:
            own = values[owners == prompt.index]
            if len(own) and position < prompt.n_tokens:
                rows.append(token_row("erasure.effect", prompt, depth, position, float(own.max())))


def _erased(work: Work, depth: int, position: int) -> Program:
    assert work.means.states is not None
    change = Change("input", positions=(position,), value=work.means.states[depth])
    steps = len(work.model.plan)
    if depth == steps:
        return Program(tuple((Op(s),) for s in range(steps)), (change,), f"erase {depth},{position}")
    return work.changed(depth, Op(depth, (change,)), f"erase {depth},{position}")


def _affected(work: Work, position: int) -> Bool[Tensor, "prompt token"]:
    """Where the erasure of a position is measured: the answer's predictions, else what follows."""
    mask = torch.zeros(work.batch.ids.shape, dtype=torch.bool, device=work.batch.ids.device)
    for row, prompt in enumerate(work.here):
        answer = answer_predictions(prompt)
        mask[row, answer if answer else list(range(position + 1, prompt.n_tokens))] = True
    return mask


@dataclass
class AttributionJob:
    """``attribution.ig``: integrated gradients of the answer's log-probability to every state."""

    name: str = "attribution"
    needs_parts: bool = False
    needs_means: bool = False

    def cost(self, steps: int, prompt: TokenPrompt) -> Cost:
        """Every depth; a gradient costs about two forwards more."""
        return Cost(steps + 1, 3 * IG_STEPS * (steps + 1) * steps / 2, 3 * IG_STEPS * (steps + 1))

    def run(self, work: Work, samples: Samples, rows: list[dict[str, Any]]) -> None:
        """Measure one batch, prompt by prompt."""
        if not work.model.trace.is_chain and work.model.is_native:
            raise UnsupportedModelError(
                f"attribution.ig: {work.model.anatomy.family} does something between its steps, which gradients "
                "cannot be followed through here; ask for erasure instead"
            )
        for row, prompt in enumerate(work.here):
            targets = answer_predictions(prompt) or list(range(1, prompt.n_tokens - 1))
            worst = 0.0
            for depth in range(len(work.model.plan) + 1):
                if targets:
                    values, error = _attribute(work, row, prompt, depth, targets)
                    worst = max(worst, error)
                    rows += [
                        token_row("attribution.ig", prompt, depth, t, float(values[t]))
                        for t in range(1, prompt.n_tokens)
                    ]
                work.tick(prompt.n_tokens)
            if targets:
                samples.put(Key("attribution.completeness"), prompt.index, np.asarray(worst))


def _attribute(
    work: Work, row: int, prompt: TokenPrompt, depth: int, targets: list[int]
) -> tuple[Float[Tensor, "token"], float]:
    """Attributions of one prompt's states at a depth; only its own row of the batch is run."""
    states = work.clean.state(depth)[row]
    baseline = states.clone()
    # Position 0 keeps its value: it is never edited. Pads follow the end and are seen by none.
    baseline[1 : prompt.n_tokens] = states[1 : prompt.n_tokens].mean(0)
    wanted = torch.tensor([prompt.ids[t + 1] for t in targets], device=states.device)

    def log_probability(points: Float[Tensor, "row token d"]) -> Float[Tensor, "row"]:
        hidden = points
        owners = torch.full((len(points),), row, device=points.device)
        for call in work.clean.calls[depth:]:
            hidden = call(hidden, owners)
        logs = work.model.readout(hidden[:, targets]).float().log_softmax(-1)
        return logs.gather(-1, wanted.expand(len(points), -1)[..., None]).sum((1, 2))

    steps = IG_STEPS
    rows = max(1, min(IG_STEPS, 1024 // states.shape[0]))
    with undisturbed(work.model.module):
        values, error = integrated_gradients(log_probability, states, baseline, steps, rows)
        while error >= IG_ERROR and steps < IG_MOST:
            steps *= 2
            values, error = integrated_gradients(log_probability, states, baseline, steps, rows)
    return values, error
