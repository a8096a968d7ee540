"""Native loops of every kind: plans, certificates, lens and edits against plain hooked forwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import looped
import numpy as np
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, looped_model
from looped_cases import CASES, Case, Naive, hrm, x_transformer, zamba2
from torch import nn

import depthsig
from depthsig.checkpoint.draws import PositionalDraws
from depthsig.checkpoint.known import counts_in
from depthsig.engine.certificates import certify
from depthsig.engine.edits import Repeat, Replace, Skip
from depthsig.errors import InputError, UnsupportedModelError
from depthsig.plan.order import parse_iterations

TOKENIZER = byte_tokenizer()
IDS = torch.tensor([TOKENIZER(PROMPTS[2]).input_ids])


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[Case, nn.Module, depthsig.Model]:
    found = CASES[request.param]
    module = found.build()
    return found, module, depthsig.load(module, TOKENIZER)


def _near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_the_steps_are_those_described(case) -> None:
    told, _, model = case
    assert model.plan.layers == told.order
    assert {s.step: s.boundary for s in model.plan if s.boundary} == (told.boundaries or {})
    assert [d for d, normed in enumerate(model.trace.normed) if normed] == list(told.normed)


def test_certificates(case) -> None:
    _told, _, model = case
    found = {c.name: c for c in certify(model, [TOKENIZER(text).input_ids for text in PROMPTS])}
    assert {"readout", "neutral", "padding", "identity", "causal", "edits"} <= set(found)
    assert all(c.passed for c in found.values()), found


def test_states_and_updates_are_taken_inside_a_step_never_across_a_boundary(case) -> None:
    told, module, model = case
    naive, run = Naive(told, module, IDS), model.clean(IDS)
    for a, b in zip(run.inputs, naive.inputs, strict=True):
        _near(a, b)
    for a, b in zip(run.outputs, naive.outputs, strict=True):
        _near(a, b)
    signature = depthsig.analyze(model, [IDS[0].tolist()], metrics=["contribution.norm", "residual.io_cosine"])
    wanted = [
        float((o - i)[0, 1:].double().norm(dim=-1).mean()) for i, o in zip(naive.inputs, naive.outputs, strict=True)
    ]
    assert signature.profile("contribution.norm", part="layer")["value"].to_numpy() == pytest.approx(wanted, rel=1e-4)


def test_lens_of_every_pass(case) -> None:
    told, module, model = case
    naive = Naive(told, module, IDS)
    signature = depthsig.analyze(model, [IDS[0].tolist()], metrics=["lens.target_nll"])
    read = []
    with torch.no_grad():
        for depth, state in enumerate(naive.inputs):
            read.append((told.head if depth in told.normed else told.read)(module, state))
        _near(model.read(model.clean(IDS).inputs[told.passed[0]], told.passed[0]), read[told.passed[0]])
        _near(told.read(module, naive.outputs[-1]), naive.logits)
    read.append(naive.logits)
    targets = IDS[0, 2:]
    wanted = [-x.double().log_softmax(-1)[0, 1:-1].gather(1, targets[:, None]).mean().item() for x in read]
    assert signature.profile("lens.target_nll")["value"].to_numpy() == pytest.approx(wanted, rel=1e-4)


def test_skipping_one_pass(case) -> None:
    told, module, model = case

    def skip(step: int, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        if step not in told.passed:
            return after
        return torch.cat([after[:, :1], before[:, 1:]], dim=1)

    wanted = Naive(told, module, IDS, skip).logits
    edit = sum((Skip(s) for s in told.passed[1:]), Skip(told.passed[0]))
    (found,) = model.run([IDS[0].tolist()], [edit])
    _near(found.logits[0], wanted[0])
    assert (wanted - Naive(told, module, IDS).logits).abs().max() > 1e-3


def test_replacing_one_iteration(case) -> None:
    told, module, model = case
    last = told.passed[-1]
    value = torch.randn(IDS.shape[1], 32)

    def replace(step: int, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return torch.cat([after[:, :1], value[None, 1:]], dim=1) if step == last else after

    wanted = Naive(told, module, IDS, replace).logits
    (found,) = model.run([IDS[0].tolist()], [Replace(last, value, where="output")])
    _near(found.logits[0], wanted[0])


def test_parts_of_one_pass(case) -> None:
    """Attention of one step silenced, where the parts are known: in that pass alone."""
    told, module, model = case
    step = told.passed[-1]
    layer = model.layer_at(step)
    if layer.attn is None:
        with pytest.raises(InputError, match="not known"):
            model.run([IDS[0].tolist()], [Skip(step, part="attn")])
        return
    calls, seen = [0], {"on": False}

    def count(m: nn.Module, args: tuple, kwargs: dict) -> None:
        seen["on"] = calls[0] == step
        calls[0] += 1

    def silence(m: nn.Module, args: tuple, output):
        if not seen["on"]:
            return None
        tensor = output[0] if isinstance(output, tuple) else output
        quiet = torch.cat([tensor[:, :1], torch.zeros_like(tensor[:, 1:])], dim=1)
        return (quiet, *output[1:]) if isinstance(output, tuple) else quiet

    hooks = [
        m.register_forward_pre_hook(count, with_kwargs=True) for m in {id(x): x for x in told.layers(module)}.values()
    ]
    hooks.append(layer.attn.module.register_forward_hook(silence))
    wanted = Naive(told, module, IDS).logits
    for hook in hooks:
        hook.remove()
    (found,) = model.run([IDS[0].tolist()], [Skip(step, part="attn")])
    _near(found.logits[0], wanted[0])


def test_batches_change_nothing(case) -> None:
    told, _, model = case
    edits = [Skip(told.passed[0]), None, Skip(0)]
    together = model.run(PROMPTS[:3], edits)
    for i, text in enumerate(PROMPTS[:3]):
        for a, b in zip(together, model.run([text], edits), strict=True):
            assert (a.logits[i] - b.logits[0]).abs().max() <= 1e-4 * b.logits[0].abs().max()


def test_the_callers_model_is_left_as_it_was(case) -> None:
    _told, module, _ = case
    before = {n: p.clone() for n, p in module.named_parameters()}
    rng = torch.get_rng_state()
    model = depthsig.load(module.train(), TOKENIZER)
    model.run(PROMPTS[:1], [Skip(0)])
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(m.training for m in module.modules())
    assert all(not m._forward_hooks and "forward" not in m.__dict__ for m in module.modules())
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())


@pytest.mark.parametrize(("steps", "calls"), [(1, 4), (3, 12), (5, 20)])
def test_x_transformers(steps: int, calls: int) -> None:
    pytest.importorskip("x_transformers")
    module = x_transformer()
    model = depthsig.load(module, TOKENIZER, forward=lambda m, ids: m(ids, looped_steps=steps))
    assert model.plan.layers == (0, 1, 2, 3) * steps and len(model.plan) == calls
    forced = depthsig.load(module, TOKENIZER, iterations=steps)
    assert forced.plan.layers == model.plan.layers
    with torch.no_grad():
        wanted = module(IDS, looped_steps=steps)
    _near(model.logits(IDS), wanted)
    assert all(c.passed for c in certify(model, [IDS[0].tolist(), IDS[0, :7].tolist()]))


def _plain_x(module: nn.Module, ids: torch.Tensor, edit=None) -> tuple[list[torch.Tensor], torch.Tensor]:
    """States that enter each branch (through the pre-norms), and logits; hooks on norms only."""
    inputs: list[torch.Tensor] = []
    ends = [0]

    def enter(m: nn.Module, args: tuple) -> None:
        inputs.append(args[0].clone())

    def leave(m: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        ends[0] += 1
        return None if edit is None else edit(ends[0] - 1, inputs[ends[0] - 1], output)

    handles = []
    for norms, _, _ in module.attn_layers.layers:
        handles += [norms[0].register_forward_pre_hook(enter), norms[2].register_forward_hook(leave)]
    with torch.no_grad():
        logits = module(ids, looped_steps=3)
    for handle in handles:
        handle.remove()
    return inputs, logits


def test_x_transformers_edits_and_lens() -> None:
    pytest.importorskip("x_transformers")
    module = x_transformer()
    model = depthsig.load(module, TOKENIZER)
    inputs, logits = _plain_x(module, IDS)
    run = model.clean(IDS)
    for a, b in zip(run.inputs, inputs, strict=True):
        _near(a, b)
    with torch.no_grad():
        _near(model.read(run.inputs[4], 4), module.to_logits(inputs[4]))
    value = torch.randn(IDS.shape[1], 32)

    def skip(step, before, after):
        return torch.cat([after[:, :1], before[:, 1:]], dim=1) if 4 <= step < 8 else after

    def swap_in(step, before, after):
        return torch.cat([after[:, :1], value[None, 1:]], dim=1) if step == 7 else after

    one_pass = Skip(4) + Skip(5) + Skip(6) + Skip(7)
    skipped, replaced = model.run([IDS[0].tolist()], [one_pass, Replace(7, value, where="output")])
    _near(skipped.logits[0], _plain_x(module, IDS, skip)[1][0])
    _near(replaced.logits[0], _plain_x(module, IDS, swap_in)[1][0])
    assert (logits[0] - skipped.logits[0]).abs().max() > 1e-3


def test_x_transformers_with_several_streams_are_refused() -> None:
    x_transformers = pytest.importorskip("x_transformers")
    stack = x_transformers.Decoder(dim=32, depth=2, heads=4, num_residual_streams=2)
    module = x_transformers.TransformerWrapper(num_tokens=272, max_seq_len=64, attn_layers=stack)
    with pytest.raises(UnsupportedModelError, match="num_residual_streams"):
        depthsig.load(module, TOKENIZER)


def test_nested_loops_of_hrm_text() -> None:
    model = depthsig.load(hrm(), TOKENIZER)
    assert model.checkpoint.config.num_hidden_layers == 16 and len(model.anatomy.layers) == 4
    assert [(s.start, s.end, s.count) for s in model.plan.spans] == [(0, 6, 3), (0, 16, 2), (8, 14, 3)]
    forced = depthsig.load(hrm(), TOKENIZER, iterations={"H_cycles": 1, "L_cycles": 2})
    assert forced.plan.layers == (0, 1, 0, 1, 2, 3)
    assert forced.declared.record()["iterations"] == "H_cycles=1,L_cycles=2"
    with pytest.raises(InputError, match="H_cycles = 2, L_cycles = 3"):
        depthsig.load(hrm(), TOKENIZER, iterations=4)


@pytest.mark.parametrize(("kind", "count", "steps"), [
    ("ouro", 2, 6), ("ouro", 6, 18), ("nanbeige", 1, 3), ("nanbeige", 4, 12), ("huginn", 1, 4), ("huginn", 5, 12),
    ("parcae", 2, 6), ("loopformer", 5, 15),
])  # fmt: skip
def test_forced_iterations(kind: str, count: int, steps: int) -> None:
    module = CASES[kind].build()
    model = depthsig.load(module, TOKENIZER, iterations=count)
    assert len(model.plan) == steps
    assert all(c.passed for c in certify(model, [IDS[0].tolist()]))
    # The caller's model still runs as often as it did.
    assert len(depthsig.load(module, TOKENIZER).plan) == len(CASES[kind].order)


@pytest.mark.parametrize("bad", ["0", "-1", "1025", "99999999999999", "x", "1.5", "total_ut_steps=0", "2,H=1"])
def test_absurd_iterations_are_refused(bad: str) -> None:
    with pytest.raises(InputError) as caught:
        depthsig.load(CASES["ouro"].build(), TOKENIZER, iterations=bad)
    assert "\n" not in str(caught.value)


def test_iterations_need_a_loop() -> None:
    with pytest.raises(InputError, match="--order"):
        depthsig.load(build("llama"), TOKENIZER, iterations=3)
    with pytest.raises(InputError, match="has none"):
        depthsig.load(build("llama"), TOKENIZER, order="0:4", iterations=3)
    with pytest.raises(InputError, match="no_such"):
        depthsig.load(CASES["ouro"].build(), TOKENIZER, iterations={"no_such": 3})
    model = depthsig.load(build("llama"), TOKENIZER, order="0:1,1:3x2,3", iterations=4)
    assert model.plan.layers == (0, *(1, 2) * 4, 3)
    assert model.relabelled(order="Loop(1-2x2-1)", iterations="3").plan.layers == (0, *(1, 2) * 3, 3)
    # The order that the model was loaded with stays, and the count applies to it.
    assert model.relabelled(iterations="3").plan.layers == (0, *(1, 2) * 3, 3)
    with pytest.raises(InputError, match=r"depthsig\.load"):
        depthsig.load(CASES["ouro"].build(), TOKENIZER).relabelled(iterations="3")
    assert model.relabelled(iterations=1).plan.layers == (0, 1, 2, 3)
    assert model.relabelled(loop="1:3").plan.layers == model.plan.layers
    with pytest.raises(InputError, match=r"depthsig\.load"):
        depthsig.load(build("llama"), TOKENIZER).relabelled(iterations="3")


def test_known_fields_are_held_against_the_trace() -> None:
    class Twice(looped.NanbeigeForCausalLM):
        """Says three loops, runs two."""

        def forward(self, input_ids, use_cache=None, **kwargs):
            self.config.num_loops = 2
            try:
                return super().forward(input_ids)
            finally:
                self.config.num_loops = 3

    with pytest.raises(InputError, match=r"num_loops is 3.*2 times"):
        depthsig.load(Twice(looped.NanbeigeConfig(num_loops=3)).eval(), TOKENIZER)
    plain = build("llama")
    plain.config.total_ut_steps = 4
    plan = depthsig.load(plain, TOKENIZER).plan
    assert "declared, not executed" in str(plan) and "total_ut_steps = 4" in " ".join(plan.notes)
    plain.config.total_ut_steps = 0
    with pytest.raises(InputError, match="total_ut_steps is 0"):
        depthsig.load(plain, TOKENIZER)


def test_unsupported_options_are_refused_by_name() -> None:
    config = looped.NanbeigeConfig(loop_middle_layers=[1])
    with pytest.raises(UnsupportedModelError, match="loop_middle_layers"):
        depthsig.load(looped.NanbeigeForCausalLM(config).eval(), TOKENIZER)
    for kind, why in (("ouro", "norm"), ("huginn", "injection"), ("loopformer", "other arguments")):
        with pytest.raises(UnsupportedModelError, match=why):
            depthsig.load(CASES[kind].build(), TOKENIZER, order="0:2")


def test_a_repeat_may_not_straddle_a_boundary() -> None:
    model = depthsig.load(CASES["ouro"].build(), TOKENIZER)
    model.run(PROMPTS[:1], [Repeat(3, 6)])
    with pytest.raises(InputError, match="straddle"):
        model.run(PROMPTS[:1], [Repeat(2, 4)])


def test_random_initial_states_are_seeded_and_recorded() -> None:
    module = CASES["huginn"].build()
    one, other = (depthsig.load(module, TOKENIZER, seed=s) for s in (3, 4))
    assert torch.equal(one.logits(IDS), one.logits(IDS))
    assert not torch.equal(one.logits(IDS), other.logits(IDS))
    # Every prompt starts from the same noise, however long it is and whatever is beside it.
    _near(one.logits(IDS.repeat(3, 1))[2], one.logits(IDS)[0])
    _near(one.logits(IDS[:, :9])[0], one.logits(IDS)[0, :9])
    with PositionalDraws(3):
        states = module.initialize_state(torch.zeros(1, IDS.shape[1], 32))
    with torch.no_grad():
        _near(one.logits(IDS), module(IDS, input_states=states, num_steps=3)["logits"])
    signature = depthsig.analyze(module, PROMPTS[:2], tokenizer=TOKENIZER, metrics=["lens.kl"], seed=3)
    assert signature.info["random_state"] == {"seed": 3, "by": "position"}
    plain = depthsig.analyze(build("llama"), PROMPTS[:2], tokenizer=TOKENIZER, metrics=["lens.kl"])
    assert plain.info["random_state"] is None


def test_positional_draws() -> None:
    def draw(rows: int, tokens: int) -> torch.Tensor:
        with PositionalDraws(7):
            first = torch.randn(rows, tokens, 5)
            second = torch.empty(rows, tokens, 5).uniform_(2, 3)
            torch.rand_like(second)
            return torch.cat([first, second], -1)

    long = draw(1, 150)
    assert torch.equal(draw(4, 70)[3], long[0, :70])
    assert not torch.equal(long[0, 0], long[0, 64])
    assert abs(float(long[..., :5].mean())) < 0.2 and 0.9 < float(long[..., :5].std()) < 1.1
    assert float(long[..., 5:].min()) >= 2 and float(long[..., 5:].max()) <= 3
    with PositionalDraws(7):
        noise = torch.empty(200, 64).normal_(1.0, 3.0)
    assert 0.7 < float(noise.mean()) < 1.3 and 2.8 < float(noise.std()) < 3.2


def test_sharing_is_seen_in_the_storage() -> None:
    notes = depthsig.load(zamba2(), TOKENIZER).plan.notes
    assert notes == ("layers 1, 3, 5 share the parameters of shared_transformer (same storage)",)
    tied = depthsig.load(CASES["tied"].build(), TOKENIZER)
    assert tied.plan.spans[0].count == 3 and any("counts as it" in note for note in tied.plan.notes)


def test_boundaries_travel_into_the_signature(tmp_path: Path) -> None:
    signature = depthsig.analyze(CASES["ouro"].build(), PROMPTS[:2], tokenizer=TOKENIZER, metrics=["lens.kl"])
    again = depthsig.Signature.load(signature.save(tmp_path / "out", figures=False))
    assert again.plan["boundary"].dropna().tolist() == ["norm(model.norm)"] * 3
    again.plot("lens.kl")
    kl = again.profile("lens.kl")["value"].to_numpy()
    assert np.isfinite(kl).all() and kl[-1] == 0


def test_counts_and_their_grammar() -> None:
    assert counts_in(looped.OuroConfig()) == {"total_ut_steps": 4}
    assert parse_iterations(" 5 ") == {"": 5} and parse_iterations(None) == {}


@pytest.mark.parametrize("kind", ["Ouro", "Raven"])
def test_remote_code_works_with_trust_and_nothing_else(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A folder with its own code, as published ones come: analysed from the command line."""
    import json

    from depthsig.cli.main import main

    module = CASES["ouro" if kind == "Ouro" else "huginn"].build()
    folder = tmp_path / "remote"
    module.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    shutil.copy(Path(looped.__file__), folder / "modeling_looped.py")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": f"modeling_looped.{kind}Config", "AutoModelForCausalLM": f"modeling_looped.{kind}ForCausalLM",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    prompts = tmp_path / "p.txt"
    prompts.write_text("\n".join(PROMPTS[:3]))
    out = tmp_path / "out"
    common = [str(folder), "--prompts", str(prompts), "--out", str(out), "--metrics", "lens.kl,residual.norm"]
    assert main(["analyze", *common]) == 2
    assert main(["analyze", *common, "--trust-remote-code"]) == 0
    assert len(depthsig.Signature.load(out).plan) == (12 if kind == "Ouro" else 8)
    assert main(["analyze", *common, "--trust-remote-code", "--iterations", "2"]) == 0
    forced = depthsig.Signature.load(out)
    assert len(forced.plan) == 6 and forced.info["options"]["iterations"] == "2"
    assert main(["analyze", *common, "--trust-remote-code", "--iterations", "0"]) == 2


def test_a_looped_stack_without_a_count_names_the_order_as_the_way() -> None:
    with pytest.raises(InputError, match="no count of iterations"):
        depthsig.load(looped_model(), TOKENIZER, iterations=2)
