"""Orders, spans and the plans made of them."""

from __future__ import annotations

import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, looped_model
from hypothesis import given
from hypothesis import strategies as st

import depthsig
from depthsig.errors import InputError
from depthsig.plan import Span, build_plan, parse_order, parse_span


@pytest.mark.parametrize(
    ("text", "layers", "wanted"),
    [
        ("0:4,4:8x4,8:12", 12, [*range(4), *list(range(4, 8)) * 4, *range(8, 12)]),
        ("Loop(4-4x4-4)", 12, [*range(4), *list(range(4, 8)) * 4, *range(8, 12)]),
        ("loop( 0 - 2x3 - 1 )", 3, [0, 1, 0, 1, 0, 1, 2]),
        ("5", 6, [5]),
        ("3x2,0:2", 4, [3, 3, 0, 1]),
        ("0:2x1", 2, [0, 1]),
    ],
)
def test_orders(text: str, layers: int, wanted: list[int]) -> None:
    assert list(parse_order(text, layers)) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "4:2", "0:13", "0:4,,4", "a:b", "0:4x0", "0:4x1000000000", "Loop(4-4x4-5)", "0:99999999999999", "-1:3", "2:2"],
)
def test_bad_orders_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_order(text, 12)
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 20


def test_spans() -> None:
    assert parse_span("4:20/4", 24, option="--grown", grown=True) == Span(4, 20, 4)
    assert parse_span("4:8", 24, option="--loop") == Span(4, 8)
    for text, grown in [("4:21/4", True), ("4:28/4", True), ("4:4", False), ("x", False), ("4:20/0", True)]:
        with pytest.raises(InputError):
            parse_span(text, 24, option="--grown", grown=grown)


def test_loops_are_found_in_an_executed_sequence() -> None:
    plan = build_plan([0, 1, 2, 1, 2, 1, 2, 3], 4)
    assert [(s.start, s.end, s.size, s.count) for s in plan.spans] == [(1, 7, 2, 3)]
    assert [s.iteration for s in plan] == [0, 0, 0, 1, 1, 2, 2, 0]
    assert [s.block for s in plan] == [None, 0, 0, 1, 1, 2, 2, None]
    assert all("outer" not in record for record in plan.records())


def test_nested_loops_name_the_innermost_and_count_the_outer() -> None:
    plan = build_plan([0, 1, 0, 1, 0, 1, 2, 3] * 2, 4)
    assert [s.outer for s in plan] == [0] * 8 + [1] * 8
    assert [s.block for s in plan][:6] == [0, 0, 1, 1, 2, 2]
    assert plan[6].phase == 6 and plan[6].span == "0:16"


def test_layers_repeated_one_by_one() -> None:
    assert [(s.start, s.size, s.count) for s in build_plan([0, 0, 1, 1], 2).spans] == [(0, 1, 2), (2, 1, 2)]


@given(st.integers(0, 4), st.integers(1, 5), st.integers(2, 5), st.integers(0, 4))
def test_any_loop_is_found_again(before: int, size: int, count: int, after: int) -> None:
    n = before + size + after
    layers = parse_order(f"Loop({before}-{size}x{count}-{after})", n)
    (span,) = build_plan(layers, n).spans
    assert (span.start, span.size, span.count) == (before, size, count)


def test_labels_are_held_against_the_trace() -> None:
    model = depthsig.load(build("llama"), byte_tokenizer())
    grown = model.relabelled(grown="0:4/2").plan
    assert [s.block for s in grown] == [0, 0, 1, 1] and [s.phase for s in grown] == [0, 1, 0, 1]
    once = model.relabelled(loop="1:3").plan
    assert once.notes and "declared, not executed" in str(once)
    looped = depthsig.load(looped_model(), byte_tokenizer())
    assert looped.relabelled(loop="1:3").plan.layers == looped.plan.layers
    with pytest.raises(InputError, match="contradicts"):
        looped.relabelled(loop="0:2")
    with pytest.raises(InputError, match="contradicts"):
        looped.relabelled(grown="0:4/2")


def test_order_equals_an_expanded_copy_made_by_peft() -> None:
    """PEFT's layer_replication is the independent oracle of ``--order``."""
    from peft import LoraConfig, get_peft_model

    tokenizer, ids = byte_tokenizer(), None
    for family in ("llama", "mistral"):
        model = depthsig.load(build(family), tokenizer, order="0:3,1:4")
        assert model.plan.layers == (0, 1, 2, 1, 2, 3)
        config = LoraConfig(
            layer_replication=[[0, 3], [1, 4]], target_modules=["q_proj"], init_lora_weights=True, task_type="CAUSAL_LM"
        )
        expanded = get_peft_model(build(family), config).eval()
        for text in PROMPTS:
            ids = torch.tensor([tokenizer(text).input_ids])
            with torch.no_grad():
                wanted = expanded(ids, use_cache=False).logits
            found = model.read(model.clean(ids).outputs[-1])
            assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "falcon_alibi", "bloom", "mpt", "mamba2", "mixtral", "opt"])
def test_native_order_given_as_an_order_changes_nothing(family: str) -> None:
    module = build(family)
    plain, ordered = depthsig.load(module, byte_tokenizer()), depthsig.load(module, byte_tokenizer(), order="0:2,2:4")
    ids = torch.arange(3, 43).reshape(2, 20)
    assert torch.equal(plain.clean(ids).outputs[-1], ordered.clean(ids).outputs[-1])
    native = plain.logits(ids)
    assert (plain.read(plain.executed(ids).outputs[-1]) - native).abs().max() <= 1e-5 * native.abs().max()


def test_attention_type_travels_with_its_layer() -> None:
    """Gemma 3 alternates sliding and full attention: swapping layers must swap masks with them."""
    module = build("gemma3")
    model = depthsig.load(module, byte_tokenizer(), order="1,0,2,3")
    ids = torch.arange(5, 25).reshape(1, 20)
    found = model.read(model.clean(ids).outputs[-1])
    layers = module.model.layers
    types = list(module.config.layer_types)
    layers[0], layers[1] = layers[1], layers[0]
    module.config.layer_types[0], module.config.layer_types[1] = types[1], types[0]
    with torch.no_grad():
        wanted = module(ids, use_cache=False).logits
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
