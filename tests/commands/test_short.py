"""Options in short: --quick, --budget, --preset, and who wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from families import PROMPTS, build, byte_tokenizer
from interrupting import interrupt_skipping

import depthsig
from depthsig.cli.main import main
from depthsig.commands.forecasting import budget as budgets
from depthsig.commands.forecasting.budget import CHOSEN, sizes
from depthsig.commands.forecasting.pace import Pace
from depthsig.commands.presets import QUICK, parse_duration, presets, settled
from depthsig.errors import InputError
from depthsig.measure.request import Request
from depthsig.metrics.registry import select
from depthsig.signature import Signature
from depthsig.signature.provenance import again

SOME = [*PROMPTS, "one more prompt here", "and another, longer than the others were", "a sixth", "the seventh one"]


def chosen(**options: Any) -> Request:
    short = {k: options.pop(k) for k in ("quick", "budget", "preset") if k in options}
    return settled({"n": ..., **options}, **short).request


def test_nothing_in_short_is_the_defaults() -> None:
    assert chosen() == Request() and Request().scopes == ("current",)
    assert chosen(scopes=None, control=None, max_tokens=7) == Request(max_tokens=7)


def test_quick() -> None:
    quick = chosen(quick=True)
    assert (quick.n, quick.max_tokens, quick.scopes, quick.control) == (8, 64, ("current",), False)
    assert quick.metrics == Request().metrics and quick.parts == Request().parts


@pytest.mark.parametrize(
    ("option", "value"),
    [("n", 3), ("n", None), ("max_tokens", 256), ("scopes", ["future"]), ("control", True), ("metrics", ["lens.kl"])],
)
def test_what_is_given_wins_even_where_it_is_the_default(option: str, value: Any) -> None:
    found = chosen(quick=True, **{option: value})
    assert found == Request(**{**QUICK, option: value})
    name = "csordas-2505.13898"
    assert chosen(preset=name, **{option: value}) == Request(
        **{**{k: v for k, v in presets()[name].options.items() if k != "prompts"}, option: value}
    )


def test_quick_wins_over_a_preset_and_that_over_the_defaults() -> None:
    both = chosen(quick=True, preset="csordas-2505.13898")
    assert (both.n, both.max_tokens, both.scopes) == (8, 64, ("current",))
    assert both.parts == ("layer", "attn", "mlp") and both.agg == "both" and both.keep_first


def test_lists_are_cut_by_what_sets_a_number() -> None:
    assert settled({"n": ...}).n_listed is None and settled({"n": ...}, quick=True).n_listed == 8
    assert settled({"n": None}, quick=True).n_listed is None and settled({"n": 3}).n_listed == 3


@pytest.mark.parametrize("name", presets())
def test_presets_can_be_asked_for(name: str) -> None:
    preset = presets()[name]
    found = settled({"n": ...}, preset=name)
    assert found.prompts == preset.options.get("prompts")
    assert select(preset.options["metrics"]) and name.rpartition("-")[2] in preset.paper
    assert "Not set" in preset.about
    for option, value in preset.options.items():
        if option != "prompts":
            assert getattr(found.request, option) == (tuple(value) if isinstance(value, list) else value)


def test_a_preset_measures_what_belongs_to_spans_too() -> None:
    asked: dict[str, Any] = {"tokenizer": byte_tokenizer(), "control": False, "max_tokens": 12, "n": 2}
    found = depthsig.analyze(build("llama"), SOME, order="0,1:3x2,3", preset="kapl-2512.08819", **asked)
    assert {"loop.step_norm", "weights.cosine"} <= set(found.matrices["metric"])
    assert "period.combined" in set(found.scores["score"])
    assert found.info["options"]["asked"] == {"preset": "kapl-2512.08819"}
    own = depthsig.analyze(
        build("llama"), SOME, order="0,1:3x2,3", preset="kapl-2512.08819", metrics=["lens.kl"], **asked
    )
    assert set(own.profiles["metric"]) == {"lens.kl"} and own.scores.empty


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == list(presets()) and all(one["options"] for one in listed)
    assert main(["presets"]) == 0
    said = capsys.readouterr().out
    assert "csordas-2505.13898" in said and "--parts layer,attn,mlp" in said and "Not set" in said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5min", 300), ("90s", 90), ("2h", 7200), ("300", 300), (" 1.5 H", 5400), (42, 42), (0.5, 0.5)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


BAD = [
    ["--budget", "soon"], ["--budget", "0"], ["--budget", "-5min"], ["--budget", "5 days"], ["--budget", ""],
    ["--budget", "1e9h"], ["--budget", "nan"], ["--budget", "٣min"], ["--preset", "nobody-0000.00000"],
    ["--preset", ""], ["--quick", "--budget", "5min"], ["--quick", "--cuts", "0"],
]  # fmt: skip


@pytest.mark.parametrize("options", BAD, ids=" ".join)
def test_bad_values_are_refused_in_one_line(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["analyze", "no such model", *options, "--out", str(out)]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "no such model" not in told.err and not told.out and not out.exists()


@pytest.mark.parametrize("budget", [True, float("nan"), float("inf"), -1, [5], "5min\n2h"])
def test_bad_budgets_in_python(budget: Any) -> None:
    with pytest.raises(InputError, match="budget"):
        depthsig.analyze("no such model", budget=budget)


def of_budget(**options: Any) -> list[Request]:
    found = settled({"n": ..., **options}, budget="5min")
    return list(sizes(found.request, found.short))


def test_sizes_go_from_the_most_to_the_least_and_leave_what_is_given() -> None:
    every = of_budget()
    assert (every[0].n, every[0].max_tokens, every[0].scopes, every[0].cuts) == (20, 256, ("current", "future"), 4)
    assert (every[-1].n, every[-1].max_tokens, every[-1].scopes) == (2, 16, ("current",))
    work = [r.n * r.max_tokens * (1 + r.cuts * ("future" in r.scopes)) for r in every]  # type: ignore[operator]
    assert work == sorted(work, reverse=True) and len(set(work)) == len(work)
    assert {r.n for r in of_budget(n=7)} == {7} and {r.scopes for r in of_budget(scopes="future")} == {("future",)}
    assert {r.max_tokens for r in of_budget(max_tokens=99, n=None)} == {99}
    assert len(of_budget(n=4, max_tokens=64, scopes="current")) == 1
    assert all(r.scopes == ("current",) and r.cuts == 4 for r in of_budget(metrics="lens"))  # no part is taken away


def test_a_preset_is_the_most_that_a_budget_takes() -> None:
    found = settled({"n": ...}, budget="5min", preset="kapl-2512.08819")
    assert {r.scopes for r in sizes(found.request, found.short)} == {("current",)}
    found = settled({"n": ...}, budget="5min", preset="growing-looping-2602.16490")
    assert next(sizes(found.request, found.short)).scopes == ("current", "future")


SECOND_A_TOKEN = Pace(1.0, 0.0, 0.0, {"": 0.0}, {}, {}, 0.0)


@pytest.fixture
def known_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every token takes a second and nothing else takes any time."""
    monkeypatch.setattr(budgets.Pace, "of", classmethod(lambda cls, ready: SECOND_A_TOKEN))
    monkeypatch.setattr("depthsig.commands.forecasting.forecast._certificates", lambda work, pace: 0.0)


