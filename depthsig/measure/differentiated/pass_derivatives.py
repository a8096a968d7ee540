"""``pass.own``, ``pass.all``, ``passes``: derivatives of every pass of the loops that run, at the states of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

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
ROW_TOKENS = 2048
"""Tokens whose graph is kept at once."""
KRYLOV_BYTES = 1 << 28
"""Of the Krylov vectors over all positions, whatever ``--memory`` says."""


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
        """Measure one batch, prompts and positions as rows of one."""
        longest, width = batch.clean.shape[1:]
        drawn = random_directions(batch.here, longest, width, step=0, part="layer", seed=0)
        drawn[:, 0] = 0.0
        starts = batch.upload(drawn)
        for span in self.spans:
            scope = f"{span.start}:{span.end}" if len(self.spans) > 1 else NONE
            if self.by_run[OWN]:
                self._own(batch, span, starts, scope, samples)
            if self.by_run[ALL]:
                self._whole(batch, span, starts, scope, samples)
            if self.by_run[ALONG]:
                self._along(batch, span, starts, scope, samples)

    def _own(
        self, batch: EditedBatch, span: SpanInfo, starts: Float[Tensor, "prompt token d"], scope: str, samples: Samples
    ) -> None:
        places = [(row, t) for row, prompt in enumerate(batch.here) for t in self.probed(prompt)]
        most = max(1, ROW_TOKENS // batch.clean.shape[1])
        found = {one.id: np.full((len(places), span.count, span.size), np.nan) for one in self.by_run[OWN]}
        for first in range(0, len(places), most):
            owners, positions = batch.upload(np.array(places[first : first + most])).T
            for k in range(span.count):
                for phase in range(span.size):
                    own = OwnDerivative(Pass(batch.clean, span, k, phase, owners), positions)
                    for name, values in self._at(self.by_run[OWN], own, starts[owners, positions]).items():
                        found[name][first : first + most, k, phase] = values
                    batch.tick(sum(batch.here[row].n_tokens for row, _ in places[first : first + most]))
        prompts = np.array([batch.here[row].index for row, _ in places])
        for name, cells in found.items():
            samples.add(Key(name, scope=scope), cells, prompts)

    def _whole(
        self, batch: EditedBatch, span: SpanInfo, starts: Float[Tensor, "prompt token d"], scope: str, samples: Samples
    ) -> None:
        prompts, longest, width = batch.clean.shape
        most = max(1, min(ROW_TOKENS // longest, KRYLOV_BYTES // (4 * (KRYLOV + 1) * longest * width)))
        found = {one.id: np.full((prompts, span.count, span.size), np.nan) for one in self.by_run[ALL]}
        for first in range(0, prompts, most):
            owners = torch.arange(first, min(first + most, prompts), device=starts.device)
            for k in range(span.count):
                for phase in range(span.size):
                    whole = WholeDerivative(Pass(batch.clean, span, k, phase, owners), self._kept(batch)[owners])
                    for name, values in self._at(self.by_run[ALL], whole, starts[owners].flatten(1)).items():
                        found[name][first : first + most, k, phase] = values
                    batch.tick(sum(prompt.n_tokens for prompt in batch.here[first : first + most]))
        for name, cells in found.items():
            samples.add(Key(name, scope=scope), cells, np.array([prompt.index for prompt in batch.here]))

    def _along(
        self, batch: EditedBatch, span: SpanInfo, starts: Float[Tensor, "prompt token d"], scope: str, samples: Samples
    ) -> None:
        for row, prompt in enumerate(batch.here):
            owner = torch.tensor([row], device=starts.device)
            passes = [Pass(batch.clean, span, k, 0, owner) for k in range(span.count)]
            along = [WholeDerivative(one, self._kept(batch)[owner]) for one in passes]
            for entry in self.by_run[ALONG]:
                value = held(entry, call(entry, {"along": along, "probe": starts[owner].flatten(1)}))
                samples.put(Key(entry.id, scope=scope), prompt.index, np.asarray(float(value)))
            batch.tick(prompt.n_tokens)

    def _kept(self, batch: EditedBatch) -> Bool[Tensor, "prompt token"]:
        """True at all real positions but the first."""
        return batch.upload(batch.edited_up_to([prompt.n_tokens for prompt in batch.here]))

    def _at(
        self, asked: Sequence[Metric], transposed: Any, probe: Float[Tensor, "row n"]
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
