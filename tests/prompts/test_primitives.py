"""Generators: every answer is right, and the splits never meet."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from depthsig.errors import InputError
from depthsig.prompts.primitives import TASKS, TRAINING_ONLY, generate, held_out, hop_path, items
from depthsig.prompts.words import WORDS

N = 200


def some(task: str, split: str = "heldout"):
    return list(islice(items(task, 3, split), N))


def test_copies_are_copies():
    prompts = generate("copying", N, 0)
    assert all(p.text == p.answer + ">" for p in prompts)
    words = [p for p in prompts if " " in p.answer]
    assert 0 < len(words) < N and all(set(p.answer.split()) <= set(WORDS) for p in words)


def test_lookup_answers():
    for item in some("lookup"):
        table = item.pairs[0][0].split(">")[0]
        values = dict(zip(table[::2], table[1::2], strict=True))
        assert all(values[text[-1]] == answer for text, answer in item.pairs)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_variables_resolve(depth):
    for item in some(f"variables{depth}"):
        lines = item.pairs[0][0].split(">")[0].split(";")
        values = {line[0]: line[1:] for line in lines}
        assert len(values) == len(lines)
        for text, answer in item.pairs:
            value, steps = values[text[-1]], 0
            while not value.isdigit():
                value, steps = values[value], steps + 1
            assert (value, steps) == (answer, depth)
        assert item.guess == 1 / (len(lines) // (depth + 1) - len(item.pairs) + 1)


def test_hops_by_hand():
    # The 0 before was followed by 1; the 1 before that one was followed by 3; no 3 comes before that.
    symbols = np.array([1, 3, 0, 1, 2, 0])
    assert hop_path(symbols, 1) == [0, 1] and hop_path(symbols, 2) == [0, 1, 3]
    assert hop_path(symbols, 3) == [0, 1, 3]


@pytest.mark.parametrize(("task", "hops"), [("phop1", 1), ("phop", 2)])
def test_hops(task, hops):
    for item in some(task):
        text, answer = item.pairs[0]
        codes = np.array([ord(c) - ord("a") for c in text.rstrip(">")])
        path = hop_path(codes, hops)
        assert path[-1] == ord(answer) - ord("a") and text.count(">") == hops
        assert len(set(path)) == hops + 1
        assert 0 <= item.guess <= 1


def test_no_symbol_is_the_answer_to_hops_more_often_than_others():
    answers = [p.answer for p in generate("phop", 1200, 0)]
    assert all(150 < answers.count(letter) < 250 for letter in "abcdef")


@pytest.mark.parametrize("task", ["addition", "addition1"])
def test_sums(task):
    for item in some(task):
        for text, answer in item.pairs:
            a, b = text.strip(";=").split("+")
            assert int(a) + int(b) == int(answer)


def test_word_problems_count():
    for prompt in generate("word_problem", N, 0):
        a, b, *c = (int(word.strip(".")) for word in prompt.text.split() if word.strip(".").isdigit())
        assert int(prompt.answer) == a + b - sum(c)


@pytest.mark.parametrize("task", {**TASKS, **TRAINING_ONLY})
def test_nothing_asked_for_was_an_answer_in_training(task):
    asked = {item.keys[-1] for item in some(task)}
    trained = {key for item in some(task, "train") for key in item.keys}
    assert not asked & trained


def test_held_out_sums_have_all_last_digits():
    pairs = [(a, b) for a in range(100) for b in range(a, 100) if held_out(f"{a}+{b}")]
    share = len(pairs) / 5050
    assert 0.045 < share < 0.08
    assert {(a + b) % 10 for a, b in pairs} == set(range(10))


def test_sums_are_held_out_in_both_orders():
    for item in some("addition"):
        a, b = item.pairs[-1][0].strip(";=").split("+")
        assert held_out(f"{min(int(a), int(b))}+{max(int(a), int(b))}")


def test_unknown_names():
    with pytest.raises(InputError, match="no generator"):
        generate("nothing", 1, 0)
    with pytest.raises(InputError, match="'train' or 'heldout'"):
        generate("lookup", 1, 0, split="test")
