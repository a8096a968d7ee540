"""SmolLM2 streamed: memory of a whole analysis, bytes, and time against hooks on the offloaded model."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from smollm2 import gguf

import depthsig
from depthsig.checkpoint.streaming.headers import read_extents

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("streamed") / "smollm2"
    model = depthsig.load(gguf(), dtype="float32", device="cpu", progress=False)
    model.module.save_pretrained(made)  # type: ignore[operator]
    model.tokenizer.save_pretrained(made)
    return made


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("streamed")


def test_an_analysis_stays_within_300_megabytes_and_is_the_same(folder: Path, streamed: ModuleType) -> None:
    ours, loaded = (streamed.in_a_process("analyze", str(folder), how) for how in ("stream", "load"))
    assert ours["above"] < 300e6 < loaded["above"]
    assert all(ours[table] == loaded[table] for table in ("profiles", "matrices", "scores"))
    data = sum(extent.nbytes for file in folder.glob("*.safetensors") for extent in read_extents(file))
    assert ours["once"] + ours["pass"] == data
    assert ours["passes"] < 25


def test_all_skips_together_take_two_passes_and_are_those_of_hooks_on_the_offloaded_model(
    folder: Path, streamed: ModuleType
) -> None:
    told = streamed.in_a_process("skip", str(folder), "1", "32", "1")
    assert told["off"] < 1e-3
    assert told["passes"] <= 2  # the clean run and all edits, where hooks read all layers once for each edit
