"""``transport``: the matrices of a Jacobian lens as they are, which no prompt has a share in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from depthsig.checkpoint.jacobian.jacobians import JacobianLens
from depthsig.measure.calling import values_of
from depthsig.measure.clean.passes import executed_loops, scope_of
from depthsig.measure.providers import CleanBatch, Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.metrics import Metric
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples


class Transports:
    """Feeds metrics of Jacobians: all depths in order, and those of successive passes by phase.

    Where several loops run, ``scope`` names the span.
    """

    kinds: ClassVar[tuple[str, ...]] = ("transport",)
    by_batch: ClassVar[bool] = False
    needs_parts = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.entries = work, entries
        self.lens: JacobianLens = work.request.lenses["jacobian"]
        of_passes = [one for one in entries if one.rows]
        self.spans = executed_loops(work.network.plan, of_passes) if of_passes else []

    def cost(self, prompt: TokenPrompt) -> Cost:
        """No run."""
        return Cost()

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """No prompt has a share in it."""

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """Every metric once; depth S is the model itself, and has no matrix."""
        jacobians = self.lens.jacobians
        for one in self.entries:
            if not one.rows:
                values = values_of(one, {"jacobians": [*jacobians, None]}, self.work.steps + 1)
                samples.put_pooled(Key(one.id), None, values.double().cpu().numpy())
            for span in self.spans if one.rows else ():
                passes = [
                    jacobians[start : start + span.size] for start in range(span.start, span.end, span.size)
                ]  # fmt: skip
                values = values_of(one, {"passes": passes}, span.count - 1, span.size)
                samples.put_pooled(Key(one.id, scope=scope_of(span, self.spans)), None, values.double().cpu().numpy())
