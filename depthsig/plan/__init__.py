"""The plan of a run: the order in which layers really execute, and the labels on it."""

from depthsig.plan.order import Span, parse_order, parse_span
from depthsig.plan.plan import Plan, SpanInfo, Step, build_plan

__all__ = ["Plan", "Span", "SpanInfo", "Step", "build_plan", "parse_order", "parse_span"]
