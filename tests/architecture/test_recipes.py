"""CONTRIBUTING says how to add a metric, an edit and an architecture: executed as written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sources import PACKAGE, ROOT, imports, module_of

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:python|toml)\n# (appended to )?(\S+)\n(.*?)```", TEXT, re.S)
RECIPES = {
    "metric": ("depthsig/metrics/participation.py", "tests/metrics/test_participation.py"),
    "edit": ("depthsig/engine/edits/rotation.py", "tests/engine/test_rotation.py"),
    "architecture": ("depthsig/checkpoint/anatomy/places.toml", "tests/checkpoint/test_zigzag.py"),
}
"""One file and one test each."""


def test_every_block_belongs_to_a_recipe() -> None:
    assert [path for _, path, _ in BLOCKS] == [path for pair in RECIPES.values() for path in pair]
    for appended, path, _ in BLOCKS:
        assert (ROOT / path).exists() == bool(appended)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its tests with what the recipes write."""
    root = tmp_path_factory.mktemp("house")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, root / "depthsig", ignore=skip)
    shutil.copytree(ROOT / "tests", root / "tests", ignore=skip)
    for part in ("recipe", "studies"):
        shutil.copytree(ROOT / "data" / part, root / "data" / part, ignore=skip)
    for name in ("pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, root)
    for appended, path, text in BLOCKS:
        target = root / path
        target.write_text((target.read_text() if appended else "") + text, encoding="utf-8")
    return root


def run(copy: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=copy)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.slow
def test_the_recipes_work_as_written(copy: Path) -> None:
    tests = [test for _, test in RECIPES.values()]
    rules = [f"tests/architecture/{name}.py" for name in ("test_names", "test_rooms", "test_examples")]
    new = "participation or rotation or zigzag or one_place or circle or one_module or rooms_stay"
    found = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, *rules, "-k", new)
    assert "failed" not in found and "passed" in found


@pytest.mark.slow
def test_the_new_metric_is_everywhere(copy: Path) -> None:
    checkpoint = str(ROOT / "data" / "checkpoints" / "family-midas")
    options = "--prompts copying -n 3 --metrics residual.participation --out out"
    asked = ["analyze", checkpoint, *options.split()]
    told = run(
        copy, "-c",
        "import depthsig; from depthsig.cli.main import main\n"
        "from depthsig.engine.edits import edit_types\n"
        f"print(depthsig.__file__, *edit_types()); assert main(['metrics']) == 0 and main({asked!r}) == 0",
    )  # fmt: skip
    assert told.startswith(str(copy)) and "Rotate" in told and "(Σh²)²/Σh⁴" in told
    page = (copy / "out" / "report.html").read_text(encoding="utf-8")
    assert "(Σh²)²/Σh⁴" in page and "Bell &amp; Dean 1970" in page


def listed(metric: str) -> list[Path]:
    """The files that CONTRIBUTING says to open to follow a metric."""
    section = TEXT.split(f"follow `{metric}`")[1].split("\n\n")[1]
    return [Path(path) for path in re.findall(r"^\d+\. `(\S+)`$", section, re.M)]


@pytest.mark.parametrize(("metric", "most"), [("lens.kl", 12), ("skip.kl", 15)])
def test_the_lists_of_files_to_open_are_true(metric: str, most: int) -> None:
    """Each file leads on to the next ones: one that was opened before imports it, or is drawn from its tables."""
    paths = listed(metric)
    assert 8 < len(paths) <= most
    reached = {module_of(paths[0])}
    for path in paths:
        assert (PACKAGE / path).is_file()
        entry = path.parts[0] == "metrics"  # found by its id: the registry imports every family
        assert module_of(path) in reached or entry or path == Path("report/gallery.py"), path
        reached |= {one.module for one in imports(path)}
    assert f'"{metric.split(".")[1]}"' in (PACKAGE / paths[3]).read_text(encoding="utf-8") or metric in (
        PACKAGE / paths[3]
    ).read_text(encoding="utf-8")
