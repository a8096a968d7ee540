"""Ctrl-C at a known place of an analysis."""

from __future__ import annotations

from typing import Any

import pytest


def interrupt_skipping(monkeypatch: pytest.MonkeyPatch, call: int) -> list[int]:
    """Interrupt the given batch of skip runs, once; the list has an entry for each batch that was begun."""
    from depthsig.measure.edited.skipping import Skipping

    run, begun = Skipping.run, []

    def interrupted(self: Any, *args: Any) -> None:
        begun.append(len(begun) + 1)
        if len(begun) == call:
            raise KeyboardInterrupt
        run(self, *args)

    monkeypatch.setattr(Skipping, "run", interrupted)
    return begun
