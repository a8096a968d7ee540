"""Certificates that are kept: proved once for the same files, prompts, order and versions, and for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import depthsig
from depthsig import kept
from depthsig.commands.analysis import certified as module
from depthsig.commands.analysis.certified import KIND

PROMPTS = ["The first of a few short prompts.", "Another one, which is longer than the first by a little."]


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How often certificates were proved: an entry each."""
    monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path / "kept"))
    counted: list[int] = []
    certify = module.certify

    def counting(*args: Any) -> Any:
        counted.append(1)
        return certify(*args)

    monkeypatch.setattr(module, "certify", counting)
    return counted


def _analyze(model: Any, **options: Any) -> depthsig.Signature:
    return depthsig.analyze(model, **{"prompts": PROMPTS, "metrics": ["residual"], **options})


def test_they_are_proved_once(checkpoint: Path, proved: list[int]) -> None:
    first, second = _analyze(checkpoint), _analyze(checkpoint)
    assert len(proved) == 1
    assert first.info["certificates"] == second.info["certificates"]
    assert first.info["timings"]["certificates_proved"] == second.info["timings"]["certificates_proved"]
    _analyze(checkpoint, recheck=True)
    assert len(proved) == 2


@pytest.mark.parametrize(
    "other", [{"prompts": PROMPTS[:1]}, {"order": "0:1,0:1,1:3"}, {"dtype": "bfloat16"}, {"max_tokens": 20}], ids=str
)
def test_what_they_depend_on_is_another_proof(checkpoint: Path, proved: list[int], other: dict[str, Any]) -> None:
    _analyze(checkpoint)
    _analyze(checkpoint, **other)
    assert len(proved) == 2


def test_a_model_that_came_as_an_object_is_always_proved(checkpoint: Path, proved: list[int]) -> None:
    model = depthsig.load(checkpoint)
    _analyze(model), _analyze(model), _analyze(checkpoint)
    assert len(proved) == 3


def test_what_is_kept_is_not_trusted(checkpoint: Path, proved: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    _analyze(checkpoint)
    for data in (
        b"",
        b"[]",
        b"{",
        b'[{"name": "readout", "value": 9.0, "tolerance": 1.0, "note": ""}]',
        b'[{"name": 1}]',
    ):
        monkeypatch.setattr(kept, "read", lambda kind, key, data=data: data if kind == KIND else None)
        before = len(proved)
        _analyze(checkpoint)
        assert len(proved) == before + 1


def test_one_that_failed_is_proved_again(checkpoint: Path, proved: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from depthsig.engine.certificates import Certificate

    monkeypatch.setattr(module, "certify", lambda *args: [Certificate("padding", 2.0, 1.0)])
    for _ in range(2):
        with pytest.warns(depthsig.errors.DepthsigWarning, match="padded"):
            _analyze(checkpoint)
    assert KIND not in {kind.name for kind in kept.kinds()}
