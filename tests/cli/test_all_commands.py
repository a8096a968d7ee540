"""What every command has: ``-h``, options in groups, JSON alone, completion, usage where an argument is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from sources import fresh

from depthsig.cli.main import app, main

ROOT = Path(__file__).parents[2]
COMMANDS = typer.main.get_command(app).commands
GROUPS = ("What", "How", "Where", "Output")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_short_and_long_help_are_the_same(name: str, capsys: pytest.CaptureFixture) -> None:
    said = []
    for option in ("-h", "--help"):
        assert main([name, option]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and said[0].startswith(f"Usage: depthsig {name} ") and "Example" in said[0]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_option_is_in_its_group(name: str, capsys: pytest.CaptureFixture) -> None:
    assert main([name, "-h"]) == 0
    headings = [line.rstrip(":") for line in capsys.readouterr().out.splitlines() if line[:1].strip()][1:]
    wanted = [group for group in GROUPS if group in headings]
    assert [one for one in headings if one not in ("Arguments", "Example", "Examples")] == wanted
    for one in COMMANDS[name].params:
        if one.param_type_name == "option":
            assert one.rich_help_panel in GROUPS, one.name


def test_an_option_is_in_the_same_group_everywhere() -> None:
    found: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for one in command.params:
            if one.param_type_name == "option":
                found.setdefault(one.name, set()).add(one.rich_help_panel)
    assert {name: groups for name, groups in found.items() if len(groups) > 1} == {}


def test_every_command_prints_json_where_asked() -> None:
    assert [name for name, command in COMMANDS.items() if "json" not in {one.name for one in command.params}] == []


def _python_m(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "depthsig", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=settings, check=False, timeout=120)


def test_python_m_depthsig_is_the_command() -> None:
    done = _python_m("prompts", "--json")
    assert done.returncode == 0 and "gsm8k" in json.loads(done.stdout)
    done = _python_m("analyze")
    assert done.returncode == 2 and "usage: depthsig analyze" in done.stderr


def test_nothing_at_all_shows_the_help(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert main(["-h"]) == 0 and capsys.readouterr().out == shown.out and shown.err == ""
    assert shown.out.count("\n") > 20


MISSING = {
    "analyze": "CHECKPOINT", "plan": "CHECKPOINT", "find-blocks": "CHECKPOINT", "check": "CHECKPOINT",
    "compare": "two signatures", "report": "DIR", "figures": "DIR", "export": "CHECKPOINT", "repeat": "CHECKPOINT",
    "fit-lens": "CHECKPOINT", "replicate": "PAPER", "export family-midas": "--out", "card": "DIR", "log": "DIR",
    "rerun": "DIR", "stability": "CHECKPOINT", "sweep": "FILE.yaml",
}  # fmt: skip


@pytest.mark.parametrize("given", list(MISSING))
def test_a_missing_argument_shows_usage_and_an_example(given: str, capsys: pytest.CaptureFixture) -> None:
    name = given.split()[0]
    assert main(given.split()) == 2
    said, usage, example = capsys.readouterr().err.splitlines()
    assert said.startswith("depthsig: ") and MISSING[given] in said
    assert usage.startswith(f"usage: depthsig {name} [OPTIONS]")
    assert example.startswith(f"example: depthsig {name} ")


def test_what_needs_an_argument_is_known() -> None:
    needs = {n for n, c in COMMANDS.items() if any(p.param_type_name == "argument" for p in c.params)}
    assert needs - {given.split()[0] for given in MISSING} == {"cache"}  # of every kind, where none is named


# JSON alone


def _strict(text: str) -> object:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def results(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signatures, a and b, and a plug-in that prints."""
    folder = tmp_path_factory.mktemp("results")
    asked = ["--metrics", "lens.kl,skip.kl", "--prompts", "lookup", "-n", "3", "--no-progress"]
    for name, more in (("a", []), ("b", ["--order", "0:4,2:4"])):
        assert main(["analyze", str(checkpoint), *asked, *more, "--out", str(folder / name)]) == 0
    (folder / "few.yaml").write_text(
        f"checkpoints: ['{checkpoint}']\nprompts: [lookup]\nn: 3\nmetrics: [lens.kl]\ncontrol: false\n"
    )
    (folder / "loud.py").write_text(
        "import depthsig\nprint('imported')\n@depthsig.metric('mine.size', axis='depth', label='s', formula='f')\n"
        "def size(h):\n    print('measured')\n    return h.norm(dim=-1)\n"
    )
    return folder


JSON = {
    "analyze": "analyze CHECKPOINT --plugin loud.py --metrics mine.size --prompts lookup -n 3",
    "dry run": "analyze CHECKPOINT --dry-run --metrics lens.kl --prompts lookup -n 3",
    "plan": "plan CHECKPOINT", "check": "check CHECKPOINT --prompts lookup -n 3",
    "find-blocks": "find-blocks CHECKPOINT --prompts lookup -n 3", "compare": "compare a b",
    "replicate": "replicate 2505.13898 --only E2 --roles baseline=a --out q",
    "report": "report a", "figures": "figures a --format svg", "export": "export CHECKPOINT --order 0:4,2:4 --out e",
    "repeat": "repeat CHECKPOINT --span 1:2 --task lookup -n 3 --out r",
    "fit-lens": "fit-lens CHECKPOINT --prompts lookup -n 12 --steps 1",
    "models": "models", "prompts": "prompts", "presets": "presets", "metrics": "metrics --plugin loud.py",
    "stability": "stability CHECKPOINT --order 0:4,2:4 --prompts lookup -n 2 --max-tokens 8 --no-control --out t",
    "rerun": "rerun a", "sweep": "sweep few.yaml --out s",
    "cache": "cache", "card": "card a", "log": "log a --to tensorboard --out runs",
}  # fmt: skip


