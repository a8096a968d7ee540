"""``weights``: layers as they are stored, so that iterations count once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from depthsig.checkpoint.anatomy.parameters import weight_groups
from depthsig.checkpoint.streaming.unstreamable import refuse_all_at_once
from depthsig.measure.calling import values_of
from depthsig.measure.providers import CleanBatch, Cost, Work
from depthsig.measure.token_rows import TokenRows
from depthsig.metrics import Metric
from depthsig.model import Model
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Key, Samples
from depthsig.terms import NONE

EVERYTHING = "all"
"""The part that is all groups of parameters together."""


class Stored:
    """Feeds metrics of layers' weights, group by group of parameters."""

    kinds: ClassVar[tuple[str, ...]] = ("weights",)
    by_batch: ClassVar[bool] = False
    needs_parts = False

    def __init__(self, work: Work, entries: Sequence[Metric]) -> None:
        self.work, self.entries = work, entries

    def cost(self, prompt: TokenPrompt) -> Cost:
        """No run."""
        return Cost()

    def observe(self, batch: CleanBatch, samples: Samples, tokens: TokenRows) -> None:
        """No prompt has a share in it."""

    def finish(self, samples: Samples, tokens: TokenRows) -> None:
        """Every group that the layers have, and all of it together."""
        network = self.work.network
        if network.is_streamed:
            refuse_all_at_once([one.id for one in self.entries])
        config = network.checkpoint.config if isinstance(network, Model) else None
        groups = [weight_groups(layer.module, config) for layer in network.anatomy.layers]
        layers = {name: [group.get(name, []) for group in groups] for name in _names(groups)}
        layers[EVERYTHING] = [[t for tensors in group.values() for t in tensors] for group in groups]
        for one in self.entries:
            for name in _asked(one, list(layers)):
                part = EVERYTHING if name == NONE else name
                matrix = values_of(one, {"layers": layers[part]}, len(groups), len(groups))
                samples.put_pooled(Key(one.id, name), None, matrix.double().cpu().numpy())


def _names(groups: Sequence[dict[str, list]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _asked(one: Metric, there: list[str]) -> list[str]:
    """The groups that a metric is measured for: all there are, or those that a user's own is declared for."""
    if one.parts == (NONE,):
        return [NONE]
    return [name for name in there if name in one.parts] if one.own else there
