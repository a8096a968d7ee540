"""One step for a block of rows, with what is changed at that execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from depthsig.checkpoint.anatomy.adapter import Layer, Sublayer
from depthsig.checkpoint.hooks import as_residual, first_tensor, hooked, share_memory, with_first
from depthsig.engine.program import Change

Changes = Sequence[tuple[Change, ...]]
"""For every program of a block, what is changed."""


def _nowhere(change: Change) -> Bool[Tensor, "prompt token"]:
    raise AssertionError("changes were given without what says where they act")


HALF = (torch.bfloat16, torch.float16)


@dataclass
class RowBlock:
    """What a step is given: rows of residual states, and which prompt each belongs to.

    Attributes:
        hidden: [row, token, d].
        prompts: for every row, its prompt in the batch.
        changes: for every program what is changed; empty where nothing is.
        mask_of: where a change acts.
    """

    hidden: Float[Tensor, "row token d"]
    prompts: Int[Tensor, "row"]
    changes: Changes = ()
    mask_of: Callable[[Change], Bool[Tensor, "prompt token"]] = _nowhere


Call = Callable[[Tensor, Int[Tensor, "row"]], Tensor]


def run_step(
    layer: Layer, call: Call, block: RowBlock, *, want_update: bool = False
) -> tuple[Float[Tensor, "row token d"], Float[Tensor, "row token d"] | None]:
    """The block after one step, and its update Δ in float32 where it is wanted.

    In half precision Δ is a + m before it is added, where the parts are known: the residual
    stream's rounding is a tenth of it.
    """
    hidden = _changed(block, "input", block.hidden)
    kept: dict[str, Tensor] = {}
    post: list[tuple[nn.Module, Any]] = []
    for kind, sub in (("attn", layer.attn), ("mlp", layer.mlp)):
        if sub is None:
            continue
        change = _values(block, kind, hidden)
        keep = want_update and hidden.dtype in HALF and layer.has_parts
        if change is not None or keep or _turns(block, kind):
            post.append((sub.module, _part_hook(sub, block, change, kept if keep else None, kind)))
    with hooked(post=post):
        out = call(hidden, block.prompts)
    if share_memory(out, hidden):
        out = out.clone()
    update: Tensor | None = None
    if want_update and len(kept) == 2:
        update = kept["attn"].float() + kept["mlp"].float()
    skipped = _values(block, "layer", hidden)
    if skipped is not None:
        out = _replaced(out, *skipped, base=hidden)
        update = None
    if _turns(block, "layer"):
        out = _turned(block, "layer", out, out.float() - hidden.float() if update is None else update)
        update = None
    out = _changed(block, "output", out)
    if want_update and update is None:
        update = out.float() - hidden.float()
    return out, update


def _changed(block: RowBlock, where: str, state: Float[Tensor, "row token d"]) -> Float[Tensor, "row token d"]:
    found = _values(block, where, state)
    return state if found is None else _replaced(state, *found)


def _replaced(
    state: Float[Tensor, "row token d"], mask: Bool[Tensor, "program prompt token"],
    value: Float[Tensor, "#program #prompt #token #d"], base: Float[Tensor, "row token d"] | None = None,
) -> Float[Tensor, "row token d"]:  # fmt: skip
    """The state with values (on top of ``base``) in the place of what the mask covers."""
    each = mask.shape[:2]
    value = value if base is None else base.unflatten(0, each) + value
    return torch.where(mask[..., None], value, state.unflatten(0, each)).flatten(0, 1)


def _values(
    block: RowBlock, where: str, like: Float[Tensor, "row token d"]
) -> tuple[Bool[Tensor, "program prompt token"], Float[Tensor, "#program #prompt #token #d"]] | None:
    """Mask and values of all programs' changes at a place; None where no program has any."""
    wanted = [[c for c in changes if c.where == where and c.directions is None] for changes in block.changes]
    if not any(wanted):
        return None
    prompts, tokens = len(like) // len(wanted), like.shape[1]
    nowhere = like.new_zeros(prompts, tokens, dtype=torch.bool)
    nothing = like.new_zeros(1, 1, 1)
    masks, values = [], []
    for changes in wanted:
        mask, value = nowhere, nothing
        for change in changes:
            at = block.mask_of(change)
            mask = at if mask is nowhere else mask | at
            if change.value is not None:
                own = value_of(change, like)
                value = own if value is nothing and len(changes) == 1 else torch.where(at[..., None], own, value)
        masks.append(mask)
        values.append(value)
    if all(value is nothing for value in values):
        return torch.stack(masks), nothing[None]
    shape = torch.broadcast_shapes(*(value.shape for value in values))
    return torch.stack(masks), torch.stack([value.expand(shape) for value in values])


def _turns(block: RowBlock, where: str) -> list[tuple[int, Change]]:
    """The programs of which a part is to be turned at a place, with the change."""
    return [
        (place, change)
        for place, changes in enumerate(block.changes)
        for change in changes
        if change.where == where and change.directions is not None
    ]


def _turned(
    block: RowBlock, where: str, state: Float[Tensor, "row token d"], part: Float[Tensor, "row token d"]
) -> Float[Tensor, "row token d"]:
    """The state, of which ``part`` is a part, with the changes that turn it, program by program."""
    each, state = len(state) // len(block.changes), state.clone()
    for place, change in _turns(block, where):
        rows = slice(place * each, (place + 1) * each)
        state[rows] = turned(change, block.mask_of(change), state[rows], part[rows])
    return state


def turned(
    change: Change, mask: Bool[Tensor, "prompt token"], state: Float[Tensor, "prompt token d"],
    part: Float[Tensor, "prompt token d"],
) -> Float[Tensor, "prompt token d"]:  # fmt: skip
    """``state`` minus ‖part‖·g where the change acts, g its directions: as far away as without the part."""
    assert change.directions is not None
    moved = state.float() - part.float().norm(dim=-1, keepdim=True) * change.directions().to(state.device)
    return torch.where(mask[..., None], moved.to(state.dtype), state)


def value_of(change: Change, like: Float[Tensor, "*row token d"]) -> Float[Tensor, "#prompt #token d"]:
    """A change's value, in the dtype of the stream."""
    value = change.value
    assert value is not None
    if value.ndim > 1 and value.shape[-2] < like.shape[-2]:
        # Given for a prompt's own tokens; the batch is padded behind them.
        value = nn.functional.pad(value, (0, 0, 0, like.shape[-2] - value.shape[-2]))
    value = value.to(like)
    return value[(None,) * (3 - value.ndim)]


def _part_hook(
    sub: Sublayer, block: RowBlock, change: tuple[Tensor, Tensor] | None, kept: dict[str, Tensor] | None, kind: str
) -> Any:
    """Replace or turn a sublayer's contribution where the mask says so, and keep it as it is added."""
    turns = bool(_turns(block, kind))

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            return None
        shaped = as_residual(tensor, block.hidden)
        if change is not None:
            mask, value = change
            shaped = _replaced(shaped, mask, value if sub.scale == 1.0 else value / sub.scale)
        if turns:
            added = shaped * sub.scale
            shaped = _turned(block, kind, added, added) / sub.scale
        if kept is not None:
            kept[kind] = shaped.clone() if sub.scale == 1.0 else shaped * sub.scale
        return None if change is None and not turns else with_first(output, shaped.reshape(tensor.shape))

    return hook
