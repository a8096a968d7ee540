"""What other tools would say of a planted model, by the plainest reading of what they show.

TransformerLens (``accumulated_resid`` with ``apply_ln``, and ``logit_attrs``) and tuned-lens'
``LogitLens`` show numbers, no verdicts. The rules here make verdicts of them, as somebody would who reads a plot:

- *settling*: the first depth from which the lens's top token is the final one and stays it, in the mean over positions,
  is beyond half of the layers.
- *late*: of the absolute direct attributions of layers to the final top token's logit, the last third has more than a
  third.

They are yes or no: without intervals nothing is open.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

TRANSFORMER_LENS, TUNED_LENS = "TransformerLens", "tuned-lens"
SPEAK = {TRANSFORMER_LENS: ("settling", "late"), TUNED_LENS: ("settling",)}
"""The verdicts that each tool's numbers can be read for; none shows periods, blocks, loops or certificates."""


def peer_verdicts(model: Any, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[str, str, bool]]:
    """Tool, verdict, and whether it would be said to hold, of each tool that is installed."""
    layers = model.config.num_hidden_layers
    if importlib.util.find_spec("transformer_lens"):
        settled, shares = zip(*_transformer_lens(model, prompts), strict=True)
        yield TRANSFORMER_LENS, "settling", float(torch.cat(settled).mean()) > layers / 2
        yield TRANSFORMER_LENS, "late", float(torch.stack(shares).mean()) > 1 / 3
    if importlib.util.find_spec("tuned_lens"):
        settled = tuple(_tuned_lens(model, prompts))
        yield TUNED_LENS, "settling", float(torch.cat(settled).mean()) > layers / 2


@torch.no_grad()
def _transformer_lens(model: Any, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each prompt, settling depths of positions and the late share of direct attributions."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    bridge: Any = build_bridge_from_module(copy.deepcopy(model), type(model).__name__, hf_config=model.config)
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        logits, cache = bridge.run_with_cache(ids)
        final = logits[0].argmax(-1)
        stack = cache.accumulated_resid(layer=-1, incl_mid=False, apply_ln=True)[:, 0]
        tops = (stack @ model.lm_head.weight.T).argmax(-1)
        layers = model.config.num_hidden_layers
        added = torch.stack([
            cache[f"blocks.{i}.hook_resid_post"] - cache[f"blocks.{i}.hook_resid_pre"] for i in range(layers)
        ])  # fmt: skip
        attributed = cache.logit_attrs(added, final[None])[:, 0, 1:].abs().sum(-1)
        yield _settled(tops[:, 1:], final[1:]), attributed[-(layers // 3) :].sum() / attributed.sum()


@torch.no_grad()
def _tuned_lens(model: Any, prompts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    from tuned_lens import model_surgery
    from tuned_lens.nn.lenses import LogitLens

    # It asks for a class that TransformerLens 4 no longer has, wherever some TransformerLens is installed.
    model_surgery._transformer_lens_available = False
    lens = LogitLens.from_model(model)
    for prompt in prompts:
        out = model(torch.tensor([list(prompt)]), output_hidden_states=True)
        tops = [lens(h, i)[0].argmax(-1) for i, h in enumerate(out.hidden_states[:-1])]
        final = out.logits[0].argmax(-1)
        yield _settled(torch.stack([*tops, final])[:, 1:], final[1:])


def _settled(tops: Tensor, final: Tensor) -> Tensor:
    """From which depth on the top token stays the final one."""
    agrees = (tops == final).flip(0).cummin(0).values
    return (len(tops) - agrees.sum(0)).float()
