"""Blocks found without being told: against plain code, on known answers, and where there is nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from families import PROMPTS, build, byte_tokenizer
from looped_cases import CASES
from plain_copied_blocks import plain_excess, plain_noise, plain_p, plain_single, plain_statistic
from smollm2 import gguf

import depthsig
from depthsig.cli.main import main
from depthsig.errors import InputError
from depthsig.metrics.weights import weight_cosine
from depthsig.signature.found_blocks import SavedBlocks
from depthsig.statistics import copied_blocks as cb

TOKENIZER = byte_tokenizer()
ROOT = Path(__file__).resolve().parents[2]


def _vectors(rng: np.random.Generator, layers: int, width: int, correlation: float = 0.0) -> np.ndarray:
    drawn = rng.standard_normal((layers, width))
    for i in range(1, layers):
        drawn[i] = correlation * drawn[i - 1] + (1 - correlation**2) ** 0.5 * drawn[i]
    return drawn


def _cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def _copies(
    order: list[int], noise: float = 0.25, seed: int = 0, width: int = 2000, correlation: float = 0.0
) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(seed)
    layers = _vectors(rng, max(order) + 1, width, correlation)[order]
    found = cb.find_copied_blocks(_cosines(layers + noise * rng.standard_normal(layers.shape)), width)
    assert all(b.p < 0.01 for b in found.blocks)
    return [(b.start, b.size, b.count) for b in found.blocks]


# The statistic and its null


@pytest.mark.parametrize("holes", [False, True])
def test_the_statistic_is_the_plain_one(holes: bool) -> None:
    rng = np.random.default_rng(5)
    layers = _vectors(rng, 11, 60, 0.4)
    layers[6:8] = layers[4:6]
    c = _cosines(layers)
    np.fill_diagonal(c, np.nan)
    if holes:
        odd = np.arange(11) % 3 == 1
        c[odd[:, None] != odd] = np.nan
    assert cb.noise(c[None])[0] == pytest.approx(plain_noise(c))
    for b in (2, 3, 5):
        plain = [plain_excess(c, i, b) for i in range(11 - b)]
        found = cb.excesses(c[None], b)[0]
        assert np.where(np.isnan(found), -np.inf, found) == pytest.approx(plain)
    singles = cb.single_excesses(c[None])[0]
    for length, start in ((1, 0), (1, 4), (2, 3), (6, 2), (10, 0)):
        found = singles[length - 1, start]
        assert (-np.inf if np.isnan(found) else found) == pytest.approx(plain_single(c, start, length))
    assert cb.statistics(c[None], 0.02)[0] == pytest.approx([plain_statistic(c, b, 0.02) for b in range(1, 6)])


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_p_agrees_with_explicit_vectors(correlation: float) -> None:
    """Faint copies, whose p lies in the middle: 400 plain draws against the product's."""
    rng = np.random.default_rng(1)
    layers = _vectors(rng, 9, 300, correlation)
    layers[5:8] += {0.0: 0.15, 0.8: 0.5}[correlation] * layers[2:5]
    c = _cosines(layers)
    found, plain = cb.find_copied_blocks(c, 300).p, plain_p(c, 300, 400, 3)
    assert 0.01 < plain < 0.95
    assert found == pytest.approx(plain, abs=4 * (plain * (1 - plain) / 400) ** 0.5 + 0.02)


def test_drawn_cosines_are_those_of_gaussian_vectors() -> None:
    rng = np.random.default_rng(0)
    wanted = cb.smooth_correlation(np.array([[1, 0.6, 0.3], [0.6, 1, 0.6], [0.3, 0.6, 1]]))
    drawn = cb.wishart_cosines(rng, np.linalg.cholesky(wanted), 50, 4000)
    assert drawn.mean(0) == pytest.approx(wanted, abs=0.01)
    assert drawn[:, 0, 1].std() == pytest.approx((1 - 0.6**2) / 50**0.5, rel=0.1)
    assert np.diagonal(drawn, axis1=1, axis2=2) == pytest.approx(1)


