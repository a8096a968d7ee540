"""A card whose memory runs out: work goes on in halves, few times tried in vain, and gives the same numbers.

There is no card here: layers and the head raise what a card's allocator raises, where they are given too much at once.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, looped_model
from lenses import some_lens
from torch import nn

import depthsig
from depthsig.engine.certificates import Verdict
from depthsig.engine.edits import Skip
from depthsig.engine.room.halving import _FITS, in_halves
from depthsig.errors import NoRoomError
from depthsig.measure.providers import Work
from depthsig.measure.request import Request
from depthsig.measure.resume import Units
from depthsig.measure.schedule import measure
from depthsig.model import Model
from depthsig.progress import Progress
from depthsig.signature.folders.writing import partial_path
from depthsig.tables.samples import Samples

OutOfMemory = torch.cuda.OutOfMemoryError
LONGEST = max(len(byte_tokenizer()(text).input_ids) for text in PROMPTS)


@contextmanager
def little_memory(module: nn.Module, tokens: int, rows: int = 10**9) -> Iterator[list[int]]:
    """MLPs that take so many tokens at most, and a head of so many rows; the list holds what was too much."""
    failed: list[int] = []

    def at_most(limit: int) -> Any:
        def hook(_: nn.Module, args: Any) -> None:
            if (size := args[0][..., 0].numel()) > limit:
                failed.append(size)
                raise OutOfMemory("CUDA out of memory. Tried to allocate 20.00 GiB")

        return hook

    places = [m for name, m in module.named_modules() if name.endswith(".mlp")]
    handles = [m.register_forward_pre_hook(at_most(tokens)) for m in places]
    handles.append(module.lm_head.register_forward_pre_hook(at_most(rows)))
    _FITS.pop(module, None)
    try:
        yield failed
    finally:
        for handle in handles:
            handle.remove()
        _FITS.pop(module, None)


def run(model: Model, **asked: Any) -> tuple[Samples, list[dict[str, Any]], float]:
    """Samples and token rows of an analysis without its certificates, and how far its bars went."""
    ticked = [0.0, 0.0]

    class Told(Progress):
        @contextmanager
        def stage(self, name: str, total: float | None = None) -> Iterator[Any]:
            ticked[1] += total or 0.0

            def tick(amount: float) -> None:
                ticked[0] += amount

            yield tick

    request = Request(**asked)
    tokens = model.tokens(PROMPTS)
    work = Work(model, request, tokens, Verdict(True, True, ()))
    samples, rows = measure(work, lambda: Units.open(None, {}, "", False), Told(False))
    return samples, rows, ticked[0] / ticked[1]


def assert_same(found: Any, wanted: Any) -> None:
    (samples, rows, far), (expected, wanted_rows, as_far) = found, wanted
    assert 1 - 1e-6 <= far <= as_far + 1e-6  # smaller batches are padded less
    assert samples.values.keys() == expected.values.keys()
    for key, by_agg in expected.values.items():
        for agg, values in by_agg.items():
            largest = np.nanmax(np.abs(values), initial=1.0)  # float32, in matmuls of other shapes
            np.testing.assert_allclose(samples.values[key][agg], values, atol=2e-6 * largest, rtol=0, err_msg=str(key))

    def sort(table: Any) -> list[Any]:
        names = ("metric", "prompt", "index", "position", "rank", "token_id")
        return sorted((tuple(str(row[n]) for n in names), row["value"]) for row in table)

    ours, theirs = sort(rows), sort(wanted_rows)
    assert [name for name, _ in ours] == [name for name, _ in theirs] and len(ours) > 0
    np.testing.assert_allclose([v for _, v in ours], [v for _, v in theirs], atol=2e-6, rtol=1e-5)


ASKED: dict[str, dict[str, Any]] = {
    "edits": {
        "metrics": ["skip", "local", "order", "repeat", "erasure", "lens.tokens"], "parts": "layer,attn,mlp",
        "scopes": "current,future", "agg": "both",
    },
    "readouts": {"metrics": ["lens", "truncation.prefix", "truncation.repeat", "tuned", "residual"]},
    "means": {"metrics": ["skip", "erasure"], "ablation": "mean"},
}  # fmt: skip


def _asked(name: str) -> dict[str, Any]:
    return {**ASKED[name], **({"lens": some_lens()} if name == "readouts" else {})}


@pytest.mark.parametrize(
    ("name", "tokens", "rows"),
    [
        ("edits", 100, 50), ("readouts", LONGEST, 7), ("readouts", 90, 1), ("means", 80, 10**9),
        *(pytest.param("edits", *less, marks=pytest.mark.slow) for less in ((250, 10**9), (LONGEST, 5))),
    ],
)  # fmt: skip
def test_the_same_numbers_in_smaller_pieces(name: str, tokens: int, rows: int) -> None:
    model = depthsig.load(build("llama"), byte_tokenizer())
    wanted = run(model, **_asked(name))
    with little_memory(model.module, tokens, rows) as failed:
        found = run(model, **_asked(name))
    assert_same(found, wanted)
    # Each kind of work is halved from what goes together at most down to one.
    assert 0 < len(failed) <= 5 * math.ceil(math.log2(4096)), len(failed)


def test_a_loop_whose_model_does_something_between_passes() -> None:
    model = depthsig.load(looped_model(), byte_tokenizer())
    asked: dict[str, Any] = {"metrics": ["skip", "erasure"]}
    wanted = run(model, **asked)
    with little_memory(model.module, 150) as failed:
        found = run(model, **asked)
    assert_same(found, wanted)
    assert 0 < len(failed) <= 36


def test_logits_of_edits() -> None:
    model = depthsig.load(build("llama"), byte_tokenizer())
    edits = [None, *(Skip(s) for s in range(4)), Skip(1) + Skip(3)]
    wanted = model.run(PROMPTS[:1], edits)
    with little_memory(model.module, 2 * LONGEST) as failed:
        found = model.run(PROMPTS[:1], edits)
    assert failed
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours.logits[0], theirs.logits[0], atol=1e-5)


@pytest.mark.parametrize("metrics", ["lens", "skip", "attribution"])
def test_a_prompt_that_does_not_fit_is_said_in_one_line(metrics: str) -> None:
    model = depthsig.load(build("llama"), byte_tokenizer())
    with (
        little_memory(model.module, LONGEST - 1) as failed,
        pytest.raises(
            NoRoomError, match=f"prompt of {LONGEST} tokens, run by itself; fewer tokens .--max-tokens"
        ) as told,
    ):
        run(model, metrics=metrics)
    assert "\n" not in str(told.value) and "--dtype bfloat16" in str(told.value) and len(failed) <= 36
    with little_memory(model.module, 10**9, rows=0), pytest.raises(NoRoomError, match="the clean run of a prompt"):
        run(model, metrics="lens")


def test_finished_work_is_kept_and_gone_on_with(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have had the memory: its user goes on with --resume."""
    from depthsig.measure.edited.skipping import Skipping

    asked: dict[str, Any] = {"metrics": ["skip"], "batch_size": 1, "out": tmp_path / "out", "progress": False}
    own, begun = Skipping.run, []

    def short(self: Any, *args: Any) -> None:
        begun.append(1)
        if len(begun) == 3:
            raise OutOfMemory("CUDA out of memory")
        own(self, *args)

    monkeypatch.setattr(Skipping, "run", short)
    with pytest.raises(NoRoomError):
        depthsig.analyze(checkpoint, PROMPTS, **asked)
    assert len(list((partial_path(tmp_path / "out") / "units").glob("*.npz"))) == 2
    found = depthsig.analyze(checkpoint, PROMPTS, resume=True, **asked)
    assert found.info["timings"]["units"] == {"measured": len(PROMPTS) - 2, "kept": 0, "resumed": 2}


