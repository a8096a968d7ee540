"""Wrong types in Python are one line, as on the command line: what was given, and what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from families import build, byte_tokenizer

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
        {"out": 5}, {"keep_first": 1}, {"chat_template": "no"}, {"batch_size": 2.5}, {"preset": [5]}, {"plugin": 5},
        {"plugin": [5]}, {"tokenizer": 5}, {"forward": 5}, {"seed": -1}, {"device": 5}, {"revision": 5},
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


def named(value: Any) -> str:
    """The same in every process that collects tests; an object's address is not."""
    return "object" if type(value) is object else repr(value)


ODD: list[Any] = [5, 2.5, [], [5], {"a": 1}, {5}, b"x", object()]


@pytest.fixture(scope="module")
def measured(model: Model) -> Signature:
    return depthsig.analyze(model, PROMPTS * 2, metrics="lens.kl,skip.effect,lens.tokens", progress=False)


def _refused(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(InputError, match=rf"\b{name}\b") as said:
        call()
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("value", ODD, ids=named)
def test_every_function_says_what_it_takes(
    model: Model, measured: Signature, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = depthsig.compare([measured, _other(measured)], resamples=20, progress=False)
    paths: list[tuple[str, Callable[[], Any]]] = [
        ("out", lambda: depthsig.export(model, value, order="0:2")), ("into", lambda: measured.to_card(value)),
        ("to", lambda: measured.to_tensorboard(value)), ("directory", lambda: depthsig.Comparison.load(value)),
        ("directory", lambda: Signature.load(value)), ("out", lambda: depthsig.compare([measured, found], out=value)),
    ]  # fmt: skip
    named: list[tuple[str, Callable[[], Any]]] = [
        ("metric", lambda: measured.profile(value)), ("metric", lambda: measured.matrix(value)),
        ("metric", lambda: measured.samples(value)), ("metric", lambda: measured.tokens(value)),
        ("metric", lambda: measured.plot(value)), ("metric", lambda: measured.rows(value)),
        ("score", lambda: measured.score(value)), ("part", lambda: measured.plot("lens.kl", part=value)),
        ("kind", lambda: measured.metrics.of(value)), ("name", lambda: found.plot(value)),
        ("name", lambda: found.rows(value)), ("metric", lambda: found.distance_matrix(value)),
        ("ax", lambda: measured.plot("lens.kl", ax=value)), ("ax", lambda: found.plot("distances", ax=value)),
    ]  # fmt: skip
    for name, call in [*paths, *named]:
        _refused(call, name)


def _other(measured: Signature) -> Signature:
    """A signature with other content, of the same prompts."""
    return replace(measured, info={**measured.info, "checkpoint": {**measured.info["checkpoint"], "name": "other"}})


@pytest.mark.parametrize("value", [5, "x", [5], None, object()], ids=named)
def test_numbers_and_choices_of_every_function(model: Model, measured: Signature, value: Any) -> None:
    both = [measured, _other(measured)]
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("lens", lambda: depthsig.analyze(model, PROMPTS, metrics="tuned", lens=value)),
        ("max_tokens", lambda: model.cache(PROMPTS, max_tokens=value)),
        ("max_tokens", lambda: depthsig.check(model, PROMPTS, max_tokens=value)),
        ("steps", lambda: depthsig.fit_lens(model, PROMPTS, steps=value)),
        ("lr", lambda: depthsig.fit_lens(model, PROMPTS, lr=value)),
        ("seed", lambda: depthsig.fit_lens(model, PROMPTS, seed=value)),
        ("draws", lambda: depthsig.find_blocks(model, draws=value)),
        ("seed", lambda: depthsig.compare(both, seed=value)),
        ("resamples", lambda: depthsig.compare(both, resamples=value)),
        ("roles", lambda: depthsig.compare(both, roles=value)), ("task", lambda: depthsig.repeat(model, value)),
        ("span", lambda: depthsig.repeat(model, span=value)), ("times", lambda: depthsig.repeat(model, times=value)),
        ("n", lambda: depthsig.repeat(model, n=value)), ("step", lambda: measured.to_tensorboard("new", step=value)),
        ("prompt", lambda: measured.tokens(prompt=value)), ("prompts", lambda: model.cache(value)),
    ]  # fmt: skip
    fine = {
        5: {"max_tokens", "steps", "lr", "seed", "draws", "resamples", "n", "step", "prompt"},
        None: {"roles", "span", "prompt"},
    }
    taken = fine.get(value, set()) if isinstance(value, int) or value is None else set()
    for name, call in calls:
        if name not in taken and not (value is None and name in ("lens", "task")) and not _is_meant(name, value):
            _refused(call, name)


def _is_meant(name: str, value: Any) -> bool:
    """Text is a name, a file or one prompt there, a list may be right; what is wrong within is said in other words."""
    if value == [5]:
        return name in ("times", "prompts")
    return isinstance(value, str) and name in ("lens", "roles", "task", "span", "times", "prompts")


def test_a_pair_is_a_span_and_is_recorded_as_text(tmp_path: Path) -> None:
    file = tmp_path / "task.jsonl"
    file.write_text('{"text": "ab", "answer": "c"}\n', encoding="utf-8")
    ready = depthsig.load(build("gpt2"), byte_tokenizer())
    assert depthsig.repeat(ready, file, span=(0, 2), n=1, progress=False).info["span"] == "0:2"


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
