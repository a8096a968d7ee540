"""``erasure``: every state in turn replaced by the mean state of its depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy import ndarray
from torch import Tensor

from depthsig.engine.device import fetch
from depthsig.engine.program import Change, Program
from depthsig.engine.run import run_programs
from depthsig.measure.comparing import OutputComparison
from depthsig.measure.edited.edited_batch import EditedBatch
from depthsig.measure.providers import Cost, Work
from depthsig.measure.token_rows import TokenRows, token_row
from depthsig.metrics import Metric
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples


def answer_predictions(prompt: TokenPrompt) -> list[int]:
    """Positions, never 0, that predict the answer's tokens; none without an answer."""
    return [t - 1 for t in range(*prompt.answer_span) if t >= 2] if prompt.answer_span else []


class Erasing:
    """Feeds metrics of the output without one state; the largest over what follows counts."""

    kinds: ClassVar[tuple[str, ...]] = ("erasure",)
    needs_parts = False
    needs_means = True
    name = "erasure"
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.entries = work, entries

    def cost(self, prompt: TokenPrompt) -> Cost:
        """Every depth and position."""
        runs = (self.work.steps + 1) * (prompt.n_tokens - 1)
        read = len(answer_predictions(prompt)) / prompt.n_tokens if prompt.answer_span else 0.5
        return Cost(runs, runs * self.work.steps / 2, runs * read)

    def run(self, batch: EditedBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        length = batch.clean.batch.ids.shape[1]
        cells = [(d, t) for d in range(self.work.steps + 1) for t in range(1, length)]
        programs = [_erased(batch, d, t) for d, t in cells]
        comparison = OutputComparison(self.work.network, self.entries, batch.budget.rows)
        maps = {p.index: np.full((len(self.entries), p.n_tokens, self.work.steps + 1), np.nan) for p in batch.here}
        for numbers, states in run_programs(batch.clean, programs, memory=batch.budget.states):
            at: list[tuple[ndarray, int, list[int]]] = []
            found: dict[tuple[int, str], Tensor] = {}
            for position in sorted({cells[n][1] for n in numbers}):
                members = [i for i, n in enumerate(numbers) if cells[n][1] == position]
                where = batch.tokens_at(lambda prompt, t=position: _affected(prompt, t))  # type: ignore[misc]
                if not len(where):
                    continue
                values = comparison.compare(batch.last(), where, [states[i] for i in members])
                found |= {(len(at), name): value for name, value in values.items()}
                at.append((where.prompts, position, [cells[numbers[i]][0] for i in members]))
            fetched = fetch(found)
            for number, (owners, position, depths) in enumerate(at):
                mine = {one.id: fetched[number, one.id] for one in self.entries}
                self._keep(maps, owners, position, depths, mine)
            batch.done(len(numbers))
        for prompt in batch.here:
            self._file(prompt, maps[prompt.index], samples, tokens)

    def _keep(
        self, maps: dict[int, np.ndarray], owners: np.ndarray, position: int, depths: list[int],
        values: dict[str, np.ndarray],
    ) -> None:  # fmt: skip
        for number, one in enumerate(self.entries):
            for prompt, found in maps.items():
                own = values[one.id][owners == prompt]
                if len(own) and position < found.shape[1]:
                    extreme = own.min(0) if one.worst == "min" else own.max(0)
                    found[number, position, depths] = extreme

    def _file(self, prompt: TokenPrompt, maps: np.ndarray, samples: Samples, tokens: TokenRows) -> None:
        """A map over tokens and depths goes to the token table, a profile is averaged over tokens."""
        for one, found in zip(self.entries, maps, strict=True):
            if one.kind == "profile":
                samples.add(Key(one.id), found[1:], np.full(len(found) - 1, prompt.index))
                continue
            for position, depth in zip(*np.nonzero(~np.isnan(found)), strict=True):
                value, token = float(found[position, depth]), prompt.ids[position]
                row = token_row(Key(one.id), prompt.index, int(depth), int(position), value, token_id=token)
                tokens.append(row)


def _erased(batch: EditedBatch, depth: int, position: int) -> Program:
    assert batch.means.states is not None
    change = Change("input", positions=(position,), value=batch.means.states[depth])
    return batch.changed(depth, change, f"erase {depth},{position}")


def _affected(prompt: TokenPrompt, position: int) -> Sequence[int]:
    """Where the erasure of a position is measured: the answer's predictions, else what follows."""
    return answer_predictions(prompt) or list(range(position + 1, prompt.n_tokens))
