"""Signatures: tables with provenance, saved and loaded without a model (and without torch)."""

from depthsig.signature.comparison import Comparison
from depthsig.signature.signature import Signature

__all__ = ["Comparison", "Signature"]
