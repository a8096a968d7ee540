"""What a signature holds and says of itself: its metrics, the rows behind a figure, a few lines, an xarray dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from depthsig.arguments import check_arguments
from depthsig.errors import InputError, near, shown
from depthsig.metrics import Metric
from depthsig.metrics.rules import SHOWN_PROFILES
from depthsig.notebook import lines_as_html, plan_strip, sparkline, table
from depthsig.terms import NONE, counted

if TYPE_CHECKING:
    import xarray

    from depthsig.signature.signature import Signature

MOST_PROFILES = 4
_NUMBERS = ("layer", "iteration", "block", "phase")
_TABLES = {"profile": "profiles", "matrix": "matrices", "token": "tokens_table", "score": "scores"}


class HeldMetrics(list[str]):
    """The ids of what a signature holds, in the order of its tables: a list, with :meth:`frame` to look them up.

    >>> HeldMetrics(["lens.kl"], {"lens.kl": "profile"}, {}).of("profile")
    ['lens.kl']
    """

    def __init__(self, ids: Iterable[str], kinds: Mapping[str, str], entries: Mapping[str, Metric]) -> None:
        super().__init__(ids)
        self._kinds, self._entries = dict(kinds), entries

    def of(self, kind: str) -> list[str]:
        """Those of one kind: ``profile``, ``matrix``, ``token`` or ``score``.

        Raises:
            InputError: for another kind.
        """
        check_arguments(HeldMetrics.of, locals())
        if kind not in _TABLES:
            raise InputError(f"there is no kind {shown(kind)}; kinds are {', '.join(_TABLES)}{near(kind, _TABLES)}")
        return [name for name in self if self._kinds[name] == kind]

    def frame(self) -> pd.DataFrame:
        """One row a metric: ``metric``, ``kind``, ``label``, ``unit``, ``formula`` and whether it has a ``figure``."""
        rows = []
        for name in self:
            one = self._entries.get(name)
            told = ("", "", "") if one is None else (one.label, one.unit, one.formula)
            rows.append((name, self._kinds[name], *told, one is not None and bool(one.figure)))
        return pd.DataFrame(rows, columns=["metric", "kind", "label", "unit", "formula", "figure"])

    def _repr_html_(self) -> str:
        frame = self.frame().drop(columns="formula")
        return table(list(frame.columns), frame.itertuples(index=False))


def held_metrics(signature: Signature) -> HeldMetrics:
    """The ids in the tables of a signature, each once, with what kind it is."""
    kinds: dict[str, str] = {}
    for kind, attribute in _TABLES.items():
        column = "score" if kind == "score" else "metric"
        for name in map(str, getattr(signature, attribute)[column].unique()):
            one = signature.entries.get(name)
            # A score may keep its tokens' values, too: it is what its entry says.
            kinds[name] = kind if one is not None and one.kind == kind else kinds.get(name, kind)
    return HeldMetrics(kinds, kinds, signature.entries)


def rows_of(signature: Signature, metric: str) -> pd.DataFrame:
    """Every row of one metric (or score), of the table that has it, all parts, scopes and aggregations.

    Raises:
        InputError: where there is none; the message says what there is.
    """
    have = held_metrics(signature)
    if metric not in have:
        raise InputError(missing(metric, have))
    kind = next(kind for kind in _TABLES if metric in have.of(kind))
    frame = getattr(signature, _TABLES[kind])
    return frame[frame["score" if kind == "score" else "metric"] == metric].reset_index(drop=True)


def missing(metric: Any, have: Iterable[str]) -> str:
    """One line for a metric that is not there: the nearest ones, and all that there are."""
    names = list(dict.fromkeys(have))
    return f"no {shown(metric)} in this signature{near(metric, names)}; there are {', '.join(names) or 'none'}"


def told(signature: Signature) -> list[str]:
    """A signature without its findings in a few lines: what was measured of what, and what went wrong."""
    info = signature.info
    checkpoint, options = info.get("checkpoint", {}), info.get("options", {})
    metrics = list(dict.fromkeys([*signature.profiles["metric"], *signature.matrices["metric"]]))
    steps, prompts = len(info.get("plan", [])), len(signature.prompts)
    name = str(checkpoint.get("name", "?"))[:80]
    family = f" ({str(checkpoint['family'])[:60]})" if checkpoint.get("family") else ""
    how = ", ".join(str(info[key]) for key in ("dtype", "device") if info.get(key)) or "dtype unknown"
    numbers = [counted(steps, "step"), counted(prompts, "prompt"), counted(len(metrics), "metric")]
    measured = f"{numbers[0]}, {numbers[1]} ({shown(str(options.get('prompts', '?')))}), {numbers[2]}"
    lines = [f"Signature of {name}{family}: {measured}; {how}"]
    spans = info.get("spans", {})
    found = {(s["start"], s["end"], s["size"]): s for s in [*spans.get("labelled", []), *spans.get("executed", [])]}
    said = [f"{s['kind']} {s['start']}:{s['end']}, {s['count']} x {s['size']}" for s in list(found.values())[:4]]
    lines.append("  plan: " + ("; ".join(said) if said else "every layer once, no span declared or observed"))
    warnings = [str(text) for text in info.get("warnings", [])]
    if warnings:
        more = f" (and {len(warnings) - 1} more in .info['warnings'])" if len(warnings) > 1 else ""
        lines.append(f"  warning: {' '.join(warnings[0].split())[:140]}{more}")
    return lines


def told_html(signature: Signature, findings: str) -> str:
    """The same for a notebook: with the plan as a strip, ``findings`` as HTML, and a few profiles as small lines."""
    profiles = signature.profiles[signature.profiles["agg"] == "mean"]
    there = list(dict.fromkeys(profiles["metric"]))
    names = [name for name in SHOWN_PROFILES if name in there] or there
    rows = []
    for name in names[:MOST_PROFILES]:
        one = signature.entries.get(name)
        label = name if one is None else f"{name}: {one.label}"
        rows.append((label, sparkline(signature.profile(name)["value"].tolist(), name)))
    head = lines_as_html("\n".join(told(signature))) + plan_strip(signature.info.get("plan", []))
    return head + findings + "".join(f"<div>{line} {escape(label)}</div>" for label, line in rows)


def to_dataset(signature: Signature) -> xarray.Dataset:
    """Profiles and matrices as one xarray dataset; see :meth:`depthsig.Signature.to_xarray`.

    Raises:
        InputError: where xarray is not installed.
    """
    try:
        import xarray  # lazily: an optional dependency
    except ImportError:
        raise InputError("to_xarray needs xarray, which is not installed; pip install 'depthsig[xarray]'") from None
    variables: dict[str, xarray.DataArray] = {}
    for frame, axes in ((signature.profiles, ["index"]), (signature.matrices, ["row", "col"])):
        for name, rows in frame.groupby("metric", sort=False):
            variables[str(name)] = _array(str(name), rows, axes, signature.entries)
    about = {"checkpoint": str(signature.info.get("checkpoint", {}).get("name", "")), "steps": len(signature.plan)}
    dataset = xarray.Dataset(variables, attrs=about)
    labels = xarray.Dataset(coords=_labels(signature.profiles))
    if "index" not in dataset.dims or "index" not in labels.dims:
        return dataset
    filled = labels.reindex(index=dataset["index"], fill_value={"span": NONE, **dict.fromkeys(_NUMBERS, -1)})
    return dataset.assign_coords(filled.coords)


def _array(name: str, rows: pd.DataFrame, axes: list[str], entries: Mapping[str, Metric]) -> Any:
    """One metric over part, scope, agg and its axes, with its intervals and the labels of its steps beside it."""
    dims = ["part", "scope", "agg", *axes]
    cells = rows.astype(dict.fromkeys(axes, int)).set_index(dims)
    array = cells["value"].to_xarray()
    for bound in ("ci_low", "ci_high"):
        array = array.assign_coords({f"{name}.{bound}": cells[bound].to_xarray()})
    one = entries.get(name)
    if one is not None:
        array.attrs = {"label": one.label, "units": one.unit, "formula": one.formula}
    return array


def _labels(profiles: pd.DataFrame) -> dict[str, tuple[str, Any]]:
    """What every index of a profile over depths or steps belongs to; -1 and "-" where a label does not apply."""
    rows = profiles[profiles["axis"].isin(["depth", "step"])].drop_duplicates("index").sort_values("index")
    if rows.empty:
        return {}
    found: dict[str, tuple[str, Any]] = {
        label: ("index", rows[label].fillna(-1).to_numpy(np.int64)) for label in _NUMBERS
    }
    found["span"] = ("index", rows["span"].replace("", NONE).astype(str).to_numpy(object))
    return {"index": ("index", rows["index"].to_numpy(np.int64)), **found}
