"""Labels that users and configs declare, held against what the trace saw."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from depthsig.errors import DepthsigWarning, InputError, shown
from depthsig.plan.order import MAX_STEPS, Span, parse_iterations, parse_order, parse_span
from depthsig.plan.plan import Plan, SpanInfo, build_plan, with_span

Iterations = int | str | Mapping[str, int]


@dataclass(frozen=True)
class PlanOptions:
    """Options of the plan, under the names of the command.

    Attributes:
        order: run the layers in this order, as ``0:4,4:8x4,8:12`` or ``Loop(4-4x4-4)``.
        loop: label layers ``A:B`` as a loop.
        grown: label layers as grown, ``A:B/b`` with blocks of b layers.
        iterations: run a loop this often: a number, or ``{"H_cycles": 3}``.

    Raises:
        InputError: for iterations that are no counts.
    """

    order: str | None = None
    loop: str | None = None
    grown: str | None = None
    iterations: Iterations | None = None

    def __post_init__(self) -> None:
        parse_iterations(self.iterations)

    def given(self) -> dict[str, Iterations]:
        """What was given."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}

    @property
    def counts(self) -> dict[str, int]:
        """The iterations by field, ``""`` for a bare number."""
        return parse_iterations(self.iterations)

    @property
    def counts_text(self) -> str | None:
        """The iterations as the command has them."""
        return ",".join(f"{name}={count}" if name else str(count) for name, count in self.counts.items()) or None


@dataclass(frozen=True)
class Declared:
    """What is declared in all, by options and by the checkpoint: an order to execute, forced counts, and labels.

    ``explicit`` ones come from options. ``iterations``: ``4``, or ``H_cycles=3,L_cycles=2``.
    """

    order: str | None = None
    loop: str | None = None
    grown: str | None = None
    iterations: str | None = None
    explicit: frozenset[str] = frozenset()

    def record(self) -> dict[str, str]:
        """The declared entries, as ``signature.json`` keeps them."""
        entries = {"order": self.order, "loop": self.loop, "grown": self.grown, "iterations": self.iterations}
        return {key: value for key, value in entries.items() if value is not None}

    def options(self) -> PlanOptions:
        """The options that declare the same, wherever each of it comes from."""
        return PlanOptions(self.order, self.loop, self.grown, self.iterations)

    def explicit_options(self) -> PlanOptions:
        """The options behind it, without what the checkpoint declares by itself."""
        return PlanOptions(**{name: getattr(self, name) for name in self.explicit})


def gather(options: PlanOptions, config_entry: Mapping[str, Any], config: Any = None) -> Declared:
    """Options first, then the config's ``"depthsig"`` entry, then known fields of configs.

    Raises:
        InputError: if an entry of the config is no string.
    """
    values: dict[str, str | None] = {}
    for key in ("order", "loop", "grown"):
        value = getattr(options, key)
        if value is None:
            value = config_entry.get(key)
            if value is not None and not isinstance(value, str):
                raise InputError(
                    f'the config\'s "depthsig" entry {key!r} is {shown(value)}; it must be a string '
                    'such as "0:4,4:8x4,8:12" (order), "4:8" (loop) or "4:20/4" (grown)'
                )
        values[key] = value
    if values["grown"] is None and values["order"] is None:
        values["grown"] = _rys_relayer(config)
    return Declared(**values, iterations=options.counts_text, explicit=frozenset(options.given()))


def _rys_relayer(config: Any) -> str | None:
    """RYS checkpoints record the materialised repeat as ``{"start": i, "end": j}`` or ``[i, j]``.

    Layers i..j-1 follow themselves once more: a grown span of two blocks.
    """
    entry = getattr(config, "rys_relayer", None)
    if isinstance(entry, Mapping):
        entry = (entry.get("start"), entry.get("end"))
    if isinstance(entry, (list, tuple)) and len(entry) == 2:
        start, end = entry
        if isinstance(start, int) and isinstance(end, int) and 0 <= start < end:
            return f"{start}:{2 * end - start}/{end - start}"
    return None


WHOLE_STACK = ("total_ut_steps", "num_loops", "loop_num")
"""Fields of models that repeat all their layers."""


