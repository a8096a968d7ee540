"""Loop dynamics and the coda lens: known answers, and every native loop against more passes of itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, looped_model
from looped_cases import CASES, Case, Naive, hrm, x_transformer
from torch import nn
from torch.nn import functional as F

import depthsig
from depthsig.engine.attention import attention_weights
from depthsig.engine.batch import make_batch
from depthsig.engine.run import Clean
from depthsig.errors import DepthsigWarning, InputError
from depthsig.measure.clean.passes import pass_states
from depthsig.metrics import attention_entropy, principal_components

TOKENIZER = byte_tokenizer()
IDS = TOKENIZER(PROMPTS[2]).input_ids
D = 8


class Linear(nn.Module):
    """x → x* + A(x − x*): a pass whose fixed point is x*."""

    def __init__(self, a: float, angle: float, fixed: torch.Tensor) -> None:
        super().__init__()
        turn = torch.eye(D)
        turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        self.weight, self.fixed = nn.Parameter(a * turn), nn.Parameter(fixed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fixed + (x - self.fixed) @ self.weight.T


class LinearLoop(nn.Module):
    """An embedding, the linear pass several times, a head: nothing else."""

    def __init__(self, passes: int = 5, a: float = 0.5, angle: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.passes = nn.Embedding(272, D), passes
        self.layers = nn.ModuleList([Linear(a, angle, torch.randn(D))])
        self.norm, self.lm_head = nn.Identity(), nn.Linear(D, 272, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for _ in range(self.passes):
            x = self.layers[0](x)
        return self.lm_head(self.norm(x))


def test_a_linear_map_with_a_known_fixed_point() -> None:
    module = LinearLoop()
    found = depthsig.analyze(module.eval(), [IDS], tokenizer=TOKENIZER, metrics=["loop"])
    start = module.embed(torch.tensor(IDS))[1:].detach().double()
    fixed = module.layers[0].fixed.detach().double()
    away = (start - fixed).norm(dim=-1)
    assert [found.matrix(f"loop.{m}").shape for m in ("step_norm", "turn_cosine", "fixed_point_gap")] == [
        (5, 1), (4, 1), (1, 1)
    ]  # fmt: skip
    # x^k − x* = (x^0 − x*)/2^k, so Δ^k = −(x^0 − x*)/2^{k+1}.
    step = found.matrix("loop.step_norm")[0]
    for k in range(5):
        assert step[k] == pytest.approx(float(away.mean()) / 2 ** (k + 1), rel=1e-5)
    assert found.matrix("loop.turn_cosine")[0].to_numpy() == pytest.approx(np.ones(4))
    for k in range(1, 5):
        assert found.matrix("loop.acceleration")[0][k] == pytest.approx(float(away.mean()) / 2 ** (k + 1), rel=1e-5)
    last = fixed + (start - fixed) / 32
    gap = (away / 64 / last.norm(dim=-1)).mean()
    assert found.matrix("loop.fixed_point_gap").loc[5, 0] == pytest.approx(float(gap), rel=1e-4)
    distance = (away[None] * (0.5 ** torch.arange(5)[:, None] - 1 / 32) / last.norm(dim=-1)).mean(1)
    assert found.matrix("loop.distance_to_last")[0].to_numpy() == pytest.approx(distance.numpy(), rel=1e-4)
    relative = [float((away / 2 ** (k + 1) / (fixed + (start - fixed) / 2**k).norm(dim=-1)).mean()) for k in range(5)]
    assert found.matrix("loop.step_relative")[0].to_numpy() == pytest.approx(relative, rel=1e-5)


def test_a_rotation_turns_by_its_angle() -> None:
    module = LinearLoop(a=1.0, angle=0.3)
    with torch.no_grad():
        module.embed.weight[:, 2:] = module.layers[0].fixed[2:]  # moves in the rotated plane alone
    found = depthsig.analyze(module.eval(), [IDS], tokenizer=TOKENIZER, metrics=["loop.turn_cosine", "loop.pca"])
    assert found.matrix("loop.turn_cosine")[0].to_numpy() == pytest.approx(np.full(4, math.cos(0.3)), abs=1e-5)
    # Two components hold everything, so distances between points are those between states.
    points = found.tokens("loop.pca").query("position == 4").pivot(index="index", columns="rank", values="value")
    start = module.embed(torch.tensor(IDS))[4].detach() - module.layers[0].fixed.detach()
    wanted = 2 * math.sin(0.15) * float(start.norm())
    assert np.linalg.norm(np.diff(points.to_numpy(), axis=0), axis=1) == pytest.approx(np.full(5, wanted), rel=1e-4)


def test_diagonal_injection_settles_where_algebra_says() -> None:
    """Parcae with silent blocks: x ← decay·x + gain·e, whose fixed point is gain·e/(1 − decay)."""
    module = CASES["parcae"].build()
    with torch.no_grad():
        for block in module.transformer["core_block"]:
            block.attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    model = depthsig.load(module, TOKENIZER, iterations=6)
    found = depthsig.analyze(model, [IDS], metrics=["loop"])
    decay = torch.exp(-torch.exp(module.log_decay.detach().double()))
    states = [s.double() for s in pass_states(Clean.of(model, make_batch([IDS], [0], "cpu")), model.plan.spans[0])]
    e = model.clean(torch.tensor([IDS])).outputs[0].double()
    fixed = module.gain.detach().double() * e / (1 - decay)
    for k in range(7):
        assert torch.allclose(states[2 * (k + 1)] - fixed, decay * (states[2 * k] - fixed), atol=1e-5)
    gap = ((states[14] - states[12]).norm(dim=-1) / states[12].norm(dim=-1))[0, 1:].mean()
    assert found.matrix("loop.fixed_point_gap").loc[6, 0] == pytest.approx(float(gap), rel=1e-6)
    wanted = (((1 - decay) * (states[12] - fixed)).norm(dim=-1) / states[12].norm(dim=-1))[0, 1:].mean()
    assert float(gap) == pytest.approx(float(wanted), rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_attention_is_seen_however_it_is_computed(family: str) -> None:
    module, found = build(family), {}
    for how in ("sdpa", "eager"):
        module.set_attn_implementation(how)
        told = depthsig.analyze(
            module, PROMPTS, tokenizer=byte_tokenizer(left=True), metrics=["loop.attention_entropy"],
            order="0:1,1:3x2,3", control=False,
        )  # fmt: skip
        found[how] = told.matrix("loop.attention_entropy").to_numpy()
    assert np.isfinite(found["sdpa"]).all() and (found["sdpa"] > 0).all()
    assert np.abs(found["sdpa"] - found["eager"]).max() < 1e-5


def test_models_without_attention_say_so() -> None:
    with pytest.warns(DepthsigWarning, match="no attention"):
        depthsig.analyze(LinearLoop().eval(), [IDS], tokenizer=TOKENIZER, metrics=["loop.attention_entropy"])


MORE = {"ouro": 6, "nanbeige": 4, "huginn": 5, "parcae": 5}


@pytest.mark.parametrize("kind", list(MORE))
def test_two_more_passes_are_what_the_model_itself_would_run(kind: str) -> None:
    module = CASES[kind].build()
    model, longer = (depthsig.load(module, TOKENIZER, iterations=n) for n in (MORE[kind] - 2, MORE[kind]))
    span, more = model.plan.spans[0], longer.plan.spans[0]
    batch = make_batch([IDS], [0], "cpu")
    states, run = pass_states(Clean.of(model, batch), span), longer.clean(batch.ids)
    wanted = run.inputs[more.start : more.end]
    assert len(states) == len(wanted)
    for a, b in zip(states, wanted, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("kind", ["albert", "tied", "x_transformers", "looped_llama", "order"])
def test_two_more_passes_of_a_chain(kind: str) -> None:
    if kind == "x_transformers":
        pytest.importorskip("x_transformers")
    build_one = {"x_transformers": x_transformer, "looped_llama": looped_model, "order": lambda: build("llama")}
    module = build_one[kind]() if kind in build_one else CASES[kind].build()
    model = depthsig.load(module, TOKENIZER, order="0:1,1:3x2,3" if kind == "order" else None)
    batch = make_batch([IDS], [0], "cpu")
    clean = Clean.of(model, batch)
    for span in model.plan.spans:
        states = pass_states(clean, span)
        x = clean.run.inputs[span.start]
        for i in range((span.count + 2) * span.size):
            assert (states[i] - x).abs().max() <= 1e-5 * x.abs().max()
            with torch.no_grad():
                x = clean.run.calls[span.start + i % span.size](x)


@pytest.mark.parametrize("kind", [k for k in CASES if k != "zamba2"])
def test_every_kind_has_its_dynamics(kind: str) -> None:
    told: Case = CASES[kind]
    module = told.build()
    model = depthsig.load(module, TOKENIZER)
    found = depthsig.analyze(model, [IDS], metrics=["loop"])
    naive = Naive(told, module, torch.tensor([IDS]))
    spans = [s for s in model.plan.spans if s.count > 1]
    for span in spans:
        scope = f"{span.start}:{span.end}" if len(spans) > 1 else ""
        steps = found.matrix("loop.step_norm", scope=scope)
        assert steps.shape == (span.count, span.size) and np.isfinite(steps.to_numpy()).all()
        for k in range(span.count - 1):
            for phase in range(span.size):
                s = span.start + k * span.size + phase
                moved = (naive.inputs[s + span.size] - naive.inputs[s])[0, 1:].double().norm(dim=-1).mean()
                assert steps.loc[k, phase] == pytest.approx(float(moved), rel=1e-4)
        entropy = found.matrix("loop.attention_entropy", scope=scope)
        assert entropy.shape == (span.count, span.size) and (entropy.to_numpy() > 0).all()
        assert (entropy.to_numpy() < math.log(len(IDS))).all()
        with torch.no_grad():
            read = [
                (told.head if span.start + k * span.size in told.normed else told.read)(
                    module, naive.inputs[span.start + k * span.size]
                ).double().log_softmax(-1)[0, 1:]
                for k in (0, 1)
            ]  # fmt: skip
        kl = (read[1].exp() * (read[1] - read[0])).sum(-1).mean()
        assert found.matrix("loop.output_kl", scope=scope).loc[0, 0] == pytest.approx(float(kl), rel=1e-3, abs=1e-6)


def test_attention_weights_are_those_that_are_applied() -> None:
    q, k, v = (torch.randn(2, h, 7, 5) for h in (4, 2, 2))
    mask = torch.zeros(2, 1, 7, 7).masked_fill(torch.rand(2, 1, 7, 7) < 0.3, float("-inf"))
    mask[..., 0] = 0
    for options in ({"is_causal": True}, {"attn_mask": mask}, {"attn_mask": mask == 0, "scale": 0.7}):
        wanted = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
        weights = attention_weights(q, k, v, enable_gqa=True, **options)
        assert torch.allclose(weights @ v.repeat_interleave(2, 1), wanted, atol=1e-5)
    uniform = attention_entropy(torch.full((3, 2, 4, 4), 0.25))
    assert uniform.numpy() == pytest.approx(np.full((3, 4), math.log(4)))


def test_the_coda_lens(tmp_path: Path) -> None:
    told = CASES["huginn"]
    module = told.build()
    model = depthsig.load(module, TOKENIZER)
    found = depthsig.analyze(model, [IDS], metrics=["coda", "lens.target_nll"])
    naive, parts = Naive(told, module, torch.tensor([IDS])), module.transformer
    nll = found.profile("coda.target_nll")["value"].to_numpy()
    assert len(nll) == 9 and np.isnan(nll[8])
    for d in range(7):
        with torch.no_grad():
            x = parts["ln_f"](naive.inputs[d])
            logits = module.lm_head(parts["ln_f"](parts["coda"][0](x))).double().log_softmax(-1)[0]
        wanted = -logits[1:-1].gather(1, torch.tensor(IDS[2:])[:, None]).mean()
        assert nll[d] == pytest.approx(float(wanted), rel=1e-4)
    assert found.profile("coda.kl")["value"][7] == pytest.approx(0, abs=1e-9)
    assert nll[7] == pytest.approx(found.profile("lens.target_nll")["value"][8], rel=1e-6)
    # Where an order loops there is a coda, too; where nothing follows the loop there is none.
    ordered = depthsig.analyze(build("llama"), [IDS], tokenizer=TOKENIZER, metrics=["coda.kl"], order="0:1,1:3x2,3")
    assert ordered.profile("coda.kl")["value"].notna().sum() == 6
    whole = depthsig.analyze(CASES["ouro"].build(), [IDS], tokenizer=TOKENIZER, metrics=["coda.kl", "lens.kl"])
    assert whole.profiles.query("metric == 'coda.kl'").empty


def test_figures_and_the_round_trip(tmp_path: Path) -> None:
    from depthsig.report.drawn_files import file_name
    from depthsig.report.gallery import figures_for

    found = depthsig.analyze(hrm(), PROMPTS, tokenizer=TOKENIZER, metrics=["loop"], agg="both")
    again = depthsig.Signature.load(found.save(tmp_path / "out", figures=False))
    names = [file_name(drawn.name) for drawn in figures_for(again)]
    assert any("loop.step_norm" in n and "0-6" in n for n in names) and any("loop.pca" in n for n in names)
    assert not any(":" in n for n in names)
    assert again.plot("loop.pca").get_xlabel() == "first component"
    assert set(again.tokens("loop.pca")["rank"]) == {1, 2}
    rows = again.matrices.query("metric == 'loop.fixed_point_gap' and agg == 'mean'")
    assert rows["ci_low"].notna().all() and (rows["n_prompts"] == len(PROMPTS)).all()


def test_without_a_loop_there_are_no_dynamics() -> None:
    for model in (build("llama"), CASES["zamba2"].build()):
        with pytest.raises(InputError, match="need a loop that runs"):
            depthsig.analyze(model, [IDS], tokenizer=TOKENIZER, metrics=["loop"])
    with pytest.raises(InputError, match="need a loop"):
        depthsig.analyze(build("llama"), [IDS], tokenizer=TOKENIZER, metrics=["coda.kl"], loop="1:3")


def test_principal_components() -> None:
    points = torch.randn(50, 6)
    found, shares = principal_components(points)
    covariance = np.cov(points.double().numpy().T)
    values = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    assert found.var(0).numpy() == pytest.approx(values[:2])
    assert shares.numpy() == pytest.approx(values[:2] / values.sum())
