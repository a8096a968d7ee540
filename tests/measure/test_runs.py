"""Every kind of run keeps its word: one provider each, all that it offers given, nothing measured by nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, looped_model
from lenses import some_jacobians, some_lens

import depthsig
from depthsig.errors import InputError
from depthsig.measure.schedule import CLEAN, EDITED, OF_TABLES
from depthsig.metrics import all_metrics
from depthsig.metrics.entries.runs import RUNS, Offer, RunKind

TOKENIZER = byte_tokenizer()
STEPS = 4


def providers_of(on: str) -> int:
    return sum(on in provider.kinds for provider in (*CLEAN, *EDITED)) + (on in OF_TABLES)


@pytest.mark.parametrize("name", all_metrics())
def test_every_entry_is_provided_by_one_run(name: str) -> None:
    assert providers_of(all_metrics()[name].on) == 1


def test_every_kind_of_run_has_one_provider() -> None:
    assert {name: providers_of(name) for name in RUNS} == dict.fromkeys(RUNS, 1)
    kinds = [kind for provider in (*CLEAN, *EDITED) for kind in provider.kinds]
    assert sorted([*kinds, *OF_TABLES]) == sorted(RUNS)


def test_an_entry_that_nobody_provides_is_refused_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = RunKind("nowhere", "nothing at all", (Offer("token", ("depth",), ("h",)),))
    monkeypatch.setattr("depthsig.metrics.entries.runs.RUNS", {**RUNS, "nowhere": nowhere})
    for module in ("metrics.registry", "metrics.entries.fields", "metrics.entries.asking"):
        monkeypatch.setattr(f"depthsig.{module}.RUNS", {**RUNS, "nowhere": nowhere})

    @depthsig.metric("mine.nowhere", on="nowhere", axis="depth")
    def nothing(h: Any) -> Any:
        return h.sum(-1)

    with pytest.raises(InputError, match=r"'mine\.nowhere' cannot be measured: nothing provides the run 'nowhere'"):
        depthsig.analyze(build("llama"), PROMPTS, tokenizer=TOKENIZER, metrics=["residual.norm", "mine.nowhere"])
    depthsig.metrics.forget("mine.nowhere")


# What a probe gives back, by what its run and level expect.
GIVEN: dict[tuple[str, tuple[str, ...]], Callable[[dict[str, Any]], Any]] = {
    ("stack", ()): lambda a: (stack := a["hs"] if "hs" in a else a["losses"]).new_zeros(stack.shape[1]),
    ("stack", ("iteration",)): lambda a: a["losses"].new_zeros(a["losses"].shape),
    ("stack", ("iteration", "iteration")): lambda a: a["losses"].new_zeros(len(a["losses"]), *a["losses"].shape),
    ("stack", ("depth",)): lambda a: a["hs"].new_zeros(a["hs"].shape[:2]),
    ("stack", ("step",)): lambda a: a["us"].new_zeros(a["us"].shape[:2]),
    ("stack", ("depth", "depth")): lambda a: a["hs"].new_zeros(len(a["hs"]), *a["hs"].shape[:2]),
    ("stack", ("depth", "ahead")): lambda a: a["hs"].new_zeros(STEPS, STEPS, a["hs"].shape[1]),
    ("stack", ("step", "step")): lambda a: a["us"].new_zeros(STEPS, STEPS, a["us"].shape[1]),
    ("stack", ("iteration", "phase")): lambda a: a["xs"].new_zeros(len(a["xs"]) - 1, *a["xs"].shape[1:3]),
    ("pooled", ("depth", "depth")): lambda a: a["hs"].new_zeros(STEPS + 1, STEPS + 1),
    ("pooled", ("depth",)): lambda a: torch.zeros(len(a["jacobians"])),
    ("pooled", ("iteration", "phase")): lambda a: torch.zeros(len(a["passes"]) - 1, len(a["passes"][0])),
    ("pooled", ("iteration",)): lambda a: a["xs"].new_zeros(*a["xs"].shape[:2], 2),
    ("pooled", ("layer", "layer")): lambda a: torch.zeros(len(a["layers"]), len(a["layers"])),
    ("rest", ("depth",)): lambda a: a["h"].new_zeros(len(a["h"])),
    ("rest", ()): lambda a: 0.0,
    ("rest", ("iteration", "phase")): lambda a: a["probe"].new_zeros(len(a["probe"])),
}
"""At level ``token`` it is a number for each row of the first argument."""

OFFERS = [
    (kind, offer, names)
    for kind in RUNS.values() if kind.name not in OF_TABLES
    for offer in kind.offers if offer.level != "table"
    for names in ([offer.names] if kind.name != "loop" or offer.level != "token" else
                  [("logits", "logits_next"), ("attention",)])
]  # fmt: skip
"""A loop's readouts and its attention are two ways of seeing it: a metric asks for one of them."""


