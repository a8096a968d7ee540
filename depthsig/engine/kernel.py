"""One step for a block of rows, with what is changed at that execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from depthsig.checkpoint.anatomy.adapter import Layer, Sublayer
from depthsig.checkpoint.hooks import as_residual, first_tensor, hooked, with_first
from depthsig.engine.program import Change

Changes = Sequence[tuple[Change, ...]]
"""For every row of a block, what is changed."""

HALF = (torch.bfloat16, torch.float16)


@dataclass
class RowBlock:
    """What a step is given: rows of residual states, and which prompt each belongs to.

    Attributes:
        hidden: [row, token, d].
        prompts: for every row, its prompt in the batch.
        changes: for every row what is changed; empty where nothing is.
    """

    hidden: Float[Tensor, "row token d"]
    prompts: Int[Tensor, "row"]
    changes: Changes = ()


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
        if change is not None or keep:
            post.append((sub.module, _part_hook(sub, hidden, change, kept if keep else None, kind)))
    with hooked(post=post):
        out = call(hidden, block.prompts)
    if out.data_ptr() == hidden.data_ptr():
        out = out.clone()
    update: Tensor | None = None
    if want_update and len(kept) == 2:
        update = kept["attn"].float() + kept["mlp"].float()
    skipped = _values(block, "layer", hidden)
    if skipped is not None:
        mask, value = skipped
        out = torch.where(mask[..., None], hidden + value, out)
        update = None
    out = _changed(block, "output", out)
    if want_update and update is None:
        update = out.float() - hidden.float()
    return out, update


def _changed(block: RowBlock, where: str, state: Tensor) -> Tensor:
    found = _values(block, where, state)
    return state if found is None else torch.where(found[0][..., None], found[1], state)


def _values(block: RowBlock, where: str, like: Tensor) -> tuple[Bool[Tensor, "row token"], Tensor] | None:
    """Mask and values of all rows' changes at a place; None where no row has any."""
    if not any(change.where == where for row in block.changes for change in row):
        return None
    rows, tokens = like.shape[:2]
    mask = torch.zeros(rows, tokens, dtype=torch.bool, device=like.device)
    values: Tensor | None = None
    for i, row in enumerate(block.changes):
        for change in row:
            if change.where != where:
                continue
            prompt = int(block.prompts[i])
            at = change_mask(change, prompt, tokens, like.device)
            mask[i] |= at
            if change.value is not None:
                if values is None:
                    values = torch.zeros_like(like)
                values[i] = torch.where(at[:, None], value_of(change, prompt, like), values[i])
    return mask, like.new_zeros(()) if values is None else values


def change_mask(change: Change, prompt: int, tokens: int, device: Any) -> Bool[Tensor, "token"]:
    """Where a change acts on a prompt; never at position 0."""
    if change.mask is not None:
        return change.mask[prompt].to(device)
    mask = torch.zeros(tokens, dtype=torch.bool, device=device)
    if change.positions is None:
        mask[1:] = True
    else:
        mask[[p for p in change.positions if p < tokens]] = True
    return mask


def value_of(change: Change, prompt: int, like: Tensor) -> Tensor:
    """A change's value for one prompt, in the dtype of the stream."""
    value = change.value
    assert value is not None
    value = value[prompt] if value.ndim == 3 else value
    if value.ndim == 2 and value.shape[0] < like.shape[1]:
        # Given for a prompt's own tokens; the batch is padded behind them.
        value = nn.functional.pad(value, (0, 0, 0, like.shape[1] - value.shape[0]))
    return value.to(like)


def _part_hook(
    sub: Sublayer, hidden: Tensor, change: tuple[Tensor, Tensor] | None, kept: dict[str, Tensor] | None, kind: str
) -> Any:
    """Replace a sublayer's contribution where the mask says so, and keep it as it is added."""

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            return None
        shaped = as_residual(tensor, hidden)
        if change is not None:
            mask, value = change
            shaped = torch.where(mask[..., None], value / sub.scale, shaped)
        if kept is not None:
            kept[kind] = shaped.clone() if sub.scale == 1.0 else shaped * sub.scale
        return None if change is None else with_first(output, shaped.reshape(tensor.shape))

    return hook
