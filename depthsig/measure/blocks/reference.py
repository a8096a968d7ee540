"""Many distributions against one reference, a whole block of rows in one call.

As :class:`depthsig.metrics.comparison.Reference`, for a GPU: logits stay in the dtype that the head gives, no value
is looked at on the way, and each comparison is one operation (:mod:`depthsig.measure.blocks.operations`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from depthsig.measure.blocks.operations import VALUES, compare_rows, row_stats
from depthsig.metrics.quantities import AT_THE_END, check_known

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped
    from torch import Tensor

_OF_TOP = frozenset(("overlap5", "top1", "tokens", "probs"))
_APART = ("kl", "kl_reverse", "jsd", "l2")


@dataclass
class BlockReference:
    """The distributions ``p`` that others are compared with; nothing that is given is changed.

    ``targets`` [row] holds the next token's id, −1 where there is none.
    """

    logits: Float[Tensor, "row vocab"]
    targets: Int[Tensor, "row"]
    wanted: frozenset[str]
    _stats: Float[Tensor, "row 5"] = field(init=False, repr=False)
    _top: Int[Tensor, "row k"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_known(self.wanted)
        self._stats, self._top, _ = row_stats(self.logits, self.targets, self._width(self.wanted))

    def compare(
        self, logits: Float[Tensor, "row vocab"], leave_out: frozenset[str] = frozenset()
    ) -> dict[str, Shaped[Tensor, "row ..."]]:
        """The wanted quantities of ``logits``; those in ``leave_out`` are not."""
        want = self.wanted - leave_out
        values, tokens, probs = compare_rows(
            logits, self.logits, self._stats, self._top, self.targets, self._width(want),
            [name in want for name in _APART],
        )  # fmt: skip
        found = dict(zip(VALUES, values.unbind(0), strict=True))
        return {name: value for name, value in {**found, "tokens": tokens, "probs": probs}.items() if name in want}

    def compare_itself(self, leave_out: frozenset[str]) -> dict[str, Shaped[Tensor, "row ..."]]:
        """The reference beside itself; what follows from that is not computed."""
        return self.compare(self.logits, leave_out | frozenset(AT_THE_END))

    def _width(self, want: frozenset[str]) -> int:
        """How many of the likeliest words are looked for."""
        return min(5, self.logits.shape[-1]) if want & _OF_TOP else 0
