"""Metrics of an output beside the model's own: all fused quantities in one pass, and functions that have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from depthsig.measure.calling import call, values_of
from depthsig.metrics import Metric
from depthsig.metrics.comparison import AT_THE_END, OF_SEVERAL, Reference
from depthsig.metrics.distributions import TopTokens


def quantities(entries: Sequence[Metric]) -> frozenset[str]:
    """What :class:`~depthsig.metrics.comparison.Reference` must compute for these metrics."""
    fused = [one.fused for one in entries if one.fused]
    return frozenset(q for name in fused for q in OF_SEVERAL.get(name, (name,)))


class Against:
    """The model's own readout of some tokens, that others are compared with.

    Args:
        final: float32 logits, which are taken over (and changed).
        entries: all metrics that will be asked for.
        probs: memory for the probabilities, where there is some.
    """

    def __init__(
        self, final: Float[Tensor, "row vocab"], targets: Int[Tensor, "row"], entries: Sequence[Metric],
        probs: Float[Tensor, "row vocab"] | None = None,
    ) -> None:  # fmt: skip
        self.targets = targets
        plain = [one for one in entries if not one.fused]
        self.final = final.clone() if plain else None
        wanted = quantities(entries)
        self.reference = Reference(final, targets, wanted, probs) if wanted else None

    def values(
        self, entries: Sequence[Metric], logits: Float[Tensor, "row vocab"], **more: Any
    ) -> dict[str, Tensor | TopTokens]:
        """By id, a value a row of each metric; ``logits`` are overwritten.

        Args:
            more: what else the run offers.
        """
        offered = {"logits": logits, "final": self.final, "targets": self.targets, **more}
        found = self._plain(entries, offered, len(logits))
        if self.reference is not None and (wanted := quantities(entries)):
            leave_out = self.reference.wanted - wanted
            found |= _of_entries(entries, self.reference.compare(logits, leave_out=leave_out))
        return found

    def at_the_end(
        self, entries: Sequence[Metric], space: Float[Tensor, "row vocab"], **more: Any
    ) -> dict[str, Tensor | TopTokens]:
        """The model's own output beside itself: divergences are 0 and not rounding.

        Args:
            space: memory that is overwritten.
        """
        offered = {"logits": self.final, "final": self.final, "targets": self.targets, **more}
        found = self._plain(entries, offered, len(self.targets))
        if self.reference is not None and (wanted := quantities(entries)):
            exact = frozenset(AT_THE_END) | (self.reference.wanted - wanted)
            values = self.reference.compare(space.copy_(self.reference.logits), leave_out=exact)
            values |= {q: self.reference.nll.new_full((len(space),), v) for q, v in AT_THE_END.items() if q in wanted}
            if "loss" in values:
                values["loss"] = values["loss"].masked_fill(self.targets < 0, float("nan"))
            found |= _of_entries(entries, values)
        return found

    @staticmethod
    def _plain(entries: Sequence[Metric], offered: dict[str, Any], rows: int) -> dict[str, Tensor | TopTokens]:
        """Of the metrics without a fused quantity; those of tokens may give several a row."""
        found: dict[str, Tensor | TopTokens] = {}
        for one in entries:
            if not one.fused:
                found[one.id] = call(one, offered) if one.kind == "token" else values_of(one, offered, rows)
        return found


def _of_entries(entries: Sequence[Metric], values: dict[str, Tensor]) -> dict[str, Tensor | TopTokens]:
    return {
        one.id: TopTokens(*(values[q] for q in OF_SEVERAL[one.fused])) if one.fused in OF_SEVERAL else values[one.fused]
        for one in entries
        if one.fused
    }


def stacked(found: Sequence[dict[str, Tensor | TopTokens]], name: str) -> Float[Tensor, "row cell"]:
    """One metric's values at all depths or edits, in float64."""
    columns = [values[name] for values in found]
    return torch.stack([c for c in columns if isinstance(c, Tensor)], dim=1).double()
