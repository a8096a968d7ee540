"""Which span to repeat: the rule's parts against plain code, and what the shipped study says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import depthsig
from data.studies import span_choice as study
from data.studies.planting import small_llama
from data.studies.span_choice import CHOOSERS, NONE, apart, judged, middle, picks, summary
from data.studies.span_maps import ANSWERS, BUILT, CASES, JUDGED, TEXT, Case, gains_of, predictors, states
from depthsig.commands.opening import token_prompts

ROOT = Path(__file__).parents[2]
RULE = CHOOSERS[0]


@pytest.fixture(scope="module")
def shipped() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Maps, and what was picked."""
    return pd.read_csv(study.MAPS), pd.read_csv(study.CHOICES)


def ends(rows: pd.DataFrame, places: list[int]) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in rows[["start", "end"]].to_numpy()[places]]


def made_map(layers: int, gain: float = -1.0) -> pd.DataFrame:
    """Every span of so many layers, all of one gain; longer spans look better."""
    spans = [(a, b) for a in range(layers) for b in range(a + 1, layers + 1)]
    rows = pd.DataFrame(spans, columns=["start", "end"]).assign(gain=gain)
    return rows.assign(**dict.fromkeys(study.SIGNATURE, rows["end"] - rows["start"]))


def test_first_order_is_the_slope_of_the_loss_along_what_the_span_adds() -> None:
    """Plain code: the model run again with a little more of it at the span's end, position 0 left alone."""
    rng = np.random.default_rng(0)
    module = small_llama(rng, 5, 32).double()
    model = depthsig.load(module, progress=False)
    (made,) = token_prompts([rng.integers(0, 64, 9).tolist()], model)
    prompt = replace(made, positions=tuple(range(1, 8)))
    ids, at = torch.tensor([prompt.ids]), torch.tensor(prompt.positions)

    def loss(add: torch.Tensor | None = None, layer: int = 0) -> float:
        hook = module.model.layers[layer].register_forward_hook(lambda m, a, out: out if add is None else out + add)
        with torch.no_grad():
            logits = module(ids).logits[0]
        hook.remove()
        return float(torch.nn.functional.cross_entropy(logits[at], ids[0, at + 1]))

    seen = states(model, [prompt])
    assert not any(layer.module._forward_hooks for layer in model.anatomy.layers)
    spans = [(0, 1), (1, 4), (3, 5)]
    found = predictors(seen, spans)["first_order"]
    for (start, end), value in zip(spans, found, strict=True):
        h = torch.tensor(seen[0][0]).double()
        added = (h[end] - h[start])[None]
        added[:, 0] = 0
        slope = (loss(1e-3 * added, end - 1) - loss(-1e-3 * added, end - 1)) / 2e-3
        assert value == pytest.approx(-slope, rel=1e-3, abs=1e-6)


def test_angles_and_norms_are_those_of_plain_vectors() -> None:
    h = np.zeros((3, 2, 2))
    h[:, 1] = [[1, 0], [0, 1], [0, 3]]
    found = predictors([(h, np.zeros_like(h))], [(0, 1), (1, 2), (0, 2)])
    assert found["angular"].tolist() == pytest.approx([-0.5, 0, -0.5])
    assert found["relative"].tolist() == pytest.approx([-(2**0.5), -2 / 3, -(10**0.5) / 3])


def test_a_chooser_sees_no_more_than_it_pays_for() -> None:
    rows = made_map(24)
    assert len(rows) == 300 and RULE.runs(300) == 3 and RULE.runs(465) == 6 and RULE.runs(171) == 1
    # The best of all is not among those that the signature ranks first: a chooser cannot know of it.
    rows.loc[(rows["start"] == 7) & (rows["end"] == 8), "gain"] = 5.0
    assert RULE.choose(rows) == (NONE, 6)
    rows.loc[(rows["start"] == 0) & (rows["end"] == 24), "gain"] = 0.1
    assert RULE.choose(rows) == ((0, 24), 6)
    found = picks(rows)
    assert found[study.EVERY] == ((7, 8), 301) and found[study.NOTHING] == (NONE, 0)


