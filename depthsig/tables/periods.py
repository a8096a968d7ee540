"""``period.*`` scores of a signature, from its tables alone: no model, no checkpoint.

One span is tested: of those declared or observed, the one fixed by geometry and declaration and
never by the data. Every profile over steps and every matrix of steps is tested; edits that move
several steps at once (``order.*``) smear neighbours together and are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.metrics import Metric
from depthsig.metrics.rules import COMBINED, FAMILY, NESTED, OF_LAYERS, P_VALUE, STRENGTH, Member
from depthsig.signature import Signature
from depthsig.signature.schema import TABLES
from depthsig.signature.tabular import conform
from depthsig.signature.tested import TestedSpan, choose_span
from depthsig.statistics.multiplicity import holm
from depthsig.statistics.periodicity import PeriodTest, block_periodicity, period_strength
from depthsig.statistics.periodicity_matrix import matrix_periodicity, matrix_strength, span_cells
from depthsig.tables.samples import Key, score_row
from depthsig.tables.score_rows import interval

PROFILE_NULL = "smooth trend, impulses at the model's ends, AR(1) noise; no phase effect"
MATRIX_NULL = "phases exchangeable within blocks, and mean likeness smooth in log lag with AR(1) noise"
COMBINED_NULL = "none of the family has a period of the block (Holm)"


@dataclass(frozen=True)
class Tested:
    """One profile or matrix of a signature with its test."""

    metric: str
    part: str
    scope: str
    agg: str
    matrix: bool
    result: PeriodTest
    interval: tuple[float, float, int | None] = (np.nan, np.nan, None)

    @property
    def member(self) -> Member:
        """Its place in the fixed family."""
        return self.metric, self.part, self.scope


def period_scores(signature: Signature) -> pd.DataFrame:
    """Strength, p and divisors of everything with a step axis, and the combined p of the family.

    Args:
        signature: measured just now, or loaded from a folder.

    Returns:
        Rows of ``scores.csv``. What cannot be tested has an empty value and its reason in ``note``.
        Intervals of strengths are 95 % percentile bootstraps over prompts: reading error only,
        for prompts share the weights and are no replicates of a network.
    """
    span = choose_span(signature.info)
    if span is None:
        note = "no span is declared or observed; give --loop, --grown or --order"
        return pd.DataFrame([score_row(COMBINED, np.nan, note=f"not testable: {note}", null=COMBINED_NULL)])
    tested = [*_profiles(signature, span), *_matrices(signature, span)]
    rows = [row for one in tested for row in _rows(one)]
    aggs = list(dict.fromkeys(one.agg for one in tested if one.metric != OF_LAYERS)) or ["mean"]
    causes = other_causes(signature.info, span)
    rows += [_combined([one for one in tested if one.agg == agg], agg, span, causes) for agg in aggs]
    return pd.DataFrame(rows)


def is_tested(one: Metric) -> bool:
    """Whether periods of a metric are tested: of profiles over steps and matrices of steps, and of layers' weights.

    Edits that move several steps at once have no place of their own in depth.
    """
    over_steps = one.cells in (("step",), ("step", "step")) and one.kind in ("profile", "matrix")
    return one.id == OF_LAYERS or (over_steps and not one.run.several)


def family_tests(signature: Signature, span: TestedSpan) -> dict[Member, PeriodTest]:
    """The fixed family's tests over any span, another model's for one; by (metric, part, scope)."""

    def of_family(table: pd.DataFrame) -> pd.DataFrame:
        members = list(zip(table["metric"], table["part"], table["scope"], strict=True))
        return table[np.array([m in FAMILY for m in members], dtype=bool) & (table["agg"] == "mean")]

    means = _mean_tables(signature)
    family = replace(
        signature, profiles=of_family(means["profiles"]), matrices=of_family(means["matrices"]),
        samples_table=signature.samples_table.iloc[:0],
    )  # fmt: skip
    return {one.member: one.result for one in (*_profiles(family, span), *_matrices(family, span))}


def _mean_tables(signature: Signature) -> dict[str, pd.DataFrame]:
    """Profiles and matrices of means over prompts; from samples where tables hold worst cases only."""
    samples = signature.samples_table
    samples = samples[samples["agg"] == "mean"]
    about, found = ["metric", "part", "scope", "agg"], {}
    for name, table, place in (
        ("profiles", signature.profiles, ["axis", "index"]), ("matrices", signature.matrices, ["row", "col"]),
    ):  # fmt: skip
        found[name] = table
        if not (table["agg"] == "mean").any():
            rows = samples[samples[place[-1]].notna()]
            means = rows.groupby([*about, *place], as_index=False, sort=False)["value"].mean()
            found[name] = conform(means.reindex(columns=table.columns), TABLES[name], name)
    return found


def combined_p(found: dict[Member, PeriodTest]) -> tuple[float, Member | None]:
    """``period.combined``: the smallest p of a family after Holm, and whose it is; NaN without a test."""
    p = {member: result.p for member, result in found.items() if result.testable}
    if not p:
        return np.nan, None
    adjusted = holm(np.array(list(p.values())))
    return float(adjusted.min()), list(p)[int(adjusted.argmin())]


def _profiles(signature: Signature, span: TestedSpan) -> Iterator[Tested]:
    entries, every = signature.entries, _Samples(signature)
    table = signature.profiles[signature.profiles["axis"] == "step"]
    for (metric, part, scope, agg), rows in table.groupby(["metric", "part", "scope", "agg"], sort=False):
        one = entries.get(metric)
        if one is not None and not is_tested(one):
            continue
        values = rows.sort_values("index")["value"].to_numpy(float)
        log = one is not None and one.log
        result = block_periodicity(values, span.start, span.block, span.count, log)
        found: tuple[float, float, int | None] = (np.nan, np.nan, None)
        samples = every.of(metric, part, scope, agg) if result.testable else None
        if samples is not None:
            by_prompt = np.full((int(samples["prompt"].max()) + 1, len(values)), np.nan)
            by_prompt[samples["prompt"], samples["index"]] = samples["value"]

            def strength(profiles: ndarray, log: bool = log) -> ndarray:
                return period_strength(profiles, span.start, span.block, span.count, log)

            found = interval([by_prompt], strength, _seed(signature))[1:]
        yield Tested(metric, part, scope, agg, False, result, found)


def _matrices(signature: Signature, span: TestedSpan) -> Iterator[Tested]:
    entries, every = signature.entries, _Samples(signature)
    for (metric, part, scope, agg), rows in signature.matrices.groupby(["metric", "part", "scope", "agg"], sort=False):
        one = entries.get(metric)
        if one is None:
            continue
        if metric == OF_LAYERS and span.layer is not None:
            matrix = _filled(rows, len({step["layer"] for step in signature.info["plan"]}))
            yield Tested(metric, part, scope, agg, True, matrix_periodicity(matrix, span.layer, span.block, span.count))
        elif metric != OF_LAYERS and is_tested(one):
            size = len(signature.info["plan"])
            result = matrix_periodicity(_filled(rows, size), span.start, span.block, span.count)
            samples = every.of(metric, part, scope, agg) if result.testable else None
            found = None if samples is None else _matrix_interval(signature, span, samples)
            yield Tested(metric, part, scope, agg, True, result, found or (np.nan, np.nan, None))


def _filled(rows: pd.DataFrame, size: int) -> Float[ndarray, "size size"]:
    """A matrix's rows as an array, at least ``size`` wide; NaN where nothing is written."""
    row, col = rows["row"].to_numpy(int), rows["col"].to_numpy(int)
    size = max(size, int(max(row.max(), col.max())) + 1)
    matrix = np.full((size, size), np.nan)
    matrix[row, col] = rows["value"]
    return matrix


