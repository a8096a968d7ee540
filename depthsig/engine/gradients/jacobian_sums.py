"""The sums that a Jacobian lens is the mean of: Σ over positions and prompts of ∂h_S,t'/∂h_d,t.

For one prompt J_d is (1/|V|) Σ_{t∈V} Σ_{t'∈V, t'≥t} ∂h_S,t'/∂h_d,t, V the positions after a leading skip and
without the last. The prompt stands in several rows of one forward; each backward gives as many rows of all
J_d at once: row i has the cotangent 1 in one dimension, at every position of V. That later positions see
earlier ones alone makes the sum over t' ≥ t of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from depthsig.checkpoint.finite import is_finite, not_finite
from depthsig.engine.gradients.differentiable import Differentiable, differentiable_run
from depthsig.engine.memory import sizes
from depthsig.engine.network import Network
from depthsig.engine.room.halving import no_room
from depthsig.errors import CertificateError, InputError, UnsupportedModelError
from depthsig.plan.plan import Plan

Targets = Mapping[int, Sequence[int]]
"""By the step whose output is differentiated, the depths that it is differentiated by."""


def targets_of(plan: Plan, target: str) -> dict[int, list[int]]:
    """Which step's output every depth is carried on to.

    Args:
        target: ``end``: what leaves the last step. ``pass``: what leaves the last step of the pass that the
            depth's step belongs to; of steps outside a loop still the last step of all.

    Raises:
        InputError: for ``pass`` without a loop that runs, or another word.
    """
    last = len(plan) - 1
    goal = [last] * len(plan)
    if target == "pass":
        loops = [span for span in plan.spans if span.kind == "loop" and span.executed and span.count > 1]
        if not loops:
            raise InputError(f"--target pass needs a loop that runs, and this plan has none ({plan}); end works")
        for span in loops:
            for step in range(span.start, span.end):
                goal[step] = step + span.size - 1 - (step - span.start) % span.size
    elif target != "end":
        raise InputError(f"--target {target!r} is not known; end and pass are")
    found: dict[int, list[int]] = {}
    for depth, step in enumerate(goal):
        found.setdefault(step, []).append(depth)
    return found


def within(targets: Targets, depths: range) -> dict[int, list[int]]:
    """The part of :func:`targets_of` that is about some depths."""
    some = {step: [d for d in mine if d in depths] for step, mine in targets.items()}
    return {step: mine for step, mine in some.items() if mine}


@dataclass
class JacobianSums:
    """Sums of the Jacobians of some depths over prompts, in float32 beside the model.

    Attributes:
        network: the model. targets: of all its depths.
        depths: those that are summed here. skip: leading positions left out.
        sums: by depth, width out by width in. prompts: how many went in.
    """

    network: Network = field(repr=False)
    targets: Targets
    depths: range
    skip: int
    sums: Float[Tensor, "depth d d"] = field(init=False, repr=False)
    prompts: int = 0

    def __post_init__(self) -> None:
        """Begin at nothing."""
        width = self.network.trace.width
        self.sums = torch.zeros(len(self.depths), width, width)

    def add(self, ids: Sequence[int], rows: int, tick: Callable[[float], None] = lambda amount: None) -> None:
        """Add one prompt, whole; where this raises, the sums are of no use any more.

        Args:
            rows: dimensions of one backward pass.
            tick: told of the share of the prompt that is done.

        Raises:
            CertificateError: where a gradient is no number. UnsupportedModelError: for a model that is not causal.
            NoRoomError: where a card's memory does not hold it.
        """
        try:
            self._add(ids, rows, tick)
        except torch.cuda.OutOfMemoryError:
            raise no_room("a prompt with all that is kept for its gradients", self.network.dtype) from None
        self.prompts += 1
        if not is_finite(self.sums):
            raise CertificateError(not_finite("the Jacobian of a prompt", self.network.dtype))

    def _add(self, ids: Sequence[int], rows: int, tick: Callable[[float], None]) -> None:
        width, some = self.network.trace.width, within(self.targets, self.depths)
        prompt = torch.tensor([list(ids)], device=self.network.device)
        with differentiable_run(self.network, prompt.expand(rows, -1), list(some), self.depths.start) as run:
            for start in range(0, width, rows):
                dims = range(start, min(start + rows, width))
                for step, depths in some.items():
                    self._add_rows(run, step, depths, dims)
                tick(len(dims) / width)

    def _add_rows(self, run: Differentiable, step: int, depths: Sequence[int], dims: range) -> None:
        """Some rows of the Jacobians of one target's depths."""
        out = run.outputs[step]
        valid = slice(self.skip, out.shape[1] - 1)
        towards = torch.zeros_like(out)
        for row, dim in enumerate(dims):
            towards[row, valid, dim] = 1.0
        for depth, gradient in zip(depths, run.gradients(step, depths, towards), strict=True):
            if gradient is not None:
                if bool(gradient[:, -1].any()):
                    raise UnsupportedModelError(
                        "a Jacobian lens sums over later positions, and in this model an earlier position sees the "
                        "last one; only causal models have one"
                    )
                mean = gradient[: len(dims), valid].float().mean(1)
                self.sums[depth - self.depths.start, dims.start : dims.stop] += mean.cpu()


@dataclass(frozen=True)
class Room:
    """How many dimensions a backward pass takes along.

    Attributes:
        token_bytes: what a forward keeps and a backward makes of one token of one row, counted.
        memory: bytes for all of it.
    """

    token_bytes: int
    memory: int
    width: int
    device: torch.device

    @classmethod
    def of(cls, network: Network, longest: Sequence[int], targets: Targets, depths: range, memory: int) -> Room:
        """Counted on a forward of the longest prompt."""
        width = network.trace.width
        states = (len(depths) + 8) * width * network.dtype.itemsize
        kept = _kept_bytes(network, longest, list(within(targets, depths)), depths.start)
        return cls(states + -(-kept // len(longest)), memory, width, network.device)

    def rows(self, tokens: int) -> int:
        """For a prompt of so many tokens; one at least, whatever it takes."""
        fits = self.memory // (self.token_bytes * tokens)
        suited = 2 * sizes(self.device).step_tokens // tokens
        passes = -(-self.width // max(1, min(fits, suited, self.width)))
        return -(-self.width // passes)  # passes of one size


def _kept_bytes(network: Network, ids: Sequence[int], outputs: Sequence[int], first: int) -> int:
    """Bytes that one row's forward keeps for the way back, counted."""
    own = {p.untyped_storage().data_ptr() for p in network.module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    prompt = torch.tensor([list(ids)], device=network.device)
    with saved_tensors_hooks(pack, lambda tensor: tensor), differentiable_run(network, prompt, outputs, first):
        return sum(kept.values())