def test_spans_that_are_nearly_the_same_are_not_tried_twice() -> None:
    rows = made_map(10)
    tried = ends(rows, apart("first_order", 0.8)(rows)[:3])
    assert tried == [(0, 10), (0, 8), (1, 9)]  # 0:9 shares nine tenths with the first; 0:8 and 1:9 seven ninths
    assert ends(rows, middle(rows)[:3]) == [(4, 6), (3, 7), (2, 8)]


def test_regret_is_against_the_best_of_what_was_measured_or_none() -> None:
    case = Case("made", "", JUDGED, TEXT, 0, 8)
    rows = made_map(24)
    rows.loc[(rows["start"] == 0) & (rows["end"] == 24), "gain"] = 0.1
    spans = study.candidates(rows)
    gains = np.full((8, len(spans)), -1.0)
    gains[:, spans.index((0, 24))] = 0.3
    gains[:, 0 if spans[0] != (0, 24) else 1] = 0.4
    told = judged(case, rows, spans, gains).set_index("chooser")
    assert told.loc[RULE.name, ["gain", "best", "regret"]].tolist() == pytest.approx([0.3, 0.4, 0.1])
    assert told.loc[study.NOTHING, "regret"] == pytest.approx(0.4)
    assert summary(told.reset_index()).loc[RULE.name, "part"] == pytest.approx(0.25)
    # Where everything hurts, none is right: no regret, and nothing to divide it by.
    hurt = judged(case, rows, spans, -np.ones((8, len(spans)))).set_index("chooser")
    assert hurt.loc[study.NOTHING, ["best", "regret", "best_end"]].tolist() == [0, 0, 0]
    assert hurt.loc[RULE.name, "regret"] == 1 and not study.gaining(hurt).any()


def test_tasks_are_drawn_apart() -> None:
    """Two tasks of opposite gains always cancel."""
    gains = np.repeat([1.0, -1.0], 6)[:, None]
    assert np.abs(study.resampled(gains, 2)).max() == 0 and np.abs(study.resampled(gains, 1)).max() > 0.1


def test_what_was_picked_follows_from_the_shipped_maps(shipped: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    maps, choices = shipped
    for case in (c for c in CASES if c.use == JUDGED):
        rows = maps[(maps["model"] == case.name) & (maps["outcome"] == case.outcome)].reset_index(drop=True)
        told = choices[(choices["model"] == case.name) & (choices["outcome"] == case.outcome)].set_index("chooser")
        found = picks(rows)
        assert set(found) == set(told.index)
        for name, (span, runs) in found.items():
            assert (*span, runs) == tuple(told.loc[name, ["start", "end", "runs"]].astype(int)), (case.name, name)
    assert choices["model"].nunique() >= 5 and not {c.name for c in CASES if c.use == BUILT} & {*choices["model"]}


def test_the_page_shows_the_shipped_table(shipped: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    page = (ROOT / "docs" / "repeats.md").read_text(encoding="utf-8")
    for one in study.table(shipped[1]).split("\n\n"):
        assert one in page


@pytest.mark.parametrize("outcome", [TEXT, pytest.param(ANSWERS, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::depthsig.errors.DepthsigWarning")
def test_the_rule_asked_again_of_a_shipped_model_says_the_same(
    outcome: str, shipped: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    case = next(c for c in CASES if c.where == "{home}/family-baseline" and c.outcome == outcome)
    model = case.load(ROOT / "data" / "checkpoints", tmp_path)
    prompts, _ = case.prompts(model)
    maps = shipped[0].query("model == @case.name and outcome == @outcome").reset_index(drop=True)
    spans = ends(maps, list(range(len(maps))))
    for name, values in predictors(states(model, prompts), spans).items():
        if name in maps:
            assert values == pytest.approx(maps[name].to_numpy(), rel=1e-2, abs=1e-4)
    tried = RULE.wanted(maps)[: RULE.runs(len(maps))]
    gains = gains_of(model, prompts, ends(maps, tried)).mean(0)
    assert gains == pytest.approx(maps["gain"].to_numpy()[tried], rel=1e-2, abs=1e-4)