def first_rows(arguments: dict[str, Any]) -> torch.Tensor:
    if "attention" in arguments:  # [row, head, query, key]
        return arguments["attention"].new_zeros(arguments["attention"].shape[0], arguments["attention"].shape[2])
    first = next(a for a in arguments.values() if isinstance(a, torch.Tensor) and a.ndim > 1)
    return first.new_zeros(len(first))


@pytest.mark.parametrize(
    ("kind", "offer", "names"), OFFERS, ids=[f"{k.name}-{o.level}-{'x'.join(o.cells)}-{n[0]}" for k, o, n in OFFERS]
)
def test_what_a_run_offers_is_given(kind: RunKind, offer: Offer, names: tuple[str, ...]) -> None:
    """A function that asks for every name gets it, with a row a token and at least float32, and is measured."""
    seen: list[dict[str, Any]] = []

    def note(arguments: dict[str, Any]) -> Any:
        seen.append(arguments)
        shaped = GIVEN.get((offer.level, offer.cells), first_rows)
        return shaped(arguments)

    scope = {"note": note}
    exec(f"def probe({', '.join(names)}):\n    return note(dict({', '.join(f'{n}={n}' for n in names)}))", scope)
    axes = dict(zip(("rows", "cols"), offer.cells, strict=False)) if len(offer.cells) == 2 else {}
    token = {"kind": "token"} if offer.cells == ("iteration",) else {}
    depthsig.metric(
        "mine.probe", on=kind.name, level=offer.level, axis="" if axes or not offer.cells else offer.cells[0],
        **axes, **token,
    )(scope["probe"])  # fmt: skip
    loops = kind.loops or "iteration" in offer.cells
    lenses = {"tuned": some_lens(), "jacobian": some_jacobians(depths=8 if loops else STEPS)}
    options: dict[str, Any] = {"lens": lenses[kind.lens]} if kind.lens else {}
    if loops:
        model = looped_model()
    else:
        model = build("llama", dtype=torch.bfloat16 if kind.name in ("clean", "readout") else torch.float32)
        options["grown"] = "0:4/2"
    found = depthsig.analyze(
        model, PROMPTS[:3], tokenizer=TOKENIZER, metrics=["mine.probe"], cuts=1, control=False, **options
    )
    assert seen, "the probe was never called"
    for arguments in seen:
        assert tuple(arguments) == names
        tensors = [a for a in arguments.values() if isinstance(a, torch.Tensor) and a.is_floating_point()]
        assert all(a.dtype.itemsize >= 4 for a in tensors)
        rows = {len(a) for a in arguments.values() if isinstance(a, torch.Tensor)} if offer.level == "token" else set()
        assert len(rows) <= 1 or kind.name == "attribution"
    named = (found.profiles["metric"], found.matrices["metric"], found.scores["score"], found.tokens_table["metric"])
    assert any((names == "mine.probe").any() for names in named)
    depthsig.metrics.forget("mine.probe")
