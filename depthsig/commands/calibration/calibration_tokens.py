"""The states that recalibrated readouts are fitted to, and the loss of the tokens that follow them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import batches
from depthsig.engine.memory import clean_tokens, readout_rows
from depthsig.engine.network import Network
from depthsig.measure.where import measured
from depthsig.prompts import TokenPrompt


@dataclass(frozen=True)
class CalibrationTokens:
    """h_k at every token of the calibration prompts that another token follows.

    Attributes:
        states: of one depth, in the model's dtype.
        targets: ids of the tokens that follow. held: which tokens are of a held-out prompt.
    """

    states: Float[Tensor, "token d"]
    targets: Int[Tensor, "token"]
    held: Bool[Tensor, "token"]


def captured(
    network: Network, prompts: Sequence[TokenPrompt], held: frozenset[int], memory: int, batch_size: int | None
) -> Iterator[CalibrationTokens]:
    """The tokens of every depth 1 .. S−1, depth after depth; as many depths at once as a quarter of the memory holds.

    Args:
        held: which of the prompts, by index, are held out.
    """
    tokens = sum(len(p.positions) for p in prompts)
    at_once = max(1, memory // 4 // max(1, tokens * network.trace.width * network.dtype.itemsize))
    depths = range(1, len(network.plan))
    for first in range(0, len(depths), at_once):
        yield from _of_depths(network, prompts, held, depths[first : first + at_once], memory, batch_size)


def _of_depths(
    network: Network, prompts: Sequence[TokenPrompt], held: frozenset[int], depths: range, memory: int,
    batch_size: int | None,
) -> list[CalibrationTokens]:  # fmt: skip
    states: list[list[Tensor]] = [[] for _ in depths]
    targets, owners = [], []
    ids = [p.ids for p in prompts]
    size = clean_tokens(network, memory)
    with torch.no_grad():
        for batch in batches(ids, network.device, max_tokens=size, batch_size=batch_size):
            where = measured(batch, prompts)
            followed = where.targets >= 0
            run = network.clean(batch.ids)
            for found, depth in zip(states, depths, strict=True):
                found.append(where.take(run.inputs[depth])[followed])
            targets.append(where.targets[followed])
            owners.append(torch.as_tensor(where.prompts, device=followed.device)[followed])
    out = torch.isin(torch.cat(owners), torch.tensor(sorted(held), dtype=torch.long, device=network.device))
    return [CalibrationTokens(torch.cat(found), torch.cat(targets), out) for found in states]


@dataclass(frozen=True)
class FollowingLoss:
    """The mean NLL of the next token, read from states of one depth as the model reads them; a block at a time.

    Attributes:
        rows: states read out at once.
    """

    network: Network
    depth: int
    rows: int

    @classmethod
    def of(cls, network: Network, depth: int, memory: int) -> FollowingLoss:
        """With blocks as large as a quarter of the memory allows."""
        return cls(network, depth, readout_rows(network, memory))

    def value(self, states: Float[Tensor, "token d"], targets: Int[Tensor, "token"]) -> float:
        """In nats."""
        total = 0.0
        for some, logits in self.logits(states):
            logs = logits.log_softmax(-1)
            total -= float(logs.gather(-1, targets[some, None]).double().sum())
        return total / max(1, len(states))

    def logits(self, states: Float[Tensor, "token d"]) -> Iterator[tuple[slice, Float[Tensor, "row vocab"]]]:
        """Blocks of logits in float32, with their places."""
        readout = self.network.readout_at(self.depth)
        for some in self._blocks(states):
            with undisturbed(self.network.module):
                logits = readout(states[some].to(self.network.dtype)).float()
            yield some, logits

    def gradient(
        self, states: Float[Tensor, "token d"], targets: Int[Tensor, "token"], draws: torch.Generator | None = None
    ) -> tuple[float, Float[Tensor, "token d"], Float[Tensor, "token d"] | None]:
        """The mean NLL, its gradient by every state times the number of tokens, and the same for drawn tokens.

        Args:
            draws: draws a token from every predicted distribution; the outer products of the gradients for those are
                an estimate of Fisher's information that has no labels in it. None: no such gradient.
        """
        readout = self.network.readout_at(self.depth)
        total, found, drawn = 0.0, torch.empty_like(states), None if draws is None else torch.empty_like(states)
        for some in self._blocks(states):
            with undisturbed(self.network.module):
                own = states[some].to(self.network.dtype).detach().requires_grad_()
                with torch.enable_grad():
                    logits = readout(own)
                p = logits.detach().float().log_softmax(-1)
                total -= float(p.gather(-1, targets[some, None]).double().sum())
                p.exp_()
                if drawn is not None:
                    other = torch.multinomial(p, 1, generator=draws)
                    drawn[some] = _pulled(p, other, logits, own, again=True)
                found[some] = _pulled(p, targets[some, None], logits, own, again=False)
        return total / max(1, len(states)), found, drawn

    def _blocks(self, states: Float[Tensor, "token d"]) -> list[slice]:
        return [slice(i, min(i + self.rows, len(states))) for i in range(0, len(states), self.rows)]


def _pulled(
    p: Float[Tensor, "row vocab"], targets: Int[Tensor, "row 1"], logits: Float[Tensor, "row vocab"],
    states: Float[Tensor, "row d"], *, again: bool,
) -> Float[Tensor, "row d"]:  # fmt: skip
    """The gradient of −ln p(target) by the states, which at the logits begins as p − 1 at the target."""
    one = torch.ones_like(targets, dtype=p.dtype)
    towards = p.scatter_add(-1, targets, -one).to(logits.dtype)
    (found,) = torch.autograd.grad(logits, states, towards, retain_graph=again)
    return found.float()


def split(prompts: Sequence[TokenPrompt], seed: int) -> frozenset[int]:
    """Indices of the fifth of the prompts, at least one, that is held out to choose by."""
    order = np.random.default_rng(seed).permutation(len(prompts))
    return frozenset(prompts[int(i)].index for i in order[: max(1, round(len(prompts) / 5))])
