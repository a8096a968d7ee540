"""Damaged inputs: what is drawn in the place of a value, how files are damaged, and what must hold then."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pandas as pd
from hypothesis import strategies as st

from depthsig.errors import DepthsigError

SECONDS = 60
"""An input that takes longer hangs."""
HOSTILE = "\"><script>alert(1)</script>{{7*7}}'$x_1$ $\\frac"

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.sampled_from([10**9, 10**30, 10**400, -(10**400), 1.5, -0.0]),
    st.floats(), st.text(max_size=8),
    st.sampled_from([HOSTILE, "../../x", "A" * 5000, "=cmd|' /C calc'!A0", "\u202e", "4:8", "loop", "grown", "mean"]),
)  # fmt: skip
JUNK = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
CELLS = st.one_of(
    st.sampled_from(["", "x", "-1", "1e400", "nan", "inf", "-inf", "9" * 20, "9" * 400, "1.5", "True"]),
    st.sampled_from(["\u0663", "1e308", "-1e308", "1e-308", "0", "1", "3", "1000000000", HOSTILE, "../../x", "-"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)  # fmt: skip


def settings(examples: int) -> hypothesis.settings:
    """The same examples every time, as many as told; a slow machine is no failure."""
    return hypothesis.settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip


def held(counts: Counter[str], what: str, function: Callable[[], Any]) -> Any:
    """What a function gives, None where it refuses; a refusal is one short line, and neither takes long."""
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = function()
    except DepthsigError as error:
        said = str(error)
        assert "\n" not in said and len(said) < 2000, said[:300]
        counts[f"{what} refused"] += 1
        return None
    finally:
        assert time.perf_counter() - started < SECONDS
    counts[what] += 1
    return found


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def damage(draw: st.DataObject, path: Path) -> str:
    """Damage one file of a results folder; returns how."""
    kind = draw.draw(st.sampled_from(["cut", "bytes", "values", "values", "values", "values"]))
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: draw.draw(st.integers(0, len(content)))])
    elif kind == "bytes":
        changed = bytearray(content)
        for _ in range(draw.draw(st.integers(1, 4))):
            changed[draw.draw(st.integers(0, len(changed) - 1))] = draw.draw(st.integers(0, 255))
        path.write_bytes(changed)
    elif path.suffix == ".json":
        _damage_json(draw, path)
    else:
        _damage_table(draw, path)
    return f"{path.name} {kind}"


def _damage_json(draw: st.DataObject, path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    for _ in range(draw.draw(st.integers(1, 2))):
        *way, last = draw.draw(st.sampled_from(list(places(record))))
        inner = record
        for key in way:
            inner = inner[key]
        if draw.draw(st.booleans()):
            inner[last] = draw.draw(JUNK)
        else:
            del inner[last]
    path.write_text(json.dumps(record), encoding="utf-8", errors="surrogatepass")


def _damage_table(draw: st.DataObject, path: Path) -> None:
    is_csv = path.suffix == ".csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False) if is_csv else pd.read_parquet(path)
    column = draw.draw(st.sampled_from(list(table.columns)))
    row = draw.draw(st.integers(0, max(0, len(table) - 1)))
    how = draw.draw(st.sampled_from(["cell", "cell", "cell", "column", "gone", "again", "fewer", "turned"]))
    if how == "cell" and len(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = draw.draw(CELLS)
    elif how == "column":
        table[column] = draw.draw(CELLS if is_csv else st.sampled_from([None, float("nan"), -1, 10**12, "x", b"x"]))
    elif how == "gone":
        table = table.drop(columns=[column])
    elif how == "again":
        table = pd.concat([table, table.iloc[[row]] if len(table) else table])
    elif how == "fewer":
        table = table.drop(index=table.index[row : row + 1])
    else:
        table = table.iloc[::-1]
    if is_csv:
        table.to_csv(path, index=False)
    else:
        as_text = {c: table[c].astype(str) for c in table if table[c].dtype == object and how == "cell"}
        table.assign(**as_text).to_parquet(path)
