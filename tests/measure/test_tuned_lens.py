"""The tuned lens: its metrics against plain code, with the models it belongs to, and early exit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, places
from lenses import STEPS, affine_model, random_prompts, some_lens, true_maps, write_as_tuned_lens

import depthsig
from depthsig.checkpoint.translators import TunedLens, write_lens
from depthsig.errors import DepthsigWarning, InputError

KL_LIKE = {"tuned.kl": 3e-6, "tuned.kl_reverse": 3e-6, "tuned.jsd": 3e-6, "tuned.target_nll": 3e-6}


class _Translated(oracle.Clean):
    """A plain run whose lens goes through translators."""

    translators: TunedLens

    def lens(self, d: int) -> np.ndarray:
        if d < self.steps and d not in self.read:
            own = self.translators
            h = torch.tensor(self.h[d], dtype=torch.float32)
            h = h + h @ own.weights[d].T + (0 if own.biases is None else own.biases[d])
            self.h[d] = h.double().numpy()
        return super().lens(d)


@pytest.mark.parametrize("family", ["llama", "llama_tied", "gpt2", "gemma2", "cohere", "falcon_new", "opt_350m"])
def test_metrics_against_plain_code(family: str) -> None:
    model, tokenizer, lens = build(family), byte_tokenizer(left=True), some_lens(bias=family != "gpt2")
    signature = depthsig.analyze(model, PROMPTS, tokenizer=tokenizer, metrics=["tuned"], lens=lens, agg="both")
    runs = []
    for text in PROMPTS:
        run = _Translated(model, places(family), tokenizer(text).input_ids)
        run.translators = lens
        runs.append(run)
    found = [[[oracle.lens_values(r, d, t) for d in range(STEPS + 1)] for t in range(1, len(r.ids))] for r in runs]
    for name in found[0][0][0]:
        metric = name.replace("lens.", "tuned.")
        values = [np.array([[cell.get(name, math.nan) for cell in row] for row in rows]) for rows in found]
        values = [v for v in values if not np.isnan(v).all()]
        mean = np.mean([np.nanmean(v, axis=0) for v in values], axis=0)
        oracle.close(signature.profile(metric)["value"], mean, KL_LIKE.get(metric, 1e-6))
        worst = (np.nanmin if metric in ("tuned.top1", "tuned.overlap5") else np.nanmax)(np.concatenate(values), axis=0)
        oracle.close(signature.profile(metric, agg="max")["value"], worst, KL_LIKE.get(metric, 1e-6))
    top = signature.tokens("tuned.tokens").query("prompt == 0 and position == 3 and index == 2")
    assert top["token_id"].tolist() == oracle.top5(runs[0].lens(2)[3])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_translators_that_are_zero_give_the_plain_lens(family: str) -> None:
    signature = depthsig.analyze(
        build(family), PROMPTS, tokenizer=byte_tokenizer(), metrics=["lens", "tuned"], lens=some_lens(0.0), agg="both"
    )
    for agg in ("mean", "max"):
        table = signature.profiles[signature.profiles["agg"] == agg].set_index("metric")["value"]
        for name in sorted(set(table.index)):
            if name.startswith("tuned."):
                np.testing.assert_array_equal(table[name], table[name.replace("tuned.", "lens.")])
    pairs = [
        signature.tokens(f"{lens}.tokens")[["index", "position", "rank", "token_id", "value"]]
        for lens in ("lens", "tuned")
    ]
    np.testing.assert_array_equal(*(p.to_numpy() for p in pairs))


def test_the_map_that_is_known_reads_out_the_final_distribution() -> None:
    model = affine_model()
    signature = depthsig.analyze(model, random_prompts(4), metrics=["lens.kl", "tuned.kl"], lens=true_maps(model))
    plain, tuned = (signature.profile(name)["value"].to_numpy() for name in ("lens.kl", "tuned.kl"))
    assert plain[2] > 0.1 and plain[3] > 0.1
    assert tuned[2:].max() < 1e-8 and tuned[4] == 0.0
    np.testing.assert_array_equal(tuned[:2], plain[:2])


@pytest.mark.parametrize(
    ("lens", "order"), [(some_lens(depths=3), None), (some_lens(width=16), None), (some_lens(), "0:1,1:3x2,3:4")]
)
def test_another_shape_is_refused(lens: TunedLens, order: str | None) -> None:
    with pytest.raises(InputError, match=r"has \d translators of width \d+; this run has \d steps"):
        depthsig.analyze(build("llama"), random_prompts(2), metrics=["tuned"], lens=lens, order=order)


def test_tuned_and_lens_need_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--lens DIR"):
        depthsig.analyze(build("llama"), random_prompts(2), metrics=["tuned.kl"])
    with pytest.raises(InputError, match="add tuned to --metrics"):
        depthsig.analyze(build("llama"), random_prompts(2), metrics=["lens"], lens=some_lens())
    with pytest.raises(InputError, match="no folder"):
        depthsig.analyze("no-such-model", lens=tmp_path / "nowhere")
    from depthsig.measure.request import Request

    assert {"tuned.kl", "lens.kl"} <= Request(lens=some_lens()).wanted


def test_doubts_are_said() -> None:
    model, prompts = build("llama"), random_prompts(6)
    fitted = depthsig.fit_lens(model, prompts, steps=1).lens
    with pytest.warns(DepthsigWarning, match="5 of 6 prompts are among those"):
        depthsig.analyze(model, prompts, metrics=["tuned.kl"], lens=fitted)
    fresh = random_prompts(9)[6:]
    with pytest.warns(DepthsigWarning, match="another unembedding"):
        depthsig.analyze(build("llama", seed=1), fresh, metrics=["tuned.kl"], lens=fitted)
    with pytest.warns(DepthsigWarning, match="another order of layers"):
        depthsig.analyze(model, fresh, metrics=["tuned.kl"], lens=fitted, order="0:1,2:3,1:2,3:4")
    signature = depthsig.analyze(model, fresh, metrics=["tuned.kl"], lens=fitted)
    about = signature.info["lens"]
    assert about["content_hash"] == fitted.content_hash and about["translators"] == STEPS


def test_resume_needs_the_same_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, folder, out = build("llama"), random_prompts(3), tmp_path / "lens", tmp_path / "out"
    write_as_tuned_lens(folder)
    options = {"metrics": ["tuned.kl", "skip.kl"], "lens": folder, "out": out}

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("depthsig.measure.schedule.run_edited", interrupt)
        depthsig.analyze(model, prompts, **options)
    write_lens(TunedLens(some_lens().weights, some_lens().biases), folder, {})
    with pytest.raises(InputError, match="begun with another content of --lens"):
        depthsig.analyze(model, prompts, **options, resume=True)
    write_as_tuned_lens(folder)
    assert depthsig.analyze(model, prompts, **options, resume=True).info["lens"]["path"] == str(folder)


def test_a_control_goes_without() -> None:
    options = {"grown": "0:4/2", "control": True, "lens": some_lens()}
    signature = depthsig.analyze(build("llama"), random_prompts(3), metrics=["lens.kl", "tuned.kl"], **options)
    assert set(signature.control.profiles["metric"]) == {"lens.kl"}
    with pytest.warns(DepthsigWarning, match="no re-initialised control: a tuned lens is fitted to trained weights"):
        depthsig.analyze(build("llama"), random_prompts(3), metrics=["tuned.kl"], **options)


def test_early_exit_draws_what_the_table_says() -> None:
    from depthsig.metrics import entry
    from depthsig.report.gallery import figures_for
    from depthsig.report.scale import Scale

    signature = depthsig.analyze(build("llama"), random_prompts(5), metrics=["lens", "tuned"], lens=some_lens())
    (drawn,) = [d for d in figures_for(signature) if d.name == "early_exit"]
    names = ("top1", "kl", "target_nll")
    for ax, name in zip(drawn.figure.axes, names, strict=True):
        lines = [line for line in ax.lines if str(line.get_label()).endswith(" lens")]
        for line, lens in zip(lines, ("lens", "tuned"), strict=True):
            values = signature.profile(f"{lens}.{name}")["value"].to_numpy()
            scale = Scale.of(entry(f"lens.{name}"), values)
            np.testing.assert_array_equal(line.get_ydata(), scale.within(values))
            assert (scale.within(values) == values)[:-1].all()  # a KL of 0, at the end, has no place on its scale
    whole = next(line for line in drawn.figure.axes[2].lines if line.get_linestyle() == ":").get_ydata()
    assert whole[0] == pytest.approx(signature.profile("lens.target_nll")["value"].iloc[-1])
    plain = depthsig.analyze(build("llama"), random_prompts(5), metrics=["lens.kl"])
    (drawn,) = [d for d in figures_for(plain) if d.name == "early_exit"]
    assert len(drawn.figure.axes) == 1 and "tuned" not in drawn.caption
    without = depthsig.analyze(build("llama"), random_prompts(2), metrics=["residual.norm"])
    assert not [d for d in figures_for(without) if d.name == "early_exit"]
