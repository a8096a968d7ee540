"""Rewording: the task stays solvable and its answer right, prompt by prompt, whatever the words."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from families import build, byte_tokenizer

import depthsig
from depthsig.errors import InputError
from depthsig.prompts import Prompt, builtin_prompts, reword
from depthsig.prompts.primitives import TASKS, TRAINING_ONLY, generate, hop_path


def solved(task: str, text: str) -> str:
    """The answer of a generated prompt, found from its text alone."""
    if task == "copying":
        return text.removesuffix(">")
    if task == "lookup":
        table, *_, key = text.split(">")
        return dict(zip(table[::2], table[1::2], strict=True))[key]
    if task.startswith("variables"):
        lines, *_, asked = text.split(">")
        value = {line[0]: line[1] for line in lines.split(";")}
        while asked in value:
            asked = value[asked]
        return asked
    if task == "phop":
        string, hops = text.rstrip(">"), text.count(">")
        path = hop_path(np.array([ord(c) for c in string]), hops)
        return chr(path[-1])
    return str(sum(map(int, re.search(r"(\d+)\+(\d+)=$", text).groups())))  # type: ignore[union-attr]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_reworded_primitive_is_solved_by_its_answer(task: str, seed: int) -> None:
    before = generate(task, 30, 0)
    after = reword(before, seed)
    for old, new in zip(before, after, strict=True):
        assert solved(task, old.text) == old.answer  # what solves them does
        assert solved(task, new.text) == new.answer, (old, new)
        assert new.text != old.text
    if task != "copying":  # the same symbols and the same layout: as long, and of the same alphabet
        assert all(len(a.text) == len(b.text) for a, b in zip(before, after, strict=True))
        assert all(set(a.text) == set(b.text) for a, b in zip(before, after, strict=True))


def test_worked_examples_stay_right_too() -> None:
    for old in generate("addition", 20, 3):
        (new,) = reword([old])
        for a, b, total in re.findall(r"(\d+)\+(\d+)=(\d+);", new.text):
            assert int(a) + int(b) == int(total)
    for old in generate("lookup", 20, 3):
        (new,) = reword([old])
        table, *asked = new.text.split(">")
        value = dict(zip(table[::2], table[1::2], strict=True))
        assert all(value[key] == given for key, given in (pair for pair in asked if len(pair) == 2))


def test_a_word_problem_has_other_people_and_things_and_the_same_numbers() -> None:
    old = Prompt(
        "Janet’s cats eat 3 lemons. Lemons cost $2; James sells a pear and Janet an apple. Who is JamesTown?\n",
        "Janet's lemons cost 3 * 2 = <<3*2=6>>6.\n#### 6",
    )
    (new,) = reword([old], seed=4)
    assert new != old and new.answer is not None
    assert re.findall(r"\d+", new.full) == re.findall(r"\d+", old.full) and new.answer.endswith("#### 6")
    for word in ("Janet", "cats", "lemons", "Lemons", "pear", "apple"):
        assert not re.search(rf"\b{word}\b", new.text.split(". ", 1)[1]) or word == "pear", word
    assert "JamesTown" in new.text and re.search(r"\ban a", new.text)
    name = re.search(r"(\w+)’s", new.text)[1]  # type: ignore[index]
    assert new.answer.startswith(f"{name}'s ") and new.text.count(name) == 2
    fruit = re.search(r"3 (\w+)\.", new.text)[1]  # type: ignore[index]
    assert f"{fruit} cost" in new.answer and fruit.capitalize() in new.text
    for old in builtin_prompts("gsm8k", 60):
        (new,) = reword([old])
        assert new.text != old.text and str(new.answer).rsplit("####")[1] == str(old.answer).rsplit("####")[1]
        assert re.findall(r"\d+", new.full) == re.findall(r"\d+", old.full)


def test_names_that_differ_stay_different() -> None:
    text = "Amy, Ann, Mia and Eva; Tom, Ben and Leo. "
    for seed in range(20):
        names = re.findall(r"[A-Z]\w+", reword([text], seed)[0].text.split(". ", 1)[1])
        assert len(set(names)) == 7


def test_other_text_gets_a_sentence_before_it() -> None:
    for text in ("Depth matters.", "A 'quoted'  text,\twith white space\n", "é☕"):
        (new,) = reword([text])
        assert new.text.endswith(text) and new.text != text and new.answer is None
        assert new.text.removesuffix(text).endswith(". ")


def test_it_is_the_seeds_and_the_texts_alone() -> None:
    prompts = generate("lookup", 6, 0)
    assert reword(prompts, 3) == reword(prompts, 3) == [reword([one], 3)[0] for one in prompts]
    assert reword(prompts, 3) != reword(prompts, 4)
    assert reword([{"text": "aaaa>", "answer": "aaaa"}]) == [Prompt("aaaa>", "aaaa")]
    assert reword(["5+5="]) == [Prompt("5+5=")]


def test_training_items_are_reworded_alike() -> None:
    for task in TRAINING_ONLY:
        for old in generate(task, 10, 0, "train"):
            (new,) = reword([old])
            if task == "phop1":
                assert solved("phop", new.text) == new.answer
            assert (new.text != old.text) or task == "addition1"


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([[3, 4, 5]], "token ids cannot be reworded"), ("one text", "a list of strings"), (3, "a list of strings"),
        ([3.5], "a prompt is a string"), ({"text": "a"}, "a list of strings"),
    ],
    ids=["ids", "text", "number", "float", "dict"],
)  # fmt: skip
def test_what_has_no_words_is_refused(prompts: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        reword(prompts)  # type: ignore[arg-type]


def test_analyze_rewords_and_says_so() -> None:
    tokenizer, texts = byte_tokenizer(), [f"{p.text}{p.answer}" for p in generate("phop", 3, 0)]
    found = depthsig.analyze(build("llama"), texts, tokenizer=tokenizer, metrics=["lens.kl"], reword=2)
    plain = depthsig.analyze(build("llama"), reword(texts, 2), tokenizer=tokenizer, metrics=["lens.kl"])
    assert found.info["options"]["reword"] == 2 and plain.info["options"]["reword"] is None
    assert found.prompts["sha256"].tolist() == plain.prompts["sha256"].tolist()
    other = depthsig.analyze(build("llama"), texts, tokenizer=tokenizer, metrics=["lens.kl"])
    assert not set(other.prompts["sha256"]) & set(found.prompts["sha256"])
    with pytest.raises(InputError, match="reword is -1"):
        depthsig.analyze(build("llama"), texts, tokenizer=tokenizer, metrics=["lens.kl"], reword=-1)


def test_rewording_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nfrom depthsig.prompts import reword\nprint(reword(['ab>'])[0].text)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "ba>\n", done.stderr