def _matrix_interval(signature: Signature, span: TestedSpan, samples: pd.DataFrame) -> tuple[float, float, int]:
    n, size = span.block * span.count, len(signature.info["plan"])
    by_prompt = np.full((int(samples["prompt"].max()) + 1, size, size), np.nan)
    by_prompt[samples["prompt"], samples["row"], samples["col"]] = samples["value"]
    cells = span_cells(by_prompt, span.start, n)
    _, low, high, prompts = interval([cells], lambda c: matrix_strength(c, n, span.block), _seed(signature))
    return low, high, prompts


class _Samples:
    """The per-prompt values behind means, found by metric, part and scope in one pass over the table."""

    def __init__(self, signature: Signature) -> None:
        self.table = signature.samples_table
        means = np.flatnonzero(self.table["agg"] == "mean")
        groups = self.table.iloc[means].groupby(["metric", "part", "scope"], sort=False).indices
        self.places = {key: means[some] for key, some in groups.items()}

    def of(self, metric: str, part: str, scope: str, agg: str) -> pd.DataFrame | None:
        """Plain integers and floats; None where there are none."""
        if agg != "mean" or (metric, part, scope) not in self.places:
            return None
        chosen = self.table.iloc[self.places[metric, part, scope]].dropna(axis=1, how="all")
        return chosen.astype({c: int for c in ("prompt", "index", "row", "col") if c in chosen})


def _seed(signature: Signature) -> int:
    return int(signature.info.get("seed", 0))


