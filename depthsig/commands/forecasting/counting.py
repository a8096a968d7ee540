"""How much there will be to tabulate, test and draw: counted from the entries that were asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from depthsig.commands.forecasting import constants as known
from depthsig.measure.clean.passes import executed_loops
from depthsig.measure.clean.readouts import Readouts
from depthsig.measure.edited.reordering import block_span
from depthsig.measure.providers import Work
from depthsig.measure.token_rows import TOKEN_PROMPTS
from depthsig.metrics import Metric
from depthsig.metrics.entries.runs import EXITS
from depthsig.metrics.rules import FAMILY
from depthsig.tables.periods import is_tested
from depthsig.tables.samples import aggs_of
from depthsig.terms import AGGS

_OF_FIRST = ("clean", *Readouts.kinds, EXITS)
"""Runs whose tokens are kept of the first prompts only."""

GROUPS = 8
"""Groups of parameters that layers' weights usually fall into, all of it together among them."""


@dataclass(frozen=True)
class Counts:
    """Of a request on a model.

    Attributes:
        quantities: metrics by part, scope and aggregation. cells: of them, times prompts, that have intervals.
        rows: of per-prompt values. token_rows: of values per token.
        profiles, matrices: that periods are tested of.
        figures: by kind; ``other`` are those that are of no metric.
    """

    quantities: int
    cells: int
    rows: int
    token_rows: int
    profiles: int
    matrices: int
    figures: dict[str, int]

    @property
    def table_seconds(self) -> float:
        """To make the tables and test periods, on the machine of reference."""
        return (
            self.quantities * known.QUANTITY + self.cells * known.CELL + self.rows * known.SAMPLE_ROW
            + self.token_rows * known.TOKEN_ROW
            + self.profiles * known.PERIOD_PROFILE + self.matrices * known.PERIOD_MATRIX
        )  # fmt: skip

    @property
    def drawing_seconds(self) -> float:
        """To save the tables and draw figures and page, on the machine of reference."""
        each = {**known.FIGURES, "other": known.OTHER_FIGURE}
        drawn = sum(number * each[kind] for kind, number in self.figures.items())
        return drawn + known.PAGE + self.rows * known.SAVED_ROW


def count(work: Work, spans: bool, *, drawn: bool) -> Counts:
    """What a request gives.

    Args:
        spans: whether there is a span to test periods on. drawn: whether figures are made of it.
    """
    request, prompts = work.request, len(work.counted)
    quantities = cells = rows = tests = matrices = 0
    figures: Counter[str] = Counter()
    for one in request.selected:
        if one.on == "periods":
            continue
        keys, size, pooled = _keys(one, work), _cells(one, work), one.level == "pooled"
        aggs = len(aggs_of(one, request.aggs))
        quantities += keys * aggs
        if one.kind != "token" and not pooled:
            cells += keys * size * prompts * ("mean" in request.aggs)
            rows += keys * size * prompts * len(aggs_of(one, AGGS))
        if spans and is_tested(one):
            tests += keys * aggs * (one.kind == "profile")
            matrices += keys * aggs * (one.kind == "matrix")
        if one.figure:
            figures[one.figure] += _pictures(one, keys, aggs, prompts)
    if not request.tests_periods:
        tests = matrices = 0
    runs = {one.on for one in request.selected}
    together = len(request.parts) * len(request.scopes) * ({"skip", "maintained"} <= runs)
    figures["other"] = 1 + ("readout" in runs) + together + min(tests, len(FAMILY) - 1)
    return Counts(
        quantities, cells, rows, sum(_token_rows(one, work) for one in request.selected if one.kind == "token"),
        tests, matrices, dict(figures) if drawn else {},
    )  # fmt: skip


def _keys(one: Metric, work: Work) -> int:
    """Parts and scopes that a metric is measured for."""
    request = work.request
    if one.on == "weights":
        return GROUPS
    if one.run.by_part:
        return len(request.parts_of([one])) * len(request.scopes)
    if one.on == "scores" and one.needs and not one.stacked:
        return max(1, _keys(next(n for n in request.needed.values() if n.id == one.needs[0]), work))
    return len(one.parts)


def _cells(one: Metric, work: Work) -> int:
    """Values of a metric for one prompt, part and scope."""
    plan, size = work.network.plan, 1
    steps = len(plan)
    for axis in one.cells:
        size *= {
            "depth": steps + 1, "step": steps, "ahead": steps, "layer": plan.n_layers, "start": plan.n_layers,
            "end": plan.n_layers,
        }.get(axis) or _of_spans(axis, work)  # fmt: skip
    return size


def _of_spans(axis: str, work: Work) -> int:
    span = block_span(work.network.plan)
    if axis == "block" or span is None:
        return 0 if span is None else span.count
    loop = executed_loops(work.network.plan)[0]
    return loop.size if axis == "phase" else loop.count + 1


def _token_rows(one: Metric, work: Work) -> int:
    first = [p for p in work.counted if p.index in work.first] if one.on in _OF_FIRST else work.counted
    several = 5 if one.fused else 1
    return several * sum(p.n_tokens for p in first) * max(1, _cells(one, work))


def _pictures(one: Metric, keys: int, aggs: int, prompts: int) -> int:
    """Figures of a metric: lines share one, maps have one each."""
    if one.kind == "token":
        return min(TOKEN_PROMPTS, prompts)
    return aggs if one.kind == "profile" else keys * aggs
