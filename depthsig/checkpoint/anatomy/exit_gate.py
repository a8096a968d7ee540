"""A looped model's own gate: how likely each token is to leave after each pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from depthsig.checkpoint.hooks import undisturbed

GATE, THRESHOLD = "early_exit_gate", "early_exit_threshold"
"""Names of Ouro: of the module, one number a token, and of the config's entry."""


@dataclass(frozen=True)
class ExitGate:
    """A gate that reads the state that one pass hands to the next.

    Attributes:
        threshold: the cumulative probability at which the model's own code lets a token leave.
    """

    module: nn.Module = field(repr=False)
    threshold: float

    def cumulative(self, states: Sequence[Float[Tensor, "row token d"]]) -> Float[Tensor, "pass row token"]:
        """The probability of having left by the end of each pass, in at least float32, from the dtype of the model.

        Args:
            states: what the gate reads, after every pass but the last: whoever is left then leaves.
        """
        leaves = []
        with undisturbed(self.module):
            staying = torch.ones_like(states[0][..., 0])
            for h in states:
                now = self.module(h).squeeze(-1).sigmoid()
                leaves.append(now * staying)
                staying = staying * (1.0 - now)
        found = torch.stack([*leaves, staying]).cumsum(0)
        return found.float() if found.dtype.itemsize < 4 else found


def find_exit_gate(module: nn.Module) -> ExitGate | None:
    """The gate of a model that has one and says at what threshold it lets go; None for any other."""
    threshold = getattr(getattr(module, "config", None), THRESHOLD, None)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        return None
    named = (one for name, one in module.named_modules() if name.rsplit(".", 1)[-1] == GATE)
    gate = next((one for one in named if isinstance(one, nn.Linear) and one.out_features == 1), None)
    return None if gate is None else ExitGate(gate, float(threshold))
