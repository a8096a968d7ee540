"""Directions of single tokens, without a lens: how a state would have to move for a token's logit to grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from depthsig.engine.gradients.differentiable import differentiable_run
from depthsig.engine.network import Network
from depthsig.engine.room.halving import no_room
from depthsig.errors import InputError, shown
from depthsig.prompts import TokenPrompt


@dataclass(frozen=True)
class TokenDirections:
    """Gradients of some tokens' logits at one position of one prompt, by the states of every depth.

    Attributes:
        directions: ∂logit(token)/∂h_d,t, logits a unit of the state; d = 0..S−1, the state that enters step d. Zero
            at positions after the one that is read.
        scores: ⟨∂logit(token)/∂h_d,t, h_d,t⟩ in logits: what the state's own direction and size contribute, to
            first order.
        logits: of the tokens. position: that was read.
    """

    directions: Float[Tensor, "token depth position d"] = field(repr=False)
    scores: Float[Tensor, "token depth position"] = field(repr=False)
    logits: Float[Tensor, "token"]
    position: int


def token_directions(network: Network, prompt: TokenPrompt, tokens: Sequence[int], position: int) -> TokenDirections:
    """Of one prompt, by one forward and one backward with a row a token.

    Raises:
        InputError: without tokens, and for a position that the prompt does not have.
        UnsupportedModelError: where gradients cannot be followed. NoRoomError: where they do not fit.
    """
    length, last = prompt.n_tokens, len(network.plan) - 1
    if not -length <= position < length:
        raise InputError(f"position is {shown(position)}; the prompt has {length} tokens: {-length} to {length - 1}")
    if not tokens:
        raise InputError("tokens is empty; name the ids of one token at least")
    ids = torch.tensor([list(prompt.ids)], device=network.device)
    try:
        with differentiable_run(network, ids.expand(len(tokens), -1), [last]) as run:
            read = network.readout(run.outputs[last][:, [position]])[:, 0].float()
            logits = read.gather(-1, torch.tensor(list(tokens), device=read.device)[:, None])[:, 0]
            edges = [run.states[depth] for depth in range(last + 1)]
            found = torch.autograd.grad(logits.sum(), edges, allow_unused=True)
            logits = logits.detach()
    except torch.cuda.OutOfMemoryError:
        raise no_room(f"the gradients of {len(tokens)} tokens", network.dtype) from None
    states = network.clean(ids).inputs
    rows = [
        torch.zeros_like(h).expand(len(tokens), -1, -1) if g is None else g for g, h in zip(found, states, strict=True)
    ]
    directions = torch.stack([row.float().to(network.device) for row in rows], 1)
    hidden = torch.stack([h[0].float().to(network.device) for h in states])
    return TokenDirections(directions, (directions * hidden).sum(-1), logits, position % length)
