"""What was held equal: values and factors by hand, records without costs, folders of before, page and command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_signatures import late, signature, skip_only

import depthsig
from depthsig.cli.main import main
from depthsig.comparison.held_equal import alike
from depthsig.errors import InputError
from depthsig.report.page.compared_page import save
from depthsig.signature import Comparison, Signature
from depthsig.signature.costs import HELD_QUANTITIES, held_in_words

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "signatures"

COSTS = {
    "parameters": 1000, "parameters_without_embeddings": 800, "parameters_read": 900, "parameters_read_repeated": 900,
    "matmul_flops": 5000, "attention_flops": 10, "kv_bytes": 64, "context": 100, "notes": [], "training_tokens": 50,
    "training_flops": None,
}  # fmt: skip


def made(name: str, steps: int = 6, layers: int | None = None, costs: dict[str, Any] | None = None) -> Signature:
    seed = sum(name.encode())
    one = signature(skip_only(late(steps, 0.4), seed), steps, name=name)
    about = {**one.info["checkpoint"], "n_layers": layers or steps}
    return replace(one, info={**one.info, "checkpoint": about, **({} if costs is None else {"costs": costs})})


def values(found: Comparison, level: str, a: str, b: str = "-") -> dict[str, Any]:
    rows = found.held_equal.query("level == @level and a == @a and b == @b").set_index("quantity")
    assert list(rows.index) == list(HELD_QUANTITIES)
    return rows.to_dict("index")


def test_values_factors_and_verdicts_by_hand() -> None:
    looped = made("loop", 6, 3, {**COSTS, "parameters": 500, "context": 40, "kv_bytes": None})
    base = made("base", 6, 6, {**COSTS, "parameters_read": 909})
    found = depthsig.compare([looped, base], resamples=20)
    own = {k: row["value_a"] for k, row in values(found, "one", "loop").items()}
    assert {k: value for k, value in own.items() if value == value} == {
        "steps": 6, "layers": 3, "parameters": 500, "parameters_without_embeddings": 800, "parameters_read": 900,
        "parameters_read_repeated": 900, "flops": 5000 + 40 * 10, "training_tokens": 50,
    }  # fmt: skip
    pair = values(found, "model", "loop", "base")
    assert pair["flops"]["value_b"] == 5400 and pair["flops"]["note"] == "at a context of 40 tokens"  # of both
    assert pair["parameters"]["factor"] == 0.5 and pair["layers"]["factor"] == 0.5
    assert {k: row["verdict"] for k, row in pair.items()} == {
        "steps": "equal", "layers": "differs", "parameters": "differs", "parameters_without_embeddings": "equal",
        "parameters_read": "equal",  # 900 beside 909 is within 1 %
        "parameters_read_repeated": "equal", "flops": "equal", "kv_bytes": "unknown", "training_tokens": "equal",
        "training_flops": "unknown",
    }  # fmt: skip
    assert np.isnan(pair["kv_bytes"]["factor"]) and pair["kv_bytes"]["note"] == "in float32"
    assert found.held_in_words() == [
        "loop and base: same steps, parameters without embeddings, parameters read, parameters read with repetition, "
        "FLOPs a token and training tokens; loop has 0.5 × the stored layers and 0.5 × the parameters; not known: KV "
        "memory a token and training FLOPs"
    ]


def test_roles_are_told_by_their_members_means() -> None:
    a, b = made("a", costs=COSTS), made("b", costs={**COSTS, "parameters": 2000})
    base = made("c", costs={**COSTS, "parameters": 750})
    found = depthsig.compare([a, b, base], roles={"looped": [a, b], "baseline": base}, resamples=20)
    role = values(found, "role", "looped", "baseline")["parameters"]
    assert (role["value_a"], role["value_b"], role["factor"]) == (1500, 750, 2)
    assert role["note"] == "members of looped differ"
    assert len(found.held_equal) == (3 + 3 + 1) * len(HELD_QUANTITIES)
    assert len(found.held_in_words()) == 1 and "looped has 2 × the parameters" in found.held_in_words()[0]


def test_a_record_without_costs_is_unknown_and_nothing_more() -> None:
    found = depthsig.compare([made("old"), made("new", costs=COSTS)], resamples=20)
    pair = values(found, "model", "old", "new")
    assert pair["steps"]["verdict"] == pair["layers"]["verdict"] == "equal"
    assert {row["verdict"] for q, row in pair.items() if q not in ("steps", "layers")} == {"unknown"}


def test_one_percent_is_the_border() -> None:
    assert alike(100, 99) and alike(99, 100) and not alike(100, 98.99) and not alike(0, 1)


def test_what_is_measured_is_recorded_as_its_model_costs(tmp_path: Path) -> None:
    native = depthsig.load("family-baseline")
    for name, order in (("plain", None), ("looped", "0:4,4:8x4,8:12")):
        options = {"n": 5, "metrics": ["skip.output_l2"], "max_tokens": 16, "control": False, "order": order}
        depthsig.analyze(native, "lookup", **options, out=tmp_path / name)
    found = depthsig.compare([tmp_path / "looped", tmp_path / "plain"], resamples=20)
    pair = values(found, "model", "looped", "plain")
    assert pair["flops"]["verdict"] == pair["kv_bytes"]["verdict"] == pair["parameters"]["verdict"] == "equal"
    layer = (native.costs.parameters_without_embeddings - 128) / 24
    assert pair["parameters_read"]["value_b"] - pair["parameters_read"]["value_a"] == 12 * layer
    record = json.loads((tmp_path / "plain" / "signature.json").read_text())["costs"]
    assert record["training_tokens"] == 10_240_000
    assert {k: record[k] for k in native.costs.record()} == native.costs.record()


@pytest.mark.parametrize(
    ("field", "value"),
    [("parameters", -1), ("kv_bytes", "many"), ("context", 0), ("notes", "text"), ("matmul_flops", 1 << 130)],
)  # fmt: skip
def test_damaged_costs_are_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    made("one", costs={**COSTS, field: value}).save(tmp_path / "s", figures=False)
    with pytest.raises(InputError, match=rf"damaged: 'costs\.{field}.*"):
        Signature.load(tmp_path / "s")


def test_a_folder_of_before_has_no_table_and_still_loads(tmp_path: Path) -> None:
    found = depthsig.compare([made("a", costs=COSTS), made("b")], resamples=20, out=tmp_path / "c")
    pd.testing.assert_frame_equal(Comparison.load(tmp_path / "c").held_equal, found.held_equal)
    (tmp_path / "c" / "held_equal.csv").unlink()
    with pytest.raises(InputError, match=r"held_equal\.csv"):
        Comparison.load(tmp_path / "c")
    record = tmp_path / "c" / "compare.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"schema": "depthsig-compare/2"}))
    before = Comparison.load(tmp_path / "c")
    assert before.held_equal.empty and before.held_in_words() == []
    assert 'id="held"' not in save(before, tmp_path / "d").read_text()


@pytest.mark.parametrize(
    ("column", "value"),
    [("quantity", "beauty"), ("verdict", "maybe"), ("a", "nobody"), ("level", "two"), ("value_a", -1.0)],
)  # fmt: skip
def test_a_damaged_table_is_refused(tmp_path: Path, column: str, value: Any) -> None:
    depthsig.compare([made("a", costs=COSTS), made("b")], resamples=20, out=tmp_path / "c")
    path = tmp_path / "c" / "held_equal.csv"
    table = pd.read_csv(path, keep_default_na=False)
    table[column] = table[column].astype(object)
    table.loc[3, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match=r"held_equal\.csv' is damaged"):
        Comparison.load(tmp_path / "c")


def test_the_family_is_matched_in_compute_and_not_in_parameters(tmp_path: Path, capsys: Any) -> None:
    """Of the shipped signatures, by their records alone, as the command prints and the page shows it."""
    folders = {arm: str(SHIPPED / f"{arm}-seed2-lookup") for arm in ("looped", "midas", "baseline")}
    roles = f"looped={folders['looped']},grown={folders['midas']},baseline={folders['baseline']}"
    assert main(["compare", "--roles", roles, "--out", str(tmp_path / "c"), "--no-progress"]) == 0
    said = capsys.readouterr().out
    sentence = next(line for line in said.splitlines() if line.startswith("looped and baseline: same "))
    assert "FLOPs a token" in sentence.split(";")[0] and "training FLOPs" in sentence.split(";")[0]
    assert "0.503 × the parameters" in sentence
    assert "grown has 0.627 × the training FLOPs" in said
    page = (tmp_path / "c" / "report.html").read_text()
    assert sentence in page and page.index('id="claims"') < page.index('id="held"') < page.index('id="distances"')
    assert '<td>KV memory a token</td><td class="number">24.6 k</td>' in page


def test_sentences_stand_damage() -> None:
    rows = [("model", "a", "b", "steps", float("nan"), "differs")]
    table = pd.DataFrame(rows, columns=["level", "a", "b", "quantity", "factor", "verdict"])
    assert held_in_words(table) == ["a and b: a has another multiple of the steps"]
