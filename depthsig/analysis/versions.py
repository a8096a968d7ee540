"""Versions of the packages that numbers depend on, for the record of every result."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("depthsig", "torch", "transformers", "transformer-lens", "numpy", "pandas", "scipy")
TABLES_ONLY = ("depthsig", "numpy", "pandas", "scipy")
"""The packages that matter where no model is run."""


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The installed versions of ``packages``; what is not installed is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
