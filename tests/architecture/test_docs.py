"""What the docs tell their readers to type works, and what they name exists."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import CodeType, SimpleNamespace

import pytest
from doc_blocks import PAGES, WAYS, Block, arguments, blocks, parse, planned
from sources import ROOT

from depthsig.cli.main import main
from depthsig.metrics import all_metrics

pytestmark = pytest.mark.filterwarnings("default::depthsig.errors.DepthsigWarning")  # a reader may be warned

COMMANDS = sorted({line for page in PAGES for block in blocks(page) for line in block.commands})
NAMES = [page.name for page in PAGES]
NEEDS = re.compile(r"\(extra (\w+)\)|--to (\w+)")
"""What tells that a line needs an optional package."""


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    parse(line)


def test_ways_are_known_and_every_comment_stands_above_a_fence() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert {block.way for block in blocks(page)} <= set(WAYS), page
        assert text.count("<!-- run: ") == sum(block.way != "run" for block in blocks(page)), page
        assert len(re.findall(r"^```(?:bash|console|python)\b", text, re.M)) == len(blocks(page)), page


LONG = {"howto.md"}
"""Pages that are followed with the slow tests."""


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.name, marks=[pytest.mark.slow] * (p.name in LONG)) for p in PAGES]
)
def test_a_page_can_be_followed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is quick, in one folder, in the page's order; what is slow is planned."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "docs"}
    for block in blocks(page):
        if block.language == "python":
            program = _program(block, page)
            if block.way == "run":
                exec(program, namespace)
        for place, line in enumerate(block.commands):
            given = arguments(line) if block.way == "run" else None
            if block.way in ("slow", "dry") and place == 0:  # what follows may build on its result
                given = planned(line)
            if given is not None and not _lacks(line):
                assert main(given) == 0, line


SLOW = [page for page in PAGES if any(block.way == "slow" for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=lambda page: page.name)
def test_slow_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the page's order; Python in one namespace, as a reader has it."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "docs"}
    for block in blocks(page):
        if block.language == "python" and block.way in ("run", "slow"):
            exec(_program(block, page), namespace)
        for line in block.commands if block.way == "slow" else ():
            assert _lacks(line) or main(_briefly(line)) == 0, line


def _briefly(line: str) -> list[str]:
    """A command as it is typed, but an analysis of three short prompts: enough for all that it draws and tells."""
    given = arguments(line)
    few = ["-n", "3", "--max-tokens", "32"]
    return [*given, *few] if given[0] == "analyze" and not {"-n", "--quick", "--budget"} & set(given) else given


def _lacks(line: str) -> bool:
    """Whether a command needs a package that is not installed here."""
    return any(importlib.util.find_spec(one or other) is None for one, other in NEEDS.findall(line))


def _program(block: Block, page: Path) -> CodeType:
    """A fence of Python, without the lines whose package is not installed here."""
    lines = ["" if _lacks(line) else line for line in block.text.splitlines()]
    return compile("\n".join(lines), page.name, "exec", dont_inherit=True)


# --- what is named ---


def test_what_the_readme_links_to_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", text)
    assert links and all(_there(link) for link in links), links
    told = (ROOT / "llms.txt").read_text(encoding="utf-8")
    named = re.findall(r"^- ([\w/.]+\.(?:md|ipynb)):", told, re.M)
    assert len(named) >= 6 and all((ROOT / name).exists() for name in named), named


def _there(link: str) -> bool:
    """Whether a file exists, and the heading of it that a link names."""
    path, _, heading = link.partition("#")
    if not (ROOT / path).exists():
        return False
    headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.M) if heading else []
    return not heading or heading in {re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in headings}


def test_a_package_index_gets_a_readme_whose_links_work(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", plugin)
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    assert hook.shown_elsewhere("![a](b.png)\n\nsee [`x`](y.md), [z](https://z)\n") == "see `x`, [z](https://z)\n"
    text = hook.shown_elsewhere((ROOT / "README.md").read_text(encoding="utf-8"))
    assert re.findall(r"\]\((?!https?://|#)", text) == [] and "](https://arxiv.org" in text and "<!--" not in text


def test_every_metric_is_in_the_reference() -> None:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    text = hooks.on_page_markdown((ROOT / "docs" / "metrics.md").read_text())
    for entry in all_metrics().values():
        assert f"### `{entry.id}`" in text and entry.formula in text