@pytest.mark.slow
def test_chance_seldom_finds_anything() -> None:
    """Gaussian layers, also correlated ones: p below .05 in less than 5 % of them (it is granted one unit of noise)."""
    p = [
        cb.find_copied_blocks(_cosines(_vectors(np.random.default_rng(k), n, 400, r)), 400, draws=199).p
        for k in range(25)
        for n, r in ((6, 0.0), (12, 0.9), (20, 0.5))
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.05


# Known answers


@pytest.mark.parametrize("noise", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_two_copies_are_enough(noise: float, correlation: float) -> None:
    order = [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]
    assert _copies(order, noise, correlation=correlation) == [(3, 3, 2)]
    many = [0, 1, *[2, 3, 4, 5] * 4, 6]
    assert _copies(many, noise, correlation=correlation) == [(2, 4, 4)]


def test_smallest_size_with_the_largest_count_at_any_place() -> None:
    assert _copies([0, 1] * 4) == [(0, 2, 4)]
    assert _copies([*range(6)] * 2) == [(0, 6, 2)]
    assert _copies([0, 1, 2, 2, 2, 2, 3, 4, 5]) == [(2, 1, 4)]
    assert _copies([0, 1, 2, 3, 3, 4, 5], noise=0.0) == [(3, 1, 2)]


@pytest.mark.parametrize(
    ("answer", "after", "noise", "correlation"),
    [((1, 5, 4), 2, 0.5, 0.9), ((0, 2, 3), 1, 0.1, 0.5), ((4, 3, 5), 1, 0.25, 0.5), ((3, 1, 5), 1, 0.1, 0.9),
     ((2, 2, 2), 1, 0.25, 0.9)],
)  # fmt: skip
def test_copies_that_break_a_chain_of_resembling_layers(
    answer: tuple[int, int, int], after: int, noise: float, correlation: float
) -> None:
    """Copies written over layers that resemble their neighbours leave an odd border, which is no block."""
    start, size, count = answer
    rng = np.random.default_rng(1)
    layers = _vectors(rng, start + size * count + after, 8000, correlation)
    for layer in range(start + size, start + size * count):
        layers[layer] = layers[start + (layer - start) % size] + noise * rng.standard_normal(8000)
    found = cb.find_copied_blocks(_cosines(layers), 8000)
    assert [(b.start, b.size, b.count) for b in found.blocks] == [answer]


def test_several_blocks_and_blocks_within_blocks() -> None:
    assert _copies([0, 1, 2, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8]) == [(1, 2, 2), (7, 3, 2)]
    # 2 3 stands twice in each of two stretches of six layers.
    assert _copies([0, 1, 2, 3, 2, 3, 4, 1, 2, 3, 2, 3, 4, 5]) == [(1, 6, 2), (2, 2, 2), (8, 2, 2)]


def test_layers_that_are_alike_without_a_block_are_no_copies() -> None:
    for kind in ("two layers", "outer layers", "every layer its own amount"):
        rng = np.random.default_rng(0)
        layers = _vectors(rng, 16, 2000)
        amount = np.zeros(16)
        if kind == "two layers":
            amount[[4, 11]] = 2
        elif kind == "outer layers":
            amount[[0, 1, 14, 15]] = 0.5, 0.5, 0.5, 0.5
        else:
            amount = rng.uniform(0, 0.5, 16)
        layers += amount[:, None] * rng.standard_normal(2000)
        assert cb.find_copied_blocks(_cosines(layers), 2000).blocks == (), kind


def test_scale_does_not_matter() -> None:
    order = [0, 1, 2, 3, 2, 3, 4]
    layers = _vectors(np.random.default_rng(0), 5, 2000)[order] * np.exp(np.linspace(0, 4, 7))[:, None]
    assert [(b.start, b.size, b.count) for b in cb.find_copied_blocks(_cosines(layers), 2000).blocks] == [(2, 2, 2)]


def test_layers_of_different_shapes() -> None:
    rng = np.random.default_rng(0)
    c = _cosines(_vectors(rng, 6, 2000)[[0, 1, 2, 3, 4, 1, 2, 3, 4, 5]] + 0.2 * rng.standard_normal((10, 2000)))
    odd = np.arange(10) % 4 == 2  # layer 2 of the block, and its copy, are of another kind
    c[odd[:, None] != odd] = np.nan
    assert [(b.start, b.size, b.count) for b in cb.find_copied_blocks(c, 2000).blocks] == [(1, 4, 2)]
    nothing = cb.find_copied_blocks(np.where(np.eye(3) == 1, 1.0, np.nan), 2000)
    assert not nothing.testable and "same shapes" in nothing.reason
    assert not cb.find_copied_blocks(np.ones((1, 1)), 2000).testable
    with pytest.raises(InputError, match="square"):
        cb.find_copied_blocks(np.ones((2, 3)), 10)


def test_cosines_of_weights_in_one_pass_are_those_of_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [[torch.randn(3, 5, generator=generator), torch.randn(7, generator=generator)] for _ in range(3)]
    layers += [[torch.randn(5, 3, generator=generator), torch.zeros(7)], [torch.zeros(3, 5), torch.zeros(7)], []]
    found = weight_cosine(layers)
    flat = [torch.cat([p.flatten() for p in layer]).double() if layer else None for layer in layers]
    for i in range(3):
        for j in range(3):
            assert found[i, j] == pytest.approx(float(torch.cosine_similarity(flat[i], flat[j], dim=0)))
    assert torch.isnan(found[3, :3]).all() and found[3, 3] == 1 and found[4, 0] == 0 and torch.isnan(found[5, 5])


# Models


def _llama(layers: int, seed: int = 0, **config: object) -> hf.LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    settings = hf.LlamaConfig(vocab_size=272, num_hidden_layers=layers, max_position_embeddings=128, **sizes, **config)
    return hf.LlamaForCausalLM(settings).eval()


def _answers(found: depthsig.commands.find_blocks.FoundBlocks) -> list[tuple]:  # type: ignore[name-defined]
    return [(b.start, b.size, b.count, b.kind, b.evidence) for b in found.blocks]


@pytest.mark.parametrize("family", ["gpt2", "phi3", "falcon_new", "mixtral", "mamba2", "bloom", "gemma3"])
def test_no_block_structure_is_the_usual_answer(family: str) -> None:
    found = depthsig.find_blocks(build(family), PROMPTS, tokenizer=TOKENIZER)
    assert found.blocks == () and "no block structure" in str(found)
    assert found.p_values["weights"] > 0.01
    assert found.notes == ("activations: 4 steps are too few to be searched; it takes 9",)


def test_activations_are_searched_where_there_is_room() -> None:
    found = depthsig.find_blocks(_llama(16), PROMPTS, tokenizer=TOKENIZER)
    assert found.blocks == () and set(found.p_values) == {"weights", "activations"} and found.notes == ()


def test_loops_by_order_and_what_activations_see_of_them() -> None:
    model = depthsig.load(_llama(8), TOKENIZER)
    found = depthsig.find_blocks(model, PROMPTS, order="0:2,2:6x4,6:8")
    ((*where, evidence),) = _answers(found)
    assert where == [2, 4, 4, "loop"] and evidence[0] == "trace" and found.blocks[0].p_value is None
    # A label of what there is must not be what finds it.
    labelled = model.relabelled(grown="0:8/4")
    assert depthsig.find_blocks(labelled, PROMPTS).blocks == ()
    with pytest.raises(TypeError, match="grown"):
        depthsig.find_blocks(model, PROMPTS, grown="0:8/4")  # type: ignore[call-arg]


NATIVE = {
    "ouro": [(0, 3, 4)], "huginn": [(1, 2, 3)], "albert": [(0, 1, 3), (1, 1, 3)], "tied": [(0, 3, 3)],
    "hrm_text": [(0, 2, 3), (0, 4, 2), (0, 2, 3)], "zamba2": [],
}  # fmt: skip


@pytest.mark.parametrize("name", list(NATIVE))
def test_native_loops_and_shared_storage(name: str) -> None:
    found = depthsig.find_blocks(CASES[name].build(), PROMPTS, tokenizer=TOKENIZER)
    assert sorted(a[:4] for a in _answers(found)) == sorted((*one, "loop") for one in NATIVE[name])
    assert all(b.evidence[0] == "trace" and b.p_value is None for b in found.blocks)


def test_storage_shared_by_layers_is_a_loop_and_equal_weights_are_copies() -> None:
    tied, copied = _llama(8), _llama(8)
    for i in (4, 5):
        copied.model.layers[i].load_state_dict(copied.model.layers[i - 2].state_dict())
        for module, source in zip(tied.model.layers[i].modules(), tied.model.layers[i - 2].modules(), strict=True):
            module._parameters.update(source._parameters)
    assert [a[:4] for a in _answers(depthsig.find_blocks(tied, PROMPTS, tokenizer=TOKENIZER))] == [(2, 2, 2, "loop")]
    found = depthsig.find_blocks(copied, PROMPTS, tokenizer=TOKENIZER)
    assert _answers(found) == [(2, 2, 2, "grown", ("weights",))]
    assert found.blocks[0].p_value == 0.0005 and "equal weights" in found.blocks[0].note


def test_an_exported_loop_is_found_as_copies_and_the_command_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, out = tmp_path / "source", tmp_path / "out"
    _llama(7).save_pretrained(source)
    TOKENIZER.save_pretrained(source)
    assert main(["export", str(source), "--order", "0:2,2:5x3,5:7", "--out", str(out)]) == 0
    capsys.readouterr()
    arguments = ["find-blocks", str(out), "--prompts", "lookup", "-n", "5"]
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["out"] == "depthsig-results/out-blocks" and Path(told["report"]).is_file()
    saved = SavedBlocks.load(told["out"])
    assert saved.matrix("weights").shape == (13, 13) and saved.info["layers"] == list(range(13))  # type: ignore[union-attr]
    assert saved.matrix("weights").loc[2, 5] == pytest.approx(1)  # type: ignore[union-attr]  # a copy, three layers on
    page = Path(told["report"]).read_text(encoding="utf-8")
    assert "3 × 3 layers, copied, from layer 2." in page
    (block,) = told["blocks"]
    assert set(block) == {"start", "size", "count", "kind", "evidence", "p_value"} and printed.err == ""
    assert (block["start"], block["size"], block["count"], block["kind"]) == (2, 3, 3, "grown")
    assert "weights" in block["evidence"] and block["p_value"] == pytest.approx(0.001)
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["blocks"] == [block] and "equal weights" in printed.err
    assert main(["find-blocks", str(source), "--prompts", "lookup"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["blocks"] == [] and "no block structure" in printed.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--order", "0:99"], "layers"), (["--prompts", "no-such-prompts"], "no-such-prompts"), (["-n", "0"], "-n"),
        (["--max-tokens", "1"], "--max-tokens"), (["--grown", "0:4/2"], "--grown"), (["--dtype", "float13"], "float13"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    _llama(12).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    capsys.readouterr()
    assert main(["find-blocks", str(tmp_path), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and says in printed.err


def test_bad_prompts_are_said_even_where_none_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    _llama(4).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    assert main(["find-blocks", str(tmp_path), "--prompts", "no-such-prompts"]) == 2
    assert "no-such-prompts" in capsys.readouterr().err


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(InputError, match="999"):
        depthsig.find_blocks(_llama(4), PROMPTS, tokenizer=TOKENIZER, draws=99)


@pytest.mark.parametrize(
    ("arm", "answer"),
    [
        ("baseline", []), ("looped", [(4, 4, 4, "loop", ("trace", "activations"))]),
        ("midas", [(0, 4, 6, "grown", ("weights", "activations"))]),
        ("lidas", [(0, 4, 6, "grown", ("weights", "activations"))]),
    ],
)  # fmt: skip
def test_the_reference_family(arm: str, answer: list[tuple]) -> None:
    """Grown by copying stretches of a sequence of period 4 right after themselves, so 6 blocks of 4 from layer 0."""
    found = depthsig.find_blocks(f"family-{arm}", n=10)
    assert _answers(found) == answer


@pytest.mark.slow
def test_smollm2_has_no_blocks() -> None:
    assert depthsig.find_blocks(str(gguf())).blocks == ()


# The study


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts", ["loops,arms", pytest.param("random,trained,loops,copies,arms", marks=pytest.mark.long)]
)
def test_the_study_runs_on_a_small_scale(parts: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data.studies.find_blocks", "--quick", "--out", str(tmp_path)]
    subprocess.run([*command, "--only", parts], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(parts.split(",")) == set(pd.read_csv(tmp_path / "find_blocks.csv")["part"])
    again = subprocess.run([*command, "--only", "nonsense"], capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 2 and "unknown part" in again.stderr


def test_the_committed_study_keeps_its_promises() -> None:
    table = pd.read_csv(ROOT / "data" / "studies" / "find_blocks.csv")
    wrong = table[(table["study"] == "false alarms") & (table["measure"] == "any")]
    assert wrong["models"].sum() >= 200 and wrong.loc[wrong["part"] == "trained", "models"].sum() >= 10
    assert wrong["hits"].sum() <= 0.01 * wrong["models"].sum()
    right = table[(table["study"] == "accuracy") & (table["measure"] == "right")]
    mild = right[right["noise"] <= 0.5]
    assert mild["models"].sum() >= 100 and mild["hits"].sum() >= 0.95 * mild["models"].sum()
    assert (right.loc[right["part"] == "arms", "rate"] == 1).all() and (right["part"] == "arms").sum() == 3
