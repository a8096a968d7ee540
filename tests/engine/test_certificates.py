"""Breaking a model's readout or parts on purpose is caught, and nothing is left changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from families import PROMPTS, build, byte_tokenizer
from torch import nn

import depthsig
from depthsig.checkpoint.anatomy.readout import Readout
from depthsig.engine.certificates import Certificate, certify, judge
from depthsig.errors import CertificateError, DepthsigWarning, UnsupportedModelError


def _ids(tokenizer) -> list[list[int]]:
    return [tokenizer(text).input_ids for text in PROMPTS]


def _with_readout(model: depthsig.Model, **changes) -> depthsig.Model:
    anatomy = replace(model.anatomy, readout=replace(model.anatomy.readout, **changes))
    return replace(model, anatomy=anatomy)


def _without_bias(head: nn.Linear) -> nn.Linear:
    bare = nn.Linear(head.in_features, head.out_features, bias=False)
    bare.weight = head.weight
    return bare


BREAKAGES = {
    "no final norm": ("llama", lambda r: {"norms": ()}),
    "norm twice": ("llama", lambda r: {"norms": (*r.norms, *r.norms)}),
    "no soft-cap": ("gemma2", lambda r: {"transform": None}),
    "no scale": ("cohere", lambda r: {"transform": None}),
    "no divisor": ("granite", lambda r: {"transform": None}),
    "head bias dropped": ("phi", lambda r: {"head": _without_bias(r.head)}),
}


@pytest.mark.parametrize("what", list(BREAKAGES))
def test_a_broken_readout_is_caught(what: str) -> None:
    family, change = BREAKAGES[what]
    tokenizer = byte_tokenizer()
    model = depthsig.load(build(family), tokenizer)
    assert all(c.passed for c in certify(model, _ids(tokenizer)))
    broken = _with_readout(model, **change(model.readout))
    failed = [c for c in certify(broken, _ids(tokenizer)) if not c.passed]
    assert "readout" in {c.name for c in failed}
    with pytest.raises(CertificateError, match="readout") as caught:
        judge(failed)
    assert caught.value.exit_code == 3


def test_broken_parts_only_withdraw_their_rows() -> None:
    tokenizer = byte_tokenizer()
    model = depthsig.load(build("granite"), tokenizer)
    layers = tuple(replace(x, attn=replace(x.attn, scale=1.0)) for x in model.anatomy.layers)
    broken = replace(model, anatomy=replace(model.anatomy, layers=layers))
    with pytest.warns(DepthsigWarning, match="parts"):
        signature = depthsig.analyze(broken, PROMPTS, metrics=["residual"])
    assert set(signature.profiles.query("metric == 'contribution.norm'")["part"]) == {"layer"}
    with pytest.raises(CertificateError):
        judge(certify(broken, _ids(tokenizer)), only_parts=True)


def test_judge() -> None:
    good, bad = Certificate("readout", 0.0, 1.0), Certificate("padding", 2.0, 1.0)
    assert judge([good]).pad and not judge([good, bad]).pad
    assert not Certificate("readout", float("nan"), 1.0).passed


def test_a_model_that_notices_padding_is_run_one_prompt_at_a_time() -> None:
    module, tokenizer = build("llama"), byte_tokenizer()
    embed = module.model.embed_tokens
    module.model.embed_tokens.register_forward_hook(
        lambda m, args, out: out * 1.2 if bool((args[0] == 0).any()) else out  # 0 pads here, and is no byte
    )
    with pytest.warns(DepthsigWarning, match="padding"):
        batched = depthsig.analyze(module, PROMPTS, tokenizer=tokenizer, metrics=["lens.kl", "residual.norm"])
    one = depthsig.analyze(module, PROMPTS[:1], tokenizer=tokenizer, metrics=["residual.norm"])
    sample = batched.samples("residual.norm").query("prompt == 0")["value"].to_numpy()
    assert sample == pytest.approx(one.samples("residual.norm")["value"].to_numpy(), rel=1e-6)
    embed._forward_hooks.clear()


def test_unknown_head_is_refused_by_name() -> None:
    module = build("llama")
    head = module.lm_head
    plain = head.forward
    head.forward = lambda x: plain(x)
    inner = module.forward

    def scaled(*args, **kwargs):
        output = inner(*args, **kwargs)
        output.logits = output.logits * 1.7 + 0.1
        return output

    module.forward = scaled
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM"):
        depthsig.load(module, byte_tokenizer())


@pytest.mark.parametrize("family", ["llama", "falcon_new", "mamba2"])
def test_the_callers_model_is_left_as_it_was(family: str) -> None:
    module = build(family).train()
    for p in list(module.parameters())[::2]:
        p.requires_grad_(False)
    before = {n: (p.clone(), p.requires_grad) for n, p in module.named_parameters()}
    modules = [id(m) for m in module.modules()]
    torch.manual_seed(5)
    rng = torch.get_rng_state()
    depthsig.analyze(
        module, PROMPTS, tokenizer=byte_tokenizer(), metrics=["lens", "residual", "weights"], order="1,0,2,3"
    )
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(m.training for m in module.modules())
    assert [id(m) for m in module.modules()] == modules
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
    assert all("forward" not in m.__dict__ for m in module.modules())
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name][0]) and p.requires_grad == before[name][1]


def test_readout_into_a_buffer_is_the_readout() -> None:
    module = build("phi")
    model = depthsig.load(module, byte_tokenizer())
    hidden = torch.randn(7, 32)
    buffer = torch.empty(9, model.readout.vocab)
    with torch.no_grad():
        assert torch.allclose(model.readout.into(hidden, buffer), model.readout(hidden), atol=1e-5)
    assert isinstance(model.readout, Readout)


@pytest.mark.parametrize(("order", "forwards"), [(None, 3.0), ("0:2,0:2,2:4", 4.5)])
def test_certificates_cost_few_forwards(order: str | None, forwards: float) -> None:
    """In forwards of the four prompts: of which there are six calls at most, some of one prompt alone."""
    tokenizer, length = byte_tokenizer(), 24
    model = depthsig.load(build("llama"), tokenizer, order=order)
    seen: list[int] = []
    last = max(model.native.layers)
    handle = model.anatomy.layers[last].mlp.module.register_forward_hook(  # type: ignore[union-attr]
        lambda m, args, out: seen.append(args[0].shape[0] * args[0].shape[1])
    )
    certify(model, [list(range(i + 1, i + 1 + length)) for i in range(4)])
    handle.remove()
    shortest, four = length, 4 * length
    assert sum(seen) <= forwards * four + 4 * shortest, (sum(seen) / four, seen)
    assert sum(tokens >= length for tokens in seen) <= 6 + 4
