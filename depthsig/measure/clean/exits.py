"""``exits``: what the model would say if its loop stopped after each of its passes, token by token."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from depthsig.checkpoint.anatomy.exit_gate import ExitGate, find_exit_gate
from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.memory import readout_rows
from depthsig.measure.calling import values_of, wide
from depthsig.measure.comparing import Desk
from depthsig.measure.providers import CleanBatch, Work
from depthsig.measure.token_rows import TokenRows, token_row
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.metrics.distributions import kl_divergence, target_nll
from depthsig.metrics.rules import GAIN_EXITS
from depthsig.plan.plan import SpanInfo
from depthsig.tables.samples import Key, Samples


class Exits:
    """Feeds metrics of the losses after every pass; a token that none follows has no value of any."""

    def __init__(self, work: Work, entries: Sequence[Metric], span: SpanInfo) -> None:
        self.work, self.network, self.entries, self.span = work, work.network, entries, span
        self.asked = {name for one in entries for name in one.asks()}
        self.desk = Desk(self.network, readout_rows(self.network, work.request.bytes))
        self.gate = self._gate() if "exit_cdf" in self.asked else None

    def states(self, batch: CleanBatch) -> list[Float[Tensor, "prompt token d"]]:
        """What leaves the last step of every pass but the last."""
        first, size = self.span.start, self.span.size
        return [batch.run.outputs[first + (k + 1) * size - 1] for k in range(self.span.count - 1)]

    def observe(
        self, batch: CleanBatch, ends: Sequence[Float[Tensor, "prompt token d"]], samples: Samples, tokens: TokenRows
    ) -> None:
        """Measure one batch.

        Args:
            ends: h_S of every pass: its state, run through what comes after the loop.
        """
        exit_cdf = self._left(batch)
        for where, found in self.desk.in_chunks(batch.counted, partial(self._read, ends)):
            cdf = torch.stack([where.take(left) for left in exit_cdf])
            threshold = float("nan") if self.gate is None else self.gate.threshold
            offered = {**found, "exit_cdf": cdf, "exit_threshold": threshold}
            none_follows = found["losses"][0].isnan()
            for one in self.entries:
                cells = [len(ends)] * len(one.cells)
                values = values_of(one, offered, *cells, len(where)).double().masked_fill(none_follows, float("nan"))
                self._put(one, values, where, batch, samples, tokens)

    def _put(
        self, one: Metric, values: Float[Tensor, "*cell token"], where: Where, batch: CleanBatch, samples: Samples,
        tokens: TokenRows,
    ) -> None:  # fmt: skip
        key = Key(one.id)

        def add(found: Float[ndarray, "*cell token"]) -> None:
            if one.kind != "token":
                samples.add(key, np.moveaxis(found, -1, 0), where.prompts)
            if one.kind == "token" or one.id in GAIN_EXITS:
                tokens.extend(self._rows(key, np.atleast_2d(found), where, exits=one.kind != "token"))

        batch.later.add(add, values)

    def _rows(self, key: Key, values: Float[ndarray, "cell token"], where: Where, *, exits: bool) -> TokenRows:
        """What is defined of the prompts whose tokens are kept; an exit stands at the pass that it is."""
        at = zip(where.prompts.tolist(), where.positions.tolist(), values.T.tolist(), strict=True)
        return [
            token_row(key, prompt, int(value) if exits else k, position, value)
            for prompt, position, found in at if prompt in self.work.first
            for k, value in enumerate(found) if not np.isnan(value)
        ]  # fmt: skip

    def _read(self, ends: Sequence[Float[Tensor, "prompt token d"]], where: Where) -> dict[str, Tensor]:
        """Everything that is asked of the outputs after each pass, two of which are held at a time."""
        found: dict[str, list[Tensor]] = {"losses": [], "confidences": [], "output_kls": []}
        before: Tensor | None = None
        with undisturbed(self.network.module):
            for end, place in zip(ends, itertools.cycle(("lens", "final")), strict=False):
                logits = wide(self.desk.read(place, self.network.readout, where.take(end)))
                found["losses"].append(target_nll(logits, where.targets))
                if "confidences" in self.asked:
                    found["confidences"].append((logits.amax(-1).double() - logits.double().logsumexp(-1)).exp())
                if "output_kls" in self.asked:
                    none = torch.full_like(found["losses"][0], float("nan"))
                    found["output_kls"].append(none if before is None else kl_divergence(before, logits))
                before = logits
        return {name: torch.stack(values) for name, values in found.items() if values}

    def _gate(self) -> ExitGate | None:
        """The model's own, where it reads what one pass hands to the next: a state that has been normed."""
        gate, normed = find_exit_gate(self.network.module), self.network.trace.normed
        entered = range(self.span.start + self.span.size, self.span.end, self.span.size)
        return gate if all(normed[depth] for depth in entered) else None

    def _left(self, batch: CleanBatch) -> Float[Tensor, "pass prompt token"]:
        """How likely each token has left by the end of each pass; NaN without a gate."""
        last = batch.run.outputs[-1]
        if self.gate is None:
            return last.new_full((self.span.count, *last.shape[:2]), float("nan"), dtype=torch.float32)
        first, size = self.span.start, self.span.size
        return self.gate.cumulative([batch.clean.state(first + k * size) for k in range(1, self.span.count)])
