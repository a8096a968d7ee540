"""Reading what others may have written: only regular files, only what a table of ours can hold, nothing run later."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_signatures import late, signature, skip_only

from depthsig import report
from depthsig.errors import DepthsigWarning, InputError, shown
from depthsig.report.drawn_files import file_name
from depthsig.report.gallery import figures_for
from depthsig.signature import Signature, tabular
from depthsig.untrusted import read_json


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = signature(skip_only(late(6, 0.5)), 6)
    return replace(made, control=made).save(tmp_path_factory.mktemp("saved") / "a", figures=False)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "a"))


@pytest.mark.parametrize("name", ["signature.json", "scores.csv", "samples.parquet", "control/signature.json"])
@pytest.mark.parametrize("kind", ["FIFO", "folder", "missing"])
def test_only_regular_files_are_opened(name: str, kind: str, folder: Path) -> None:
    (folder / name).unlink()
    if kind == "FIFO":
        os.mkfifo(folder / name)  # opening it would wait for ever
    elif kind == "folder":
        (folder / name).mkdir()
    with pytest.raises(InputError, match=Path(name).name.split(".")[0]):
        Signature.load(folder)


def test_a_control_has_no_control_and_as_many_steps(folder: Path) -> None:
    assert Signature.load(folder).control is not None
    record = folder / "control" / "signature.json"
    (folder / "control" / "control").mkdir()
    with pytest.raises(InputError, match="no control of its own"):
        Signature.load(folder)
    (folder / "control" / "control").rmdir()
    other = signature(skip_only(late(3, 0.5)), 3)
    replace(other, info={**other.info, "control": "fresh weights"}).write(record.parent)
    with pytest.raises(InputError, match="3 steps of 6"):
        Signature.load(folder)


def test_only_a_control_of_the_same_prompts_is_taken_for_one(folder: Path) -> None:
    found = Signature.load(folder)
    replace(found, control=None).write(folder / "control")
    with pytest.raises(InputError, match="not of a re-initialised control"):
        Signature.load(folder)
    elsewhere = signature(skip_only(late(6, 0.5)), 6, texts=[f"other {i}" for i in range(12)])
    replace(elsewhere, info={**elsewhere.info, "control": "fresh weights"}).write(folder / "control")
    with pytest.raises(InputError, match="other prompts"):
        Signature.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 100_000, "nested too deeply"), ('{"a": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
     ("9" * 5000, "damaged"), ('"\\ud800"', "damaged"), ("{", "damaged"), ("\udcff", "damaged")],
)  # fmt: skip
def test_json_that_nothing_could_write_again(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="can be meant"):
        read_json(tmp_path / "a.json", most=0)


def test_a_few_bytes_stand_for_no_billion_rows(folder: Path) -> None:
    few = pd.DataFrame({"metric": pd.Categorical.from_codes(np.zeros(20_000_000, dtype=np.int8), ["x"])})
    few.to_parquet(folder / "samples.parquet", index=False)
    assert (folder / "samples.parquet").stat().st_size < 100_000
    with pytest.raises(InputError, match="20,000,000 rows"):
        Signature.load(folder)


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "'=1", "''=1", "-", "", "a=1", "−1", "it's", "'quoted'"]
    frame = pd.DataFrame({"name": texts, "note": texts, "value": -1.5})
    columns = {"name": tabular.NAME, "note": tabular.TEXT, "value": tabular.NUMBER}
    tabular.write(frame, tmp_path / "a.csv", columns)
    with (tmp_path / "a.csv").open(newline="") as file:
        cells = [cell for row in csv.DictReader(file) for cell in (row["name"], row["note"])]
    assert [c for c in cells if c[:1] in ("=", "+", "@", "\t") or (c[:1] == "-" and c != "-")] == []
    assert tabular.read(tmp_path / "a.csv", columns)["note"].tolist() == texts


def test_files_of_figures_stay_in_their_folder() -> None:
    for name in ("../../x", "/etc/passwd", "a\0b", "x" * 5000, "..", "", "con:x", "lens.kl.\n", "C:\\x"):
        found = file_name(name)
        assert Path(found).name == found and found not in ("", ".", "..") and len(found) < 200


def test_a_value_of_any_length_is_shown_in_a_few_letters() -> None:
    for value in ("x" * 10_000, 10**5000, -(10**5000), ["x" * 500], None):
        assert len(shown(value)) <= 80


def test_a_page_needs_only_what_a_record_must_have(folder: Path) -> None:
    from depthsig.report.page.html import render

    record = json.loads((folder / "signature.json").read_text())
    kept = {k: record[k] for k in ("schema", "checkpoint", "plan", "spans", "options")}
    (folder / "signature.json").write_text(json.dumps({**kept, "checkpoint": {"name": "m"}}))
    assert "not recorded" in render(Signature.load(folder), [])


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [("scores", "p_value", 7), ("scores", "p_value", -0.1), ("scores", "n_prompts", -1), ("prompts", "n_tokens", -5),
     ("profiles", "layer", -1), ("control/prompts", "n_tokens", -5)],
)  # fmt: skip
def test_numbers_that_nothing_counts_or_tests_to(name: str, column: str, value: float, folder: Path) -> None:
    path = folder / f"{name}.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if table.empty:
        table = pd.DataFrame({c: ["0" if c in ("value", "n_prompts") else ""] for c in table.columns})
        record = json.loads((folder / "signature.json").read_text())
        record["rows"][path.name] = 1
        (folder / "signature.json").write_text(json.dumps(record))
    table[column] = str(value)
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match=f"{path.name}.* a {column} is {value}"):
        Signature.load(folder)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e308, 5e-324, np.nan])
def test_what_no_axis_can_show_is_a_gap(value: float, folder: Path) -> None:
    made = Signature.load(folder).profiles
    shown = made.assign(metric="residual.norm", value=value, ci_low=-value, ci_high=value)
    once = made.assign(metric="lens.kl", value=np.r_[value, np.ones(len(made) - 1)], ci_low=-value)
    found = replace(Signature.load(folder), profiles=pd.concat([shown, once]))
    for drawn in figures_for(found):
        drawn.figure.canvas.draw()
    for metric in ("residual.norm", "lens.kl"):
        found.plot(metric).figure.canvas.draw()


def test_the_kind_of_a_result_is_told_by_its_own_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthsig.report.write_page", lambda folder, *_: (folder / "report.html").touch())
    (folder / "compare.json").write_text("{}")
    assert report.build(folder) == folder / "report.html"
    assert (folder / "compare.json").read_text() == "{}"
    (folder / "signature.json").unlink()
    with pytest.raises(InputError, match="schema None"):
        report.build(folder)


def test_a_prompt_given_as_text_is_said(tmp_path: Path) -> None:
    from depthsig.prompts import Prompt, load_prompts

    with pytest.warns(DepthsigWarning, match="one prompt"):
        assert load_prompts("The capital of France is") == [Prompt("The capital of France is")]
    for name in ("nowhere", "my prompts.txt", "my prompts.JSON", "  "):
        with pytest.raises(InputError):
            load_prompts(name)
