"""What the two wheels hold, and what an installed depthsig finds by name."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from depthsig.checkpoint.known import locate
from depthsig.errors import InputError
from depthsig.prompts import shipped

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 12e6  # bytes


def test_a_checkout_has_the_whole_family() -> None:
    assert tuple(shipped.shipped_checkpoints()) == shipped.SHIPPED_FAMILY and not shipped.missing_checkpoints()


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "data_path", lambda *parts: tmp_path.joinpath(*parts))
    monkeypatch.setattr(shipped, "_family_folders", lambda: [])
    with pytest.raises(InputError, match=r"'family-looped' is not installed; pip install 'depthsig\[family\]'"):
        locate("family-looped")


@pytest.mark.slow
def test_wheels(tmp_path: Path) -> None:
    for folder in (ROOT, ROOT / "packages" / "depthsig-family"):
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(folder)]
        subprocess.run(command, check=True)
    own, family = sorted(tmp_path.glob("*.whl"))
    assert own.stat().st_size <= LARGEST
    site = tmp_path / "site"
    zipfile.ZipFile(own).extractall(site)
    assert answer(site, "family-midas").returncode == 0
    refused = answer(site, "family-looped")
    assert refused.returncode == 2 and "pip install 'depthsig[family]'" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    zipfile.ZipFile(family).extractall(site)
    assert all(answer(site, name).returncode == 0 for name in shipped.SHIPPED_FAMILY)


def answer(site: Path, name: str) -> subprocess.CompletedProcess[str]:
    """What ``depthsig plan NAME`` of the unpacked wheels says."""
    command = [sys.executable, "-m", "depthsig.cli.main", "plan", name]
    settings = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "400"}
    return subprocess.run(command, cwd=site, env=settings, capture_output=True, text=True, check=False)
