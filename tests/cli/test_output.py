"""Commands end well whatever their output is: of any encoding, closed, full, or read by nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(arguments: str, redirected: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = f"set -o pipefail; {sys.executable} -m depthsig.cli.main {arguments} {redirected}"
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", command], capture_output=True, env=settings, timeout=120)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "utf-16"])
def test_any_encoding(encoding: str) -> None:
    done = run("metrics", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and not done.stderr
    # The command line's library takes ASCII for a mistake of the locale, and writes UTF-8.
    assert "KL(p" in done.stdout.decode({"utf-16": "utf-16", "ascii": "utf-8"}.get(encoding, "ascii"))


@pytest.mark.parametrize("redirected", ["| head -1", "| head -c 3 >/dev/null", ">&-", ">&- 2>&-"])
def test_outputs_that_nobody_reads(redirected: str) -> None:
    done = run("metrics", redirected)
    assert done.returncode == 0 and not done.stderr


def test_a_full_disk_is_said_in_one_line() -> None:
    done = run("metrics", "> /dev/full")
    assert done.returncode == 1 and done.stderr.decode().count("\n") == 1 and b"No space left" in done.stderr


def test_errors_survive_too() -> None:
    assert run("report nowhere", "2>&-").returncode == 2
    done = run("report $'\\xff\\xfe'", PYTHONIOENCODING="cp1252")
    assert done.returncode == 2 and b"no text" in done.stderr and done.stderr.count(b"\n") == 1
    done = run("report 世界", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and b"\\u4e16" in done.stderr


def test_a_plugin_may_fail_in_any_way(tmp_path: Path) -> None:
    for number, code in enumerate(("1/0", "raise BaseException('x')", "import sys; sys.exit(3)", "(" * 5000, "def")):
        (tmp_path / f"{number}.py").write_text(code)
        done = run(f"metrics --plugin {tmp_path / f'{number}.py'}")
        assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr
    os.mkfifo(tmp_path / "fifo.py")
    assert run(f"metrics --plugin {tmp_path / 'fifo.py'}").returncode == 2
