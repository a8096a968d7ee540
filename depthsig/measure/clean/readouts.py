"""``readout``, ``tuned`` and ``jacobian``: every depth of the clean run read out, beside the final distribution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from depthsig.checkpoint.finite import lacks_a_number
from depthsig.checkpoint.hooks import undisturbed
from depthsig.checkpoint.jacobian.jacobians import JacobianLens
from depthsig.checkpoint.translators import TunedLens
from depthsig.engine.device import Pending
from depthsig.engine.memory import readout_rows
from depthsig.errors import InputError
from depthsig.measure.calling import held, wide
from depthsig.measure.comparing import Desk, Values, stacked
from depthsig.measure.providers import CleanBatch, Cost, Work
from depthsig.measure.token_rows import TokenRows, add_rows
from depthsig.measure.where import Where
from depthsig.metrics import Metric
from depthsig.metrics.entries.asking import blamed
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples


class Readouts:
    """Reads every depth of a clean run, a few hundred tokens (on a GPU, thousands) at a time.

    Nothing keeps depths x tokens x vocabulary. All lenses are compared with one and the same final
    distribution, whose sums are taken once. Depths that a Jacobian lens has no matrix of stay empty.
    """

    kinds: ClassVar[tuple[str, ...]] = ("readout", "tuned", "jacobian")
    by_batch: ClassVar[bool] = True
    needs_parts = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.network = work, work.network
        lenses, device = work.request.lenses, work.network.device
        self.translators: TunedLens | None = lenses["tuned"].to(device) if "tuned" in lenses else None
        self.jacobians: JacobianLens | None = lenses["jacobian"].to(device) if "jacobian" in lenses else None
        self.by_lens = {kind: [one for one in entries if one.on == kind] for kind in self.kinds}
        self.desk = Desk(self.network, readout_rows(self.network, work.request.bytes))

    def cost(self, prompt: TokenPrompt) -> Cost:
        """Every depth of every lens, and the end once."""
        lenses = sum(bool(entries) for entries in self.by_lens.values())
        return Cost(readouts=lenses * self.work.steps + 1)

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """Measure one batch."""
        for where, keep in self._pieces(batch.where):
            asked = {kind: self._computed(entries, keep) for kind, entries in self.by_lens.items()}
            for some, read in self.desk.in_chunks(where, partial(self._read, batch, asked)):
                for kind, found in read.items():
                    self._add(kind, asked[kind], found, some, batch.later, samples, tokens)
                batch.tick(len(some))

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """Nothing takes all prompts together."""

    def _computed(self, entries: Sequence[Metric], keep: bool) -> list[Metric]:
        """The metrics that a piece of tokens is read out for."""
        return [one for one in entries if one.level == "token" and (keep or one.kind != "token")]

    def _pieces(self, where: Where) -> list[tuple[Where, bool]]:
        """Pieces that hold either prompts whose tokens are kept, or others."""
        any_tokens = any(one.kind == "token" for entries in self.by_lens.values() for one in entries)
        kept = np.isin(where.prompts, list(self.work.first)) & any_tokens
        edges = [0, *(np.flatnonzero(kept[1:] != kept[:-1]) + 1), len(where)]
        return [(where.part(int(a), int(b)), bool(kept[int(a)])) for a, b in itertools.pairwise(edges) if b > a]

    def _read(self, batch: CleanBatch, asked: dict[str, list[Metric]], where: Where) -> dict[str, list[Values]]:
        """By lens, what its metrics are at every depth 0..S."""
        run = batch.run
        every = [one for entries in asked.values() for one in entries]
        own = any("h" in one.asks() for one in every)

        def more(h: Tensor) -> dict[str, Tensor]:
            return {"h": wide(h)} if own else {}

        with undisturbed(self.network.module):
            end = where.take(run.outputs[-1])
            final = self.desk.read("final", self.network.readout, end)
            against = self.desk.against(final, where.targets, every)
            found = {}
            for kind, entries in asked.items():
                values = []
                for depth, states in enumerate(run.inputs) if entries else ():
                    if self._has(kind, depth):
                        h = where.take(states)
                        values.append(against.values(entries, self._logits(kind, depth, h, batch.later), **more(h)))
                    else:
                        values.append(_nothing(entries, end))
                found[kind] = values
            for kind, entries in asked.items():
                if entries:
                    found[kind].append(against.at_the_end(entries, **more(end)))
        return found

    def _logits(self, kind: str, depth: int, h: Float[Tensor, "row d"], later: Pending) -> Float[Tensor, "row vocab"]:
        """States read out by one of the lenses."""
        if kind == "readout":
            return self.desk.read("lens", self.network.readout_at(depth), h)
        if kind == "tuned":
            assert self.translators is not None, "tuned metrics need translators"
            h, readout = self.translators.translate(h, depth), self.network.readout_at(depth)
        else:
            assert self.jacobians is not None, "Jacobian metrics need Jacobians"
            # J_d h_d lives where h_S does, so that it is read as h_S is: what was normed already is normed again.
            h, readout = self.jacobians.transport(h, depth), self.network.readout
        later.add(lambda lacks: self._refuse(kind, depth) if lacks else None, lacks_a_number(h))
        return self.desk.read("lens", readout, h)

    def _has(self, kind: str, depth: int) -> bool:
        return kind != "jacobian" or (self.jacobians is not None and self.jacobians.jacobians[depth] is not None)

    def _refuse(self, kind: str, depth: int) -> None:
        lens, map_of = (self.translators, "translator") if kind == "tuned" else (self.jacobians, "Jacobian")
        raise InputError(
            f"--lens {str(lens)!r}: its {map_of} of depth {depth} gives values that are not "
            "finite on this model; the lens is damaged, or of another model"
        )

    def _add(
        self, kind: str, entries: Sequence[Metric], found: Sequence[Values], where: Where, later: Pending,
        samples: Samples, tokens: TokenRows,
    ) -> None:  # fmt: skip
        """Give what was read to the samples, when the batch ends."""
        profiles = [one for one in entries if one.kind != "token"]
        for one in entries:
            if one.kind == "token":
                for depth, values in enumerate(found):
                    if one.id in values:
                        add_rows(later, tokens, Key(one.id), where, depth, values[one.id])

        def add(*arrays: ndarray) -> None:
            columns = {one.id: values for one, values in zip(profiles, arrays, strict=True)}
            for name, values in columns.items():
                samples.add(Key(name), values, where.prompts)
            self._of_tokens(kind, columns, where, samples)

        later.add(add, *(stacked(found, one.id) for one in profiles))

    def _of_tokens(self, kind: str, profiles: dict[str, ndarray], where: Where, samples: Samples) -> None:
        """Scores that every token has one of."""
        for one in self.by_lens[kind]:
            if one.level == "table":
                assert one.function is not None
                with blamed(one.id, one.own):
                    made = one.function(*(profiles[name] for name in one.needs))
                made = held(one, made, len(where)).double().numpy() if one.own else made
                samples.add(Key(one.id), made, where.prompts)


def _nothing(entries: Sequence[Metric], rows: Float[Tensor, "row d"]) -> Values:
    """Of a depth that a lens has nothing for: no number, and no token."""
    empty = torch.full((len(rows),), float("nan"), device=rows.device)
    return {one.id: empty for one in entries if one.kind != "token"}
