"""Notebooks are stored with small outputs, run, and say then what is stored."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from sources import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONG = {f"{name}.ipynb" for name in ("02_three_claims", "03_how_sure", "04_repeating_a_block", "05_replication",
                                      "06_inside_a_loop")}  # fmt: skip
MOST = 300_000
"""Bytes of a notebook that shows well on GitHub."""
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)
ADDRESS = re.compile(r"\bat 0x[0-9a-f]+|/tmp/\S+")


def program() -> Any:
    """``docs/run_notebooks.py``, by which outputs are made."""
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "docs" / "run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(cell: Any) -> list[str]:
    """The text of a cell's outputs, and the kinds of those that are no text."""
    found = []
    for one in cell.outputs:
        data = {"text/plain": one.text} if one.output_type == "stream" else one.get("data", {})
        kinds = sorted(kind for kind in data if kind != "text/plain")
        found.append(" ".join([*kinds, ADDRESS.sub("", str(data.get("text/plain", "")))]))
    return found


def agree(first: str, second: str) -> bool:
    """Whether two texts have the same words, and numbers that are alike: machines differ in their last digits.

    >>> agree("p = 0.0101 of 4", "p = 0.0102 of 4"), agree("p = 0.01", "q = 0.01"), agree("4 steps", "5 steps")
    (True, False, False)
    """
    if NUMBER.sub("#", first).split() != NUMBER.sub("#", second).split():
        return False
    pairs = zip(NUMBER.findall(first), NUMBER.findall(second), strict=True)
    numbers = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs]
    return all(math.isclose(a, b, rel_tol=0.02, abs_tol=2e-3) for a, b in numbers)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_are_stored_with_small_outputs(path: Path) -> None:
    assert path.stat().st_size < MOST
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run docs/run_notebooks.py"
    outputs = [one for cell in code for one in cell.outputs]
    assert all(one.output_type != "error" and one.get("name") != "stderr" for one in outputs)
    assert any("image/png" in one.get("data", {}) for one in outputs)


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.name in LONG else []) for p in NOTEBOOKS]
)
def test_notebooks_say_what_is_stored(path: Path, tmp_path: Path) -> None:
    """All but the cells that take minutes: what is compared of them is nothing."""
    stored, maker = nbformat.read(path, as_version=4), program()
    found = maker.executed(path, tmp_path, without="long")
    maker.slim(found)
    kept = [cell for cell in stored.cells if "long" not in cell.metadata.get("tags", [])]
    assert all("varies" in cell.metadata.tags for cell in stored.cells if cell not in kept)
    for number, (before, now) in enumerate(zip(kept, found.cells, strict=True)):
        if before.cell_type == "code" and "varies" not in before.metadata.get("tags", []):
            one, other = said(before), said(now)
            same = len(one) == len(other) and all(agree(a, b) for a, b in zip(one, other, strict=True))
            assert same, f"cell {number} says {other}, stored is {one}: run docs/run_notebooks.py"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if '"long"' in p.read_text("utf-8")], ids=lambda p: p.name)
def test_notebooks_run_to_the_end(path: Path, tmp_path: Path) -> None:
    program().executed(path, tmp_path)


def test_words_and_numbers_are_compared() -> None:
    assert agree("p = 0.0101 of 4", "p = 0.0102 of 4") and agree("1,000 <b>", "1,001 <b>")
    assert not agree("p = 0.01", "q = 0.01") and not agree("4 steps", "5 steps") and not agree("0.3", "0.3 0.4")


def test_the_first_look_takes_five_cells() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "01_first_look.ipynb", as_version=4)
    assert sum(cell.cell_type == "code" for cell in notebook.cells) == 5


def test_what_is_printed_in_pieces_is_one_output() -> None:
    printed = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("one\n", "two\n")]
    shown = nbformat.v4.new_output("display_data", data={"text/plain": "a"})
    found = program().joined([*printed, shown, nbformat.v4.new_output("stream", name="stdout", text="three\n")])
    assert [one.get("text") for one in found] == ["one\ntwo\n", None, "three\n"]
