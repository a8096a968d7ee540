"""Models that keep more than a residual stream: measured exactly where that can be done, else refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import transformers as hf
from families import PROMPTS, VOCAB, build, byte_tokenizer, disturb
from torch import nn

import depthsig
from depthsig.engine.certificates import Certificate, across_shapes, certify, judge
from depthsig.engine.edits import Edit, Skip, Stop, Swap
from depthsig.errors import CertificateError, InputError, UnsupportedModelError

TOKENIZER = byte_tokenizer()
IDS = [TOKENIZER(text).input_ids for text in PROMPTS]


def _verdicts(model: depthsig.Model) -> dict[str, bool]:
    return {c.name: c.passed for c in certify(model, IDS)}


def _leaving(module: nn.Module) -> dict[str, torch.Tensor]:
    """Layer 1 leaves its MLP's output in a dictionary, from which the last layer adds it to its own."""
    left: dict[str, torch.Tensor] = {}
    layers = module.model.layers
    source, reader = layers[1].mlp.forward, layers[3].mlp.forward

    def leave(x: torch.Tensor) -> torch.Tensor:
        left["mlp"] = source(x)
        return left["mlp"]

    layers[1].mlp.forward, layers[3].mlp.forward = leave, lambda x: reader(x) + left["mlp"]
    return left


def _plainly(module: nn.Module, ids: list[int], step: int) -> torch.Tensor:
    """Logits of one forward with a layer's update left out at every position but the first."""

    def skip(m: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :1], args[0][:, 1:]], dim=1)

    handle = module.model.layers[step].register_forward_hook(skip, with_kwargs=True)
    with torch.no_grad():
        logits = module(torch.tensor([ids]), use_cache=False).logits[0]
    handle.remove()
    return logits


def test_edits_together_each_find_their_own_state() -> None:
    module = build("llama")
    _leaving(module)
    model = depthsig.load(module, TOKENIZER)
    assert model.trace.reads == 3 and all(_verdicts(model).values())
    assert any("layer 3 uses what other layers left" in note for note in model.plan.notes)
    found = model.run([IDS[0], IDS[4]], [Skip(0), Skip(2), Skip(1), None])
    for edited, step in zip(found, (0, 2, 1), strict=False):
        for logits, ids in zip(edited.logits, (IDS[0], IDS[4]), strict=True):
            assert torch.allclose(logits, _plainly(module, ids, step), atol=1e-5)


def test_a_model_taken_for_a_chain_is_caught() -> None:
    module = build("llama")
    _leaving(module)
    model = depthsig.load(module, TOKENIZER)
    fooled = replace(model, trace=replace(model.trace, reads=None))
    assert not _verdicts(fooled)["edits"]
    with pytest.raises(CertificateError, match="edits"):
        judge(certify(fooled, IDS))


@pytest.mark.parametrize("edit", [Swap(1, 2), Skip(0) + Swap(1, 2)], ids=str)
def test_another_order_of_layers_that_share_is_refused(edit: Edit) -> None:
    module = build("llama")
    _leaving(module)
    model = depthsig.load(module, TOKENIZER)
    with pytest.raises(UnsupportedModelError, match="layer 3 uses what other layers left"):
        model.run(PROMPTS[:1], [edit])
    with pytest.raises(UnsupportedModelError, match="layer 3 uses what other layers left"):
        depthsig.load(module, TOKENIZER, order="0,2,1,3")
    with pytest.raises(UnsupportedModelError, match=r"local\..* ask for skip"):
        depthsig.analyze(model, PROMPTS, metrics=["local"])
    (stopped,) = model.run(PROMPTS[:1], [Stop(2)])
    with torch.no_grad():
        states = module(torch.tensor(IDS[:1]), output_hidden_states=True, use_cache=False).hidden_states
        assert torch.allclose(stopped.logits[0], model.readout(states[2])[0], atol=1e-5)


def _looking_ahead(module: nn.Module) -> None:
    mlp = module.model.layers[0].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) + 0.5 * x.mean(dim=1, keepdim=True)


def _two_way(module: nn.Module) -> None:
    for layer in module.model.layers:
        layer.self_attn.forward = _unmasked(layer.self_attn.forward)


def _unmasked(attend):
    def forward(*args, **kwargs):
        hidden = kwargs["hidden_states"]
        mask = torch.zeros(hidden.shape[0], 1, hidden.shape[1], hidden.shape[1])
        return attend(*args, **{**kwargs, "attention_mask": mask})

    return forward


def _one_ahead(module: nn.Module) -> None:
    mlp = module.model.layers[2].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) + 0.3 * torch.cat([x[:, 1:], x[:, -1:]], dim=1)