def _rows(one: Tested) -> list[dict[str, Any]]:
    """The three score rows of one test."""
    result = one.result
    low, high, prompts = one.interval
    about = {
        "metric": one.metric, "part": one.part, "scope": one.scope, "agg": one.agg,
        "n_prompts": pd.NA if prompts is None else prompts, "null": MATRIX_NULL if one.matrix else PROFILE_NULL,
    }  # fmt: skip
    if not result.testable:
        note = f"not testable: {result.reason}"
        return [score_row(name, np.nan, **about, note=note) for name in (STRENGTH, P_VALUE, NESTED)]
    nested, says = _nested(result)
    worst = [p for p in result.nested.values() if np.isfinite(p)]
    return [
        score_row(STRENGTH, result.strength, **about, ci_low=low, ci_high=high, p_value=result.p,
                  note=_wrong(result)),
        score_row(P_VALUE, result.p, **about, p_value=result.p, note=""),
        score_row(NESTED, nested, **about, p_value=max(worst, default=np.nan), note=says),
    ]  # fmt: skip


def _wrong(result: PeriodTest) -> str:
    """What the wrong block sizes say, in words."""
    if not result.wrong_blocks:
        return "no wrong block size to compare with"
    rival = max(result.wrong_blocks, key=lambda b: result.wrong_blocks[b])
    fits = f"the best of the wrong block sizes, {rival}, reaches {result.wrong_blocks[rival]:.2f}"
    return f"beats every wrong block size; {fits}" if result.beats_wrong_blocks else f"no better than wrong: {fits}"


def _nested(result: PeriodTest) -> tuple[float, str]:
    """Whether a divisor suffices (1 or 0), and in words."""
    block = result.block
    if not result.nested:
        return 0.0, f"{block} has no divisor to test"
    defined = {c: p for c, p in result.nested.items() if np.isfinite(p)}
    if not defined:
        return np.nan, f"not testable: too few ways to relabel phases within the divisors of {block}"
    if result.suffices is None:
        return 0.0, f"no divisor of {block} suffices"
    says = f"period {result.suffices} suffices (p = {result.nested[result.suffices]:.3g})"
    return 1.0, says if result.p <= 0.05 else f"{says}, but no period was found (p = {result.p:.3g})"


def _combined(tested: list[Tested], agg: str, span: TestedSpan, causes: list[str]) -> dict[str, Any]:
    """The smallest p of the fixed family after Holm."""
    found = {one.member: one.result for one in tested if one.member in FAMILY}
    p = [member for member, result in found.items() if result.testable]
    notes = [str(span)]
    value, smallest = combined_p(found)
    if smallest is not None:
        notes.append(f"Holm over {len(p)} of {len(FAMILY)}, smallest {Key(*smallest)}")
    else:
        reasons = dict.fromkeys(result.reason for result in found.values())
        notes.append("not testable: " + ("; ".join(reasons) or "nothing of the family was measured"))
    missing = [str(Key(*m)) for m in FAMILY if m not in found]
    if missing:
        notes.append("not measured: " + ", ".join(missing))
    untested = [str(Key(*m)) for m, result in found.items() if not result.testable]
    if untested and p:
        notes.append("not testable: " + ", ".join(untested))
    notes += [f"also there, not tested: {other}" for other in span.others]
    notes += causes
    return score_row(COMBINED, value, agg=agg, p_value=value, null=COMBINED_NULL, note="; ".join(notes))


def other_causes(info: dict[str, Any], span: TestedSpan) -> list[str]:
    """Patterns of the config that vary inside the span, and so may be behind a period."""
    layers = [step["layer"] for step in info["plan"][span.start : span.start + span.block * span.count]]
    found = []
    for pattern in info["checkpoint"].get("layer_patterns", ()):
        values = [pattern["values"][layer] for layer in layers if layer < len(pattern["values"])]
        kinds = list(dict.fromkeys(v or "otherwise" for v in values))
        if len(kinds) < 2:
            continue
        own = all(v == values[i % span.block] for i, v in enumerate(values))
        with_block = "recurs with the block itself" if own else "varies inside the span"
        found.append(f"other possible cause: {pattern['name']} ({', '.join(kinds)}) {with_block}")
    return found


def beside_control(scores: pd.DataFrame, control: pd.DataFrame | None, why: str = "") -> pd.DataFrame:
    """The scores with what the re-initialised control measured in the notes of its claims.

    Args:
        control: the control's scores; None where there is none, for the reason ``why``.
    """
    out = scores.copy()
    claims = out["score"].isin((STRENGTH, COMBINED))
    if not claims.any():
        return out
    columns = ["score", "metric", "part", "scope", "agg"]
    values = {} if control is None else control.set_index(columns)["value"].to_dict()
    for index, row in out[claims].iterrows():
        value = values.get(tuple(row[c] for c in columns), np.nan)
        said = f"re-initialised control: {value:.3g}" if np.isfinite(value) else ""
        if control is None and row["score"] == COMBINED:
            said = f"no re-initialised control: {why}"
        out.loc[index, "note"] = "; ".join(filter(None, [row["note"], said]))
    return out
