"""Built-in prompts, and prompts from whatever a user gives."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prompts.byte_tokenizer import byte_tokenizer

from depthsig.errors import DepthsigWarning, InputError
from depthsig.prompts import (
    BUILTIN,
    Prompt,
    builtin_prompts,
    data_path,
    load_prompts,
    shipped_checkpoints,
    tokenize,
)
from depthsig.prompts.primitives import TASKS


@pytest.mark.parametrize("name", BUILTIN)
def test_every_set_has_prompts_that_can_be_measured(name):
    prompts = builtin_prompts(name, 20)
    assert len(prompts) == 20
    assert prompts == builtin_prompts(name, 20) and prompts[:7] == builtin_prompts(name, 7)
    found = tokenize(prompts, byte_tokenizer(), max_tokens=10_000)
    # From 13 tokens on there is a cut for scope=future.
    assert min(p.n_tokens for p in found) >= 13
    if name != "wikitext":
        assert all(p.answer_span[1] == p.n_tokens for p in found)


@pytest.mark.parametrize("name", TASKS)
def test_generated_prompts_depend_on_the_seed_and_have_no_end(name):
    assert builtin_prompts(name, 20, seed=1) != builtin_prompts(name, 20, seed=2)
    assert len(set(builtin_prompts(name, 300))) > 200


def test_gsm8k_is_question_and_gold_answer():
    first = builtin_prompts("gsm8k", 1)[0]
    assert first.text.startswith("Janet") and first.text.endswith("\n")
    assert first.answer.endswith("#### 18")


def test_sets_that_are_finite():
    assert len(builtin_prompts("gsm8k", None)) == len(builtin_prompts("wikitext", None)) == 200
    with pytest.warns(DepthsigWarning, match="has 200 prompts, 500"):
        assert len(builtin_prompts("gsm8k", 500)) == 200


def test_wikitext_is_paragraphs():
    assert all(len(p.text) >= 200 and p.answer is None for p in builtin_prompts("wikitext", None))


@pytest.mark.parametrize("source", ["gsm9k", "no/such/file.txt", "x" * 5000, "a\0b", ""])
def test_names_that_are_nothing_list_what_there_is(source):
    with pytest.raises(InputError):
        load_prompts(source)
    with pytest.raises(InputError, match="lookup"):
        builtin_prompts(source)


def test_lists():
    given = ["a b", {"text": "c", "answer": "d"}, [1, 2], (3, 4), Prompt("e")]
    assert load_prompts(given, n=None) == [
        Prompt("a b"), Prompt("c", "d"), Prompt("", ids=(1, 2)), Prompt("", ids=(3, 4)), Prompt("e"),
    ]  # fmt: skip
    assert len(load_prompts(given, n=2)) == 2
    assert load_prompts((p for p in given), n=1) == [Prompt("a b")]


@pytest.mark.parametrize("bad", [[], 3, None, b"ab", {"text": "a"}, Prompt("a"), [None], [3]])
def test_what_is_no_list_of_prompts(bad):
    with pytest.raises(InputError):
        load_prompts(bad)


@pytest.mark.parametrize("source", ["lookup", ["a"]])
def test_less_than_one_prompt(source):
    with pytest.raises(InputError, match="1 is the least"):
        load_prompts(source, n=0)


def test_files_by_path(tmp_path):
    path = tmp_path / "my prompts.txt"
    path.write_text("one\ntwo\n")
    assert load_prompts(path) == load_prompts(str(path)) == [Prompt("one"), Prompt("two")]


def test_shipped_files():
    assert data_path("prompts", "gsm8k_LICENSE").is_file()
    for name, folder in shipped_checkpoints().items():
        assert folder.name == name and (folder / "model.safetensors").is_file()


def test_prompts_need_no_torch():
    code = "import sys, depthsig.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_count_without_end_is_refused():
    with pytest.raises(InputError, match="at most 100,000"):
        builtin_prompts(next(iter(TASKS)), 10**400)
