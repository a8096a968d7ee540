"""The Jacobian lens: its metrics against plain code, what its matrices tell, and several lenses at once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import transformers as hf
from families import GPT2, PROMPTS, build, byte_tokenizer, disturb, looped_model, places
from lenses import STEPS, WIDTH, random_prompts, some_jacobians, some_lens, write_as_tuned_lens
from looped_cases import CASES, Naive
from scipy.stats import kurtosis
from torch import nn

import depthsig
from depthsig.checkpoint.jacobian.jacobians import JacobianLens, write_jacobian_lens
from depthsig.cli.main import main
from depthsig.errors import DepthsigWarning, InputError
from depthsig.measure.request import Request

KL_LIKE = {"jacobian.kl": 3e-6, "jacobian.kl_reverse": 3e-6, "jacobian.jsd": 3e-6, "jacobian.target_nll": 3e-6}
TEXTS = [*PROMPTS[:4], "x"]
"""One of them of one token, which no next one follows."""


class _Transported(oracle.Clean):
    """A plain run whose lens reads J_d h_d; nothing where there is no J_d."""

    jacobians: JacobianLens

    def lens(self, d: int) -> np.ndarray:
        if d < self.steps and d not in self.read:
            matrix = self.jacobians.jacobians[d]
            if matrix is None:
                return np.full_like(self.logits, np.nan)
            self.h[d] = (torch.tensor(self.h[d], dtype=torch.float32) @ matrix.T).double().numpy()
        return super().lens(d)


@pytest.mark.parametrize("family", ["llama_tied", "gpt2", "gemma2"])
def test_metrics_against_plain_code(family: str) -> None:
    model, tokenizer, lens = build(family), byte_tokenizer(left=True), some_jacobians(first=family == "gpt2")
    options: dict[str, Any] = {"tokenizer": tokenizer, "metrics": ["jacobian"], "lens": lens, "agg": "both"}
    signature = depthsig.analyze(model, TEXTS, batch_size=2, **options)
    runs = []
    for text in TEXTS:
        run = _Transported(model, places(family), tokenizer(text).input_ids)
        run.jacobians = lens
        runs.append(run)
    first = 0 if family == "gpt2" else 1
    found = [
        [[oracle.lens_values(r, d, t) for d in range(first, STEPS + 1)] for t in range(1, len(r.ids))] for r in runs[:4]
    ]
    for name in found[0][0][0]:
        metric = name.replace("lens.", "jacobian.")
        values = [np.array([[cell.get(name, math.nan) for cell in row] for row in rows]) for rows in found]
        values = [v for v in values if not np.isnan(v).all()]
        mean = np.mean([np.nanmean(v, axis=0) for v in values], axis=0)
        oracle.close(signature.profile(metric)["value"][first:], mean, KL_LIKE.get(metric, 1e-6))
        low = metric in ("jacobian.top1", "jacobian.overlap5")
        worst = (np.nanmin if low else np.nanmax)(np.concatenate(values), axis=0)
        oracle.close(signature.profile(metric, agg="max")["value"][first:], worst, KL_LIKE.get(metric, 1e-6))
        assert signature.profile(metric)["value"][:first].isna().all()
    top = signature.tokens("jacobian.tokens").query("prompt == 0 and position == 3 and index == 2")
    assert top["token_id"].tolist() == oracle.top5(runs[0].lens(2)[3])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_matrices_that_are_the_identity_give_the_plain_lens(family: str) -> None:
    lens = JacobianLens((torch.eye(WIDTH),) * STEPS)
    options: dict[str, Any] = {"metrics": ["lens", "jacobian"], "lens": lens, "agg": "both"}
    signature = depthsig.analyze(build(family), PROMPTS, tokenizer=byte_tokenizer(), **options)
    for agg in ("mean", "max"):
        table = signature.profiles[signature.profiles["agg"] == agg].set_index("metric")["value"]
        for name in sorted({one for one in table.index if one.startswith("lens.")}):
            np.testing.assert_array_equal(table[name], table[name.replace("lens.", "jacobian.")])
    columns = ["index", "position", "rank", "token_id", "value"]
    pairs = [signature.tokens(f"{lens}.tokens")[columns].to_numpy() for lens in ("lens", "jacobian")]
    np.testing.assert_array_equal(*pairs)


def _linear() -> tuple[nn.Module, JacobianLens]:
    """A GPT-2 whose every layer is a linear map, and the maps from each depth to the end."""
    torch.manual_seed(3)
    model = disturb(hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, activation_function="linear", bos_token_id=1)).eval())
    maps: list[torch.Tensor] = []
    with torch.no_grad():
        for layer in reversed(model.transformer.h):
            layer.ln_2 = nn.Identity()
            for p in (layer.attn.c_proj.weight, layer.attn.c_proj.bias, layer.mlp.c_fc.bias, layer.mlp.c_proj.bias):
                p.zero_()
            layer.mlp.c_fc.weight.mul_(4.0)
            own = torch.eye(WIDTH) + (layer.mlp.c_fc.weight @ layer.mlp.c_proj.weight).T
            maps.append((maps[-1] if maps else torch.eye(WIDTH)) @ own)
    return model, JacobianLens(tuple(reversed(maps)))


def test_a_linear_model_is_read_out_exactly_at_every_depth() -> None:
    model, lens = _linear()
    signature = depthsig.analyze(model, random_prompts(4), metrics=["lens.kl", "jacobian.kl"], lens=lens)
    plain, transported = (signature.profile(name)["value"].to_numpy() for name in ("lens.kl", "jacobian.kl"))
    assert plain[:STEPS].min() > 0.01
    assert transported.max() < 1e-8 and transported[STEPS] == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_half_precision_the_product_alone_is_in_float32(dtype: torch.dtype) -> None:
    model, lens, ids = build("llama", dtype=dtype), some_jacobians(), random_prompts(3)
    signature = depthsig.analyze(model, ids, metrics=["jacobian.entropy"], lens=lens, batch_size=1)
    states: list[torch.Tensor] = []
    handles = [layer.register_forward_pre_hook(lambda m, a: states.append(a[0][0])) for layer in model.model.layers]
    values = []
    for one in ids:
        states.clear()
        with torch.no_grad():
            model(torch.tensor([one]), use_cache=False)
            moved = [(h.float() @ j.T).to(dtype) for h, j in zip(states, lens.jacobians, strict=True)]
            logits = torch.stack([model.lm_head(model.model.norm(h)) for h in moved])[:, 1:].double()
        logs = logits.log_softmax(-1)
        values.append(-(logs.exp() * logs).sum(-1).mean(-1))
    for handle in handles:
        handle.remove()
    wanted, found = torch.stack(values).mean(0).numpy(), signature.profile("jacobian.entropy")["value"].to_numpy()
    np.testing.assert_allclose(found[:STEPS], wanted, rtol=1e-6 if dtype == torch.float32 else 2e-3)


@pytest.mark.parametrize("name", ["ouro", "nanbeige"])
def test_a_loop_has_a_matrix_a_pass_and_is_read_with_the_norm(name: str) -> None:
    case = CASES[name]
    model, ids = case.build(), random_prompts(3, 9)
    width, steps = model.config.hidden_size, len(case.order)
    ids = [[i % model.config.vocab_size for i in one] for one in ids]
    lens = some_jacobians(depths=steps, width=width)
    signature = depthsig.analyze(model, ids, metrics=["jacobian.entropy", "jacobian.cosine"], lens=lens)
    values = []
    for one in ids:
        run = Naive(case, model, torch.tensor([one]))
        with torch.no_grad():
            moved = [h[0] @ j.T for h, j in zip(run.inputs, lens.jacobians, strict=True)]
            logits = torch.stack([case.read(model, h[None])[0] for h in moved])[:, 1:].double()
        logs = logits.log_softmax(-1)
        values.append(-(logs.exp() * logs).sum(-1).mean(-1).numpy())
    found = signature.profile("jacobian.entropy")["value"].to_numpy()
    np.testing.assert_allclose(found[:steps], np.mean(values, axis=0), rtol=1e-5)
    passes, size = steps // 3, 3
    cosines = signature.matrix("jacobian.cosine").to_numpy()
    assert cosines.shape == (passes - 1, size)
    for k in range(passes - 1):
        for phase in range(size):
            a, b = (lens.jacobians[(k + i) * size + phase].double().numpy().ravel() for i in (0, 1))
            assert cosines[k, phase] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-12)


def test_the_group_has_the_passes_where_a_loop_runs(tmp_path: Path) -> None:
    """What the matrices tell is measured once, without a prompt, and drawn from a saved folder."""
    lens = some_jacobians(depths=8, first=False)
    signature = depthsig.analyze(
        looped_model(), random_prompts(6), metrics=["jacobian"], lens=lens, out=tmp_path / "out", progress=False
    )
    shares, tails = (signature.profile(f"jacobian.{name}") for name in ("participation", "kurtosis"))
    for table in (shares, tails):
        assert len(table) == 9 and table["value"].isna().tolist() == [True, *[False] * 7, True]
        assert table["ci_low"].isna().all() and table["n_prompts"].isna().all()
    for d in range(1, 8):
        own = lens.jacobians[d].double().numpy()
        squares = np.linalg.svd(own, compute_uv=False) ** 2
        assert shares["value"][d] == pytest.approx(squares.sum() ** 2 / (squares**2).sum(), rel=1e-9)
        assert tails["value"][d] == pytest.approx(kurtosis(own.ravel()), rel=1e-9)
    assert signature.matrix("jacobian.cosine").shape == (2, 2)
    kept = depthsig.Signature.load(tmp_path / "out")
    names = {drawn.stem for drawn in (tmp_path / "out" / "figures").iterdir()}
    assert {"jacobian.participation", "jacobian.kurtosis", "jacobian.cosine", "jacobian.tokens.0"} <= names
    assert kept.profile("jacobian.participation")["value"].equals(shares["value"])
    cube = kept.to_xarray()
    assert np.isnan(cube["jacobian.kl"].to_numpy().ravel()[0]) and kept.plot("jacobian.kl") is not None
    assert "jacobian.kl" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(InputError, match="need a loop that runs"):
        depthsig.analyze(build("llama"), random_prompts(2), metrics=["jacobian.cosine"], lens=some_jacobians())


def test_lenses_together_equal_each_alone() -> None:
    model, prompts, both = build("llama"), random_prompts(4), [some_jacobians(first=False), some_lens()]
    together = depthsig.analyze(model, prompts, metrics=["lens", "tuned", "jacobian"], lens=both)
    alone = [
        depthsig.analyze(model, prompts, metrics=[name], lens=lens).profiles
        for name, lens in zip(("jacobian", "tuned", "lens"), (*both, None), strict=True)
    ]
    for table in alone:
        for name, rows in table.groupby("metric"):
            found = together.profile(name)
            np.testing.assert_array_equal(found[["value", "ci_low"]].to_numpy(), rows[["value", "ci_low"]].to_numpy())
    assert 0 not in set(together.tokens("jacobian.tokens")["index"])
    assert together.info["lens"]["content_hash"] == both[1].content_hash
    assert together.info["jacobian_lens"]["content_hash"] == both[0].content_hash
    assert together.findings() and set(Request(lens=both).metrics or ()) == {
        "lens", "residual", "skip", "tuned", "jacobian"
    }  # fmt: skip


def _folder(path: Path, lens: JacobianLens, **record: Any) -> Path:
    path.mkdir()
    write_jacobian_lens(lens, path, {"schema": "depthsig-jacobian-lens/1", **record})
    return path


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    model, prompts, lens = build("llama"), random_prompts(2), some_jacobians()
    asked: dict[str, Any] = {"metrics": ["jacobian.kl"]}
    wrong = [
        ({**asked}, "jacobian metrics need a Jacobian lens: give --lens"),
        ({"metrics": ["lens"], "lens": lens}, "add jacobian to --metrics"),
        ({**asked, "lens": [lens, lens]}, "both of the kind jacobian"),
        ({**asked, "lens": [lens, some_lens()]}, "add tuned to --metrics"),
        ({**asked, "lens": some_jacobians(width=16)}, "Jacobians for 4 steps of width 16; this run has 4 steps of"),
        ({**asked, "lens": some_jacobians(depths=3)}, "Jacobians for 3 steps of width 32; this run has 4 steps"),
        ({**asked, "lens": lens, "order": "0:1,1:3x2,3:4"}, "this run has 6 steps"),
        ({**asked, "lens": [lens, 3]}, "lens is 3; it is the folder or file"),
        ({**asked, "lens": tmp_path / "none"}, "is no folder, and no file either"),
        ({**asked, "lens": tmp_path}, "holds no config.json of a tuned lens, and no jacobian_lens.pt"),
    ]
    for options, said in wrong:
        with pytest.raises(InputError, match=said) as caught:
            depthsig.analyze(model, prompts, **options)
        assert "\n" not in str(caught.value)
    kept = _folder(tmp_path / "kept", lens) / "jacobian_lens.pt"
    kept.write_bytes(kept.read_bytes()[:-400])
    with pytest.raises(InputError, match="damaged"):
        depthsig.analyze(model, prompts, **asked, lens=kept)
    infinite = JacobianLens((3e38 * torch.ones(WIDTH, WIDTH),) * STEPS)
    with pytest.raises(InputError, match=r"its Jacobian of depth \d gives values that are not finite"):
        depthsig.analyze(model, prompts, **asked, lens=infinite)


def test_of_a_checkpoint_the_shape_is_held_against_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("llama").save_pretrained(tmp_path / "model")
    monkeypatch.setattr("depthsig.model.open_checkpoint", lambda *_, **__: pytest.fail("weights are read"))
    for name, lens in (("wide", some_jacobians(width=16)), ("deep", some_jacobians(depths=7))):
        place = _folder(tmp_path / name, lens)
        with pytest.raises(
            InputError, match=r"this run has (4 steps of )?width 32; `depthsig fit-lens --kind jacobian"
        ):
            depthsig.analyze(str(tmp_path / "model"), random_prompts(2), metrics=["jacobian"], lens=place)


def test_doubts_are_said_and_a_control_goes_without() -> None:
    model, prompts = build("llama"), random_prompts(3)
    tokens = [p.tokens_sha256 for p in depthsig.load(model).tokens(prompts)]
    lens = JacobianLens(
        some_jacobians().jacobians, config={"unembed_hash": "another", "target": "pass"},
        record={"layers": [0, 2, 1, 3], "prompts": {"train": tokens[:2]}},
    )  # fmt: skip
    options: dict[str, Any] = {"lens": [lens], "grown": "0:4/2", "control": True, "metrics": ["lens.kl", "jacobian"]}
    with pytest.warns(DepthsigWarning) as told:
        signature = depthsig.analyze(model, prompts, **options)
    said = " ".join(str(one.message) for one in told)
    assert "2 of 3 prompts are among those that the Jacobian lens was fitted on" in said
    assert "to the end of their pass: its metrics are what the model would say there" in said
    assert "another unembedding" in said and "another order of layers" in said
    assert set(signature.control.profiles["metric"]) == {"lens.kl"}
    with pytest.warns(DepthsigWarning, match="no re-initialised control: a Jacobian lens is fitted"):
        depthsig.analyze(model, prompts, **{**options, "metrics": ["jacobian.kl"], "lens": some_jacobians()})


def test_resume_needs_the_same_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, out = build("llama"), random_prompts(3), tmp_path / "out"
    place = _folder(tmp_path / "lens", some_jacobians())
    options: dict[str, Any] = {"metrics": ["jacobian.kl", "skip.kl"], "lens": place, "out": out}

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("depthsig.measure.schedule.run_edited", interrupt)
        depthsig.analyze(model, prompts, **options)
    write_jacobian_lens(some_jacobians(0.1), place, {})
    with pytest.raises(InputError, match="begun with another content of --lens"):
        depthsig.analyze(model, prompts, **options, resume=True)
    write_jacobian_lens(some_jacobians(), place, {})
    assert depthsig.analyze(model, prompts, **options, resume=True).info["jacobian_lens"]["path"] == str(place)


def test_on_the_command_line_a_lens_of_each_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from depthsig.commands.sweeps.beforehand import Trust, measured_from
    from depthsig.commands.sweeps.sweep_file import Unit

    model = tmp_path / "model"
    build("llama").save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    write_as_tuned_lens(tmp_path / "tuned")
    lenses = [str(tmp_path / "tuned"), str(_folder(tmp_path / "carried", some_jacobians()) / "jacobian_lens.pt")]
    out, asked = tmp_path / "out", ["analyze", str(model), "--prompts", "lookup", "-n", "2", "--max-tokens", "9"]
    asked += ["--lens", lenses[0], "--lens", lenses[1]]
    assert main([*asked, "--metrics", "tuned.kl,jacobian.kl", "--out", str(out)]) == 0
    info = json.loads((out / "signature.json").read_text())
    assert info["options"]["lens"] == lenses == [info["lens"]["path"], info["jacobian_lens"]["path"]]
    assert main(["rerun", str(out)]) == 0
    assert main(["analyze", "--config", str(out / "run.toml"), "--dry-run"]) == 0
    assert main([*asked, "--lens", lenses[0], "--metrics", "tuned,jacobian"]) == 2
    assert "are both of the kind tuned" in capsys.readouterr().err
    unit = Unit(str(model), prompts="lookup", options={"lens": lenses})
    digests = measured_from(unit, Trust())
    assert {f"lens {lenses[1]}", f"lens {tmp_path / 'tuned' / 'params.pt'}"} <= set(digests)


def test_early_exit_draws_three_lenses_on_one_axis() -> None:
    from depthsig.report.gallery import figures_for

    both = [some_lens(), some_jacobians(first=False)]
    metrics = ["lens", "tuned", "jacobian"]
    signature = depthsig.analyze(build("llama"), random_prompts(5), metrics=metrics, lens=both)
    (drawn,) = [d for d in figures_for(signature) if d.name == "early_exit"]
    for ax, name in zip(drawn.figure.axes, ("top1", "kl", "target_nll"), strict=True):
        lines = [line for line in ax.lines if str(line.get_label()).endswith(" lens")]
        assert [line.get_label() for line in lines] == ["plain lens", "tuned lens", "Jacobian lens"]
        own = lines[2].get_ydata()
        assert np.isnan(own[0]) and np.isfinite(own[1:STEPS]).all()
        assert name == "kl" or own[2] == signature.profile(f"jacobian.{name}")["value"][2]
    assert "Jacobian lens" in drawn.caption and "Jacobian lens" in drawn.alt
