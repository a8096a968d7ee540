"""Commands killed at any file operation: the old result or the new one, and the next run goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LONG = [pytest.mark.slow, pytest.mark.long]
PROGRAM = Path(__file__).with_name("killed_commands.py")


@pytest.mark.parametrize(
    ("command", "stride", "how"),
    [
        pytest.param("analyze", 12, "old", marks=pytest.mark.slow),
        *(pytest.param(c, 1, "old", marks=LONG) for c in ("analyze", "repeat", "compare", "fit-lens", "replicate")),
        pytest.param("analyze", 1, "new", marks=LONG),
        *(pytest.param(c, 1, "old", marks=pytest.mark.slow) for c in ("report", "figures")),
    ],
)
def test_killed_before_every_file_operation(
    command: str, stride: int, how: str, checkpoint: Path, tmp_path: Path
) -> None:
    given = [sys.executable, str(PROGRAM), str(checkpoint), str(tmp_path), command, str(stride), how]
    run = subprocess.run(given, capture_output=True, text=True, check=False, timeout=1500)
    assert run.returncode == 0, run.stderr[-3000:]
    print(command, how, run.stdout)
