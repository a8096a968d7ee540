"""``pass.own``, ``pass.all``, ``passes``: derivatives of every pass of the loops that run, at the states of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from depthsig.engine.memory import EDITED_TOKENS
from depthsig.measure.calling import call, held
from depthsig.measure.differentiated.one_pass import OwnDerivative, Pass, WholeDerivative
from depthsig.measure.edited.directions import random_directions
from depthsig.measure.edited.edited_batch import EditedBatch
from depthsig.measure.providers import Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.metrics import Metric
from depthsig.metrics.entries.runs import OF_PASSES
from depthsig.metrics.passes.spectrum import KRYLOV
from depthsig.plan.plan import SpanInfo
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples
from depthsig.terms import NONE

OWN, ALL, ALONG = OF_PASSES


class PassDerivatives:
    """Feeds metrics of a pass as a map; where several loops run, ``scope`` names the span.

    Position 0 is left out, as everywhere: over all positions, no vector has an entry there. Earlier tokens do not
    depend on later ones, so this takes no eigenvalue from the others.
    """

    kinds: ClassVar[tuple[str, ...]] = OF_PASSES
    needs_parts = False
    needs_means = False
    name = "derivatives"
    options: ClassVar[tuple[str, ...]] = ("probes",)

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work = work
        self.spans = work.network.plan.loops_that_run([one.family for one in entries])
        self.by_run = {kind: [one for one in entries if one.on == kind] for kind in OF_PASSES}

    def cost(self, prompt: TokenPrompt) -> Cost:
        """A forward of every pass from every phase, and for each Krylov vector a gradient, of two forwards."""
        cells = sum(span.end - span.start for span in self.spans)
        steps = sum(span.size * (span.end - span.start) for span in self.spans)
        along = sum(span.end - span.start for span in self.spans)
        rows = len(self.probed(prompt)) * bool(self.by_run[OWN]) + bool(self.by_run[ALL])
        runs = rows * cells + bool(self.by_run[ALONG]) * len(self.spans)
        return Cost(runs, (1 + 2 * KRYLOV) * (rows * steps + bool(self.by_run[ALONG]) * along))

    def probed(self, prompt: TokenPrompt) -> list[int]:
        """The measured positions whose own state is followed: at most ``--probes``, evenly spread."""
        there, most = prompt.positions, self.work.request.probes
        if len(there) <= most:
            return list(there)
        return [there[int(i)] for i in np.round(np.linspace(0, len(there) - 1, most))]

    def run(self, batch: EditedBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch, prompt by prompt."""
        for row, prompt in enumerate(batch.here):
            starts = torch.from_numpy(
                random_directions([prompt], prompt.n_tokens, batch.clean.shape[2], step=0, part="layer", seed=0)[0]
            ).to(batch.clean.batch.ids.device)
            for span in self.spans:
                scope = f"{span.start}:{span.end}" if len(self.spans) > 1 else NONE
                self._own(batch, row, prompt, span, starts, scope, samples)
                self._whole(batch, row, prompt, span, starts, scope, samples)
            batch.tick(self.cost(prompt).runs * prompt.n_tokens)

    def _own(
        self, batch: EditedBatch, row: int, prompt: TokenPrompt, span: SpanInfo, starts: Float[torch.Tensor, "token d"],
        scope: str, samples: Samples,
    ) -> None:  # fmt: skip
        asked, positions = self.by_run[OWN], self.probed(prompt)
        if not asked:
            return
        most = max(1, EDITED_TOKENS // batch.clean.shape[1])
        found = {one.id: np.full((len(positions), span.count, span.size), np.nan) for one in asked}
        for k, phase, one in _passes(batch, row, span):
            for first in range(0, len(positions), most):
                some = positions[first : first + most]
                for name, values in self._at(asked, OwnDerivative(one, some), starts[some]).items():
                    found[name][first : first + most, k, phase] = values
        for name, values in found.items():
            samples.add(Key(name, scope=scope), values, np.full(len(positions), prompt.index))

    def _whole(
        self, batch: EditedBatch, row: int, prompt: TokenPrompt, span: SpanInfo,
        starts: Float[torch.Tensor, "token d"], scope: str, samples: Samples,
    ) -> None:  # fmt: skip
        kept = torch.zeros(batch.clean.shape[1], dtype=torch.bool, device=starts.device)
        kept[1 : prompt.n_tokens] = True
        start = starts[1:].reshape(1, -1)
        if self.by_run[ALL]:
            found = {one.id: np.full((span.count, span.size), np.nan) for one in self.by_run[ALL]}
            for k, phase, one in _passes(batch, row, span):
                for name, values in self._at(self.by_run[ALL], WholeDerivative(one, kept), start).items():
                    found[name][k, phase] = values[0]
            for name, matrix in found.items():
                samples.put(Key(name, scope=scope), prompt.index, matrix)
        if self.by_run[ALONG]:
            along = [WholeDerivative(Pass(batch.clean, span, k, 0, row), kept) for k in range(span.count)]
            for entry in self.by_run[ALONG]:
                value = held(entry, call(entry, {"along": along, "probe": start}))
                samples.put(Key(entry.id, scope=scope), prompt.index, np.asarray(float(value)))

    def _at(
        self, asked: Sequence[Metric], transposed: Any, probe: Float[torch.Tensor, "row n"]
    ) -> dict[str, Float[ndarray, "row"]]:
        """By id, what metrics give at one cell; a function that fills several entries is called once."""
        results: dict[int, Any] = {}
        found = {}
        for one in asked:
            key = id(one.function)
            if key not in results:
                results[key] = call(one, {"transposed": transposed, "probe": probe}, whole=True)
            value = getattr(results[key], one.result) if one.result else results[key]
            found[one.id] = held(one, value, len(probe)).double().cpu().numpy()
        return found


def _passes(batch: EditedBatch, row: int, span: SpanInfo) -> Iterator[tuple[int, int, Pass]]:
    for k in range(span.count):
        for phase in range(span.size):
            yield k, phase, Pass(batch.clean, span, k, phase, row)
