"""Token ids, answer spans, positions, cuts and their errors."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts.byte_tokenizer import byte_tokenizer

from depthsig.errors import DepthsigWarning, InputError
from depthsig.prompts import Prompt, as_prompt, tokenize
from depthsig.prompts.spans import span_of

TEMPLATE = (
    "{% for m in messages %}<s>[{{ m.role }}]{{ m.content|trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>[assistant]{% endif %}"
)


class SlowTokenizer:
    """One token a character and an end token, without offsets; ``ab`` is one token."""

    is_fast = False
    chat_template = None

    def __call__(self, text, add_special_tokens=True, verbose=True):
        units = text.replace("ab", "\x01")
        return {"input_ids": [ord(c) for c in units] + ([2] if add_special_tokens else [])}


def with_template(template: str):
    tokenizer = byte_tokenizer.__wrapped__(bos=True)
    tokenizer.chat_template = template
    return tokenizer


def span_text(prompt, tokenizer) -> str:
    return tokenizer.decode(list(prompt.ids[slice(*prompt.answer_span)]))


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("eos", [False, True])
def test_ids_are_the_tokenizers_own(bos, eos):
    tokenizer = byte_tokenizer(bos, eos, merges=20)
    text, answer = "the answer is", " 12 seven"
    (found,) = tokenize([{"text": text, "answer": answer}], tokenizer)
    assert list(found.ids) == tokenizer(text + answer).input_ids
    assert found.positions == tuple(range(1, len(found.ids)))
    assert found.n_tokens == len(found.ids)


@pytest.mark.parametrize("bos", [False, True])
def test_answer_span_with_and_without_a_first_special_token(bos):
    tokenizer = byte_tokenizer(bos, eos=True)
    (found,) = tokenize([Prompt("2+2=", "44")], tokenizer, positions="answer")
    assert found.answer_span == (4 + bos, 6 + bos)
    assert found.positions == (3 + bos, 4 + bos)


def test_padding_side_makes_no_difference():
    prompts = [Prompt("a", "bc"), Prompt("longer", "x")]
    left = tokenize(prompts, byte_tokenizer(True, padding_side="left"))
    assert left == tokenize(prompts, byte_tokenizer(True, padding_side="right"))


def test_truncation_and_padding_left_on_in_a_tokenizer_are_not_applied():
    tokenizer = byte_tokenizer.__wrapped__()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    (found,) = tokenize([Prompt("abcdef", "g")], tokenizer)
    assert found.n_tokens == 7


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("né", "é!", "é!"),  # each of them two bytes and two tokens
        ("naïve ", "日本語", "日本語"),
        ("flag ", "👩‍🚀", "👩‍🚀"),
    ],
)
def test_span_of_multi_byte_characters(text, answer, expected):
    tokenizer = byte_tokenizer()
    (found,) = tokenize([Prompt(text, answer)], tokenizer)
    assert span_text(found, tokenizer) == expected
    assert found.answer_span == (len(text.encode()), len((text + answer).encode()))


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("the answer is ", "12", " 12"),  # the space before is in the answer's token
        ("the ans", "wer is", " answer is"),  # a token straddles the border
        ("the answer is", "\n12 \n", "\n12 \n"),  # white space trimmed from offsets
        ("x ", "  y", "  y"),
        ("", "seven", "seven"),
    ],
)
def test_span_where_tokens_merge(text, answer, expected):
    tokenizer = byte_tokenizer(bos=True, eos=True, merges=40)
    (found,) = tokenize([Prompt(text, answer)], tokenizer)
    assert span_text(found, tokenizer) == expected


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.text("aé語 \n7", min_size=1, max_size=6))
def test_span_of_bytes_is_the_answer_whatever_the_text(text, answer):
    (found,) = tokenize([Prompt("." + text, answer)], byte_tokenizer())
    start = 1 + len(text.encode())
    assert found.answer_span == (start, start + len(answer.encode()))


def test_span_of_offsets_skips_special_tokens():
    assert span_of([(0, 0), (0, 1), (1, 2), (0, 0)], 1, 2) == (2, 3)
    assert span_of([(0, 0), (0, 1)], 1, 2) is None


def test_positions_last_and_never_zero():
    found = tokenize(["abc", Prompt("", "ab")], byte_tokenizer(), positions="last")
    assert [p.positions for p in found] == [(2,), (1,)]
    # Token 1 of "ab" is predicted at position 0, which never counts.
    found = tokenize([Prompt("", "ab"), Prompt("", "abc")], byte_tokenizer(), positions="answer")
    assert [p.positions for p in found] == [(), (1,)]


def test_prompts_without_an_answer_take_no_part_in_positions_answer():
    found = tokenize([Prompt("abc"), Prompt("abc", "d")], byte_tokenizer(), positions="answer")
    assert [p.positions for p in found] == [(), (2,)]
    with pytest.raises(InputError, match="no prompt has an answer"):
        tokenize([Prompt("abc")], byte_tokenizer(), positions="answer")


def test_hashes():
    with pytest.warns(DepthsigWarning, match="cut at 2 tokens"):
        text, ids = tokenize([Prompt("né", "1"), [5, 6, 7]], byte_tokenizer(), max_tokens=2)
    assert text.sha256 == hashlib.sha256("né1".encode()).hexdigest()
    assert text.tokens_sha256 == hashlib.sha256(np.array(text.ids, "<i8").tobytes()).hexdigest()
    assert ids.sha256 == hashlib.sha256(b"5 6 7").hexdigest()
    assert ids.tokens_sha256 == hashlib.sha256(np.array([5, 6], "<i8").tobytes()).hexdigest()


def test_the_cut_clips_spans_and_says_so_once():
    prompts = [Prompt("abc", "def"), Prompt("abcdef", "g"), Prompt("ab"), Prompt("abcdefgh")]
    with pytest.warns(DepthsigWarning) as caught:
        found = tokenize(prompts, byte_tokenizer(), max_tokens=100, model_max=4)
    assert [p.n_tokens for p in found] == [4, 4, 2, 4]
    assert [p.answer_span for p in found] == [(3, 4), None, None, None]
    assert len(caught) == 1
    assert "3 of 4 prompts were cut at 4 tokens" in str(caught[0].message)
    assert "2 answers" in str(caught[0].message)


def test_an_answer_that_is_cut_away_cannot_be_asked_for():
    with pytest.warns(DepthsigWarning, match="cut"), pytest.raises(InputError, match="within the cut"):
        tokenize([Prompt("abcdef", "g")], byte_tokenizer(), max_tokens=4, positions="answer")


def test_short_prompts_are_listed_and_warned_of_once():
    with pytest.warns(DepthsigWarning) as caught:
        found = tokenize(["", "a", "abc"], byte_tokenizer())
    assert [p.positions for p in found] == [(), (), (1, 2)]
    assert [p.index for p in found] == [0, 1, 2]
    assert len(caught) == 1 and "2 of 3" in str(caught[0].message)
    with pytest.raises(InputError, match="at least two"):
        tokenize(["", "a"], byte_tokenizer())


@pytest.mark.parametrize("bad", [[1, -2], [1, 2**63], np.array([3, -1])])
def test_ids_that_no_model_has(bad):
    with pytest.raises(InputError, match="prompt 0 holds the token id"):
        tokenize([bad], None)


def test_ids_beyond_the_vocabulary():
    with pytest.raises(InputError, match="token id 7; ids are at least 0 and less than 7"):
        tokenize([[1, 7]], None, vocab_size=7)


def test_ids_need_no_tokenizer_and_text_does():
    (found,) = tokenize([np.array([4, 5])], None)
    assert found.ids == (4, 5) and found.answer_span is None
    with pytest.raises(InputError, match="no tokenizer"):
        tokenize(["abc"], None)


@pytest.mark.parametrize(
    "bad", [3, None, {"answer": "x"}, {"text": 3}, {"text": "a", "answer": 4}, [[1, 2]], [1.5], [True]]
)
def test_what_is_no_prompt(bad):
    with pytest.raises(InputError):
        as_prompt(bad)


@pytest.mark.parametrize(
    ("options", "message"), [({"positions": "odd"}, "all, answer, last"), ({"max_tokens": 1}, "2 is")]
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        tokenize(["abc"], byte_tokenizer(), **options)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(InputError, match="surrogate"):
        tokenize(["a\ud800b"], byte_tokenizer())


def test_a_tokenizer_that_gives_no_mapping_is_named():
    with pytest.raises(InputError, match="gives list"):
        tokenize(["abc"], lambda text, **options: [1, 2, 3])


def test_chat_template_ids_and_span():
    tokenizer = with_template(TEMPLATE)
    # The letters of the answer are in the template too, before and after it.
    (found,) = tokenize([Prompt("why?", " s ")], tokenizer, chat_template=True)
    rendered = "<s>[user]why?</s><s>[assistant]s</s>"
    assert found.text == rendered
    assert list(found.ids) == tokenizer(rendered, add_special_tokens=False).input_ids
    assert span_text(found, tokenizer) == "s"
    assert found.answer_span[1] == len(found.ids) - 1
    assert found.sha256 == hashlib.sha256(b"why? s ").hexdigest()


def test_chat_template_opens_the_turn_where_there_is_no_answer():
    (found,) = tokenize([Prompt("why?")], with_template(TEMPLATE), chat_template=True)
    assert found.text.endswith("[assistant]") and found.answer_span is None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('no users here') }}", "no users here"),
        ("{% for m in messages %}{{ m.content|upper }}{% endfor %}", "changes the assistant's words"),
        ("hello", "leaves out what the user says"),
        ("{{ 'x' * 9999999 }}", "makes 9,999,999 characters"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 0.5 s"),
    ],
)
def test_chat_templates_that_do_not_work(template, message, monkeypatch):
    monkeypatch.setattr("depthsig.prompts.spans._SECONDS", 0.5)
    with pytest.raises(InputError, match=message):
        tokenize([Prompt("why?", "because")], with_template(template), chat_template=True)


def test_without_offsets_the_span_is_exact():
    (found,) = tokenize([Prompt("xyz", "12")], SlowTokenizer(), positions="answer")
    assert found.answer_span == (3, 5)  # the end token is no part of it
    assert found.positions == (2, 3)


def test_without_offsets_a_straddling_token_is_no_guess():
    (found,) = tokenize([Prompt("xa", "b")], SlowTokenizer())
    assert found.answer_span is None
    with pytest.raises(InputError, match="gives no offsets"):
        tokenize([Prompt("xa", "b")], SlowTokenizer(), positions="answer")


def test_nothing_is_warned_of_without_a_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenize([Prompt("abc", "d"), [1, 2]], byte_tokenizer())
