"""Wrong types in Python are one line, as on the command line: what was given, and what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import build

import depthsig
from depthsig import Drop, InputError, Model, Repeat, Replace, Reverse, Signature, Skip, Stop, Swap

PROMPTS = [[3, 4, 5, 6]]


@pytest.fixture(scope="module")
def model() -> Model:
    return depthsig.load(build("gpt2"))


@pytest.mark.parametrize(
    "given",
    [
        {"metrics": 5}, {"metrics": [5]}, {"n": "x"}, {"n": 1.5}, {"n": True}, {"max_tokens": "x"}, {"scopes": 5},
        {"seed": "x"}, {"cuts": "x"}, {"parts": 5}, {"control": "x"}, {"control": 5}, {"progress": "x"}, {"quick": "x"},
        {"out": 5}, {"keep_first": 1}, {"chat_template": "no"}, {"batch_size": 2.5},
    ],
    ids=str,
)  # fmt: skip
def test_analyze_says_what_an_option_is(model: Model, given: dict[str, Any]) -> None:
    with pytest.raises(InputError) as said:
        depthsig.analyze(model, PROMPTS, **{"metrics": "lens.kl", "progress": False, **given})
    value = next(iter(given.values()))
    assert str(value if not isinstance(value, list) else value[0]) in str(said.value)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda: Skip("x"), lambda: Skip(1.5), lambda: Skip(True), lambda: Skip(0, positions="x"),
        lambda: Skip(0, positions=5), lambda: Skip(0, value=1.0), lambda: Swap("a", "b"), lambda: Swap(0, 2.0),
        lambda: Drop("a", "b"), lambda: Repeat(0, 2, times="x"), lambda: Repeat(0, 2, damping="x"),
        lambda: Stop("x"), lambda: Reverse(None, 2), lambda: Replace(0, "x"), lambda: Replace(0, None),
        lambda: 5, lambda: "Skip(0)",
    ],
)  # fmt: skip
def test_an_edit_says_what_it_takes(model: Model, edit: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"whole number|a number|a tensor|is no edit"):
        model.run(PROMPTS, [edit()])


def test_so_do_lists_and_folders(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = depthsig.analyze(model, PROMPTS, metrics="lens.kl", progress=False)
    calls: list[Callable[[], Any]] = [
        lambda: model.run(PROMPTS, 5), lambda: model.run(PROMPTS, None), lambda: depthsig.compare(5),
        lambda: depthsig.compare({"a": measured}), lambda: depthsig.compare([measured, 5]), lambda: measured.rows(5),
        lambda: measured.save(5), lambda: measured.report(5), lambda: Signature.load(5),
        lambda: depthsig.find_blocks(model, draws="x"), lambda: depthsig.fit_lens(model, PROMPTS, steps="x"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InputError, match=r"; "):
            call()
    assert len(model.run(PROMPTS, Skip(0))) == 1
    monkeypatch.chdir(tmp_path)
    pages = [measured.report(), measured.report()]
    assert pages[0] == pages[1] and pages[0].parts[0] == "depthsig-results" and pages[0].is_file()
    measured.info["checkpoint"]["name"] = "../../.up/and/away"
    assert measured.report().resolve().is_relative_to(tmp_path / "depthsig-results")
