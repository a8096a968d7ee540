"""Sweeps killed at many of their file operations, gone on with, and compared: a program, since it forks.

usage: killed_sweeps.py CHECKPOINT WORK KILLS
"""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers.models.llama.modeling_llama  # before the forks, so that each is quick  # noqa: F401

import depthsig
import depthsig.commands.sweep
from depthsig.signature.sweeps.swept import Swept

sys.path.insert(0, str(Path(__file__).parents[1]))

from killing import _run

FILE = """
checkpoints: ["{checkpoint}"]
orders: [native, "0:2,1:3,2:4"]
prompts: [lookup, copying]
n: 3
max_tokens: 24
batch_size: 2
metrics: [lens.kl, skip]
control: false
"""


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    found = Swept.load(folder)
    assert len(found.failed) == 0, found.failed
    made = {"sweep": found.scores, "units": found.units}
    for name in found.units["folder"]:
        signature = depthsig.Signature.load(folder / name)
        for kind in ("profiles", "matrices", "scores", "samples_table", "tokens_table"):
            made[f"{name} {kind}"] = getattr(signature, kind)
    return made


def main(checkpoint: str, work: Path, kills: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    Swept.report = lambda self: work  # type: ignore[method-assign, assignment]  # pages are nothing of the tables
    file = work / "few.yaml"
    file.write_text(FILE.format(checkpoint=checkpoint))

    def run(folder: Path, **how: Any) -> None:
        depthsig.sweep(file, out=folder / "out", progress=False, **how)

    (work / "whole").mkdir()
    run(work / "whole")
    expected = tables(work / "whole" / "out")
    events = _count(work, run)
    places, killed = sorted({1 + number * (events - 1) // (kills - 1) for number in range(kills)}), 0
    for place in places:
        at = work / "at"
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir()
        was, said = _run(at, lambda at=at: run(at), place)
        assert was, f"not killed at {place} of {events}: {said}"
        killed += 1
        run(at, resume=True)
        found = tables(at / "out")
        assert found.keys() == expected.keys(), said
        for name, table in expected.items():
            pd.testing.assert_frame_equal(found[name], table, check_exact=True)
    print(f"{killed} kills among {events} file operations")


def _count(work: Path, run: Any) -> int:
    """How many file operations a sweep makes: found by halving, since only a process that is killed tells."""
    low, high = 1, 2
    while _killed(work, run, high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _killed(work, run, middle) else (low, middle)
    return low


def _killed(work: Path, run: Any, place: int) -> bool:
    at = work / "count"
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir()
    return _run(at, lambda: run(at), place)[0]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
