"""Saved replications: read again as they were, refused in one line where damaged, and safe to typeset."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fuzzing import damage, held, settings
from hypothesis import given
from hypothesis import strategies as st

from depthsig import Signature
from depthsig.errors import InputError
from depthsig.prompts.shipped import data_path
from depthsig.replication.criteria import as_record, criteria, criteria_hash
from depthsig.signature.folders.kinds import REPLICATION
from depthsig.signature.replications.latex import as_latex, escaped
from depthsig.signature.replications.replication import OUTCOMES, SCHEMA, TABLES, Replication, say

COUNTS: Counter[str] = Counter()


def made() -> Replication:
    """A claim with each verdict, and a network's number, curve and run."""
    claims = criteria().of_paper("2602.16490")[:4]
    told = criteria().papers["2602.16490"]
    rows = [
        {"experiment": c.experiment, "claim": c.id, "criterion": c.criterion, "role": "looped", "estimate": x,
         "ci_low": x - 1, "ci_high": x + 1, "verdict": v, "note": "a note; with 5 % & more_of {it}"}
        for c, v, x in zip(claims, OUTCOMES, (2.0, -3.0, 0.25, np.nan), strict=True)
    ]  # fmt: skip
    about = {"claim": claims[0].id, "role": "looped", "arm": "looped", "network": "n"}
    number = {"value": 1.5, "ci_low": np.nan, "ci_high": np.nan}
    info = {
        "schema": SCHEMA, "created": "2026-01-01T00:00:00+00:00", "versions": {"depthsig": "0"},
        "paper": {"id": told.id, "title": told.title, "authors": told.authors, "year": told.year},
        "experiments": [vars(criteria().experiments[e]) for e in dict.fromkeys(c.experiment for c in claims)],
        "claims": [as_record(c) for c in claims], "criteria_sha256": criteria_hash(claims),
        "networks": [{"name": "n", "role": "looped", "steps": 24, "checkpoint": "n", "content_hash": "0" * 64,
                      "signatures": ["n on gsm8k"]}],
        "roles_from": "as given", "options": {"quick": True, "seed": 0, "only": ["E1"]}, "warnings": ["one"],
    }  # fmt: skip
    return Replication(
        info, pd.DataFrame(rows), pd.DataFrame([{**about, **number}]),
        pd.DataFrame([{**about, "axis": "relative depth", "shows": "share", "x": 0.5, **number}]),
        runs=pd.DataFrame(
            [{"run": "a", "network": "n", "task": "a", "item": 0, "condition": 1, "loss": 1, "exact": 1}]
        ),
    )  # fmt: skip


def same(one: Replication, other: Replication) -> None:
    for name in (*TABLES, "runs"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made().save(tmp_path_factory.mktemp("replication") / "out")


def test_it_is_read_as_it_was_written(folder: Path) -> None:
    found = Replication.load(folder)
    same(found, made())
    assert found.info == json.loads(json.dumps(made().info)) and found.sentences() == made().sentences()
    assert (
        repr(found)
        == "Replication of 2602.16490 by 1 networks: 1 supported, 1 contradicted, 1 undecided, 1 not measurable"
    )
    assert found.verdicts().to_numpy().sum() == 4 and list(found.verdicts().columns) == list(OUTCOMES)


def test_the_analyses_behind_it_are_results_of_their_own(tmp_path: Path) -> None:
    signature = Signature.load(data_path("signatures") / "midas-seed1-lookup")
    saved = replace(made(), signatures={"midas-lookup": signature}).save(tmp_path / "out")
    again = Signature.load(saved / "signatures" / "midas-lookup")
    pd.testing.assert_frame_equal(again.samples_table, signature.samples_table)
    # Saved over: what the older one had is gone, and what is not ours stays.
    (saved / "mine.txt").write_text("mine", encoding="utf-8")
    made().save(saved)
    assert not (saved / "signatures").exists() and (saved / "mine.txt").exists()


def test_another_kind_of_result_is_not_replaced(tmp_path: Path) -> None:
    shutil.copytree(data_path("signatures") / "midas-seed1-lookup", tmp_path / "signature")
    with pytest.raises(InputError, match="another kind"):
        made().save(tmp_path / "signature")
    with pytest.raises(InputError, match=r"holds no replicate\.json"):
        Replication.load(tmp_path / "signature")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "depthsig-replicate/9"}, "depthsig-replicate/9"), ({"claims": []}, "is not in its record"),
        ({"claims": [{"id": "E1.effect"}]}, "damaged"), ({"paper": None}, "damaged"), ({"networks": "x"}, "damaged"),
    ],
    ids=["schema", "no claims", "half a claim", "no paper", "networks"],
)  # fmt: skip
def test_a_damaged_record_is_refused_in_one_line(
    folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / REPLICATION).write_text(json.dumps({**made().info, **change}), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(said)) as error:
        Replication.load(copy)
    assert "\n" not in str(error.value)


