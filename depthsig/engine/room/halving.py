"""Less at once where a card's memory runs out: work in halves, and what fitted is remembered."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from depthsig.errors import NoRoomError

Found = TypeVar("Found")

_FITS: WeakKeyDictionary[nn.Module, dict[str, int]] = WeakKeyDictionary()
"""Of every model, how much of a kind of work was left to do at once when more did not fit."""


def in_halves(module: nn.Module, kind: str, count: int, each: int, run: Callable[[int, int], Found]) -> Iterator[Found]:
    """``run(first, last)`` for pieces that cover 0..count in order: all at once, and halves where that does not fit.

    What ``run`` did when its memory ran out must not matter when it is called again. Sizes that did not fit are not
    tried again for this model and kind, so that memory runs out a few times, and not at every step.

    Args:
        module: the model. kind: of work. each: how much of it one of ``count`` is, in tokens or rows.

    Raises:
        torch.cuda.OutOfMemoryError: where one alone does not fit.
    """
    todo = [(0, count)] if count else []
    while todo:
        first, last = todo.pop()
        many = last - first
        if many > 1 and many * each > _FITS.get(module, {}).get(kind, many * each):
            middle = first + (many + 1) // 2
            todo += [(middle, last), (first, middle)]
            continue
        found: list[Found] = []
        try:
            found.append(run(first, last))
        except torch.cuda.OutOfMemoryError:
            if many == 1:
                raise
        if found:
            yield found.pop()
        else:  # no longer within the except clause, whose traceback holds what was made so far
            _FITS.setdefault(module, {})[kind] = (many + 1) // 2 * each
            release()
            todo.append((first, last))


def release() -> None:
    """Give back to the card what nothing holds any more."""
    gc.collect()
    torch.cuda.empty_cache()


def no_room(what: str, dtype: torch.dtype) -> NoRoomError:
    """One line: what does not fit by itself, and what needs less."""
    less = "" if dtype in (torch.bfloat16, torch.float16) else ", or --dtype bfloat16,"
    return NoRoomError(
        f"the card's memory does not hold {what}, run by itself; fewer tokens (--max-tokens), a smaller --memory"
        f"{less} need less, and so does a card that nothing else uses"
    )
