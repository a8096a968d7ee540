"""What will run, as far as it is known before any weight is read; what cannot run is refused then."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthsig.checkpoint.known import Known, check_revision, counts_by_field, known, locate
from depthsig.checkpoint.loading import LoadOptions, device_unusable
from depthsig.checkpoint.streaming.unstreamable import refuse_unstreamable
from depthsig.errors import InputError
from depthsig.plan.declared import Declared, PlanOptions, declare_spans, gather
from depthsig.plan.order import is_by_sizes, parse_order, parse_span
from depthsig.plan.plan import Plan, build_plan

UNKNOWN_LAYERS = 10**9
"""As many layers as the grammar can name, where it is not known how many there are."""


@dataclass(frozen=True)
class Foreseen:
    """What is known of a run.

    Attributes:
        known: of the checkpoint. declared: the order and labels of options and config.
        plan: None where only the trace can tell it.
    """

    known: Known = field(default_factory=Known)
    declared: Declared = field(default_factory=Declared)
    plan: Plan | None = None


def foresee(source: Any, loading: LoadOptions, options: PlanOptions) -> Foreseen:
    """What will run of a checkpoint with these options; of a live or loaded model nothing is said.

    Raises:
        InputError: for what cannot be, in the words of the checks after loading.
    """
    if not isinstance(source, (str, Path)):
        return Foreseen()
    where, place = repr(str(source)), locate(str(source))
    check_revision(loading.revision, place, where)
    check_device(loading.device)
    if loading.stream:
        refuse_unstreamable(place, None, where)
    found = known(place, where)
    if loading.stream:
        refuse_unstreamable(place, found.config, where)
    declared = gather(options, found.entry, found.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is to be told is told when it happens
        plan = _planned(declared, found)
    if declared.order is None and found.plain and options.counts:
        counts_by_field(options.counts, {})
    return Foreseen(found, declared, plan)


def _planned(declared: Declared, found: Known) -> Plan | None:
    if found.layers is not None and (found.plain or declared.order is not None):
        return declare_spans(build_plan(range(found.layers), found.layers), declared, found.layers)
    layers = found.layers or UNKNOWN_LAYERS
    if declared.order is not None and not is_by_sizes(declared.order):
        parse_order(declared.order, layers)
    if declared.loop is not None:
        parse_span(declared.loop, layers, option="--loop")
    if declared.grown is not None:
        parse_span(declared.grown, layers, option="--grown", grown=True)
    return None


_KINDS = (
    "auto", "cpu", "cuda", "hpu", "ipu", "maia", "meta", "mps", "mtia", "npu", "privateuseone", "xla", "xpu",
)  # fmt: skip
"""Kinds of device that torch may have."""


def check_precision(kinds: Iterable[str]) -> None:
    """Refuse devices that cannot hold results: sums over tokens are kept in float64.

    Raises:
        InputError: naming the device.
    """
    if "mps" in kinds:
        raise InputError("Apple's mps has no float64, in which results are summed; --device cpu works")


def check_device(device: str) -> None:
    """Refuse a device that there is not.

    Raises:
        InputError: naming it, and what works.
    """
    form = re.fullmatch(r"([a-z]+)(:\d{1,4})?", device)
    # A backend of somebody's own, which was imported, is an attribute of torch.
    if form is None or not (form[1] in _KINDS or hasattr(sys.modules.get("torch"), form[1])):
        raise InputError(f"--device {device!r} is no device; cpu, cuda, cuda:1 or auto works")
    check_precision([form[1]])
    if form[1] not in ("auto", "cpu", "meta"):
        import torch  # start-up time

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(device_unusable(device, error)) from None
