"""The grammar of execution orders and spans.

``0:4,4:8x4,8:12`` runs layers 0..3, then 4..7 four times, then 8..11: half-open ranges as in
mergekit and PEFT, single layers as ``5``, and ``xN`` for the total number of executions.
``Loop(4-4x4-4)``, the notation of arXiv 2602.16490 (encoder, block x iterations, decoder; sizes
in layers), is the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from depthsig.errors import InputError, shown, written

MAX_STEPS = 4096
"""Orders longer than this are refused: they are typing errors, and would never finish."""
MAX_ITERATIONS = 1024

# Digits are 0 to 9: others that Python would read, too (Arabic or full-width ones), are more likely an accident.
_ITEM = re.compile(r"(?P<start>\d+)(?::(?P<end>\d+))?(?:\s*x\s*(?P<times>\d+))?", re.ASCII)
_LOOP = re.compile(r"(?i:loop)\(\s*(\d{1,9})\s*-\s*(\d{1,9})\s*x\s*(\d{1,9})\s*-\s*(\d{1,9})\s*\)", re.ASCII)
_EXAMPLE = "an order looks like 0:4,4:8x4,8:12 or Loop(4-4x4-4)"


@dataclass(frozen=True)
class Span:
    """Half-open range of layers, with the block size for grown spans (0 where there is none)."""

    start: int
    end: int
    block: int = 0

    def __str__(self) -> str:
        return f"{self.start}:{self.end}" + (f"/{self.block}" if self.block else "")


def parse_order(text: str, n_layers: int) -> tuple[int, ...]:
    """The layers to run, in order.

    Args:
        text: an order such as ``0:4,4:8x4,8:12`` or ``Loop(4-4x4-4)``.
        n_layers: how many layers the checkpoint has.

    Raises:
        InputError: for anything that is not an order, an empty or reversed range, a layer
            outside the model, a count of zero, or more than :data:`MAX_STEPS` steps.

    >>> parse_order("0:2,2:4x2,4", 5)
    (0, 1, 2, 3, 2, 3, 4)
    >>> parse_order("Loop(1-2x2-1)", 4)
    (0, 1, 2, 1, 2, 3)
    """
    if not isinstance(text, str):
        raise InputError(f"an order is a string, found {type(text).__name__}; {_EXAMPLE}")
    loop = _LOOP.fullmatch(text.strip())
    if loop:
        text = _expand_loop(text, [int(g) for g in loop.groups()], n_layers)
    layers: list[int] = []
    for item in text.split(","):
        start, end, times = _parse_item(item.strip(), text, n_layers)
        if len(layers) + (end - start) * times > MAX_STEPS:
            raise InputError(f"order {shown(text)} runs more than {MAX_STEPS} steps; use fewer repeats")
        layers.extend(list(range(start, end)) * times)
    return tuple(layers)


def is_by_sizes(text: str) -> bool:
    """Whether an order is written as ``Loop(4-4x4-4)``, which only fits one number of layers."""
    return isinstance(text, str) and _LOOP.fullmatch(text.strip()) is not None


def _expand_loop(text: str, sizes: list[int], n_layers: int) -> str:
    first, block, times, last = sizes
    if first + block + last != n_layers:
        raise InputError(
            f"order {shown(text)} names {first + block + last} layers, the model has {n_layers}; "
            f"the three sizes must add up to {n_layers}"
        )
    pieces = [f"0:{first}"] if first else []
    pieces.append(f"{first}:{first + block}x{times}")
    if last:
        pieces.append(f"{first + block}:{n_layers}")
    return ",".join(pieces)


def _parse_item(item: str, text: str, n_layers: int) -> tuple[int, int, int]:
    match = _ITEM.fullmatch(item)
    if not match:
        raise InputError(f"bad item {shown(item)} in order {shown(text)}; {_EXAMPLE}")
    # An order of absurd digits would make int() itself slow: nothing that long can be valid.
    if any(len(group) > 9 for group in match.groups() if group):
        raise InputError(f"number too large in item {shown(item)} of the order; {_EXAMPLE}")
    start = int(match["start"])
    end = int(match["end"]) if match["end"] is not None else start + 1
    times = int(match["times"]) if match["times"] is not None else 1
    if end <= start:
        raise InputError(f"empty range {shown(item)} in order {shown(text)}; ranges are start:end, end > start")
    if end > n_layers:
        raise InputError(
            f"item {shown(item)} in order {shown(text)} reaches layer {end - 1}, the model has layers 0..{n_layers - 1}"
        )
    if times < 1:
        raise InputError(f"{shown(item)} in order {shown(text)} runs 0 times; a count is 1 or more")
    return start, end, times


def parse_span(text: str | Span, n_layers: int, *, option: str, grown: bool = False) -> Span:
    """A span of layers ``A:B``, or for a grown one ``A:B/b``.

    Raises:
        InputError: if it is no span, lies outside the model, or is no whole number of blocks.

    >>> parse_span("4:20/4", 24, option="--grown", grown=True)
    Span(start=4, end=20, block=4)
    """
    if isinstance(text, Span):
        text = str(text)
    form = "A:B/b (b: block size in layers)" if grown else "A:B"
    example = "4:20/4" if grown else "4:8"
    pattern = r"(\d{1,9}):(\d{1,9})/(\d{1,9})" if grown else r"(\d{1,9}):(\d{1,9})"
    match = re.fullmatch(pattern, text.strip(), re.ASCII) if isinstance(text, str) else None
    if not match:
        raise InputError(f"{option} {shown(text)} is not of the form {form}, for example {example}")
    start, end, *rest = (int(g) for g in match.groups())
    if end <= start:
        raise InputError(f"{option} {shown(text)} is empty; the end must be larger than the start")
    if end > n_layers:
        raise InputError(f"{option} {shown(text)} reaches layer {end - 1}, the model has layers 0..{n_layers - 1}")
    block = rest[0] if rest else 0
    if grown and (block < 1 or (end - start) % block):
        raise InputError(f"{option} {shown(text)}: {end - start} layers are no whole number of blocks of {block}")
    return Span(start, end, block)


def parse_iterations(text: int | str | Mapping[str, int] | None) -> dict[str, int]:
    """``3`` as ``{"": 3}``, ``"H_cycles=3,L_cycles=2"`` by field.

    Raises:
        InputError: for anything else, zero, or more than :data:`MAX_ITERATIONS`.

    >>> parse_iterations("H_cycles=3,L_cycles=2")
    {'H_cycles': 3, 'L_cycles': 2}
    """
    if text is None:
        return {}
    if isinstance(text, Mapping):
        pieces = [f"{name}={written(count)}" for name, count in text.items()]
    else:
        pieces = written(text).split(",")
    found = {}
    for piece in pieces:
        match = re.fullmatch(r"\s*(?:([A-Za-z_]\w*)\s*=)?\s*(-?\d+)\s*", piece, re.ASCII)
        if not match:
            raise InputError(
                f"--iterations {shown(text)} is no count; write 4, or H_cycles=3,L_cycles=2 for nested loops"
            )
        number = int(match[2]) if len(match[2]) < 10 else MAX_ITERATIONS + 1
        if not 1 <= number <= MAX_ITERATIONS:
            raise InputError(f"--iterations {shown(text)}: a loop runs 1 to {MAX_ITERATIONS} times")
        found[match[1] or ""] = number
    if len(found) > 1 and "" in found:
        raise InputError(f"--iterations {shown(text)} mixes a bare count with named ones; name each")
    return found
