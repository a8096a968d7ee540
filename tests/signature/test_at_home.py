"""Python that feels like home: what things say of themselves, and rows, names and figures by one call."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from families import build
from made_signatures import signature

import depthsig
from depthsig import InputError, Repeat, Skip, Swap
from depthsig.checkpoint.known import locate
from depthsig.notebook import plan_strip, sparkline, table
from depthsig.plan.plan import build_plan
from depthsig.progress import Progress
from depthsig.report.gallery import figures_for

PROMPTS = [[3, 4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.fixture(scope="module")
def model() -> depthsig.Model:
    return depthsig.load(build("gpt2"))


@pytest.fixture(scope="module")
def measured(model: depthsig.Model) -> depthsig.Signature:
    return depthsig.analyze(model, PROMPTS, metrics=["lens", "skip", "residual"])


def test_everything_prints_in_twenty_lines(model: depthsig.Model, measured: depthsig.Signature) -> None:
    runs = model.run(PROMPTS, [None, Skip(1) + Swap(0, 1), Repeat(0, 1)])
    nested = [model.anatomy, model.anatomy.layers[0], model.readout, model.checkpoint, model.native, *runs]
    for one in [model, model.plan, measured, measured.findings(), *nested]:
        assert len(str(one).splitlines()) <= 20 and len(repr(one).splitlines()) <= 20
        assert len(repr(one)) < 3000, type(one)
    assert "GPT2LMHeadModel" in repr(model) and "float32 on cpu" in repr(model)
    assert "2 prompts" in repr(measured) and "verdict" in repr(measured)
    single = depthsig.analyze(model, PROMPTS[:1], metrics="lens.kl", progress=False)
    assert "1 prompt (" in repr(single) and "1 metric;" in repr(single) and "1 prompt (" in single.to_card()
    assert "1 prompt," in repr(model.run(PROMPTS[:1], [None])[0])
    assert repr(depthsig.Signature({})).startswith("Signature of ?: 0 steps")
    assert len(repr(build_plan([0, 1] * 400 + list(range(2, 900)), 900))) < 3000


def test_notebooks_show_strips_and_lines_and_nothing_runs() -> None:
    bad = "<script>alert(1)</script>"
    one = signature({("lens.kl", "-", "-", "depth"): np.ones((6, 5))}, 4, name=bad)
    assert "<script" not in one._repr_html_() and "&lt;script" in one._repr_html_()
    assert one._repr_html_().count("<rect") == 4 and "<polyline" in one._repr_html_()
    assert "<script" not in plan_strip([{"step": bad, "layer": bad, "block": bad}]) + sparkline([1.0], bad)
    assert "<b>" not in table(["<b>"], [["<b>"]])
    assert sparkline([0.0, 1.0, np.nan, 2.0, 3.0], "x").count("<polyline") == 2
    assert plan_strip([{"step": s, "layer": s} for s in range(300)]).count("<rect") == 256


def test_names_patterns_and_filters(model: depthsig.Model) -> None:
    steps = len(model.plan)
    logits, cache = model.run_with_cache(PROMPTS, "blocks.*.hook_resid_post")
    assert list(cache) == [f"blocks.{s}.hook_resid_post" for s in range(steps)]
    assert [len(one) for one in logits] == [5, 4]
    assert logits[0].equal(model.run(PROMPTS, [None])[0].logits[0])
    named = model.cache(PROMPTS, ["blocks.1.hook_resid_pre"])
    filtered = model.cache(PROMPTS, lambda name: name == "blocks.1.hook_resid_pre")
    assert list(named) == list(filtered)
    assert all(a.equal(b) for a, b in zip(*named.values(), *filtered.values(), strict=True))
    assert len(model.cache(PROMPTS)) == 5 * steps
    for wrong, says in [("blocks.1.hook_resid_pst", "did you mean 'blocks.1.hook_resid_post'"), ("x*", "no activation"),
                        (3, "found int"), ([3], "found int"), (lambda _: False, "takes none")]:  # fmt: skip
        with pytest.raises(InputError, match=says):
            model.cache(PROMPTS, wrong)  # type: ignore[arg-type]


def test_habits_from_transformer_lens(model: depthsig.Model) -> None:
    wanted = "blocks.1.hook_resid_pre"
    for names_filter in (wanted, [wanted], lambda name: name == wanted):
        logits, cache = model.run_with_cache(PROMPTS, names_filter=names_filter)
        assert list(cache) == [wanted] and cache["resid_pre", 1] is cache[wanted] and len(logits) == 2
    with pytest.raises(InputError, match="give one of them"):
        model.run_with_cache(PROMPTS, wanted, names_filter=wanted)
    _, cache = model.run_with_cache(PROMPTS)
    steps = len(model.plan)
    for step in range(steps):
        assert cache["resid_post", step] is cache[f"blocks.{step}.hook_resid_post"] is cache["resid_post", step - steps]
    looped = model.relabelled(order="0:2x3").cache(PROMPTS)
    assert looped["mlp_out", 4] is looped["blocks.4.hook_mlp_out"] and looped["attn_out", -1] is looped["attn_out", 5]
    short = model.relabelled(order="3").cache(PROMPTS)
    for wrong, says in [(("resid_post", 3), "counts steps, and the plan has 0..0; layer 3 runs at steps 0"),
                        (("resid_pst", 0), "did you mean 'blocks.0.hook_resid_post'"),
                        ("hook_embed", "not among the 5"), (("resid_post", "x"), "a kind and a step"),
                        (("resid_post",), "a kind and a step")]:  # fmt: skip
        with pytest.raises(KeyError) as said:
            short[wrong]  # type: ignore[index]
        assert isinstance(said.value, InputError) and says in str(said.value)
    assert short.get(("resid_post", 0)) is None and "x" not in short  # a dictionary of names, as before


def test_metrics_are_a_list_to_loop_over(measured: depthsig.Signature) -> None:
    assert "lens.kl" in measured.metrics.of("profile") and "settling_depth" in measured.metrics.of("score")
    frame = measured.metrics.frame()
    assert list(frame["metric"]) == measured.metrics
    for name in frame.loc[frame["figure"], "metric"]:
        assert len(measured.rows(name)) and measured.plot(name) is not None
    rows = measured.rows("lens.kl")
    assert rows["value"].tolist() == measured.profile("lens.kl")["value"].tolist()
    with pytest.raises(InputError, match=r"did you mean 'lens\.kl'"):
        measured.profile("lens.kll")
    with pytest.raises(InputError, match=r"look at .profile\('lens.kl'\)"):
        measured.matrix("lens.kl")
    with pytest.raises(InputError, match=r"did you mean 'lens\.kl'"):
        measured.plot("lens.kll")


def test_what_a_figure_shows_is_a_table_in_one_call(measured: depthsig.Signature, tmp_path: Path) -> None:
    steps = 8
    values = {("skip.output_l2", "layer", "current", "step"): np.tile([0.1, 0.2, 0.3, 0.4], (6, 2)) + 0.01}
    grown = signature(values, steps, span=(0, 4, 2, "grown"))
    for one in (measured, grown):
        names = [drawn.name for drawn in figures_for(one)]
        assert "plan" in names
        for name in names:
            assert len(one.rows(name)), name
    assert measured.rows("early_exit")["metric"].nunique() == 3
    assert len(measured.rows("skip.effect.layer.current")) == len(measured.rows("skip.effect"))
    with pytest.raises(InputError, match=r"no 'skip\.effect\.nothing'"):
        measured.rows("skip.effect.nothing")


def test_plain_pandas_keeps_every_row(measured: depthsig.Signature, tmp_path: Path) -> None:
    measured.save(tmp_path / "out", figures=False)
    for name in ("profiles", "matrices", "scores"):
        frame = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        by = ["score", "metric"] if name == "scores" else ["metric"]
        assert frame.groupby([*by, "part", "scope", "agg"]).size().sum() == len(frame) > 0, name


def test_xarray_has_the_numbers_or_says_what_is_missing(
    measured: depthsig.Signature, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(InputError, match=r"pip install 'depthsig\[xarray\]'"):
        measured.to_xarray()
    monkeypatch.undo()
    pytest.importorskip("xarray")
    data = measured.to_xarray()
    own = data["lens.kl"].sel(part="-", scope="-", agg="mean")
    assert own.dropna("index").values.tolist() == measured.profile("lens.kl")["value"].tolist()
    assert {"layer", "span", "lens.kl.ci_low"} <= set(data.coords)


def test_a_comparison_draws_by_name() -> None:
    rng = np.random.default_rng(0)
    made = [signature({("lens.kl", "-", "-", "depth"): rng.random((6, 9))}, 8, name=n) for n in ("a", "b")]
    found = depthsig.compare(made, resamples=20)
    for name in ("tree", "distances", "lens.kl"):
        assert found.plot(name).figure is not None and len(found.rows(name))
    ax = found.plot("tree").figure.add_subplot()
    assert found.plot("lens.kl", ax=ax) is ax
    with pytest.raises(InputError, match=r"did you mean 'tree'.*there are .*distances"):
        found.plot("tre")


def test_short_ids_are_those_of_transformer_lens() -> None:
    assert locate("gpt2") == locate("gpt2-small") == "gpt2"
    with pytest.raises(InputError, match="did you mean 'family-midas'"):
        locate("family-mida")


def test_a_line_every_half_minute_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with Progress(True, clock=lambda: now[0]).stage("skips", 10) as tick:
        for second in range(0, 100, 10):
            now[0] = second
            tick(1)
    assert capsys.readouterr().err == "skips: 40%, 30 s so far\nskips: 70%, 60 s so far\nskips: 100%, 90 s so far\n"
    with Progress(False).stage("skips", 10) as tick:
        tick(1)
    assert Progress.of(None).visible and not Progress.of(False).visible
    assert capsys.readouterr().err == ""
