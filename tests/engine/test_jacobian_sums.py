"""Jacobians of a lens and directions of tokens, against plain hooks and brute force, and against known answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from families import GPT2, build
from looped_cases import CASES
from plain_jacobians import PlainRun
from torch import Tensor, nn

import depthsig
from depthsig.engine.gradients.jacobian_sums import JacobianSums, Room, targets_of
from depthsig.errors import InputError, UnsupportedModelError
from depthsig.model import Model

IDS = [5, 17, 3, 99, 42, 8]
SKIP = 2
NO_CHAIN = {"hrm_text"}
"""Computes all but its last cycles without gradients."""


def summed(model: Model, target: str = "end", rows: int = 5) -> Tensor:
    """J of every depth, of one prompt."""
    sums = JacobianSums(model, targets_of(model.plan, target), range(len(model.plan)), SKIP)
    sums.add(IDS, rows)
    return sums.sums


def check(found: Tensor, plain: PlainRun, goal: Callable[[int], int], depths: list[int]) -> None:
    for depth in depths:
        wanted = plain.jacobian(torch.tensor([IDS]), goal(depth), depth, SKIP)
        assert float((found[depth] - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max()), depth


def falcon() -> nn.Module:
    """Adds to the stream in place."""
    torch.manual_seed(0)
    config = hf.FalconConfig(
        vocab_size=272, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, new_decoder_architecture=False,
        multi_query=True, parallel_attn=False, alibi=False, initializer_range=0.2,
    )  # fmt: skip
    return hf.FalconForCausalLM(config).eval()


def layers_of(module: nn.Module) -> Any:
    return module.transformer.h if hasattr(module, "transformer") else module.model.layers


@pytest.mark.parametrize("family", ["gpt2", "llama", "falcon"])
def test_every_depth_is_what_brute_force_gives(family: str) -> None:
    module = falcon() if family == "falcon" else build(family)
    layers = layers_of(module)
    plain = PlainRun(layers, lambda ids: module(ids, use_cache=False))
    model = depthsig.load(module)
    check(summed(model), plain, lambda _: 3, [0, 1, 3])


@pytest.mark.parametrize("name", sorted(set(CASES) - NO_CHAIN))
def test_every_pass_of_a_loop_has_its_own(name: str) -> None:
    case = CASES[name]
    module = case.build()
    plain = PlainRun(case.layers(module), lambda ids: case.call(module, ids))
    model = depthsig.load(module)
    last = len(model.plan) - 1
    check(summed(model), plain, lambda _: last, [0, last // 2])
    if case.passed and len(set(case.order)) < len(case.order):
        span = next(s for s in model.plan.spans if s.kind == "loop")

        def end(depth: int) -> int:
            inside = span.start <= depth < span.end
            return depth + span.size - 1 - (depth - span.start) % span.size if inside else last

        check(summed(model, "pass"), plain, end, [0, span.start + span.size])


def test_another_order_of_layers() -> None:
    module = build("llama")
    model = depthsig.load(module, order="0:2,1:3x2,3:4")
    layers = [module.model.layers[i] for i in model.plan.layers]
    # The same layers as modules of their own, run by a plain loop.
    longer = hf.LlamaForCausalLM(
        hf.LlamaConfig.from_dict({**module.config.to_dict(), "num_hidden_layers": len(layers)})
    )
    longer.load_state_dict(module.state_dict(), strict=False)
    for own, layer in zip(longer.model.layers, layers, strict=True):
        own.load_state_dict(layer.state_dict())
    plain = PlainRun(longer.eval().model.layers, lambda ids: longer(ids, use_cache=False))
    check(summed(model), plain, lambda _: len(layers) - 1, [0, 2])


def test_a_linear_chain_is_the_product_of_its_maps() -> None:
    torch.manual_seed(3)
    module = hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, activation_function="linear")).eval()
    product, wanted = torch.eye(32), []
    with torch.no_grad():
        for layer in reversed(module.transformer.h):
            layer.attn.c_proj.weight.zero_()
            layer.ln_2 = nn.Identity()
            layer.mlp.c_fc.weight.mul_(6.0)
            product = product @ (torch.eye(32) + (layer.mlp.c_fc.weight @ layer.mlp.c_proj.weight).T)
            wanted.insert(0, product)
    found = summed(depthsig.load(module))
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-5)


def test_depths_in_turns_and_any_number_of_rows_give_the_same() -> None:
    model = depthsig.load(CASES["ouro"].build())
    whole = summed(model, rows=32)
    targets = targets_of(model.plan, "end")
    for depths in (range(4), range(4, 12)):
        part = JacobianSums(model, targets, depths, SKIP)
        part.add(IDS, 7)
        torch.testing.assert_close(part.sums, whole[depths.start : depths.stop], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_and_the_model_is_left_as_it_was() -> None:
    module = build("llama").to(torch.bfloat16)
    module.model.layers[0].requires_grad_(False)
    asked = [p.requires_grad for p in module.parameters()]
    found = summed(depthsig.load(module))
    wanted = summed(depthsig.load(build("llama")))
    assert found.dtype == torch.float32 and float((found - wanted).norm() / wanted.norm()) < 0.05
    assert [p.requires_grad for p in module.parameters()] == asked and all(p.grad is None for p in module.parameters())


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="without them"):
        summed(depthsig.load(CASES["hrm_text"].build()))
    model = depthsig.load(build("gpt2"))
    with pytest.raises(InputError, match="needs a loop that runs"):
        targets_of(model.plan, "pass")


def test_rows_follow_the_memory() -> None:
    model = depthsig.load(build("gpt2"))
    targets, depths = targets_of(model.plan, "end"), range(len(model.plan))
    room = Room.of(model, IDS, targets, depths, 1 << 30)
    assert room.rows(8) == 32  # the width
    small = Room.of(model, IDS, targets, depths, 3 * room.token_bytes * 8)
    assert small.rows(8) == 3 and small.rows(2) == 11 and small.rows(800) == 1  # passes of one size
    shorter = Room.of(model, IDS, targets, range(3, 4), 1 << 30)
    assert shorter.token_bytes < room.token_bytes / 2


@pytest.mark.parametrize("name", ["gpt2", "ouro", "huginn"])
def test_directions_of_tokens_are_gradients_of_their_logits(name: str) -> None:
    module = build(name) if name == "gpt2" else CASES[name].build()
    layers = layers_of(module) if name == "gpt2" else CASES[name].layers(module)
    call = (lambda ids: module(ids, use_cache=False)) if name == "gpt2" else lambda ids: CASES[name].call(module, ids)
    model, plain, ids = depthsig.load(module), PlainRun(layers, call), torch.tensor([IDS])
    found = model.token_directions(IDS, [7, 200], position=4)
    steps = len(model.plan)
    assert found.directions.shape == (2, steps, len(IDS), model.trace.width) and found.position == 4
    states = plain.states(ids)
    for depth in (0, steps // 2, steps - 1):
        own = states[depth].detach()

        def logits(h: Tensor, depth: int = depth) -> Tensor:
            out = plain.output(ids, steps - 1, depth, h.clone())
            read = CASES[name].read(module, out) if name in CASES else module.lm_head(module.transformer.ln_f(out))
            return read[0, 4, [7, 200]]

        wanted = torch.autograd.functional.jacobian(logits, own)[:, 0]
        torch.testing.assert_close(found.directions[:, depth], wanted, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.scores[:, depth], (wanted * own[0]).sum(-1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.logits, logits(own), rtol=1e-4, atol=1e-5)
    assert not found.directions[:, :, 5:].any()


def test_directions_of_one_token_and_bad_ones() -> None:
    model = depthsig.load(build("llama"))
    alone = model.token_directions([9], [1])
    assert alone.directions.shape == (1, 4, 1, 32) and bool(alone.directions.any())
    for asked, word in (
        ({"tokens": []}, "empty"), ({"tokens": [10**6]}, "vocabulary"), ({"tokens": [1], "position": 6}, "6 tokens"),
        ({"tokens": "a"}, "token ids"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            model.token_directions(IDS, **asked)
