"""A command killed before each of its file operations, run again, and compared: a program, since it forks.

usage: killed_commands.py CHECKPOINT WORK COMMAND STRIDE [new]
Everything is the real command but the figures, of which there is one.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # before the forks, so that each is quick  # noqa: F401

import depthsig.commands.analyze
import depthsig.commands.compare
import depthsig.commands.fit_lens
import depthsig.commands.repeat
import depthsig.commands.replicate
import depthsig.report
from depthsig import kept
from depthsig.cli.main import main
from depthsig.report.page import compared_page, lens_page, repeated_page, replicated_page
from depthsig.signature.folders.kinds import RECORDS, WRITTEN

sys.path.insert(0, str(Path(__file__).parents[1]))

from killing import _run, kills

WITHOUT = ("created", "timings", "seconds")
"""Entries of records that say when it was."""


def arguments(command: str, checkpoint: str, work: Path, seed: str) -> list[str]:
    out = ["--seed", seed, "--out", str(work / "at" / "out")]
    if command == "analyze":
        measured = ["--metrics", "lens.kl,skip.kl,late_share", "--prompts", "lookup", "-n", "4", "--batch-size", "2"]
        return ["analyze", checkpoint, *measured, "--grown", "0:4/1", *out]
    if command == "repeat":
        return ["repeat", checkpoint, "--span", "1:2", "--task", "lookup", "-n", "3", *out]
    if command == "fit-lens":
        return ["fit-lens", checkpoint, "--prompts", "lookup", "-n", "12", "--steps", "1", *out]
    if command == "compare":
        return ["compare", str(work / "a"), str(work / "b"), *out]
    if command == "replicate":
        who = f"midas={checkpoint}[grown=0:4/2],baseline={checkpoint}[order=0:4,0:4]"
        return ["replicate", "2512.08819", "--only", "E7", "--quick", "--roles", who, *out]
    if command == "figures":
        return ["figures", str(work / "at" / "out"), "--format", "svg"]
    return ["report", str(work / "at" / "out")]


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes()
        if path.name in RECORDS:
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k not in WITHOUT}
    return found


def _stub_figures() -> None:
    def page(folder: Path, figures: Any, render: Any, which: str = "page") -> None:
        (folder / "figures").mkdir()
        (folder / "figures" / "one.svg").write_text("a figure")
        (folder / "report.html").write_text("a page")

    for module in (depthsig.report, compared_page, repeated_page, replicated_page):
        module.write_page = page  # type: ignore[attr-defined]
    lens_page.draw = lambda record, at: (at / "report.html").write_text("a page")  # type: ignore[assignment,return-value]
    depthsig.report.save_figures = lambda figures, at, forms: (  # type: ignore[assignment]
        at.mkdir(), (at / "other.svg").write_text("another figure"))  # fmt: skip


def run(given: list[str]) -> None:
    code = main(given)
    assert code == 0, f"{given} ended with {code}"


def done(work: Path, given: list[str]) -> None:
    """Run in a process of its own, so that this one stays fit for forks."""
    killed, said = _run(work / "at", lambda: run(given), 10**9)
    assert not killed, said
    assert said == "", said


def study(checkpoint: str, work: Path, command: str, stride: int, old: bool) -> str:
    torch.set_num_threads(1)
    _stub_figures()
    at, out = work / "at", work / "at" / "out"
    at.mkdir(parents=True)
    redrawn = command in ("report", "figures")
    first = "analyze" if redrawn else command
    if command == "compare":
        for name in ("a", "b"):  # of one seed: the prompts are then the same
            done(work, arguments("analyze", checkpoint, work, "0"))
            out.rename(work / name)
    if old:
        done(work, arguments(first, checkpoint, work, "1"))
        out.rename(work / "old")
    if redrawn:
        shutil.copytree(work / "old", out)
    again = arguments(command, checkpoint, work, "0")
    done(work, again)
    (kind,) = (name for name in RECORDS if (out / name).exists())
    assert {p.name for p in out.iterdir()} <= WRITTEN[kind]
    before, after = content(work / "old") if old else {}, content(out)

    def prepare() -> None:
        kept.clear("units")  # else what was measured once would not be measured, and not be killed
        shutil.rmtree(at)
        at.mkdir()
        if old:
            shutil.copytree(work / "old", out)

    tally = {"killed": 0, "old": 0, "new": 0}
    for moment in kills(at, prepare, lambda: run(again), stride):
        tally["killed"] += 1
        assert out.exists() or not old, moment
        if out.exists():
            found = content(out)
            assert found in (before, after), moment
            tally["new" if found == after else "old"] += 1
        done(work, [*again, *(["--resume"] if command in ("analyze", "replicate") else [])])
        assert content(out) == after, moment
        assert [p.name for p in at.iterdir()] == ["out"], moment
    return str(tally)


if __name__ == "__main__":
    checkpoint, work, command, stride, *how = sys.argv[1:]
    print(study(checkpoint, Path(work), command, int(stride), how != ["new"]))
