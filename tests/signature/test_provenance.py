"""The report's "Again": a command that makes the result again, or the reason why there is none."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from families import build, byte_tokenizer

import depthsig
from depthsig.cli.main import main
from depthsig.errors import DepthsigWarning, InputError
from depthsig.report import build as build_page
from depthsig.signature.provenance import again

PLUGIN = """
import depthsig

@depthsig.metric("mine.size", axis="depth", label="size")
def size(h):
    return h.norm(dim=-1)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint, prompts and a plug-in in the working folder, with names that a shell would break."""
    monkeypatch.chdir(tmp_path)
    build("llama").save_pretrained(tmp_path / "my model")  # type: ignore[operator]
    byte_tokenizer().save_pretrained(tmp_path / "my model")
    (tmp_path / "some $prompts.txt").write_text("one two three\nfour five six\nseven\n")
    (tmp_path / "own metric.py").write_text(PLUGIN)
    return tmp_path


CASES = [
    [
        "--metrics",
        "lens.kl,settling_depth",
        "--prompts",
        "some $prompts.txt",
        "-n",
        "2",
        "--keep-first",
        "--agg",
        "both",
    ],
    ["--metrics", "skip.kl", "--scopes", "current", "--parts", "attn,mlp", "--max-tokens", "7", "--seed", "3"],
    ["--metrics", "mine.size", "--plugin", "own metric.py", "--dtype", "bfloat16", "--batch-size", "1"],
    ["--metrics", "residual.norm", "--order", "0:2,1:3x2,3", "--memory", "1GiB", "--allow-pickle"],
    ["--metrics", "lens.kl", "--grown", "0:4/2", "--no-control", "--positions", "last", "--device", "cpu"],
]


@pytest.mark.parametrize("options", CASES, ids=lambda options: options[1])
def test_the_command_makes_the_same_again(
    options: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "my model", *options, "--out", "first"]) == 0
    first = depthsig.Signature.load("first")
    found = again(json.loads(Path("first/signature.json").read_text()))
    assert not found.note
    words = shlex.split(found.command)
    assert words[:3] == ["depthsig", "analyze", "my model"]
    for option in options:
        assert not option.startswith("--") or option in words
    assert main([*words[1:], "--out", "second"]) == 0
    second = depthsig.Signature.load("second")
    for name in ("profiles", "matrices", "scores", "samples_table", "tokens_table", "prompts"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    page = Path("first/report.html").read_text()
    assert "depthsig analyze &#39;my model&#39;" in page


def test_why_there_is_no_command(folder: Path) -> None:
    live, tokenizer, prompts = build("llama"), byte_tokenizer(), ["one two", "three four five"]
    file, norm = "some $prompts.txt", ["residual.norm"]
    of_objects = {
        "the model was given as an object": depthsig.analyze(live, file, tokenizer=tokenizer, metrics=norm),
        "the tokenizer was given as an object": depthsig.analyze("my model", file, tokenizer=tokenizer, metrics=norm),
        "the prompts were given as objects": depthsig.analyze("my model", prompts, metrics=norm, store_prompts=False),
        "the device map was given as an object": depthsig.analyze(
            "my model", file, metrics=norm, device_map={"": "cpu"}
        ),
    }
    with pytest.warns(DepthsigWarning, match="fitted to 14 tokens only"):
        lens = depthsig.fit_lens("my model", prompts, steps=3).lens
    of_objects["the lens was given as an object"] = depthsig.analyze("my model", file, metrics=["tuned.kl"], lens=lens)
    size = depthsig.metric("mine.here", axis="depth")(lambda h: h.norm(dim=-1))
    assert callable(size)
    of_objects["mine.here was declared in Python, not in a file for --plugin"] = depthsig.analyze(
        "my model", file, metrics=["mine.here"]
    )
    for reason, signature in of_objects.items():
        assert again(signature.info) == ("", f"There is no command: {reason}.")
        signature.save("out", figures=False)
        build_page("out")
        assert f"There is no command: {reason}." in Path("out/report.html").read_text()


def test_a_list_of_all_prompts_is_counted(folder: Path) -> None:
    signature = depthsig.analyze("my model", "some $prompts.txt", n=None, metrics=["residual.norm"])
    command = again(signature.info).command
    assert "-n 3" in command


DAMAGED: list[Any] = [
    {"source": "x"}, {"source": "x", "prompts": 3}, {"source": "x", "prompts": {"objects": False}}, "x", [],
    {"source": "x", "prompts": {"objects": False, "count": 2}, "plugins": [{}]},
    {"source": "x", "prompts": {"objects": False, "count": 2}, "plan": [1]},
    {"source": "x", "prompts": {"objects": False, "count": 2}, "loading": "fast"},
    {"source": "x", "prompts": {"objects": False, "count": 2}, "declared": 7},
]  # fmt: skip


def test_a_damaged_record_of_what_was_given_is_named(folder: Path) -> None:
    signature = depthsig.analyze("my model", "some $prompts.txt", metrics=["residual.norm"])
    signature.save("a", figures=False)
    record = Path("a/signature.json")
    for given in DAMAGED:
        record.write_text(json.dumps(signature.info | {"given": given}))
        with pytest.raises(InputError, match=r"signature\.json.*damaged.*given"):
            depthsig.Signature.load("a")
    for name in ("lens", "random_state"):
        record.write_text(json.dumps(signature.info | {name: 3}))
        with pytest.raises(InputError, match=rf"signature\.json.*damaged.*{name}"):
            depthsig.Signature.load("a")


def test_a_folder_of_the_first_version_says_what_may_be_missing(folder: Path) -> None:
    signature = depthsig.analyze("my model", "some $prompts.txt", metrics=["residual.norm"])
    old = {k: v for k, v in signature.info.items() if k != "given"}
    found = again(old)
    assert shlex.split(found.command)[:3] == ["depthsig", "analyze", "my model"] and "may be missing" in found.note
    assert np.isfinite(signature.profile("residual.norm")["value"]).all()
