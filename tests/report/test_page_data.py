"""The page's numbers are those of the tables, on the scales of the figures; what is untrusted stays text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from page_signatures import EVIL, made, tokens

from depthsig.report.page.chart_data import as_script
from depthsig.report.page.html import render
from depthsig.report.page.page_data import RANKS, page_data
from depthsig.report.scale import Scale
from depthsig.signature import Signature

SHIPPED = Path(__file__).parents[2] / "data" / "signatures"


def same(shown: list[float | None], wanted: pd.Series) -> None:
    got = np.array([np.nan if v is None else v for v in shown])
    np.testing.assert_allclose(got, wanted.to_numpy(float), rtol=5e-5)


def test_series_and_cells_are_the_tables_rows() -> None:
    signature = made()
    data = json.loads(as_script(page_data(signature)))
    lines = cells = 0
    for name, metric in data["metrics"].items():
        entry = signature.entries[name]
        assert (metric["label"], metric["unit"], metric["centre"]) == (entry.label, entry.unit, entry.centre)
        for one in metric.get("series", []):
            rows = signature.profiles.query("metric == @name and part == @one['part'] and scope == @one['scope']")
            rows = rows[rows["agg"] == one["agg"]].sort_values("index")
            assert one["x"] == rows["index"].tolist()
            same(one["y"], rows["value"])
            same(one["low"], rows["ci_low"])
            every = signature.profiles.query("metric == @name and agg == @one['agg']")["value"]
            scale = Scale.of(entry, every)
            assert one["scale"] == {"norm": scale.norm, "low": scale.low, "high": scale.high}
            lines += 1
        for one in metric.get("cells", []):
            grid = signature.matrix(name, one["part"], one["scope"], one["agg"])
            assert (one["rows"], one["cols"]) == (grid.index.tolist(), grid.columns.tolist())
            same([v for row in one["values"] for v in row], pd.Series(grid.to_numpy().ravel()))
            scale = Scale.of(entry, grid.to_numpy(float))
            assert one["scale"] == {"norm": scale.norm, "low": scale.low, "high": scale.high}
            cells += 1
    assert lines == len(signature.profiles.groupby(["metric", "part", "scope", "agg"]))
    assert cells == len(signature.matrices.groupby(["metric", "part", "scope", "agg"]))
    assert lines and cells


def test_tokens_have_every_depth_and_position_and_the_best_words() -> None:
    found = page_data(replace(made(), tokens_table=tokens("w")))["tokens"]["lens.tokens"]
    (prompt,) = found["prompts"]
    assert (prompt["depths"], prompt["positions"], prompt["read"]) == ([0, 1, 2], [1, 2], ["inw", "inw"])
    for line in prompt["cells"]:
        for cell in line:
            assert [found["words"][w] for w in cell[::2]] == [f"w{r}" for r in range(1, RANKS + 1)]
            assert cell[1::2] == pytest.approx([0.5, 0.25, 0.16667])


def test_nothing_untrusted_becomes_markup() -> None:
    signature = made()
    info = {**signature.info, "checkpoint": {**signature.info.get("checkpoint", {}), "name": EVIL}}
    page = render(replace(signature, info=info, tokens_table=tokens(EVIL)), [])
    assert EVIL not in page and "<script>alert" not in page
    block = page.split('id="page-data">')[1].split("</script>")[0]
    data = json.loads(block)
    assert data["name"] == EVIL and data["tokens"]["lens.tokens"]["words"][0] == EVIL + "1"
    assert "<" not in block


def test_charts_come_before_long_tables_and_the_contents_have_the_same_order() -> None:
    signature = Signature.load(SHIPPED / "midas-seed2-lookup")
    strength = signature.scores.head(1).assign(score="period.strength", metric="contribution.relative", scope="-")
    page = render(replace(signature, scores=pd.concat([signature.scores, strength])), [])
    contents = re.findall(r'<a href="#([^"]+)"', page.split("</nav>")[0])
    places = [one for one in re.findall(r'<h2 id="([^"]+)"', page) if one != "plan-title"]
    charts = [one for one in contents if one.startswith("metrics-")]
    assert contents == places and len(charts) > 2
    assert contents == ["findings", *charts, "period", "scores", "certificates", "what", "definitions"]
    assert page.index('id="plan-strip"') < page.index(f'id="{charts[0]}"')
