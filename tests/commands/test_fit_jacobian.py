"""Fitting a Jacobian lens: resumed, merged, in turns, beside TransformerLens, and on the command line."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from families import GPT2, build, byte_tokenizer
from lenses import random_prompts
from looped_cases import CASES

import depthsig
from depthsig.checkpoint.jacobian.jacobians import JacobianLens, read_jacobian_lens
from depthsig.cli.main import main
from depthsig.commands.lenses import partial_sums
from depthsig.commands.lenses.merging import merge_lenses
from depthsig.engine.gradients.jacobian_sums import JacobianSums
from depthsig.errors import DepthsigWarning, InputError
from depthsig.metrics.jacobian import entry_kurtosis, participation_ratio, transport_cosine

PROMPTS = random_prompts(5)


def fit(model: Any, prompts: Any = PROMPTS, **options: Any) -> Any:
    return depthsig.fit_lens(model, prompts, kind="jacobian", **options)


def same(one: JacobianLens, other: JacobianLens, rtol: float = 1e-5) -> None:
    for a, b in zip(one.jacobians, other.jacobians, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-6)


def test_a_lens_is_the_one_that_transformer_lens_fits(tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import JacobianLens as Theirs

    torch.manual_seed(0)
    module = hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, bos_token_id=1, initializer_range=0.2)).eval()
    module.save_pretrained(tmp_path / "m")
    byte_tokenizer().save_pretrained(tmp_path / "m")
    bridge = TransformerBridge.boot_transformers(str(tmp_path / "m"), device="cpu")
    texts = ["some text that is long enough for a lens", "another text, which is longer than that one was"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Theirs.fit(bridge, texts, corpus="two", dim_batch=8, show_progress=False)
        ids = [bridge.to_tokens(text)[0].tolist() for text in texts]
    ours = fit(module, ids).lens
    assert theirs.n_prompts == ours.prompts == 2
    for layer, wanted in theirs.jacobians.items():
        found = ours.jacobians[layer + 1]
        assert float((found - wanted).abs().max()) <= 1e-3 * float(wanted.abs().max())


def test_every_prompt_counts_alike_and_short_ones_take_no_part() -> None:
    model = build("llama")
    alone = [fit(model, [p]).lens.jacobians for p in PROMPTS[:2]]
    with pytest.warns(DepthsigWarning, match="1 of 3 prompts have at most 17 tokens and take no part"):
        fitted = fit(model, [PROMPTS[0], PROMPTS[1], PROMPTS[2][:17]])
    for depth, found in enumerate(fitted.lens.jacobians):
        torch.testing.assert_close(found, (alone[0][depth] + alone[1][depth]) / 2, rtol=1e-5, atol=1e-6)
    assert fitted.record["tokens"] == {"train": 2 * (24 - 17)} and fitted.lens.prompts == 2
    for prompts, word in (([[5]], "needs at least two"), ([PROMPTS[0][:17]], "smaller --skip-first")):
        with pytest.raises(InputError, match=word):
            fit(model, prompts)
    assert fit(model, [PROMPTS[0][:17]], skip_first=15).lens.prompts == 1
    with pytest.warns(DepthsigWarning, match="cut at 20"):
        assert fit(model, PROMPTS[:1], max_tokens=20).record["tokens"] == {"train": 3}


def test_numbers_of_the_jacobians() -> None:
    torch.manual_seed(1)
    matrix, other = torch.randn(12, 12), torch.randn(12, 12)
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False) ** 2
    assert participation_ratio(matrix) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert participation_ratio(1e30 * matrix) == pytest.approx(participation_ratio(matrix), rel=1e-5)
    entries = matrix.double().numpy() - matrix.double().numpy().mean()
    assert entry_kurtosis(matrix) == pytest.approx((entries**4).mean() / (entries**2).mean() ** 2 - 3)
    norms = float(np.linalg.norm(matrix) * np.linalg.norm(other))
    assert transport_cosine(matrix, other) == pytest.approx(float((matrix * other).sum()) / norms, rel=1e-5)
    zero = torch.zeros(3, 3)
    assert all(math.isnan(v) for v in (participation_ratio(zero), entry_kurtosis(zero), transport_cosine(zero, zero)))


def test_a_loop_has_one_a_pass_and_its_table_says_so() -> None:
    model = depthsig.load(CASES["ouro"].build())
    fitted = fit(model, PROMPTS[:2])
    table = fitted.depths
    assert list(table) == ["depth", "layer", "iteration", "phase", "participation", "kurtosis", "cosine_to_next_pass"]
    assert (
        table["iteration"].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
        and table["phase"].tolist() == [0, 1, 2] * 4
    )
    jacobians = fitted.lens.jacobians
    for depth in range(9):
        assert table["cosine_to_next_pass"][depth] == pytest.approx(
            transport_cosine(jacobians[depth], jacobians[depth + 3])
        )
    assert table["cosine_to_next_pass"][9:].isna().all()
    assert json.loads(json.dumps(fitted.record, allow_nan=False))["depths"][9]["cosine_to_next_pass"] is None
    by_pass = fit(model, PROMPTS[:2], target="pass")
    same_last = zip(jacobians[9:], by_pass.lens.jacobians[9:], strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in same_last)
    assert not torch.allclose(jacobians[0], by_pass.lens.jacobians[0], atol=1e-2)
    assert by_pass.lens.about()["target"] == by_pass.record["options"]["target"] == "pass"


class _Killed(BaseException):
    """What ends a process in the midst of its work."""


@pytest.mark.parametrize("memory", ["4GiB", "20kB"])
def test_a_fit_goes_on_where_it_was_ended(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_sums, "STORE_SECONDS", 0.0)
    model = depthsig.load(build("llama"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the memory, which is told in another test
        whole = fit(model, memory=memory).lens
        add, done = JacobianSums.add, []

        def killed(self: JacobianSums, *args: Any) -> None:
            if len(done) == 3:
                raise _Killed
            done.append(self.depths)
            add(self, *args)

        monkeypatch.setattr(JacobianSums, "add", killed)
        with pytest.raises(_Killed):
            fit(model, memory=memory, out=tmp_path / "lens")
        assert not (tmp_path / "lens").exists()
        monkeypatch.setattr(JacobianSums, "add", lambda *args: (done.append(None), add(*args)))
        with pytest.raises(InputError, match="begun with another"):
            fit(model, PROMPTS[1:], memory=memory, out=tmp_path / "lens", resume=True)
        other = build("llama")
        with torch.no_grad():
            other.model.layers[0].mlp.up_proj.weight.mul_(1.01)
        with pytest.raises(InputError, match="begun with another"):
            fit(other, memory=memory, out=tmp_path / "lens", resume=True)
        fitted = fit(model, memory=memory, out=tmp_path / "lens", resume=True)
    turns = 1 if memory == "4GiB" else 2
    assert len(done) == 5 * turns
    assert all(torch.equal(a, b) for a, b in zip(fitted.lens.jacobians, whole.jacobians, strict=True))
    assert read_jacobian_lens(tmp_path / "lens").content_hash == whole.content_hash
    assert [p.name for p in tmp_path.iterdir()] == ["lens"]


def test_damaged_sums_are_summed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_sums, "STORE_SECONDS", 0.0)
    model, out = depthsig.load(build("llama")), tmp_path / "lens"
    add = JacobianSums.add

    def killed(self: JacobianSums, *args: Any) -> None:
        if self.prompts == 2:
            raise KeyboardInterrupt
        add(self, *args)

    monkeypatch.setattr(JacobianSums, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(model, out=out)
    monkeypatch.setattr(JacobianSums, "add", add)
    stored = tmp_path / "lens.partial" / "units" / "sums-0-4.pt"
    found = torch.load(stored, weights_only=True)
    torch.save({**found, "sums": found["sums"] + 1}, stored)
    same(fit(model, out=out, resume=True).lens, fit(model).lens)


def test_little_memory_is_told() -> None:
    model = depthsig.load(build("llama"))
    with pytest.warns(DepthsigWarning) as told:
        few = fit(model, PROMPTS[:2], memory="20kB").lens
    words = " ".join(str(w.message) for w in told)
    assert "2 at a time are summed, and all prompts are gone through 2 times" in words and "run by itself" in words
    same(few, fit(model, PROMPTS[:2]).lens)


def test_merged_lenses_are_the_lens_of_all_prompts(tmp_path: Path) -> None:
    model = depthsig.load(CASES["ouro"].build())
    whole = fit(model)
    fit(model, PROMPTS[:2], out=tmp_path / "a")
    fit(model, PROMPTS[2:], out=tmp_path / "b")
    merged = merge_lenses([tmp_path / "a", tmp_path / "b"], out=tmp_path / "c")
    same(merged.lens, whole.lens)
    assert merged.lens.prompts == 5 and merged.record["tokens"] == whole.record["tokens"]
    assert merged.record["prompts"] == whole.record["prompts"]
    np.testing.assert_allclose(merged.depths["participation"], whole.depths["participation"], rtol=1e-4)
    same(read_jacobian_lens(tmp_path / "c"), whole.lens)
    fit(model, PROMPTS[2:], target="pass", out=tmp_path / "d")
    fit(build("llama"), PROMPTS[2:], out=tmp_path / "e")
    torch.save({"J": {0: torch.eye(32)}, "n_prompts": 2, "d_model": 32}, tmp_path / "published.pt")
    for other, word in (
        ("a", "share 2 of their prompts"), ("d", "their target differs"), ("e", "their checkpoint differs"),
        ("published.pt", "can be merged"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            merge_lenses([tmp_path / "a", tmp_path / other])
    with pytest.raises(InputError, match="two Jacobian lenses or more"):
        merge_lenses([tmp_path / "a"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kind": "jacobi"}, "did you mean 'jacobian'"), ({"target": "pass"}, "goes with --kind jacobian"),
        ({"kind": "jacobian", "steps": 3}, "goes with --kind tuned"), ({"skip_first": 3}, "goes with --kind jacobian"),
        ({"kind": "jacobian", "target": "ends"}, "did you mean 'end'"), ({"resume": True}, "--resume goes with"),
        ({"kind": "jacobian", "target": "pass"}, "needs a loop that runs"), ({"kind": "jacobian", "n": 0}, "-n is 0"),
        ({"kind": "jacobian", "resume": True}, "needs the --out"),
        ({"kind": "jacobian", "skip_first": -1}, "0 or more"),
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        depthsig.fit_lens(build("llama"), PROMPTS, **options)


def test_on_the_command_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    few = ["--kind", "jacobian", "--max-tokens", "24", "--no-progress"]
    for at, text in (("a", "wikitext"), ("b", "gsm8k")):
        assert main(["fit-lens", str(checkpoint), *few, "--prompts", text, "-n", "2", "--out", at]) == 0
    assert "mean Jacobians of 2 prompts" in capsys.readouterr().out
    assert main(["fit-lens", "--merge", "a,b", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lens"]["n_prompts"] == 4 and Path(told["out"], "jacobian_lens.pt").is_file()
    page = Path(told["report"]).read_text()
    assert "Jacobian lens" in page and "participation ratio" in page
    assert main(["report", "a"]) == 0
    assert main(["fit-lens", "--config", "a/run.toml", "--out", "again"]) == 0
    assert read_jacobian_lens("again").content_hash == read_jacobian_lens("a").content_hash
    capsys.readouterr()
    for given, word in (
        (["fit-lens"], "CHECKPOINT"), (["fit-lens", "x", "--merge", "a,b"], "no CHECKPOINT"),
        (["fit-lens", str(checkpoint), *few, "--prompts", "wikitext", "-n", "2", "--target", "pass"], "needs a loop"),
    ):  # fmt: skip
        assert main(given) == 2
        assert word in capsys.readouterr().err
