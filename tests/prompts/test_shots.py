"""Solved examples before prompts: their format by hand, which they are, and that none is ever asked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from families import byte_tokenizer

from depthsig.errors import InputError
from depthsig.prompts import builtin_prompts, load_prompts, tokenize
from depthsig.prompts.primitives import TASKS, held_out, items
from depthsig.prompts.shots import MOST_SHOTS

FORMS = {
    "copying": r"([a-z ]+)>\1",
    "lookup": r"(?:[a-z]\d)+(?:>[a-z]\d)+",
    "variables0": r"(?:[a-z]\d;)*[a-z]\d(?:>[a-z]\d)+",
    "variables1": r"(?:[a-z][a-z\d];)*[a-z]{2}(?:>[a-z]\d)+",
    "variables2": r"(?:[a-z][a-z\d];)*[a-z]{2}(?:>[a-z]\d)+",
    "phop": r"[a-f]{40}>>[a-f]",
    "addition": r"\d+\+\d+=\d+(?:;\d+\+\d+=\d+)*",
}
"""A solved item of each primitive, written from its description."""


@pytest.mark.parametrize("task", TASKS)
def test_examples_are_items_of_the_task_with_their_answers_a_line_each(task: str) -> None:
    for bare, prompt in zip(load_prompts(task, 5), load_prompts(task, 5, shots=3), strict=True):
        *examples, asked = prompt.full.split("\n")
        assert len(examples) == 3 and asked == bare.full and prompt.answer == bare.answer
        assert all(re.fullmatch(FORMS[task], line) for line in [*examples, asked])
        assert prompt.text.endswith("\n" + bare.text)


def solved(line: str) -> bool:
    """Whether the last answer of a look-up or a sum is right, worked out here."""
    if "=" in line:
        a, b, total = map(int, re.split(r"[+=]", line.split(";")[-1]))
        return a + b == total
    table, *asked = line.split(">")
    return all(pair in re.findall(r"[a-z]\d", table) for pair in asked)


@pytest.mark.parametrize("task", ["lookup", "variables0", "addition"])
def test_examples_are_solved_rightly(task: str) -> None:
    for prompt in load_prompts(task, 10, shots=8):
        assert all(map(solved, prompt.full.split("\n")))


@pytest.mark.parametrize("task", TASKS)
def test_no_example_is_ever_asked(task: str) -> None:
    """Not of any number of prompts and seeds: examples hold no held-out key, and what is asked is one."""
    asked = {prompt.full for seed in (0, 1) for prompt in builtin_prompts(task, 300, seed)}
    train = {item.prompt.full: item for item, _ in zip(items(task, 0, "train"), range(400), strict=False)}
    for prompt in load_prompts(task, 30, shots=MOST_SHOTS):
        examples = prompt.full.split("\n")[:-1]
        assert len(set(examples)) == MOST_SHOTS and not set(examples) & asked
        assert all(not held_out(key) for line in examples if line in train for key in train[line].keys)
    assert sum(line in train for p in load_prompts(task, 30, shots=8) for line in p.full.split("\n")) > 200


@pytest.mark.parametrize("name", [*TASKS, "gsm8k"])
def test_the_same_items_at_every_number_of_shots_and_fewer_examples_are_the_last_of_more(name: str) -> None:
    most = load_prompts(name, 4, 7, shots=MOST_SHOTS)
    assert most == load_prompts(name, 4, 7, shots=MOST_SHOTS)
    for shots in range(MOST_SHOTS):
        fewer = load_prompts(name, 4, 7, shots=shots)
        assert [m.full.endswith(f.full) and m.answer == f.answer for m, f in zip(most, fewer, strict=True)] == [
            True
        ] * 4
    assert load_prompts(name, 4, 7) == load_prompts(name, 4, 7, shots=0) == builtin_prompts(name, 4, 7)
    assert most != load_prompts(name, 4, 8, shots=MOST_SHOTS)
    assert len({p.text for p in most}) == 4  # every item has examples of its own


def test_generated_examples_do_not_depend_on_how_many_are_asked() -> None:
    assert load_prompts("lookup", 9, shots=2)[:3] == load_prompts("lookup", 3, shots=2)


def test_word_problems_are_shown_as_they_are_asked() -> None:
    every = builtin_prompts("gsm8k", 200)
    asked, rest = every[:12], {p.full for p in every[12:]}
    for bare, prompt in zip(asked, load_prompts("gsm8k", 12, shots=2), strict=True):
        first, second, last = prompt.full.split("\n\n")
        assert last == bare.full and {first, second} <= rest and first != second
        assert re.search(r"\n#### [\d,-]+$", first)


def test_files_and_lists_show_what_is_not_asked(tmp_path: Path) -> None:
    entries = [{"text": f"{i} and {i} is ", "answer": str(2 * i)} for i in range(5)]
    entries += [{"text": "0 and 0 is ", "answer": "no"}, {"text": "without an answer"}]
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    for source in (path, str(path), entries, iter(entries)):
        found = load_prompts(source, 2, shots=3)
        assert [p.full.split("\n\n")[-1] for p in found] == ["0 and 0 is 0", "1 and 1 is 2"]
        assert all(set(p.full.split("\n\n")[:-1]) == {"2 and 2 is 4", "3 and 3 is 6", "4 and 4 is 8"} for p in found)


def test_what_cannot_be_shown_is_said_in_one_line() -> None:
    pairs = [{"text": "a", "answer": "b"}, {"text": "c", "answer": "d"}, {"text": "e", "answer": "f"}]
    for source, n, shots, said in (
        ("gsm8k", None, 1, "0 prompts with answers beside the 200"), ("gsm8k", 196, 5, "4 prompts with answers"),
        ("wikitext", 5, 1, "has no answers to show"), (pairs, None, 1, "beside the 3"), (pairs, 2, 2, "1 prompts"),
        ("lookup", 1, 9, "from 0 to 8"), ("gsm8k", 1, -1, "from 0 to 8"), ("lookup", 1, True, "from 0 to 8"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said) as error:
            load_prompts(source, n, shots=shots)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_is_the_last_one_in_tokens_too(task: str) -> None:
    prompts = load_prompts(task, 6, shots=3)
    for prompt, found in zip(
        prompts, tokenize(prompts, byte_tokenizer(), max_tokens=10_000, positions="answer"), strict=True
    ):
        start, end = found.answer_span
        answer = prompt.answer.encode()
        assert end == len(found.ids) and end - start == len(answer)
        assert found.positions == tuple(range(start - 1, end - 1))
        plain = byte_tokenizer()(prompt.answer).input_ids
        assert list(found.ids[start:end]) == plain[-len(answer) :]
