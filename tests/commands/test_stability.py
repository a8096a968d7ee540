"""The stability card: from a checkpoint to its folder, page and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import build, byte_tokenizer
from looped_cases import CASES

import depthsig
from depthsig.cli.main import main
from depthsig.commands.opening import Given
from depthsig.commands.stabilities.iteration_counts import counted_model, prompt_losses
from depthsig.commands.stabilities.options import parse_counts
from depthsig.commands.stability import stability
from depthsig.errors import InputError
from depthsig.report import build as rebuild
from depthsig.report import draw
from depthsig.signature.loops.stability_card import SafeRange, StabilityCard, range_in_words

pytestmark = pytest.mark.filterwarnings("ignore::depthsig.errors.DepthsigWarning")
TOKENIZER = byte_tokenizer()
PROMPTS = ["one of six", "another", "a third", "number four", "the fifth", "and six"]
ORDER = "0:1,1:3x2,3:4"


def test_a_card_is_measured_saved_read_and_drawn(tmp_path: Path) -> None:
    model = depthsig.load(build("llama"), TOKENIZER, order=ORDER)
    out = tmp_path / "card"
    card = stability(model, PROMPTS, probes=1, out=out, progress=False)
    assert [one["span"] for one in card.info["loops"]] == ["1:5"] and card.info["range"]["trained"] == 2
    assert card.counts["count"].tolist() == [1, 2, 3, 4] and len(card.losses) == 24
    assert card.summary["control"].notna().sum() == 5
    # What counts say is the loss of the model with its loop run so often.
    other = depthsig.load(build("llama"), TOKENIZER, order="0:1,1:3x3,3:4")
    loss = depthsig.analyze(other, PROMPTS, metrics=["lens.target_nll"], control=False).profile("lens.target_nll")
    assert card.counts["loss"][2] == pytest.approx(float(loss["value"].iloc[-1]), rel=1e-5)
    read = StabilityCard.load(out)
    assert str(read) == str(card) and "spectral radius" in str(card) and "of the best" in str(card)
    page = rebuild(out).read_text()
    assert "How often may it run?" in page and "Does the loop settle?" in page
    assert any(path.suffix == ".svg" for path in draw(out, "svg"))
    (out / "counts.csv").write_text((out / "counts.csv").read_text().replace("\n2,", "\n1,", 1))
    with pytest.raises(InputError, match=r"counts\.csv' is damaged"):
        StabilityCard.load(out)


def test_counts_by_order_and_by_the_models_own_are_the_same_where_both_are() -> None:
    module = CASES["tied"].build()
    model = depthsig.load(module, TOKENIZER)
    at, by = counted_model(_given(module), model, model.plan.spans[0], 0)
    assert by == "order" and len(at(5).plan) == 15
    module = CASES["ouro"].build()
    model = depthsig.load(module, TOKENIZER)
    at, by = counted_model(_given(module), model, model.plan.spans[0], 0)
    ready = model.tokens(PROMPTS[:2])
    again = prompt_losses(at(4), ready)
    assert by == "the model's own count" and len(at(2).plan) == 6
    assert again == pytest.approx(prompt_losses(model, ready), rel=1e-6)
    assert np.abs(prompt_losses(at(1), ready) - again).min() > 1e-4


def _given(module: object) -> Given:
    return Given(module, TOKENIZER)


def test_a_loaded_model_whose_count_is_its_own_says_what_would_do() -> None:
    model = depthsig.load(CASES["ouro"].build(), TOKENIZER)
    with pytest.raises(InputError, match="give the checkpoint"):
        counted_model(Given(model), model, model.plan.spans[0], 0)


@pytest.mark.parametrize("text", ["0:4", "4", "a", "5:2", "1:2000", "", "1:-3", "1:300"])
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--counts"):
        parse_counts(text, 2)


def test_mistakes_are_told_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for given, said in (
        (["family-midas"], "--order"), (["family-looped", "--counts", "x"], "--counts"),
        (["family-looped", "--band", "-1"], "--band"), (["family-looped", "--probes", "0"], "--probes"),
    ):  # fmt: skip
        assert main(["stability", *given, "--out", str(tmp_path / "x")]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_held_out_prompt_that_diverges_is_told_in_words() -> None:
    """Below, resamples without it are finite; above, those with it are not, and a record keeps no infinity."""
    found = SafeRange(band=0.05, best=2, low=2, high=3, excess_low=0.01, holds=False, held_low=1, held_high=2)
    assert "at most not finite [0.01, infinite] nats: it does not hold" in range_in_words(found)[1]
    assert range_in_words(SafeRange(band=0.05, best=2, low=2, high=3)) == [
        "iterations within 0.05 nats of the best (2): 2 to 3"
    ]


@pytest.mark.parametrize(
    ("low", "high", "tried", "said"),
    [
        (2, 3, [1, 2, 3, 4], "2 to 3"),
        (2, 4, [1, 2, 3, 4], "2 to 4 (no more were tried)"),
        (1, 3, [1, 2, 3, 4], "1 to 3"),
        (4, 16, [4, 16], "4 to 16 (no more were tried, no fewer were tried, not all between were tried)"),
    ],
)
def test_a_range_says_where_it_ends_for_want_of_trying(low: int, high: int, tried: list[int], said: str) -> None:
    assert range_in_words(SafeRange(band=0.1, best=low, low=low, high=high, tried=tried))[0].endswith(f": {said}")


def test_every_count_diverges_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card without a safe range, not one in which every count is safe."""
    turn = iter(range(100))

    def losses(model: object, prompts: list) -> np.ndarray:
        found = np.ones(len(prompts))
        found[2 * (next(turn) % 2)] = np.nan
        return found

    monkeypatch.setattr("depthsig.commands.stability.prompt_losses", losses)
    model = depthsig.load(build("llama"), TOKENIZER, order=ORDER)
    card = stability(model, PROMPTS[:3], probes=1, control=False, progress=False)
    assert card.info["range"] is None and not len(card.counts) and "no range is safe" in str(card)


def test_named_counts_that_cannot_be_are_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthsig.commands.stability.analyze", None)
    model = depthsig.load(build("llama"), TOKENIZER, order="0:1x3,1:2,2:3x3,3:4")
    with pytest.raises(InputError, match="2 loops run"):
        stability(model, PROMPTS[:2], counts="1:3", progress=False)
    with pytest.raises(InputError, match="memory"):
        stability(model, PROMPTS[:2], memory="much", progress=False)


def test_a_count_that_the_model_refuses_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(given: Given, model: depthsig.Model, *rest: object) -> tuple:
        def at(count: int) -> depthsig.Model:
            if count == 3:
                raise InputError("three is\ntoo many")
            return model

        return at, "itself"

    monkeypatch.setattr("depthsig.commands.stability.counted_model", counted)
    model = depthsig.load(build("llama"), TOKENIZER, order=ORDER)
    card = stability(model, PROMPTS[:2], probes=1, control=False, progress=False)
    assert card.counts["count"].tolist() == [1, 2, 4] and card.info["range"]["tried"] == [1, 2, 4]
    assert "the loss at 3 iterations is left out: three is too many" in card.info["warnings"]
    with pytest.raises(InputError, match="three is"):
        stability(model, PROMPTS[:2], counts="1:4", probes=1, control=False, progress=False)


def test_a_damaged_summary_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "card"
    model = depthsig.load(build("llama"), TOKENIZER, order=ORDER)
    stability(model, PROMPTS[:1], probes=1, control=False, out=out, progress=False)
    table = out / "stability.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(InputError, match="a quantity of it stands there twice"):
        StabilityCard.load(out)