def check_counts(observed: Plan, counts: Mapping[str, int]) -> Plan:
    """Hold the iteration counts of a config or an option against what ran.

    Returns:
        The plan; where nothing repeats, with the label of a loop that is declared but not executed.

    Raises:
        InputError: if the trace shows other counts; both are shown.
    """
    wanted = {name: count for name, count in counts.items() if count > 1}
    loops = [span for span in observed.spans if span.kind == "loop"]
    for name, count in wanted.items():
        if not loops:
            if name in WHOLE_STACK:
                observed = with_span(observed, SpanInfo(0, len(observed), len(observed), "loop", False, "config"))
            note = f"{name} = {count}: declared, not executed (the trace shows no layer run twice)"
            observed = replace(observed, notes=(*observed.notes, note))
        elif count not in [span.count for span in loops]:
            raise InputError(
                f"{name} is {count}, but the trace shows {_shown(observed)}; the code that came with this "
                "checkpoint loops in another way than it says, or a forward= or option overrides it"
            )
    return observed


def declare_spans(observed: Plan, declared: Declared, n_layers: int) -> Plan:
    """The plan to run: the observed one, or the declared order, with every label put on.

    Forced iterations apply to the loop of a declared order here; those of the model's own loop
    were already run when the plan was observed.

    Raises:
        InputError: if a declaration is malformed or contradicts what runs; both are shown.
    """
    plan = observed
    if declared.order is not None:
        layers = parse_order(declared.order, n_layers)
        plan = build_plan(layers, n_layers, declared.order)
        if declared.iterations is not None:
            plan = with_iterations(plan, parse_iterations(declared.iterations))
    if declared.loop is not None:
        plan = _with_loop(plan, parse_span(declared.loop, n_layers, option="--loop"))
    if declared.grown is not None:
        span = parse_span(declared.grown, n_layers, option="--grown", grown=True)
        plan = _with_grown(plan, span, "grown" in declared.explicit)
    return plan


def with_iterations(plan: Plan, iterations: Mapping[str, int]) -> Plan:
    """The plan with the only loop of its order run another number of times.

    Raises:
        InputError: if the order has no loop or several, or the count is named.
    """
    if len(plan.spans) != 1 or set(iterations) != {""}:
        raise InputError(
            f"--iterations sets the count of the one loop in an order as a plain number; {shown(plan.order)} has "
            f"{len(plan.spans) or 'none'}; write the counts into --order itself"
        )
    span, count = plan.spans[0], iterations[""]
    layers = plan.layers
    block = layers[span.start : span.start + span.size]
    if len(layers) - (span.end - span.start) + span.size * count > MAX_STEPS:
        raise InputError(f"--iterations {count} runs more than {MAX_STEPS} steps; use fewer")
    forced = [*layers[: span.start], *block * count, *layers[span.end :]]
    return build_plan(forced, plan.n_layers, ",".join(map(str, forced)))


def _with_loop(plan: Plan, loop: Span) -> Plan:
    size = loop.end - loop.start
    matching = [
        s
        for s in plan.spans
        if s.size == size and plan.layers[s.start : s.start + size] == tuple(range(loop.start, loop.end))
    ]
    if matching:
        return plan
    first = _once_in_order(plan, loop)
    if first is None:
        raise InputError(
            f"--loop {loop} contradicts what runs: the trace shows {_shown(plan)}; "
            "declare the loop that the trace shows, or leave --loop out"
        )
    info = SpanInfo(first, first + size, size, "loop", executed=False, source="declared")
    plan = with_span(plan, info)
    note = f"loop {loop}: declared, not executed (its layers run once)"
    return replace(plan, notes=(*plan.notes, note))


def _with_grown(plan: Plan, grown: Span, explicit: bool) -> Plan:
    first = _once_in_order(plan, grown)
    if first is None:
        message = (
            f"--grown {grown} contradicts what runs: its layers do not run once each and in order ({_shown(plan)})"
        )
        if explicit:
            raise InputError(message + "; leave --grown out or change the order")
        warnings.warn(message + "; the checkpoint's label is left out", DepthsigWarning, stacklevel=2)
        return plan
    end = first + grown.end - grown.start
    return with_span(plan, SpanInfo(first, end, grown.block, "grown", source="declared"))


def _once_in_order(plan: Plan, span: Span) -> int | None:
    """The step where layers start..end-1 run once each, in order and together; else None."""
    wanted = tuple(range(span.start, span.end))
    layers = plan.layers
    if any(layers.count(layer) != 1 for layer in wanted):
        return None
    first = layers.index(span.start)
    return first if layers[first : first + len(wanted)] == wanted else None


def _shown(plan: Plan) -> str:
    if plan.spans:
        return "; ".join(
            f"layers {plan.layers[s.start]}..{plan.layers[s.start + s.size - 1]} {s.count} times" for s in plan.spans
        )
    return f"{len(plan)} steps, {plan.n_layers} layers, no loop"
