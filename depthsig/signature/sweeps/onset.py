"""From which revision on a claim holds."""

from __future__ import annotations

from collections.abc import Sequence

from depthsig.terms import NONE

HOLDS, AGAINST, OPEN = "holds", "does not hold", "open"


def onset_of(revisions: Sequence[str], verdicts: Sequence[str], beyond: Sequence[bool]) -> dict[str, str]:
    """From which revision on a claim holds, and between which ones that lies.

    ``onset``: the first from which on the number lies on the claimed side at every revision. ``earliest``: the first
    from which on it is nowhere contradicted. ``latest``: the first from which on it holds everywhere. Each follows from
    the 95 % intervals revision by revision, which are not simultaneous ones.

    Args:
        revisions: in the order of training. verdicts: ``holds``, ``does not hold`` or ``open``, one a revision.
        beyond: whether the number lies on the claimed side.

    >>> onset_of(["0", "1", "2", "3"], ["does not hold", "open", "open", "holds"], [False, False, True, True])
    {'onset': '2', 'earliest': '1', 'latest': '3'}
    """
    sides = [v == HOLDS or (v == OPEN and b) for v, b in zip(verdicts, beyond, strict=True)]
    asked = {
        "onset": sides,
        "earliest": [v != AGAINST for v in verdicts],
        "latest": [v == HOLDS for v in verdicts],
    }
    return {name: _from_which_on(revisions, those) for name, those in asked.items()}


def _from_which_on(revisions: Sequence[str], those: Sequence[bool]) -> str:
    first = len(those)
    while first and those[first - 1]:
        first -= 1
    return revisions[first] if first < len(those) else NONE
