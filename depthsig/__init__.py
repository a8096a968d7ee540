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
    from depthsig.analysis.analyze import analyze
    from depthsig.analysis.check import check
    from depthsig.analysis.compare import compare
    from depthsig.analysis.findblocks import find_blocks
    from depthsig.analysis.fit_lens import fit_lens
    from depthsig.engine.model import Model, load
    from depthsig.errors import CertificateError, DepthsigError, DepthsigWarning, InputError
    from depthsig.signature import Comparison, Signature

_HOME = {
    "analyze": "depthsig.analysis.analyze",
    "check": "depthsig.analysis.check",
    "compare": "depthsig.analysis.compare",
    "find_blocks": "depthsig.analysis.findblocks",
    "fit_lens": "depthsig.analysis.fit_lens",
    "load": "depthsig.engine.model",
    "Model": "depthsig.engine.model",
    "Signature": "depthsig.signature",
    "Comparison": "depthsig.signature",
    "DepthsigError": "depthsig.errors",
    "DepthsigWarning": "depthsig.errors",
    "InputError": "depthsig.errors",
    "CertificateError": "depthsig.errors",
}

__all__ = [
    "CertificateError", "Comparison", "DepthsigError", "DepthsigWarning", "InputError", "Model", "Signature",
    "analyze", "check", "compare", "find_blocks", "fit_lens", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
