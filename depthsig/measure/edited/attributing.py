"""``attribution``: the rest of the model, from every depth on, as a function of one prompt's states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.errors import UnsupportedModelError
from depthsig.measure.calling import call, held, wide
from depthsig.measure.edited.edited_batch import EditedBatch
from depthsig.measure.edited.erasing import answer_predictions
from depthsig.measure.providers import Cost, Work
from depthsig.measure.token_rows import TokenRows, token_row
from depthsig.metrics import Metric
from depthsig.metrics.attribution import IG_STEPS
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples


class Attributing:
    """Feeds metrics of the answer's log-probability (else of the next tokens') as a function of the states.

    Of a number for each depth, the largest counts.
    """

    kinds: ClassVar[tuple[str, ...]] = ("attribution",)
    needs_parts = False
    needs_means = False
    name = "attribution"
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.entries = work, entries

    def cost(self, prompt: TokenPrompt) -> Cost:
        """Every depth; a gradient costs about two forwards more."""
        depths = self.work.steps + 1
        return Cost(depths, 3 * IG_STEPS * depths * self.work.steps / 2, 3 * IG_STEPS * depths)

    def run(self, batch: EditedBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch, prompt by prompt."""
        if not self.work.network.is_chain:
            names = ", ".join(one.id for one in self.entries)
            raise UnsupportedModelError(
                f"{names}: gradients cannot be followed through {self.work.network.anatomy.family}: "
                f"{self.work.network.trace.why_no_chain}; ask for erasure instead"
            )
        for row, prompt in enumerate(batch.here):
            targets = answer_predictions(prompt) or list(range(1, prompt.n_tokens - 1))
            found: list[dict[str, Any]] = []
            for depth in range(self.work.steps + 1):
                if targets:
                    found.append(self._at(batch, row, prompt, depth, targets))
                batch.tick(prompt.n_tokens)
            if targets:
                self._file(prompt, found, samples, tokens)

    def _at(self, batch: EditedBatch, row: int, prompt: TokenPrompt, depth: int, targets: list[int]) -> dict[str, Any]:
        """By id, what the metrics give for one prompt at a depth; only its own row of the batch is run."""
        states = batch.clean.state(depth)[row]
        baseline = states.clone()
        # Position 0 keeps its value: it is never edited. Pads follow the end and are seen by none.
        baseline[1 : prompt.n_tokens] = states[1 : prompt.n_tokens].mean(0)
        wanted = torch.tensor([prompt.ids[t + 1] for t in targets], device=states.device)

        def log_probability(points: Float[Tensor, "row token d"]) -> Float[Tensor, "row"]:
            hidden = points
            owners = torch.full((len(points),), row, device=points.device)
            for layer_call in batch.clean.calls[depth:]:
                hidden = layer_call(hidden, owners)
            logs = self.work.network.readout(hidden[:, targets]).float().log_softmax(-1)
            return logs.gather(-1, wanted.expand(len(points), -1)[..., None]).sum((1, 2))

        offered = {"rest": log_probability, "h": states, "baseline": baseline}
        found: dict[str, Any] = {}
        results: dict[int, Any] = {}
        with undisturbed(self.work.network.module):
            for one in self.entries:
                # One function may fill several entries by the fields of its record.
                key = id(one.function)
                if key not in results:
                    results[key] = call(one, offered, whole=True)
                value = getattr(results[key], one.result) if one.result else results[key]
                found[one.id] = held(one, value, *states.shape[:1] if one.axis else ())
        return found

    def _file(self, prompt: TokenPrompt, found: list[dict[str, Any]], samples: Samples, tokens: TokenRows) -> None:
        for one in self.entries:
            values = [at[one.id] for at in found]
            if not one.axis:
                samples.put(Key(one.id), prompt.index, np.asarray(np.fmax.reduce([float(v) for v in values])))
                continue
            columns = np.stack([wide(v).detach().cpu().numpy()[: prompt.n_tokens] for v in values], axis=1)
            if one.kind == "profile":
                samples.add(Key(one.id), columns[1:], np.full(len(columns) - 1, prompt.index))
                continue
            for depth in range(columns.shape[1]):
                tokens += [
                    token_row(Key(one.id), prompt.index, depth, t, float(columns[t, depth]), token_id=prompt.ids[t])
                    for t in range(1, prompt.n_tokens)
                ]