# --- halves ---


class _Module(nn.Module):
    pass


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 100])
@pytest.mark.parametrize("fits", [1, 3, 8, 1000])
def test_pieces_cover_all_in_order_and_what_did_not_fit_is_remembered(count: int, fits: int) -> None:
    module, tried = _Module(), []

    def work(first: int, last: int) -> list[int]:
        tried.append(last - first)
        if last - first > fits:
            raise OutOfMemory("CUDA out of memory")
        return list(range(first, last))

    assert [i for some in in_halves(module, "x", count, 10, work) for i in some] == list(range(count))
    in_vain = sum(n > fits for n in tried)
    assert in_vain <= math.ceil(math.log2(max(count, 2)))
    tried.clear()
    assert [i for some in in_halves(module, "x", count, 10, work) for i in some] == list(range(count))
    assert all(n <= fits for n in tried)


def test_what_was_made_before_memory_ran_out_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    left: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(sum(one() is not None for one in made)))

    def work(first: int, last: int) -> None:
        held = torch.zeros(10)
        made.append(weakref.ref(held))
        if last - first > 1:
            raise OutOfMemory("CUDA out of memory")

    gc.disable()
    try:
        list(in_halves(_Module(), "x", 4, 1, work))
    finally:
        gc.enable()
    assert left == [0, 0]
