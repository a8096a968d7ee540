"""Every example in the help of every command runs as it stands."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer

from depthsig.cli.main import app, main
from depthsig.cli.options.examples import EXAMPLES, example

COMMANDS = typer.main.get_command(app).commands


def shown(name: str) -> list[str]:
    """The examples at the end of a command's help, as somebody would copy them."""
    command = COMMANDS[name]
    lines = command.get_help(typer.Context(command, info_name=name)).splitlines()
    start = next(i for i, line in enumerate(lines) if line in ("Example:", "Examples:"))
    return [line.strip() for line in lines[start + 1 :]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def done() -> dict[str, int]:
    """Exit codes of the lines that ran already: what several examples begin with runs once."""
    return {}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            c,
            marks={"log": [pytest.mark.extra], "compare": [pytest.mark.slow], "replicate": [pytest.mark.slow]}.get(
                c, []
            ),
        )
        for c in COMMANDS
    ],
)
def test_examples_run(name: str, folder: Path, done: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = shown(name)
    assert lines == list(EXAMPLES[name]) and shlex.split(lines[-1])[1] == name
    if "tensorboard" in lines[-1]:
        pytest.importorskip("tensorboard", reason="extra tensorboard")
    for line in lines:
        if line not in done:
            done[line] = main(shlex.split(line)[1:])
        assert done[line] == 0, line


def test_the_example_of_a_command_is_one_of_it() -> None:
    for name in COMMANDS:
        assert shlex.split(example(name))[:2] == ["depthsig", name]
    assert example("nonsense") == ""
