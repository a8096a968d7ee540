"""Signatures: tables with provenance, saved and loaded without a model (and without torch)."""

from depthsig.signature.compared import Comparison
from depthsig.signature.signature import Signature

__all__ = ["Comparison", "Signature"]
