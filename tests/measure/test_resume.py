"""Pieces of unfinished work: what was written, or none; and a request that is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import PROMPTS, build, byte_tokenizer

import depthsig
from depthsig.errors import InputError
from depthsig.measure.resume import Units, _digest
from depthsig.signature.folders.writing import partial_path
from depthsig.tables.samples import Samples

ASKED: dict[str, Any] = {"tokenizer": byte_tokenizer(), "metrics": ["skip"], "batch_size": 1}


def _three_pieces(out: Path) -> list[Path]:
    """What an analysis that is interrupted before its fourth piece leaves."""
    keep, loads = Units.load, []

    def last(self: Any, name: str, *args: Any) -> Any:
        loads.append(name)
        if len(loads) == 4:
            raise KeyboardInterrupt
        return keep(self, name, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Units, "load", last)
        depthsig.analyze(build("llama"), PROMPTS, out=out, **ASKED)
    return sorted(partial_path(out).glob("units/*.npz"))


def test_damaged_pieces_are_measured_again(tmp_path: Path) -> None:
    whole = depthsig.analyze(build("llama"), PROMPTS, **ASKED)
    out = tmp_path / "a"
    pieces = _three_pieces(out)
    assert len(pieces) == 3
    pieces[0].write_bytes(pieces[0].read_bytes()[:200])
    pieces[1].write_bytes(b"")
    request = pieces[0].parent / "request.json"
    text = request.read_text()
    request.write_text(text[:50])
    with pytest.raises(InputError, match="damaged"):
        depthsig.analyze(build("llama"), PROMPTS, out=out, resume=True, **ASKED)
    request.write_text(text)
    assert depthsig.analyze(build("llama"), PROMPTS, out=out, resume=True, **ASKED).profiles.equals(whole.profiles)


ODD: dict[str, Any] = {
    "tokens": ["3", '[{"zork": 1}]', '{"a": [1]}', "[3]", "[" * 100_000],
    "names": [3.0, "x", "[[1]]", '[["zork", "", "", 0]]'],
    "0.rows": [np.array([-1.0]), "x", np.array([10**6])], "0.worst": [np.zeros((3, 3, 3, 3)), np.nan],
}  # fmt: skip


@pytest.mark.parametrize("forged", [False, True], ids=["changed", "with its digest"])
def test_pieces_that_hold_anything_are_none(forged: bool, tmp_path: Path) -> None:
    path = _three_pieces(tmp_path / "a")[0]
    good = dict(np.load(path))
    stamp = str(good["stamp"])

    def read(**changed: Any) -> Any:
        held = {k: np.array(v) for k, v in {**good, **changed}.items() if v is not None}
        if forged:
            del held["digest"]
            held["digest"] = np.array(_digest(held))
        np.savez(path, **held)  # type: ignore[arg-type]
        samples = Samples(len(PROMPTS))
        found = Units(path.parent, stamp, str(tmp_path / "a")).load(path.stem, samples)
        assert (found is None) == (not samples.values) == (not path.exists())
        return found

    assert read() == []
    for name, values in ODD.items():
        for value in [*values, None]:
            if not (forged and value is np.nan):
                assert read(**{name: value}) is None, (name, value)
    units = Units(path.parent, stamp, str(tmp_path / "a"))
    for make in (os.mkfifo, os.mkdir):
        make(path)
        assert units.load(path.stem, Samples(3)) is None and not path.exists()
        make(path.with_suffix(".tmp"))
        units.save(path.stem, Samples(3), [])
        assert path.is_file()
        path.unlink()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"stamp": "x", "request": [1]}', '{"request": {}}', "[]", "FIFO"])
def test_a_request_that_is_damaged_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.partial" / "units" / "request.json"
    path.parent.mkdir(parents=True)
    os.mkfifo(path) if text == "FIFO" else path.write_text(text)
    with pytest.raises(InputError, match="leave --resume out"):
        Units.open(tmp_path / "a", {"n": 1}, "x", resume=True)
