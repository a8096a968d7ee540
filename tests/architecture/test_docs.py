"""Commands in the docs are ones that exist, and every metric has its section."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

from depthsig.cli.main import app
from depthsig.metrics import all_metrics

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    {
        line
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.M | re.S)
        for line in block.splitlines()
        if line.startswith("depthsig ") and "$(" not in line
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, arguments)  # raises where an option does not exist


def test_every_metric_is_in_the_reference() -> None:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    text = hooks.on_page_markdown((ROOT / "docs" / "metrics.md").read_text())
    for entry in all_metrics().values():
        assert f"### `{entry.id}`" in text and entry.formula in text
