"""Edits: what is changed in a forward, told in steps of the plan.

Two kinds, which compose with ``+``. *Contribution edits* (:class:`Skip`, :class:`Replace`, :class:`Patch`) change what
a step adds or sees at some positions; position 0, the attention sink, is never among them. Every one of them, a user's
own too, can be told by ``layer=`` and ``passes=`` in the place of a step. *Order edits*
(:class:`Swap`, :class:`Reverse`, :class:`Drop`, :class:`Repeat`, :class:`Stop`) run the steps in another
order, for the whole sequence, as ``--order`` does.

A module of this folder is a home for edits: every subclass of :class:`ContributionEdit` or
:class:`OrderEdit` that it defines is exported from here and known to :func:`parse_edit` by its name.
"""

import importlib
import pkgutil
from typing import Any

from depthsig.engine.edits.base import ContributionEdit, Edit, Edits, OrderEdit, RangeEdit, edit_types
from depthsig.engine.edits.compiled import compile_edit
from depthsig.engine.edits.contributions import Patch, Replace, Skip
from depthsig.engine.edits.orders import Drop, Repeat, Reverse, Stop, Swap
from depthsig.engine.edits.text import parse_edit

__all__ = [
    "ContributionEdit", "Drop", "Edit", "Edits", "OrderEdit", "Patch", "RangeEdit", "Repeat", "Replace", "Reverse",
    "Skip", "Stop", "Swap", "compile_edit", "parse_edit",
]  # fmt: skip

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
__all__ += [name for name in edit_types() if name not in __all__]


def __getattr__(name: str) -> Any:
    if name in (known := edit_types()):
        return known[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
