"""Options of ``depthsig stability``, checked before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence

from depthsig.errors import InputError, shown
from depthsig.measure.request import check_least, check_switch
from depthsig.plan.order import MAX_ITERATIONS

MOST_COUNTS = 256


def parse_counts(text: str | Sequence[int] | None, passes: int) -> list[int]:
    """Iteration counts: ``1:16`` with both ends, ``1,2,4,8``, or a list; None: 1 to twice as often as it runs.

    Raises:
        InputError: for anything else.

    >>> parse_counts("1:4,8", 3), parse_counts(None, 2)
    ([1, 2, 3, 4, 8], [1, 2, 3, 4])
    """
    if text is None:
        return list(range(1, 2 * passes + 1))
    pieces = text.split(",") if isinstance(text, str) else [str(one) for one in text]
    found: set[int] = set()
    for piece in pieces:
        match = re.fullmatch(r"\s*(\d{1,9})(?::(\d{1,9}))?\s*", piece, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not match or not 1 <= first <= last <= MAX_ITERATIONS:
            raise InputError(
                f"--counts {shown(text)}: {shown(piece)} is no count; write 1:16 or 1,2,4,8, from 1 to {MAX_ITERATIONS}"
            )
        found |= set(range(first, last + 1))
    if not 2 <= len(found) <= MOST_COUNTS:
        raise InputError(f"--counts {shown(text)} names {len(found)}; it takes 2 to {MOST_COUNTS} different ones")
    return sorted(found)


def check_options(
    counts: str | Sequence[int] | None, band: float, probes: int, n: int, max_tokens: int, control: bool = True
) -> None:
    """Refuse options that are wrong by themselves.

    Raises:
        InputError: naming the option.
    """
    parse_counts(counts, 1)
    check_switch("control", control)
    for name, value, least in (("band", band, 0.0), ("probes", probes, 1), ("n", n, 1), ("max_tokens", max_tokens, 2)):
        check_least(name, value, least)
