"""``readout`` and ``tuned``: every depth of the clean run read out, beside the final distribution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.checkpoint.finite import is_finite
from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.memory import READOUT_ROWS
from depthsig.errors import InputError
from depthsig.measure.calling import held, wide
from depthsig.measure.comparing import Against, stacked
from depthsig.measure.providers import CleanBatch, Cost, Work
from depthsig.measure.token_rows import TokenRows, rows_at
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.metrics.distributions import TopTokens
from depthsig.metrics.entries.asking import blamed
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples


class Readouts:
    """Reads every depth of a clean run, a few hundred tokens at a time.

    Nothing keeps depths x tokens x vocabulary: three buffers of [rows, vocab] are all there is. Both
    lenses are compared with one and the same final distribution, whose sums are taken once.
    """

    kinds: ClassVar[tuple[str, ...]] = ("readout", "tuned")
    needs_parts = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.network = work, work.network
        self.translators = None if work.lens is None else work.lens.to(work.network.device)
        self.by_lens = {kind: [one for one in entries if one.on == kind] for kind in self.kinds}
        self._buffers: dict[str, Tensor] = {}

    def cost(self, prompt: TokenPrompt) -> Cost:
        """Every depth of every lens, and the end once."""
        lenses = sum(bool(entries) for entries in self.by_lens.values())
        return Cost(readouts=lenses * self.work.steps + 1)

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        for where, keep in self._pieces(batch.where):
            asked = {kind: self._computed(entries, keep) for kind, entries in self.by_lens.items()}
            for kind, found in self._read(batch, where, asked).items():
                self._add(kind, asked[kind], found, where, samples, tokens)
            batch.tick(len(where))

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """Nothing takes all prompts together."""

    def _computed(self, entries: Sequence[Metric], keep: bool) -> list[Metric]:
        """The metrics that a piece of tokens is read out for."""
        return [one for one in entries if one.level == "token" and (keep or one.kind != "token")]

    def _pieces(self, where: Where) -> list[tuple[Where, bool]]:
        """Chunks that hold either prompts whose tokens are kept, or others."""
        any_tokens = any(one.kind == "token" for entries in self.by_lens.values() for one in entries)
        kept = np.isin(where.prompts, list(self.work.first)) & any_tokens
        edges = [0, *(np.flatnonzero(kept[1:] != kept[:-1]) + 1), len(where)]
        pieces = [(where.part(int(a), int(b)), bool(kept[int(a)])) for a, b in itertools.pairwise(edges) if b > a]
        return [(chunk, keep) for piece, keep in pieces for chunk in piece.chunks(READOUT_ROWS)]

    def _buffer(self, name: str, rows: int) -> Float[Tensor, "row vocab"]:
        if name not in self._buffers:
            shape = (READOUT_ROWS, self.network.readout.vocab)
            self._buffers[name] = torch.empty(shape, dtype=torch.float32, device=self.network.device)
        return self._buffers[name][:rows]

    def _read(
        self, batch: CleanBatch, where: Where, asked: dict[str, list[Metric]]
    ) -> dict[str, list[dict[str, Tensor | TopTokens]]]:
        """By lens, what its metrics are at every depth 0..S."""
        n, run = len(where), batch.run
        every = [one for entries in asked.values() for one in entries]
        with undisturbed(self.network.module):
            final = self.network.readout.into(where.take(run.outputs[-1]), self._buffer("final", n))
            against = Against(final, where.targets, every, self._buffer("probs", n))
            found = {}
            for kind, entries in asked.items():
                values = []
                for depth, states in enumerate(run.inputs) if entries else ():
                    h = where.take(states)
                    values.append(against.values(entries, self._logits(kind, depth, h), h=wide(h)))
                found[kind] = values
            end = wide(where.take(run.outputs[-1]))
            for kind, entries in asked.items():
                if entries:
                    found[kind].append(against.at_the_end(entries, self._buffer("lens", n), h=end))
        return found

    def _logits(self, kind: str, depth: int, h: Float[Tensor, "row d"]) -> Float[Tensor, "row vocab"]:
        """States read out by one of the lenses, in the buffer of lenses."""
        if kind == "tuned":
            assert self.translators is not None, "tuned metrics need translators"
            h = self.translators.translate(h, depth)
            if not is_finite(h):
                raise InputError(
                    f"--lens {str(self.translators)!r}: its translator of depth {depth} gives values that are not "
                    "finite on this model; the lens is damaged, or of another model"
                )
        return self.network.readout_at(depth).into(h, self._buffer("lens", len(h)))

    def _add(
        self, kind: str, entries: Sequence[Metric], found: Sequence[dict[str, Tensor | TopTokens]], where: Where,
        samples: Samples, tokens: TokenRows,
    ) -> None:  # fmt: skip
        profiles: dict[str, np.ndarray] = {}
        for one in entries:
            if one.kind == "token":
                for depth, values in enumerate(found):
                    tokens += rows_at(Key(one.id), where, depth, values[one.id])
                continue
            profiles[one.id] = stacked(found, one.id).cpu().numpy()
            samples.add(Key(one.id), profiles[one.id], where.prompts)
        for one in self.by_lens[kind]:
            if one.level == "table":
                assert one.function is not None
                with blamed(one.id, one.own):
                    made = one.function(*(profiles[name] for name in one.needs))
                made = held(one, made, len(where)).double().numpy() if one.own else made
                samples.add(Key(one.id), made, where.prompts)
