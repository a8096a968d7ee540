"""Settings of every test: offline, deterministic, two threads; slow tests on demand."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from shapes import check_shapes

check_shapes()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that need minutes, too")


LONGEST = (
    "commands/test_rerun.py", "commands/test_sweep.py", "commands/test_ray.py", "checkpoint/test_offloaded.py",
    "measure/test_memory_runs_out.py", "measure/test_unit_cache.py", "checkpoint/test_streaming.py",
    "notebooks/test_notebooks.py", "architecture/test_docs.py", "commands/test_forecast.py",
    "commands/test_smollm2.py", "commands/test_find_blocks.py", "data/test_family.py", "report/test_scales.py",
    "prompts/test_wheels.py", "cli/test_kills.py", "cli/test_readme_table.py", "cli/test_examples_of_help.py",
    "data/test_recipe.py", "data/test_family_shipped.py", "data/test_how_sure.py", "architecture/test_recipes.py",
    "measure/test_device_calls.py", "report/test_figure_files.py", "report/test_compared_page.py",
    "engine/test_edited_runs.py", "measure/test_against_oracle.py", "cli/test_all_commands.py",
    "report/test_replicated_page.py", "data/test_planted.py", "commands/test_fit_lens.py", "commands/test_replicate.py",
)  # fmt: skip
"""Files that are begun first: what takes a minute must not be what one of several processes begins last."""


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist, which would begin with files of many tests
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ranks = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Half a million objects of imported packages stay to the end: the collector need not look through them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_metrics_are_forgotten() -> Iterator[None]:
    """What a test declares is its own."""
    from depthsig.metrics import all_metrics, forget

    yield
    for one in all_metrics().values():
        if one.own:
            forget(one.id)


@pytest.fixture(scope="session", autouse=True)
def _one_core_each() -> None:
    """Where several processes test, threads of one would only wait for those of the others."""
    import torch

    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a user keeps between runs is nothing that tests read or write; the processes that they start neither."""
    os.environ["DEPTHSIG_CACHE"] = str(tmp_path_factory.mktemp("kept"))


@pytest.fixture(autouse=True)
def _no_units_of_other_tests(_a_cache_of_its_own: None) -> None:
    """What a test measures is measured in it, whatever others measured before."""
    from depthsig import kept

    kept.clear("units")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a tokenizer as a folder; whoever changes it changes a copy."""
    from families import build, byte_tokenizer

    folder = tmp_path_factory.mktemp("checkpoints") / "llama"
    build("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(0)
