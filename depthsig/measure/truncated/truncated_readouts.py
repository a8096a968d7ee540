"""Prefixes: h_1 .. h_S of the clean run read out as they are, by a temperature, and through an affine map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.memory import readout_rows
from depthsig.measure.comparing import Against, Desk, Values, stacked
from depthsig.measure.providers import CleanBatch, Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.metrics.entries.runs import READ_TRUNCATED
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples

PREFIX, TEMPERATURE, AFFINE = READ_TRUNCATED


class TruncatedReadouts:
    """Reads every prefix of a clean run, some hundred tokens at a time; position 0 never counts.

    At k = S nothing is fitted: all readouts are the model's own, and give one and the same number.
    """

    kinds: ClassVar[tuple[str, ...]] = READ_TRUNCATED
    by_batch: ClassVar[bool] = True
    needs_parts = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.network, self.entries = work, work.network, entries
        self.by_kind = {kind: [one for one in entries if one.on == kind] for kind in self.kinds}
        self.desk = Desk(self.network, readout_rows(self.network, work.request.bytes))

    def cost(self, prompt: TokenPrompt) -> Cost:
        """Every prefix in every way, and the end once; a temperature needs no readout of its own."""
        ways = bool(self.by_kind[PREFIX] or self.by_kind[TEMPERATURE]) + bool(self.by_kind[AFFINE])
        return Cost(readouts=ways * (self.work.steps - 1) + 1)

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        for where, columns in self.desk.in_chunks(batch.counted, partial(self._columns, batch.run.states)):
            for one in self.entries:
                batch.later.add(partial(_add, samples, Key(one.id), where), columns[one.id])

    def _columns(
        self, states: Sequence[Float[Tensor, "prompt token d"]], where: Where
    ) -> dict[str, Float[Tensor, "_row _step"]]:
        """By id, a metric's values at every prefix of some tokens."""
        with undisturbed(self.network.module):
            final = self.desk.read("final", self.network.readout, where.take(states[-1]))
            against = self.desk.against(final, where.targets, self.entries)
            found: list[Values] = [self._read(against, where.take(states[k]), k) for k in range(1, self.work.steps)]
            found.append(against.at_the_end(self.entries))
            return {one.id: stacked(found, one.id) for one in self.entries}

    def _read(self, against: Against, h: Float[Tensor, "row d"], k: int) -> Values:
        """All metrics of the first k steps."""
        readout, found, fitted = self.network.readout_at(k), Values(), self.work.recalibrated
        prefix, temperature, affine = (self.by_kind[kind] for kind in self.kinds)
        if prefix or temperature:
            logits = self.desk.read("lens", readout, h)
            if temperature:
                assert fitted is not None, "a temperature is fitted before it is used"
                # What is compared is overwritten on a CPU; on a GPU half precision would round what is divided.
                own = logits.float() if self.desk.whole else self.desk.space("tempered", len(h)).copy_(logits)
                own = own.clone() if own is logits else own
                found |= against.values(temperature, fitted.tempered(own, k))
            found |= against.values(prefix, logits)
        if affine:
            assert fitted is not None, "an affine map is fitted before it is used"
            found |= against.values(affine, self.desk.read("lens", readout, fitted.mapped(h, k)))
        return found

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """Nothing takes all prompts together."""


def _add(samples: Samples, key: Key, where: Where, values: Float[ndarray, "token step"]) -> None:
    samples.add(key, values, where.prompts)
