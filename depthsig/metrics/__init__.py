"""Metrics: pure functions with an entry each, usable without a model.

Every module of this folder (and of the folders in it) declares its metrics with
:func:`~depthsig.metrics.registry.metric`; its public functions can be imported from here:

>>> from depthsig.metrics import kl_divergence, depth_score

Importing this package needs no torch.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from typing import TYPE_CHECKING, Any

from depthsig.metrics.entries.fields import Metric
from depthsig.metrics.registry import all_metrics, declaring_built_in, entry, forget, metric, select

if TYPE_CHECKING:
    from depthsig.metrics.attribution import *  # noqa: F403
    from depthsig.metrics.comparison import *  # noqa: F403
    from depthsig.metrics.contribution import *  # noqa: F403
    from depthsig.metrics.distributions import *  # noqa: F403
    from depthsig.metrics.interventions import *  # noqa: F403
    from depthsig.metrics.jacobian import *  # noqa: F403
    from depthsig.metrics.lens import *  # noqa: F403
    from depthsig.metrics.passes.dynamics import *  # noqa: F403
    from depthsig.metrics.passes.gain import *  # noqa: F403
    from depthsig.metrics.passes.spectrum import *  # noqa: F403
    from depthsig.metrics.residual import *  # noqa: F403
    from depthsig.metrics.scores.depth import *  # noqa: F403
    from depthsig.metrics.scores.period import *  # noqa: F403
    from depthsig.metrics.truncation import *  # noqa: F403
    from depthsig.metrics.vectors import *  # noqa: F403
    from depthsig.metrics.weights import *  # noqa: F403

_INNER = ("entries", "quantities", "registry", "rules")
"""Modules that are about entries, and hold no functions on data."""

__all__ = ["Metric", "all_metrics", "entry", "forget", "metric", "select"]


def _discover() -> dict[str, Any]:
    """The public functions and records of every module, which declare their metrics as they are imported."""
    found: dict[str, Any] = {}
    with declaring_built_in():
        here = sys.modules[__name__].__path__
        names = sorted(info.name for info in pkgutil.walk_packages(here, f"{__name__}."))
        modules = [importlib.import_module(name) for name in names if name.split(".")[2] not in _INNER]
    for module in modules:
        shown = getattr(module, "__all__", None)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
            if (name in shown if shown is not None else own) and (inspect.isfunction(value) or inspect.isclass(value)):
                found[name] = value
    return found


globals().update(_found := _discover())
__all__ += sorted(_found)


def __getattr__(name: str) -> Any:
    """For type checkers: what a module added later declares is found at run time."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