def _choosing_tokens(module: nn.Module) -> None:
    """An expert that takes the third of the tokens that score highest, wherever they stand."""
    mlp = module.model.layers[1].mlp
    plain = mlp.forward

    def chosen(x: torch.Tensor) -> torch.Tensor:
        best = x[..., 0].topk(max(1, x.shape[1] // 3), dim=1).indices
        taken = torch.zeros(x.shape[:2]).scatter(1, best, 1.0)
        return plain(x) * taken[..., None]

    mlp.forward = chosen


def _mixing_prompts(module: nn.Module) -> None:
    mlp = module.model.layers[1].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) + x.mean(dim=0, keepdim=True)


def _mixing(module: nn.Module, mix: Callable[[torch.Tensor], torch.Tensor]) -> None:
    mlp = module.model.layers[2].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) + 0.5 * mix(x)


def _two_way_at_first(tokens: int) -> Callable[[nn.Module], None]:
    def first(x: torch.Tensor) -> torch.Tensor:
        seen = x[:, :tokens].mean(1, keepdim=True).expand(-1, min(tokens, x.shape[1]), -1)
        return torch.cat([seen, torch.zeros_like(x[:, tokens:])], dim=1)

    return lambda module: _mixing(module, first)


def _two_way_in_blocks(tokens: int) -> Callable[[nn.Module], None]:
    def blocks(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([b.mean(1, keepdim=True).expand_as(b) for b in x.split(tokens, dim=1)], dim=1)

    return lambda module: _mixing(module, blocks)


def _two_way_where_long(module: nn.Module) -> None:
    shortest, longest = min(map(len, IDS)), max(map(len, IDS))
    assert shortest < longest - 1
    _mixing(module, lambda x: x.mean(1, keepdim=True) if x.shape[1] >= longest else torch.zeros_like(x))


def _mixing_many_prompts(module: nn.Module) -> None:
    _mixing(module, lambda x: x.mean(0, keepdim=True) if len(x) >= 8 else torch.zeros_like(x))


NOT_CAUSAL = {
    "mean": _looking_ahead, "unmasked": _two_way, "one ahead": _one_ahead, "tokens chosen": _choosing_tokens,
    "prompts mixed": _mixing_prompts, "many prompts mixed": _mixing_many_prompts, "where long": _two_way_where_long,
    **{f"first {k}": _two_way_at_first(k) for k in (2, 3, 4, 8)},
    **{f"blocks of {k}": _two_way_in_blocks(k) for k in (2, 3, 5, 7)},
}  # fmt: skip


@pytest.mark.parametrize("broken", NOT_CAUSAL.values(), ids=list(NOT_CAUSAL))
def test_a_model_that_is_not_causal_is_refused_in_that_word(broken) -> None:
    module = build("llama")
    broken(module)
    with pytest.raises(CertificateError, match="not causal") as caught:
        depthsig.analyze(module, PROMPTS, tokenizer=TOKENIZER, metrics=["lens.kl"])
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


@pytest.mark.parametrize("broken", [_looking_ahead, _one_ahead])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_single_position_that_moves_shows_in_half_precision(broken, dtype: torch.dtype) -> None:
    module = build("llama").to(dtype)
    broken(module)
    verdicts = _verdicts(depthsig.load(module, TOKENIZER))
    assert not verdicts["causal"]
    assert all(_verdicts(depthsig.load(build("llama").to(dtype), TOKENIZER)).values())


def _deep(moved: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Certificate]:
    """Certificates of 36 layers in bfloat16, the last of which adds a direction as ``moved`` says of its input.

    The direction moves a logit by some 4 % of the largest: more than one shape may, less than shapes may differ by.
    """
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=36, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    module = disturb(hf.LlamaForCausalLM(config).eval()).to(torch.bfloat16)
    direction, mlp = torch.randn(32, dtype=torch.bfloat16), module.model.layers[-1].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) + MOVED * moved(x) * direction
    return {c.name: c for c in certify(depthsig.load(module, TOKENIZER), IDS)}


MOVED = 0.07


def _rows(x: torch.Tensor) -> torch.Tensor:
    return torch.full_like(x[..., :1], float(len(x) == 1))


def _next(x: torch.Tensor) -> torch.Tensor:
    after = torch.cat([x[:, 1:], x[:, -1:]], dim=1).float().sum(-1, keepdim=True)
    return ((1000 * after).round() % 2).to(x.dtype)


def test_shapes_may_round_differently_where_one_shape_may_not() -> None:
    """As on a GPU, one row is rounded otherwise than several; as much of the next token is looking ahead."""
    rows = _deep(_rows)
    one, apart = rows["identity"].tolerance, rows["padding"].tolerance
    assert apart / one == pytest.approx(across_shapes(torch.bfloat16, 36) / 3e-2) and apart > 2 * one
    assert all(certificate.passed for certificate in rows.values()) and one < rows["padding"].value < apart
    assert rows["neutral"].value == 0  # told apart from padding, and held to what one shape keeps
    ahead = _deep(_next)["causal"]
    assert not ahead.passed and one < ahead.value < apart


