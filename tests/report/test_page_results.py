"""What the pages say first, and the numbers behind their charts: known answers of made results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_pages
import numpy as np
import pytest
from made_signatures import late, noisy, signature, skip_only

import depthsig
from depthsig.cli.main import main
from depthsig.errors import InputError
from depthsig.findings.finding import DISAGREE, Finding
from depthsig.report import build, draw
from depthsig.report.page import chart_data, lens_page
from depthsig.report.page.blocks_page import blocks_data, blocks_in_short
from depthsig.report.page.compared_data import compared_in_short, comparison_data
from depthsig.report.page.glance import glance
from depthsig.report.page.repeated_page import ALL, repeat_data, repeated_in_short
from depthsig.signature.found_blocks import SavedBlocks
from depthsig.signature.records import BlocksRecord, LensRecord, as_record
from depthsig.signature.repeated import Repeated


def finding(id: str, sentence: str, verdict: Any = "holds", value: float | None = 0.3) -> Finding:
    numbers: dict[str, Any] = {"value": value, "ci_low": None, "ci_high": None, "reference": None}
    return Finding(id=id, sentence=sentence, metric="m", verdict=verdict, **numbers)


def test_three_questions_are_answered_first() -> None:
    late = finding("late", "It carries 47.1 %, even is 33 %; the centre lies at .4; scores disagree: no.")
    period = finding("recurrence", "Open: no block.", "open")
    blocks = finding("blocks", "Recurs every 4 steps.")
    exact = finding("exact", "All 7 certificates hold; the worst is far.")
    few = finding("prompts", "2 prompts.", "does not hold")
    first, second, third = glance([late, period, blocks, exact, few])
    assert (first.answer, first.text) == (f"Yes, but the {DISAGREE}", "It carries 47.1 %, even is 33 %.")
    assert (second.answer, second.text) == ("Yes", "Recurs every 4 steps.")
    assert (third.answer, third.text) == ("With care", "All 7 certificates hold. 2 prompts.")
    failed = finding("exact", "Of 7 certificates, causal failed.", "does not hold")
    assert [(a.answer, a.look) for a in glance([failed])] == [("No", "fail")]
    assert glance([period])[0].answer == "Open" and not glance([])
    warned = glance([exact, finding("prompts", "20 prompts.")], ["all prompts were cut"])
    assert [(a.answer, a.look) for a in warned] == [("With care", "open")]


def test_without_a_declared_span_the_blind_search_answers() -> None:
    undeclared = finding("recurrence", "Open: no loop runs.", "open", None)
    nothing = finding("blocks", "Searched blindly, no block recurs.", "open", 0.01)
    unsearched = finding("blocks", "Open: 3 steps are too few.", "open", None)
    said = [[a[1:] for a in glance([undeclared, other])] for other in (nothing, unsearched)]
    assert said[0] == [("None was found", "open", "Searched blindly, no block recurs.")]
    assert said[1] == [("Open", "open", "no loop runs.")]


def test_a_comparison_says_who_and_how_alike() -> None:
    found = depthsig.compare([
        signature({("lens.kl", "-", "-", "depth"): noisy(np.linspace(2, 0, 13), 6)}, 12, name=name) for name in "ab"
    ])  # fmt: skip
    alike, rest = compared_in_short(found)
    table = found.distance_matrix()
    assert alike.answer == f"{table.loc['a', 'b']:.2g} apart" or alike.answer.endswith(" apart")
    assert rest.answer == "6 prompts"
    made = made_pages.comparison()
    first = compared_in_short(made)[0]
    shares = made.scores.query("score == 'late_share' and part == 'layer' and scope == 'current'")
    assert first.answer.startswith(shares.loc[shares["value"].idxmax(), "model"])


def test_no_winner_is_named_where_models_are_not_told_apart() -> None:
    one, same, less = (
        signature(skip_only(late(12, share), seed), 12, name=name)
        for seed, (name, share) in enumerate([("one", 0.6), ("same", 0.6), ("less", 0.3)])
    )
    late_first = compared_in_short(depthsig.compare([one, same, less]))[0]
    assert late_first.answer == "Open" and "one and same are not told apart" in late_first.text.replace(
        "same and one", "one and same"
    )
    assert compared_in_short(depthsig.compare([one, less]))[0].answer == "one"


def test_a_comparisons_charts_are_its_tables() -> None:
    found = made_pages.comparison()
    data = json.loads(chart_data.as_script(comparison_data(found)))
    claims = data["metrics"]["claims"]["forest"][0]["rows"]
    np.testing.assert_allclose([row["value"] for row in claims], found.claims["estimate"], rtol=5e-5)
    mean = data["metrics"]["distances"]["cells"][0]
    assert data["metrics"]["distances"]["names"] == found.models and mean["part"] == "mean of all profiles"
    np.testing.assert_allclose(mean["values"], found.distance_matrix().to_numpy(float), rtol=5e-5)
    scales = [one["scale"] for one in data["metrics"]["distances"]["cells"]]
    assert all(scale == {"norm": "linear", "low": 0.0, "high": 1.0} for scale in scales)  # as in print
    shown = [(metric, s) for metric, one in data["metrics"].items() for s in one.get("series", [])]
    lines = {(metric, s["part"], s["scope"], s["name"]): s for metric, s in shown}
    curves = found.profiles.groupby(["metric", "part", "scope", "model"])
    assert set(lines) == set(curves.groups)
    for key, curve in curves:
        np.testing.assert_allclose(lines[key]["y"], curve.sort_values("depth")["value"], rtol=5e-5)
    assert len(data["marks"]) == found.profiles["depth"].nunique() and data["markName"] == "Relative depth"


def test_the_best_span_is_named_and_the_map_has_every_run() -> None:
    study = made_pages.scan()
    worth, rest = repeated_in_short(study)
    assert worth.answer == "Yes" and "layers 1 to 2 run 2 times" in worth.text
    assert "by -0.400 [-0.500, -0.300] nats" in worth.text and "1 of 6 runs lower it" in worth.text
    assert rest.answer == "6 prompts of 2 tasks" and "judge it on other prompts" in rest.text
    data = repeat_data(study)
    maps = {(one["part"], one["scope"], one["agg"]): one for one in data["metrics"]["change of loss"]["cells"]}
    assert [part for part, *_ in maps] == [ALL, *dict.fromkeys(study.runs["task"])]
    every = maps[ALL, "2", "naive"]
    assert every["values"][1][2] == -0.4 and every["values"][2][1] is None  # [first layer][last layer]
    assert sum(v is not None for row in every["values"] for v in row) == 6
    assert data["marks"] == [0, 1, 2] and data["markName"] == "Layer"


def test_a_span_that_never_helps() -> None:
    study = made_pages.one_span()
    assert [a.answer for a in repeated_in_short(study)] == ["No", "6 prompts of 1 task"]
    naive = next(s for s in repeat_data(study)["metrics"]["loss"]["series"] if s["scope"] == "naive")
    assert (naive["x"], naive["y"]) == ([1, 2, 3], [1, 3, 4])
    few = study.ranking.assign(delta_loss_low=np.nan, delta_loss_high=np.nan)
    assert repeated_in_short(Repeated(study.runs, few))[0].answer == "Open"
    nothing = Repeated.of({"repeat": study.runs[study.runs["times"] == 1]})
    assert [a.answer for a in repeated_in_short(nothing)] == ["Open"]


def test_a_lens_says_where_it_is_nearer() -> None:
    record = made_pages.lens()
    nearer, rest = lens_page.lens_in_short(as_record(record, LensRecord))
    assert nearer.answer == "At some depths" and "from 1.88 to 0.562 nats" in nearer.text
    assert "nearer at 3 of 4 depths, most at depth 0 (by 3)" in nearer.text
    assert rest.answer == "100 held-out tokens"
    data = lens_page.lens_data(record)
    lines = data["metrics"]["held-out KL"]["series"]
    assert [(s["name"], s["y"]) for s in lines] == [("plain lens", [4, 2, 1, 0.5]), ("tuned lens", [1, 0.5, 0.25, 0.5])]
    assert data["metrics"]["gain"]["series"][0]["y"] == [3, 1.5, 0.75, 0]


def test_found_blocks_are_marked_on_the_plan() -> None:
    found = made_pages.blocks()
    yes, rest = blocks_in_short(as_record(found.info, BlocksRecord))
    assert (yes.answer, yes.text) == ("Yes", "2 × 2 layers, copied, from layer 1.")
    assert rest.answer == "Weights p = 0.00100 and activations p = 0.400" and "1 note, below" in rest.text
    data = blocks_data(found)
    assert [(one["block"], one["phase"]) for one in data["plan"]] == [
        (None, None), (0, 0), (0, 1), (1, 0), (1, 1), (None, None),
    ]  # fmt: skip
    values = data["metrics"]["weights.cosine"]["cells"][0]["values"]
    np.testing.assert_allclose(values, found.matrix("weights"), rtol=5e-5)
    none = made_pages.blocks(found=False)
    assert blocks_in_short(as_record(none.info, BlocksRecord))[0].answer == "None was found"
    assert {one["block"] for one in blocks_data(none)["plan"]} == {None}


def saved_blocks(at: Path) -> Path:
    at.mkdir()
    made_pages.blocks().write(at)
    return at


def test_blocks_survive_their_folder_and_are_drawn_again(tmp_path: Path) -> None:
    folder = saved_blocks(tmp_path / "b")
    again = SavedBlocks.load(folder)
    assert dict(again.info) == made_pages.blocks().info
    np.testing.assert_array_equal(again.matrix("weights"), made_pages.blocks().matrix("weights"))
    assert again.matrix("nothing") is None
    page = build(folder).read_text(encoding="utf-8")
    assert "Are there blocks?" in page and "data:image/png;base64," in page
    assert {p.name for p in draw(folder, "svg")} == {"weights.cosine.svg", "contribution.cosine_matrix.svg"}


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("blocks.json", '{"schema": "depthsig-blocks/1"}', "checkpoint"),
        ("blocks.json", '{"schema": "depthsig-blocks/9"}', "schema"),
        ("similarities.csv", "evidence,row,col,value\nweights,0,0,1\nweights,1,1,1\n", "lacks cells"),
        ("similarities.csv", "evidence,row,col,value\nweights,-1,0,1\n", "no place"),
        ("similarities.csv", "evidence,row,col,value\nweights,,0,1\n", "no place"),
        ("similarities.csv", "evidence,row\nweights,1\n", "similarities.csv"),
    ],
)
def test_damaged_blocks_are_refused_in_one_line(
    tmp_path: Path, file: str, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved_blocks(tmp_path / "b")
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=says):
        SavedBlocks.load(folder)
    assert main(["report", str(folder)]) == 2
    told = capsys.readouterr()
    assert says in told.err and told.err.count("\n") == 1


def test_a_damaged_lens_or_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lens.json").write_text(json.dumps({**made_pages.lens(), "depths": [{"depth": "x"}]}))
    with pytest.raises(InputError, match=r"lens\.json.*damaged.*depths\.0"):
        build(tmp_path)
    (tmp_path / "lens.json").write_text(json.dumps(made_pages.lens()))
    assert "nearer" in build(tmp_path).read_text(encoding="utf-8")
    study = tmp_path / "study"
    study.mkdir()
    (study / "repeat.json").write_text('{"schema": "depthsig-repeat/1", "tasks": "all"}')
    with pytest.raises(InputError, match=r"repeat\.json.*damaged.*tasks"):
        Repeated.load(study)


def test_scales_of_ones_own() -> None:
    assert chart_data.own_scale([]) == {"norm": "linear", "low": 0.0, "high": 1.0}
    assert chart_data.own_scale([2.0, 2.0]) == {"norm": "linear", "low": 0.0, "high": 4.0}
    clipped = chart_data.own_scale([*np.linspace(-1, 1, 99), 1000.0], centre=0.0, clip=95)
    assert clipped["high"] == -clipped["low"] < 1.1
