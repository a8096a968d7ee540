"""Forecasts: every stage, exact counts, and, slowly, what is said beside what is taken."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from families import build, byte_tokenizer

import depthsig
from depthsig.cli.main import main
from depthsig.commands.analysis.prepared import Prepared
from depthsig.commands.analyze import Job
from depthsig.commands.forecasting import constants
from depthsig.commands.forecasting.counting import count
from depthsig.commands.forecasting.forecast import estimate, forecast
from depthsig.commands.forecasting.pace import Pace
from depthsig.commands.opening import Given
from depthsig.engine.certificates import Verdict
from depthsig.measure.providers import Work
from depthsig.measure.request import Request
from depthsig.metrics import all_metrics
from depthsig.plan.declared import PlanOptions
from depthsig.progress import Progress

TEXT = "a prompt of this very length, again and again"
STAGES = ["starting", "loading", "certificates", "measuring", "tables and tests", "drawing"]
READ = {"": 0.5, "readout": 2.0, "skip": 3.0, "loop": 0.5}
PACE = Pace(1.0, 0.25, 0.0, READ, {"clean": 4.0, "loop": 1.0}, {"clean": 1, "loop": 1}, 1.0)
BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "forecast.py"


def prepared(n: int = 2, order: str | None = None, **options: Any) -> Prepared:
    given = Given(build("llama"), byte_tokenizer(), plan=PlanOptions(order))
    return Job(given, [TEXT] * n, Request(**options)).prepare(Progress(False))


def work_of(ready: Prepared) -> Work:
    return Work(ready.model, ready.request, ready.prompts.tokens, Verdict(True, True, ()))


def test_every_stage_has_its_seconds_and_its_line() -> None:
    told = forecast(prepared(order="0,1:3x3,3", metrics="lens,residual,skip,period,loop"))
    assert list(told.stages) == [*STAGES[:-1], "control", "drawing"]
    assert all(seconds > 0 for seconds in told.stages.values())
    assert told.seconds == pytest.approx(sum(told.stages.values()))
    assert told.stages["measuring"] == pytest.approx(sum(p.seconds for p in told.pieces))
    assert all(f"\n{stage}: " in str(told) for stage in told.stages) and "\nestimated time: " in str(told)
    record = json.loads(json.dumps(told.record()))
    assert record["stages"] == told.stages and record["seconds"] == told.seconds
    assert {p["name"] for p in record["pieces"]} == {"clean run", "skip"}


def test_what_is_not_done_takes_no_time() -> None:
    told = forecast(prepared(metrics="lens.kl"))
    assert list(told.stages) == STAGES and [p.name for p in told.pieces] == ["clean run"]
    without = forecast(prepared(order="0,1:3x3,3", metrics="period", control=False))
    assert "control" not in without.stages


@pytest.mark.parametrize("metrics", ["lens", "residual,skip", "loop,period", "skip,local,order,repeat,erasure"])
def test_twice_the_prompts_are_twice_the_runs_and_the_time_of_measuring(metrics: str) -> None:
    one, two = (estimate(prepared(n, order="0,1:3x3,3", metrics=metrics), PACE) for n in (3, 6))
    assert two.tokens == 2 * one.tokens and two.stages["measuring"] == pytest.approx(2 * one.stages["measuring"])
    for a, b in zip(one.pieces, two.pieces, strict=True):
        assert (b.runs, b.step_tokens, b.readout_tokens) == (2 * a.runs, 2 * a.step_tokens, 2 * a.readout_tokens)
        assert b.seconds == pytest.approx(2 * a.seconds)


def test_counts_and_seconds_of_a_known_pace() -> None:
    ready = prepared(3, metrics="lens.kl,residual.norm,skip.kl")
    tokens = len(byte_tokenizer()(TEXT).input_ids)
    clean, skip = estimate(ready, PACE).pieces
    assert (clean.runs, clean.step_tokens, clean.readout_tokens) == (3, 3 * 4 * tokens, 3 * 5 * tokens)
    # The clean run and what sees it, and five readouts a token.
    assert clean.seconds == pytest.approx(3 * tokens * (1.0 + 4.0 + 5 * 2.0))
    # Each of four steps is left out once, after which 3, 2, 1 and 0 steps are run, and one readout.
    assert (skip.runs, skip.step_tokens, skip.readout_tokens) == (12, 3 * 6 * tokens, 3 * 4 * tokens)
    edited = 3 * tokens * (6 * 0.25 + 4 * 3.0) * constants.OVERHEAD["skip"]
    assert skip.seconds == pytest.approx(3 * tokens * 1.0 + edited)


def test_fitting_readouts_has_a_stage_of_its_own() -> None:
    """It is in proportion to the calibration tokens, of which a file has as many as it says."""
    less, more = (
        estimate(prepared(3, metrics="truncation", calibration=[f"{TEXT} {i}" for i in range(n)]), PACE)
        for n in (10, 20)
    )
    assert list(less.stages) == [*STAGES[:3], "calibration", *STAGES[3:]]
    assert more.stages["calibration"] == pytest.approx(2 * less.stages["calibration"], rel=0.1)
    # Each of two controls runs S−1 = 3 times, a step or more of it; both end in a readout.
    truncated = next(p for p in less.pieces if p.name == "truncation")
    tokens = less.tokens
    assert (truncated.runs, truncated.step_tokens, truncated.readout_tokens) == (18, 2 * 6 * tokens, 6 * tokens)
    alone = forecast(prepared(metrics="truncation.prefix"))
    assert "calibration" not in alone.stages and [p.name for p in alone.pieces] == ["clean run"]


@pytest.mark.filterwarnings("ignore:.*prompts were cut")
@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"metrics": "lens.kl"}, {"metrics": "lens"}), ({"metrics": "lens"}, {"metrics": "lens,skip"}),
        ({"scopes": "current"}, {"scopes": "current,future"}), ({"parts": "layer"}, {"parts": "layer,attn"}),
        ({"agg": "mean"}, {"agg": "both"}), ({"max_tokens": 20}, {"max_tokens": 60}), ({"n": 2}, {"n": 3}),
        ({"scopes": "future", "cuts": 1}, {"scopes": "future", "cuts": 2}), ({"control": False}, {"control": True}),
        ({"ablation": "zero"}, {"ablation": "mean"}),
    ],
)  # fmt: skip
def test_more_takes_longer(less: dict[str, Any], more: dict[str, Any]) -> None:
    def seconds(options: dict[str, Any]) -> float:
        asked = {"metrics": "lens,residual,skip", **options}
        given = Given(build("llama"), byte_tokenizer())
        ready = Job(given, [TEXT] * 3, Request(**asked), asked.get("n")).prepare(Progress(False))
        ready.watch.cpu["load"] = 1.0
        return estimate(ready, PACE).seconds

    assert seconds(more) > seconds(less)


def test_the_control_is_forecast_as_it_is_done() -> None:
    """By itself it leaves out what no period is tested on; asked for, it measures all."""
    lengths = {"order": "0,1:3x3,3", "metrics": "lens,residual,skip,period"}
    by_itself, asked = (estimate(prepared(**lengths, control=c), PACE) for c in (None, True))  # type: ignore[arg-type]
    readouts = next(p for p in asked.pieces if p.name == "clean run").readout_tokens * READ["readout"]
    assert asked.stages["control"] - by_itself.stages["control"] > readouts


def test_what_is_tabulated_is_counted() -> None:
    ready = prepared(6, order="0,1:3x3,3", metrics="lens,residual,skip,period,loop", scopes="current,future")
    counts = count(work_of(ready), True, drawn=True)
    found = depthsig.analyze(
        ready.model, [TEXT] * 6, metrics="lens,residual,skip,period,loop", scopes="current,future", control=False
    )
    tested = found.scores[found.scores["score"] == "period.p"]["metric"]
    kinds = [all_metrics()[name].kind for name in tested]
    assert (counts.profiles, counts.matrices) == (kinds.count("profile"), kinds.count("matrix"))
    assert counts.rows * 0.5 < len(found.samples_table) <= counts.rows
    assert counts.token_rows * 0.5 < len(found.tokens_table) <= counts.token_rows * 2
    intervals = [*found.profiles["ci_low"], *found.matrices["ci_low"], *found.scores["ci_low"]]
    assert counts.cells > 6 * sum(value == value for value in intervals) * 0.5
    assert count(work_of(ready), True, drawn=False).drawing_seconds < counts.drawing_seconds


def test_constants_are_scaled_by_the_machine() -> None:
    ready = prepared(order="0,1:3x3,3", metrics="lens,period")
    one, two = estimate(ready, PACE), estimate(ready, replace(PACE, machine=2.0))
    for stage in ("starting", "tables and tests", "drawing"):
        assert two.stages[stage] == pytest.approx(2 * one.stages[stage])
    assert two.stages["measuring"] == one.stages["measuring"] and two.stages["loading"] == one.stages["loading"]
    assert 0.05 < constants.machine() < 50


def test_pieces_of_another_order_and_of_models_that_are_no_chain_are_timed() -> None:
    for name in ("llama", "mamba2", "falcon_multi_query"):
        ready = Job(Given(build(name), byte_tokenizer()), [TEXT] * 2, Request(metrics="lens,residual,skip")).prepare(
            Progress(False)
        )
        pace = Pace.of(ready)
        assert pace.clean > 0 and pace.step > 0 and pace.read["skip"] >= 0 and pace.observed["clean"] > 0


def test_loops_are_asked_for_where_none_runs_in_a_dry_run_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "family-baseline", "--metrics", "loop", "--dry-run"]) == 2
    assert "need a loop that runs" in capsys.readouterr().err


def test_stages_are_recorded_with_their_time(tmp_path: Path) -> None:
    found = depthsig.analyze(
        build("llama"), [TEXT] * 2, tokenizer=byte_tokenizer(), order="0,1:3x3,3", metrics="period", out=tmp_path / "o"
    )
    stages = {"load", "certificates", "measure", "tables", "control"}
    timings = depthsig.Signature.load(tmp_path / "o").info["timings"]
    assert timings == found.info["timings"]
    assert timings.keys() == {*(f"{s}_s" for s in stages), "cpu_s", "certificates_proved", "units"}
    assert timings["cpu_s"].keys() == stages and all(s >= 0 for s in timings["cpu_s"].values())
    assert found.control is not None and "control_s" not in found.control.info["timings"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["family-midas", pytest.param("SmolLM2, quick", marks=pytest.mark.long)])
def test_forecasts_are_within_half_as_much_again(name: str) -> None:
    """Of processor time, in processes of their own; the forecast itself is quick."""
    spec = importlib.util.spec_from_file_location("forecast_benchmark", BENCHMARK)
    assert spec is not None and spec.loader is not None
    benchmark = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.compare(benchmark.RUNS[name])
    said, taken = found["all"]
    assert taken / 1.5 < said < taken * 1.5, found
    for stage, (said, taken) in found.items():
        if stage in benchmark.STAGES and taken > 10:
            assert taken / 2 < said < taken * 2, (stage, found)
