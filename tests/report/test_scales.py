"""Scales of figures: on the entry and not in one run's data, and such that what was measured can be seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import made_signatures
import numpy as np
import pandas as pd
import pytest
from families import build
from lenses import random_prompts
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import depthsig
from depthsig import Signature
from depthsig.metrics import all_metrics, entry
from depthsig.report.figures.heatmap import draw_heatmap
from depthsig.report.figures.profile import draw_profile
from depthsig.report.gallery import figures_for
from depthsig.report.page.chart_data import about
from depthsig.report.scale import Scale

SHIPPED = Path(__file__).parents[2] / "data" / "signatures"
ELSEWHERE = ["tuned", "coda", "loop", "local", "order", "repeat", "erasure", "attribution", "residual.cka",
             "truncation", "gain", "jacobian", "maintained"]  # fmt: skip
BY_NAME = [f"loop.spectral_{what}" for what in ("radius", "radius_all", "residual", "residual_all")]
LETTERS = np.random.default_rng(0).integers(97, 122, (24, 24)).tolist()
"""Token ids of the shipped family: bytes."""
DRAWN = [m.id for m in all_metrics().values() if m.figure in ("profile", "heatmap", "token_map")]


@lru_cache(maxsize=1)
def shipped() -> dict[str, np.ndarray]:
    """Every value of every metric in the shipped signatures."""
    return values_of(Signature.load(folder) for folder in sorted(path for path in SHIPPED.iterdir() if path.is_dir()))


def values_of(signatures: Iterable[Signature]) -> dict[str, np.ndarray]:
    found = defaultdict(list)
    for signature in signatures:
        for table in (signature.profiles, signature.matrices, signature.tokens_table):
            for name, rows in table.groupby("metric"):
                found[str(name)].append(rows["value"].dropna().to_numpy(float))
    return {name: np.concatenate(values) for name, values in found.items()}


@pytest.mark.parametrize("name", DRAWN)
def test_no_run_decides_what_is_drawn(name: str) -> None:
    one = entry(name)
    scales = [Scale.of(one, values) for values in (np.array([0.1, 0.2]), np.array([3.0, 500.0]), np.array([np.nan]))]
    assert scales[0] == scales[1] == scales[2]
    if one.centre is not None:
        assert scales[0].share(np.array([one.centre])) == pytest.approx(0.5)


@pytest.mark.parametrize("name", DRAWN)
def test_less_than_half_of_what_ships_lies_in_the_lowest_tenth(name: str) -> None:
    values = shipped().get(name)
    if values is None:
        assert {name, name.split(".")[0]} & set(ELSEWHERE)  # measured below
        return
    assert (Scale.of(entry(name), values).share(values) < 0.1).mean() < 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::depthsig.errors.DepthsigWarning")  # prompts are cut
def test_nor_of_what_shipped_signatures_lack() -> None:
    tuned = depthsig.fit_lens("family-looped", LETTERS[:20], steps=2, progress=False)
    jacobian = depthsig.fit_lens("family-looped", "copying", kind="jacobian", n=3, max_tokens=40, progress=False)
    signature = depthsig.analyze(
        "family-looped", metrics=[*ELSEWHERE, *BY_NAME], probes=1,
        prompts=LETTERS[20:], lens=[tuned.lens, jacobian.lens], control=False, progress=False,
    )  # fmt: skip
    found = dict(values_of([signature]))
    lacking = set(DRAWN) - set(shipped())
    assert lacking <= set(found)
    low = {name for name in lacking if (Scale.of(entry(name), found[name]).share(found[name]) < 0.1).mean() >= 0.5}
    # Passes of one block change places without effect: exactly 0, which is below any logarithmic scale.
    assert low == {"order.swap_blocks.kl"} and not found["order.swap_blocks.kl"].any()


def test_what_lies_beyond_is_at_the_ends_and_told() -> None:
    scale, values = Scale("log", 0.1, 10), np.array([0.0, 0.1, 1.0, 10.0, 20.0, np.nan])
    assert scale.share(values)[:5] == pytest.approx([0, 0, 0.5, 1, 1]) and scale.ends(values) == "both"
    assert scale.below(values).tolist() == [True, *[False] * 5] and scale.above(values).sum() == 1
    assert scale.ends(values[1:4]) == "neither" and scale.ends(values[:2]) == "min" and scale.ends(values[4:]) == "max"


def test_a_metric_of_ones_own_without_a_range_is_drawn_over_its_data() -> None:
    depthsig.metric("mine.some", axis="depth")(lambda h: h.sum(-1))
    values = np.append(np.linspace(2, 3, 1000), 1e6)
    scale = Scale.of(entry("mine.some"), values)
    assert 2 <= scale.low < 2.1 and 2.9 < scale.high < 3.1 and scale.ends(values) == "both"
    depthsig.metric("mine.other", axis="depth", norm="log", drawn=(0.5, 8))(lambda h: h.sum(-1))
    assert Scale.of(entry("mine.other"), values) == Scale("log", 0.5, 8)


@pytest.mark.parametrize(
    ("name", "smallest", "largest"), [("residual.norm", 0.05, 5000.0), ("contribution.norm", 0.0011, 5000.0)]
)
def test_norms_of_tiny_random_models_and_of_large_ones_fit(name: str, smallest: float, largest: float) -> None:
    """Smallest: 16 wide, random weights of deviation 0.02. Largest: 7 billion parameters."""
    assert Scale.of(entry(name), []).ends(np.array([smallest, largest])) == "neither"


@pytest.mark.parametrize("drawn", [(2, 1), (0, 1), (1, 1), ("a", 2), (1,)])
def test_a_range_that_cannot_be_drawn_is_refused(drawn: tuple) -> None:
    with pytest.raises(depthsig.InputError, match="drawn"):
        depthsig.metric("mine.bad", axis="depth", norm="log", drawn=drawn)(lambda h: h.sum(-1))


def drawn_texts(ax: Axes) -> list[str]:
    FigureCanvasAgg(ax.figure).draw()
    bars = [other for other in ax.figure.axes if other is not ax]
    labels = [label for one in (ax, *bars) for label in (*one.get_xticklabels(), *one.get_yticklabels())]
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("name", ["lens.kl", "skip.loss"])
def test_powers_of_ten_are_text_on_every_logarithmic_scale(name: str) -> None:
    ax = Figure().add_subplot()
    Scale.of(entry(name), [1.0]).set(ax.yaxis)
    assert "10⁰" in drawn_texts(ax) and not any("$" in text or "mathdefault" in text for text in drawn_texts(ax))
    if name == "skip.loss":
        assert {"0", "-10⁰"} <= set(drawn_texts(ax))


PLAN = pd.DataFrame({"step": range(4), "layer": range(4), "block": [0, 0, 1, 1], "span": ["grown"] * 4})


def test_a_map_ends_with_its_cells_whatever_blocks_there_are() -> None:
    matrix = pd.DataFrame(np.ones((3, 3)), index=range(3), columns=range(1, 4))
    ax = draw_heatmap(Figure().add_subplot(), matrix, entry("skip.effect"), PLAN)
    assert ax.get_xlim() == (0.5, 3.5) and ax.get_ylim() == (-0.5, 2.5)
    assert not any("$" in text for text in drawn_texts(ax))


@pytest.mark.parametrize(("layers", "edges"), [([0, 1, 2, 3], {-0.5, 1.5, 3.5}), ([0, 1, 0, 1], set())])
def test_maps_of_layers_have_borders_where_each_layer_runs_once(layers: list[int], edges: set[float]) -> None:
    plan, size = PLAN.assign(layer=layers), len(set(layers))
    matrix, one = pd.DataFrame(np.eye(size)), entry("weights.cosine")
    ax = draw_heatmap(Figure().add_subplot(), matrix, one, plan)
    assert {float(line.get_xdata()[0]) for line in ax.lines if line.get_xdata()[0] == line.get_xdata()[1]} == edges
    assert {float(line.get_ydata()[0]) for line in ax.lines if line.get_ydata()[0] == line.get_ydata()[1]} == edges
    assert about(one, plan)["marked"] == bool(edges)


@pytest.mark.parametrize(
    ("ends", "says"),
    [((0.1, 0.2), None), ((1e-5, 0.2), "values below the scale"), ((0.1, 1e5), "values above the scale"),
     ((1e-5, 1e5), "values above (up) or below (down) the scale")],
)  # fmt: skip
def test_a_caption_tells_what_triangles_mean_where_there_are_any(ends: tuple[float, float], says: str | None) -> None:
    curves = {
        ("contribution.relative", part, "-", "step"): made_signatures.noisy(np.linspace(*ends, 6), 6)
        for part in ("layer", "attn", "mlp")
    }
    (drawn,) = [one for one in figures_for(made_signatures.signature(curves, 6)) if one.name == "contribution.relative"]
    assert ("triangles" in drawn.caption) == (says is not None)
    assert says is None or f"hollow triangles: {says}, drawn at its end, solid ones" in drawn.caption


def test_a_map_of_one_row_counts_in_whole_numbers() -> None:
    ax = draw_heatmap(Figure().add_subplot(), pd.DataFrame([[0.1, 0.2]]), entry("residual.cosine"), PLAN.head(0))
    FigureCanvasAgg(ax.figure).draw()
    assert all(float(tick).is_integer() for tick in [*ax.get_yticks(), *ax.get_xticks()])


def test_what_a_uniform_guess_gives_is_a_dashed_line() -> None:
    rows = pd.DataFrame({"index": [0, 1], "value": [3.0, 2.0], "ci_low": np.nan, "ci_high": np.nan})
    rows[["part", "scope", "agg"]] = "-", "-", "mean"

    def dashed(vocabulary: int | None) -> list[float]:
        ax = draw_profile(Figure().add_subplot(), rows, entry("lens.target_nll"), PLAN, vocabulary)
        return [float(line.get_ydata()[0]) for line in ax.lines if line.get_linestyle() == "--"]

    assert dashed(64) == [pytest.approx(np.log(64))] and dashed(None) == []
    assert entry("lens.top1").by_chance(50) == 0.02 and entry("lens.overlap5").by_chance(50) == 0.1
    assert entry("lens.target_rank").by_chance(99) == 50 and entry("lens.kl").by_chance(50) is None


def test_a_vocabulary_is_recorded(tmp_path: Path) -> None:
    model = build("llama")
    depthsig.analyze(model, random_prompts(2), metrics="lens.kl", progress=False, out=tmp_path / "out")
    assert Signature.load(tmp_path / "out").info["checkpoint"]["vocabulary"] == model.config.vocab_size