@pytest.mark.parametrize("what", [pytest.param(w, marks=[pytest.mark.extra] * (w == "log")) for w in JSON])
def test_json_alone_is_printed(
    what: str, checkpoint: Path, results: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "log":
        pytest.importorskip("tensorboard", reason="extra tensorboard")
    monkeypatch.chdir(results)
    capsys.readouterr()
    assert main([str(checkpoint) if word == "CHECKPOINT" else word for word in JSON[what].split()] + ["--json"]) == 0
    shown = capsys.readouterr()
    assert isinstance(_strict(shown.out), (dict, list)) and shown.out.count("\n") == 1
    assert ("imported" in shown.err) is ("loud" in JSON[what])


def test_every_command_was_asked_for_json() -> None:
    assert {line.split()[0] for line in JSON.values()} == set(COMMANDS)


def test_a_refused_command_prints_no_json(capsys: pytest.CaptureFixture) -> None:
    assert main(["analyze", "family-midas", "--metrics", "nonsense", "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1


# The browser


def test_every_result_with_a_page_can_be_opened() -> None:
    wanted = {n for n, c in COMMANDS.items() if "out" in {one.name for one in c.params}} | {"report"}
    found = {n for n, c in COMMANDS.items() if "open" in {one.name for one in c.params}}
    assert found == wanted - {"export", "log"}  # a checkpoint, a run


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_open_shows_the_report(
    more: list[str], checkpoint: Path, results: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda page: opened.append(page) or True)
    monkeypatch.chdir(results)
    asked = ["--metrics", "lens.kl", "--prompts", "lookup", "-n", "3", "--out", "o"]
    few = [str(checkpoint), "--prompts", "lookup", "-n", "12"]
    for given in (
        ["report", "a"], ["analyze", str(checkpoint), *asked], ["compare", "a", "b", "--out", "c"],
        ["find-blocks", *few, "--out", "f"], ["fit-lens", *few, "--steps", "1", "--out", "l"],
        ["repeat", str(checkpoint), "--span", "1:2", "--task", "lookup", "-n", "3", "--out", "p"],
    ):  # fmt: skip
        assert main([*given, "--open", *more]) == 0
    assert opened == [(results / name / "report.html").as_uri() for name in ("a", "o", "c", "f", "l", "p")]
    assert "browser" not in capsys.readouterr().err


def test_no_browser_is_a_line(results: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import webbrowser

    def raises(page: str) -> bool:
        raise webbrowser.Error("could not locate runnable browser")

    for fails in (raises, lambda page: False):
        monkeypatch.setattr("webbrowser.open", fails)
        assert main(["report", str(results / "a"), "--open"]) == 0
        assert capsys.readouterr().err == (
            f"depthsig: no browser could be opened here; the report is {results / 'a' / 'report.html'}\n"
        )


# Completion


def _completed(line: str) -> list[str]:
    words = line.split(" ")
    done = _python_m(_DEPTHSIG_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("depthsig fi", ["find-blocks", "figures", "fit-lens"]), ("depthsig analyze x --dry", ["--dry-run"]),
        ("depthsig plan family-mi", ["family-midas"]), ("depthsig analyze x --prompts ws", []),
        ("depthsig analyze x --prompts look", ["lookup"]), ("depthsig analyze x --preset csor", ["csordas-2505.13898"]),
        ("depthsig analyze x --metrics lens.kl,settl", ["lens.kl,settling_depth"]),
        ("depthsig analyze x --parts layer,", ["layer,attn", "layer,mlp"]),
        ("depthsig analyze x --positions a", ["all", "answer"]), ("depthsig check x --dtype b", ["bfloat16"]),
        ("depthsig figures x --format png,s", ["png,svg"]), ("depthsig repeat x --task lookup,cop", ["lookup,copying"]),
    ],
)  # fmt: skip
def test_completion(line: str, found: list[str]) -> None:
    assert [one for one in _completed(line) if one.startswith(line.split(" ")[-1])] == found


def test_completion_needs_nothing_heavy() -> None:
    fresh(
        "import sys\nfor name in ('torch', 'transformers', 'pandas', 'matplotlib'): sys.modules[name] = None\n"
        "from depthsig.cli.options import candidates\n"
        "assert 'lens.kl' in candidates.metrics('lens.') and candidates.presets('') and candidates.prompt_sets('')\n"
        "assert 'family-midas' in candidates.checkpoints('family') and candidates.tasks('gsm8k,')\n"
        "import runpy, os\n"
        "os.environ.update(_DEPTHSIG_COMPLETE='complete_bash', COMP_WORDS='depthsig ', COMP_CWORD='1')\n"
        "sys.argv = ['depthsig']\n"
        "from depthsig.cli.main import main; assert main() == 0"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown(shell: str) -> None:
    done = _python_m(
        "--show-completion", shell, SHELL=f"/bin/{shell}", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert done.returncode == 0 and "_DEPTHSIG_COMPLETE" in done.stdout and done.stderr == ""


# Where results go


def test_no_result_takes_the_place_of_another(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for n in ("2", "3", "2"):
        assert main(["analyze", str(checkpoint), "--metrics", "lens.kl", "--prompts", "lookup", "-n", n]) == 0
    folders = sorted(path.name for path in Path("depthsig-results").iterdir())
    assert folders == [checkpoint.name, f"{checkpoint.name}-2"]
    kept = [json.loads((Path("depthsig-results") / name / "signature.json").read_text()) for name in folders]
    assert [info["options"]["n"] for info in kept] == [2, 3]
