"""``depthsig cache``: what is kept is listed, and cleared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from depthsig import kept
from depthsig.cli.main import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_listed_and_cleared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"{folder}: nothing is kept\n"
    for key in "abc":
        kept.write("first", key, bytes(500_000))
    kept.write("second", "a", b"")
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(folder), "first        3        1.5 MB", "second       1        0.0 MB",
    ]  # fmt: skip
    assert main(["cache", "second", "--clear"]) == 0
    assert capsys.readouterr().out == f"{folder}: 1 entries removed, 0.0 MB\n"
    assert main(["cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(k["name"], k["entries"]) for k in found["kinds"]] == [("first", 3)] and found["removed"] == 0
    assert main(["cache", "--clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(folder), "kinds": [], "removed": 3}
    assert kept.kinds() == []


def test_a_kind_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    kept.write("first", "a", b"")
    assert main(["cache", "frist", "--clear"]) == 2
    assert capsys.readouterr().err == "depthsig: nothing of the kind 'frist' is kept; there is first\n"
    assert kept.read("first", "a") == b""
