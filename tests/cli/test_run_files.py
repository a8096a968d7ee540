"""Options in a TOML file: read, written beside results, and never a way to run code."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthsig import Signature
from depthsig.cli.main import main
from depthsig.cli.options.run_files import run_file

LEAST = ["--metrics", "lens.kl", "--prompts", "lookup", "-n", "3"]


def _config(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def _info(folder: Path) -> dict:
    return json.loads((folder / "signature.json").read_text())


def test_a_file_gives_options_and_those_given_win(checkpoint: Path, tmp_path: Path) -> None:
    text = f'checkpoint = {json.dumps(str(checkpoint))}\nmetrics = "lens.kl"\nprompts = "lookup"\nn = 5\nmax-tokens = 9'
    config = _config(tmp_path / "a.toml", text)
    assert main(["analyze", "--config", config, "-n", "3", "--out", str(tmp_path / "out")]) == 0
    options = _info(tmp_path / "out")["options"]
    assert (options["n"], options["max_tokens"], options["metrics"], options["prompts"]) == (
        3,
        9,
        ["lens.kl"],
        "lookup",
    )


def test_what_is_written_does_the_same_again(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, "model")
    Path("p.txt").write_text("one prompt\nand another\n")
    asked = ["model", "--metrics", "skip.kl", "--prompts", "p.txt", "--grown", "0:4/2", "--no-control", "--seed", "7"]
    assert main(["analyze", *asked, "--no-progress", "--out", "a"]) == 0
    told = tomllib.loads(Path("a/run.toml").read_text())
    assert told == {
        "checkpoint": str(tmp_path / "model"), "metrics": "skip.kl", "prompts": str(tmp_path / "p.txt"),
        "grown": "0:4/2", "control": False, "seed": 7,
    }  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["analyze", "--config", "../a/run.toml", "--out", "b"]) == 0
    assert Path("b/run.toml").read_bytes() == Path("../a/run.toml").read_bytes()
    assert Path("b/profiles.csv").read_bytes() == Path("../a/profiles.csv").read_bytes()
    assert Signature.load("b").info["identity"] == Signature.load("../a").info["identity"]


def test_a_current_folder_whose_name_is_no_text(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("p.txt").write_text("one prompt\nand another\n")
    asked = ["--metrics", "lens.kl", "--prompts", "p.txt", "--out", str(tmp_path / "a")]
    assert main(["analyze", str(checkpoint), *asked]) == 0
    assert tomllib.loads((tmp_path / "a" / "run.toml").read_text())["prompts"] == "p.txt"


def test_a_budget_is_kept_as_what_it_came_to(checkpoint: Path, tmp_path: Path) -> None:
    asked = [str(checkpoint), "--metrics", "lens.kl", "--prompts", "lookup", "--budget", "10min"]
    assert main(["analyze", *asked, "--out", str(tmp_path / "a")]) == 0
    told, options = tomllib.loads((tmp_path / "a" / "run.toml").read_text()), _info(tmp_path / "a")["options"]
    assert "budget" not in told and told["n"] == options["n"] and told["max-tokens"] == options["max_tokens"]
    assert told["scopes"] == "current"


def test_other_results_hold_theirs(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, more in (("a", []), ("b", ["--order", "0:4,2:4"])):
        assert main(["analyze", str(checkpoint), *LEAST, *more, "--out", name]) == 0
    assert main(["compare", "a", "b", "--roles", "looped=b,baseline=a", "--out", "c"]) == 0
    told = tomllib.loads(Path("c/run.toml").read_text())
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert told == {"dir": [a, b], "roles": f"looped={b},baseline={a}"}
    assert main(["compare", "--config", "c/run.toml", "--out", "d"]) == 0
    assert Path("c/claims.csv").read_bytes() == Path("d/claims.csv").read_bytes()

    asked = ["--span", "1:2", "--task", "lookup", "-n", "3"]
    assert main(["repeat", str(checkpoint), *asked, "--out", "r"]) == 0
    assert main(["repeat", "--config", "r/run.toml", "--out", "s"]) == 0
    assert Path("r/repeat.csv").read_bytes() == Path("s/repeat.csv").read_bytes()
    assert tomllib.loads(Path("s/run.toml").read_text())["span"] == "1:2"

    assert main(["fit-lens", str(checkpoint), "--prompts", "lookup", "-n", "12", "--steps", "1", "--lr", "0.25"]) == 0
    (lens,) = Path("depthsig-results").glob("*-lens")
    assert tomllib.loads((lens / "run.toml").read_text())["lr"] == 0.25
    assert main(["find-blocks", str(checkpoint), "--prompts", "lookup", "-n", "3", "--out", "f"]) == 0
    assert main(["find-blocks", "--config", "f/run.toml", "--out", "g"]) == 0
    assert Path("f/run.toml").read_bytes() == Path("g/run.toml").read_bytes()
    assert main(["fit-lens", "--config", str(lens / "run.toml"), "--dtype", "float32", "--out", "l"]) == 0


def test_results_from_python_and_redrawn_ones(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    assert main(["analyze", str(checkpoint), *LEAST, "--out", str(out)]) == 0
    before = (out / "run.toml").read_bytes()
    assert main(["report", str(out)]) == 0 and (out / "run.toml").read_bytes() == before
    assert main(["figures", str(out), "--format", "svg"]) == 0 and (out / "run.toml").read_bytes() == before
    Signature.load(out).save(out, figures=False)  # not what the command line was asked for any more
    assert not (out / "run.toml").exists()


BAD = {
    "unknown": ('metrcs = "lens"', "did you mean 'metrics'?"),
    "far": ("zzz = 1", "there are checkpoint, "),
    "underscore": ("max_tokens = 1", "did you mean 'max-tokens'?"),
    "itself": ('config = "a.toml"', "'config'"),
    "text for a number": ('n = "3"', "n is text ('3'); write a whole number"),
    "a truth value for a number": ("seed = true", "seed is a truth value (True); write a whole number"),
    "a fraction": ("max-tokens = 1.5", "max-tokens is a number (1.5); write a whole number"),
    "a number for a switch": ("quick = 1", "quick is a whole number (1); write true or false"),
    "a list for text": ('metrics = ["lens", "skip"]', "metrics is a list; write text"),
    "a table": ("[analyze]\nn = 3", "'analyze'"),
    "a date": ("prompts = 2020-01-01", "prompts is a date or time"),
    "no TOML": ("n = ", "is no TOML"),
    "control characters": ('"\\u001b[31m" = 1', "'\\x1b[31m'"),
    "binary": ("n\0", "is no TOML"),
    "deep": ("a = " + "[" * 9999, "is no TOML"),
    "long number": ("n = " + "9" * 9999, "is no TOML"),
    "too large": ("#" * 70_000, "70,000 bytes"),
    "a number out of range": ("seed = -1", "--seed"),
    "remote code": ("trust-remote-code = true", "lets code run; give --trust-remote-code on the command line"),
    "remote code as in Python": ("trust_remote_code = true", "lets code run; give --trust-remote-code on the command"),
    "remote code in capitals": ("Trust_Remote_Code = true", "lets code run; give --trust-remote-code on the command"),
    "remote code misspelt": ("trust-remote-cod = true", "'trust-remote-cod'; there are checkpoint"),
    "pickle": ("allow-pickle = false", "lets code run; give --allow-pickle on the command line"),
    "plug-in": ('plugin = ["a.py"]', "lets code run; give --plugin on the command line"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(BAD))
def test_bad_files_are_one_line(what: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text, said = BAD[what]
    config = _config(tmp_path / "a.toml", text)
    assert main(["analyze", "family-midas", "--config", config, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("depthsig: ") and error.count("\n") == 1 and said in error, error
    assert len(error) < 900 and "\x1b" not in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nowhere.toml", "", "x" * 5000])
def test_files_that_are_not_there(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["analyze", "family-midas", "--config", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_lets_code_run_is_not_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import depthsig\n@depthsig.metric('mine.size', axis='depth', label='s', formula='f')\n"
        "def size(h):\n    return h.norm(dim=-1)\n"
    )
    asked = [str(checkpoint), "--prompts", "lookup", "-n", "3", "--metrics", "mine.size"]
    mine = ["--plugin", str(tmp_path / "mine.py"), "--trust-remote-code", "--allow-pickle"]
    assert main(["analyze", *asked, *mine, "--out", str(tmp_path / "a")]) == 0
    assert set(tomllib.loads((tmp_path / "a" / "run.toml").read_text())) == {"checkpoint", "prompts", "n", "metrics"}


@given(st.text(st.characters(exclude_categories=("Cs",))), st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1))
def test_what_is_written_is_read_as_it_was(text: str, number: float, whole: int) -> None:
    told = tomllib.loads(run_file("x", {"a": text, "lr": number, "n": whole, "times": [text, "b"], "q": True}))
    assert told == {"a": text, "lr": number, "n": whole, "times": [text, "b"], "q": True}
