"""Examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import depthsig

NAMES = [info.name for info in pkgutil.walk_packages(depthsig.__path__, "depthsig.") if "__main__" not in info.name]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.extra] * (n == "depthsig.harness")) for n in ("depthsig", *NAMES)]
)
def test_examples_in_docstrings_run(name: str) -> None:
    if name == "depthsig.harness":
        pytest.importorskip("lm_eval", reason="extra eval")
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