@pytest.mark.usefixtures("known_pace")
def test_the_budget_takes_what_fits_says_so_and_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(SOME) + "\n")
    lengths = [len(byte_tokenizer()(text).input_ids) for text in SOME]
    # One clean run, and one more under the edited ones: two seconds a token.
    fits = 2 * sum(lengths[:5]) + 5
    asked = ["analyze", str(checkpoint), "--prompts", str(file), "--metrics", "skip.kl,lens.kl", "--no-control"]
    assert main([*asked, "--budget", f"{fits}s", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert f"--budget {fits}s: 5 prompts of at most 64 tokens, scope current (about" in told.err
    options = Signature.load(tmp_path / "out").info["options"]
    assert options["asked"] == {"budget": f"{fits}s"}
    assert [options[name] for name in CHOSEN] == [5, 64, ["current"], 4]
    command = again(Signature.load(tmp_path / "out").info).command
    assert "-n 5" in command and "--max-tokens 64" in command and "--budget" not in command and "asked" not in command
    assert main([*asked, "--budget", "1s", "--out", str(tmp_path / "none")]) == 2
    assert "too little: 2 prompts of at most 16 tokens, scope current would take about" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_work_that_a_budget_began_is_gone_on_with_whatever_fits_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path,
) -> None:  # fmt: skip
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(SOME) + "\n")
    calls = interrupt_skipping(monkeypatch, 3)
    monkeypatch.setattr(budgets.Pace, "of", classmethod(lambda cls, ready: SECOND_A_TOKEN))
    monkeypatch.setattr("depthsig.commands.forecasting.forecast._certificates", lambda work, pace: 0.0)
    asked = ["analyze", str(checkpoint), "--prompts", str(file), "--metrics", "skip.kl", "--no-control"]
    asked += ["--batch-size", "1"]
    monkeypatch.chdir(tmp_path)
    lengths = [len(byte_tokenizer()(text).input_ids) for text in SOME]
    few = f"{2 * sum(lengths[:5]) + 5}"
    assert main([*asked, "--budget", few]) == 130
    monkeypatch.setattr(budgets.Pace, "of", classmethod(lambda cls, ready: pytest.fail("it was chosen already")))
    capsys.readouterr()
    assert main([*asked, "--budget", few, "--resume", "--json"]) == 0
    told = capsys.readouterr()
    assert "5 prompts of at most 64 tokens, scope current (as it was begun)" in told.err
    assert len(calls) == 3 + 5 - 2  # two batches were done
    found = json.loads(told.out)["signature"]["options"]
    assert found["n"] == 5 and found["asked"] == {"budget": few}


def test_the_same_by_full_options_is_the_same_analysis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["analyze", "family-baseline", "--metrics", "residual.norm"]
    assert main([*asked, "--quick"]) == 0
    assert main([*asked, "-n", "8", "--max-tokens", "64", "--no-control"]) == 0
    assert [p.name for p in (tmp_path / "depthsig-results").iterdir()] == ["family-baseline"]