def test_a_verdict_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    text = (copy / "replication.csv").read_text(encoding="utf-8")
    (copy / "replication.csv").write_text(text.replace("contradicted,", "proved,"), encoding="utf-8")
    with pytest.raises(InputError, match="'proved' is no verdict"):
        Replication.load(copy)


def _read(work: Path, folder: Path, data: st.DataObject) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder, work)
    files = sorted(p for p in work.rglob("*") if p.suffix in (".json", ".csv", ".parquet"))
    damage(data, data.draw(st.sampled_from(files + 3 * [work / REPLICATION])))
    found = held(COUNTS, "replication", lambda: Replication.load(work))
    if found is not None:
        held(
            COUNTS, "what reads it",
            lambda: (found.sentences(), found.verdicts(), found.latex(), repr(found), found._repr_html_()),
        )  # fmt: skip


def test_damaged_folders(folder: Path, tmp_path: Path) -> None:
    settings(60)(given(st.data())(lambda data: _read(tmp_path / "copy", folder, data)))()
    assert COUNTS["replication refused"] > 5 and COUNTS["what reads it"] == COUNTS["replication"] > 5


def test_latex_takes_any_text_as_it_is() -> None:
    every = "".join(map(chr, range(32, 127)))
    plain = re.sub(r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\\[&%$#_{}]", "", escaped(every))
    assert not set(plain) & set("\\&%$#_{}~^")
    assert escaped("a − b ≥ c → d") == r"a $-$ b $\geq$ c $\rightarrow$ d"


def test_the_table_is_one_that_latex_sets() -> None:
    lines = made().latex().splitlines()
    assert lines[1] == r"\begin{tabular}{lllrl}" and lines[-1] == r"\end{tabular}"
    body = [line for line in lines[lines.index(r"\midrule") + 1 : -2] if line != r"\addlinespace"]
    assert len(body) == 4 and all(line.endswith(r"\\") and len(re.findall(r"(?<!\\)&", line)) == 4 for line in body)
    assert "$+2.000$ & $[+1.000, +3.000]$" in body[0] and body[3].endswith(r"not measurable & -- & -- \\")
    for line in lines[1:]:
        assert line.count("$") % 2 == 0 and line.count("{") == line.count("}")


def test_experiments_stand_apart() -> None:
    found = made()
    two = pd.concat([found.replication, found.replication.assign(experiment="E2")], ignore_index=True)
    assert as_latex(found.info, two).count(r"\addlinespace") == 1


def test_a_sentence_says_verdict_number_and_note() -> None:
    row, claim = made().replication.iloc[0].to_dict(), made().info["claims"][0]
    said = say(row, claim)
    assert said.startswith(
        "E1.effect (looped): supported. The centre of effects on later steps lies deeper in looped than"
    )
    assert "baseline: +2 [+1, +3]. a note" in said
    assert ": +" not in say({**row, "estimate": np.nan}, claim)


def test_a_page_in_a_notebook_runs_nothing() -> None:
    found = made()
    hostile = replace(found, replication=found.replication.assign(note="<script>alert(1)</script>"))
    assert "<script>" not in hostile._repr_html_()