def test_what_shapes_may_differ_by_follows_depth_and_dtype() -> None:
    """Two roundings of half a unit a step, as a random walk, twice: ε √(2 S); never below what one shape may."""
    walk = [sum(2 * (2**-8) ** 2 for _ in range(steps)) ** 0.5 for steps in (12, 36, 80)]
    assert [across_shapes(torch.bfloat16, n) for n in (12, 36, 80)] == pytest.approx([2 * w for w in walk])
    assert across_shapes(torch.bfloat16, 4) == across_shapes(torch.float16, 80) == 3e-2
    assert across_shapes(torch.float32, 1000) == 1e-4


def test_a_router_that_keeps_state_between_calls_is_refused() -> None:
    module = build("llama")
    mlp = module.model.layers[1].mlp
    plain, load = mlp.forward, torch.zeros(())

    def balanced(x: torch.Tensor) -> torch.Tensor:
        load.add_(0.1)
        return plain(x) * (1 + load)

    mlp.forward = balanced
    with pytest.raises(CertificateError, match="one call to the next"):
        depthsig.analyze(module, PROMPTS, tokenizer=TOKENIZER, metrics=["lens.kl"])


def _overflowing(module: nn.Module, word: int | None) -> nn.Module:
    """Layer 1 overflows in half precision, for every token or for one."""
    layer = module.model.layers[1]
    with torch.no_grad():
        if word is None:
            layer.mlp.down_proj.weight.mul_(3000.0)
            layer.mlp.up_proj.weight.mul_(3000.0)
        else:
            layer.mlp.register_forward_hook(lambda m, args, out: torch.where(flag["on"], float("inf"), out))
            flag: dict[str, torch.Tensor] = {}
            module.model.embed_tokens.register_forward_hook(
                lambda m, args, out: flag.update(on=(args[0] == word)[..., None])
            )
    return module.half()


def test_values_that_are_not_finite_are_named_with_layer_and_dtype() -> None:
    with pytest.raises(InputError, match=r"layer 1 .*not finite in float16.*--dtype float32"):
        depthsig.load(_overflowing(build("llama"), None), TOKENIZER)
    word = IDS[2][3]
    model = depthsig.load(_overflowing(build("llama"), word), TOKENIZER)
    with pytest.raises(CertificateError, match=r"layer 1 .*not finite in float16.*--dtype float32"):
        certify(model, IDS)
    calm = [[2, 3, 4, 5], [5, 6, 7]]
    with pytest.raises(CertificateError, match=r"layer 1 .*not finite in float16"):  # far behind the certified ones
        depthsig.analyze(model, [*calm * 6, IDS[2], *calm * 6], metrics=["lens.kl"])


def test_a_head_that_overflows_is_named() -> None:
    module = build("llama")
    with torch.no_grad():
        module.lm_head.weight.fill_(6e4)
    with pytest.raises(InputError, match=r"the logits .*not finite in float16"):
        depthsig.load(module.half(), TOKENIZER)


@pytest.mark.parametrize("family", ["llama", "shared"])
def test_the_last_two_proofs_cost_at_most_four_forwards(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = build("llama")
    if family == "shared":
        _leaving(module)
    model = depthsig.load(module, TOKENIZER)
    prompts = [[2 + i % 200 for i in range(24)]]
    calls: list[int] = []
    for layer in module.model.layers:
        layer.mlp.gate_proj.register_forward_pre_hook(lambda m, args: calls.append(args[0][..., 0].numel()))
    certify(model, prompts)
    whole = sum(calls)
    calls.clear()
    monkeypatch.setattr("depthsig.engine.certificates._changed", lambda *a: 0.0)
    monkeypatch.setattr("depthsig.engine.certificates._beginnings", lambda *a: (0.0, 0.0))
    monkeypatch.setattr("depthsig.engine.certificates._together", lambda *a: 0.0)
    certify(model, prompts)
    assert whole - sum(calls) <= 4 * 24 * 4


def test_dropout_that_stays_on_is_refused_by_name() -> None:
    module = build("llama")
    plain = module.model.layers[1].mlp.forward
    module.model.layers[1].mlp.forward = lambda x: nn.functional.dropout(plain(x), 0.1, training=True)
    with pytest.raises(UnsupportedModelError, match="draws at random"):
        depthsig.load(module, TOKENIZER)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: depthsig.analyze(model, PROMPTS, metrics=["lens.kl"]),
        lambda model: model.run(PROMPTS[:1], [None]),
        lambda model: model.cache(PROMPTS[:1], ["blocks.0.hook_resid_pre"]),
    ],
)
def test_autocast_is_refused(use: Callable[[depthsig.Model], object]) -> None:
    model = depthsig.load(build("llama"), TOKENIZER)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(InputError, match=r"autocast .*bfloat16"):
        use(model)
