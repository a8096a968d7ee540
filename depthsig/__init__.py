"""depthsig: how language models use their depth.

>>> import depthsig
>>> depthsig.__version__
'0.1.0'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from depthsig.commands.analyze import analyze
    from depthsig.commands.check import check
    from depthsig.commands.compare import compare
    from depthsig.commands.export import export
    from depthsig.commands.find_blocks import find_blocks
    from depthsig.commands.fit_lens import fit_lens
    from depthsig.commands.repeat import repeat
    from depthsig.commands.replicate import replicate
    from depthsig.commands.rerun import rerun
    from depthsig.commands.sweep import sweep
    from depthsig.engine.edits import Drop, Patch, Repeat, Replace, Reverse, Skip, Stop, Swap
    from depthsig.errors import CertificateError, DepthsigError, DepthsigWarning, InputError, UnsupportedModelError
    from depthsig.metrics.registry import metric
    from depthsig.model import Model, load
    from depthsig.signature import Comparison, Signature

# Imported when they are first used, so that `import depthsig` and the command's --help stay fast.
_HOME = {
    "depthsig.commands.analyze": ("analyze",),
    "depthsig.commands.check": ("check",),
    "depthsig.commands.compare": ("compare",),
    "depthsig.commands.export": ("export",),
    "depthsig.commands.find_blocks": ("find_blocks",),
    "depthsig.commands.fit_lens": ("fit_lens",),
    "depthsig.commands.repeat": ("repeat",),
    "depthsig.commands.replicate": ("replicate",),
    "depthsig.commands.rerun": ("rerun",),
    "depthsig.commands.sweep": ("sweep",),
    "depthsig.engine.edits": ("Drop", "Patch", "Repeat", "Replace", "Reverse", "Skip", "Stop", "Swap"),
    "depthsig.errors": ("CertificateError", "DepthsigError", "DepthsigWarning", "InputError", "UnsupportedModelError"),
    "depthsig.metrics.registry": ("metric",),
    "depthsig.model": ("Model", "load"),
    "depthsig.signature": ("Comparison", "Signature"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CertificateError", "Comparison", "DepthsigError", "DepthsigWarning", "Drop", "InputError", "Model", "Patch",
    "Repeat", "Replace", "Reverse", "Signature", "Skip", "Stop", "Swap", "UnsupportedModelError", "analyze", "check",
    "compare", "export", "find_blocks", "fit_lens", "load", "metric", "repeat",
    "replicate", "rerun", "sweep",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
