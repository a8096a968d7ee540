"""The benchmark scripts run in their small form, and what they hold depthsig against is the same work."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parent / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu")


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("peers")


def rows(text: str) -> list[list[str]]:
    """Cells of the tables in what a script prints, headings left out."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("", "work")]


def test_the_gpu_table_runs_without_a_gpu(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = (
        gpu.Group("SmolLM2", torch.float32, 2, {}, counted=True),
        gpu.Group("Qwen3-8B", torch.float32, 2, dict.fromkeys(gpu.WORK, 1.0)),
    )
    monkeypatch.setattr(gpu, "GROUPS", groups)
    assert gpu.main(["--device", "cpu", "--small"]) == 0
    fixed, lens, skip, residual, everything = rows(capsys.readouterr().out)
    columns = gpu.COLUMNS
    for row in (fixed, lens, skip, residual, everything):
        assert len(row) == len(columns)
        assert float(row[columns.index("depthsig s")]) > 0
    assert fixed[-3:] == ["0", "0", "0"]  # nothing is launched on a CPU
    for row in (lens, skip):  # the naive code measures what depthsig does
        assert float(row[columns.index("differ")]) < 1e-4
        assert float(row[columns.index("naive s")]) > float(row[columns.index("floor s")]) > 0
    assert residual[columns.index("naive s")] == "–"
    assert float(everything[columns.index("naive s")]) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_the_gpu_table_says_in_one_line_that_there_is_no_gpu(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "no CUDA device" in said.err


def test_rows_that_no_time_is_left_for_are_named(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--seconds", "0"]) == 0
    out = capsys.readouterr().out
    assert rows(out) == []
    assert [line for line in out.splitlines() if line.startswith("left out: ")] == [
        f"left out: {group}: no time left" for group in gpu.GROUPS
    ]


def test_calls_are_counted_by_kind(gpu: ModuleType) -> None:
    calls = [
        ("cudaLaunchKernel", 40), ("cuLaunchKernelEx", 2), ("cudaGraphLaunch", 1), ("cudaStreamSynchronize", 5),
        ("cudaDeviceSynchronize", 1), ("cudaMemcpyAsync", 7), ("Memcpy DtoH (Device -> Pageable)", 7),
        ("cutlass_80_tensorop_gemm", 9), ("cudaFuncGetAttributes", 3), ("aten::mm", 4),
    ]  # fmt: skip
    assert gpu.counted(calls) == {"launches": 43, "waits": 6, "copies": 7}


def test_what_work_cannot_do_without(gpu: ModuleType) -> None:
    """Three layers, two prompts of five tokens, by hand."""
    assert gpu.lens_cost(3, 2, 5) == (30, 8 * 4)
    assert gpu.skip_cost(3, 2, 5) == (2 * 5 * (3 + 2 + 1), 8 * 4)
    # No cut fits into five tokens: three parts, each as skip, and one clean run for all.
    assert gpu.everything_cost(3, 2, 5) == (2 * 5 * (3 + 3 * (2 + 1)), 8 * (1 + 3 * 3))
    # 20 tokens have the cut 8, after which 12 are read.
    assert gpu.everything_cost(3, 1, 20) == (20 * (3 + 6 * 3), 19 + 3 * 3 * (19 + 12))


def test_all_libraries_do_the_same_work(peers: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not installed is named; numbers that differ end the script."""
    assert peers.main(["--small", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    found = rows(out)
    here = importlib.util.find_spec("nnsight") is not None
    assert ("nnsight is not installed" in out) is not here
    names = {row[0] for row in found}
    assert {"depthsig", "plain hooks", "TransformerLens"} <= names
    assert any(name.startswith("nnsight") for name in names) is here
    # Every way but depthsig's runs all layers: 4 runs of 3 layers on 2 × 12 tokens.
    first = {row[0]: row[1] for row in found[: len(found) // 4]}
    assert first["plain hooks"] == first["TransformerLens"] == str(4 * 3 * 24)


def test_numbers_that_differ_are_not_timed(peers: ModuleType) -> None:
    work = peers.works(50, 2, 12, torch.device("cpu"))["skip"]
    same = {"kl": [0.25, 0.5]}
    peers.check_agreement(work, {peers.Hooks.name: same, "other": {"kl": [0.25, 0.50005]}})
    for wrong in (0.501, float("nan")):
        with pytest.raises(SystemExit, match="other and plain hooks differ"):
            peers.check_agreement(work, {peers.Hooks.name: same, "other": {"kl": [0.25, wrong]}})


def test_the_floor_of_one_edit_leaves_out_the_layers_before_it(peers: ModuleType) -> None:
    every, lens, one, _ = peers.works(50, 2, 12, torch.device("cpu")).values()
    assert every.cost(3) == (24 * (3 + 2 + 1), 22 * 4)
    assert lens.cost(3) == (24 * 3, 22 * 4)
    assert one.cost(3) == (24 * (3 + 1), 22 * 2)
