"""From prompts to token ids, answer spans and measured positions.

Token ids are exactly ``tokenizer(text).input_ids``: whatever special tokens that tokenizer adds,
and no others. Position 0 never counts: the first real token is an attention sink.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from depthsig.errors import DepthsigWarning, InputError
from depthsig.prompts.prompt import Prompt, TokenPrompt
from depthsig.prompts.spans import Span, clip, encode, render
from depthsig.terms import POSITIONS

_LARGEST_ID = 2**63 - 1


def as_prompt(value: Any) -> Prompt:
    """A :class:`Prompt` from a string, ``{"text", "answer"}``, or a sequence of token ids.

    Raises:
        InputError: for anything else.

    >>> as_prompt({"text": "2+2=", "answer": "4"}).full
    '2+2=4'
    """
    if isinstance(value, Prompt):
        return value
    if isinstance(value, str):
        return Prompt(value)
    if isinstance(value, Mapping):
        return _from_mapping(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, bytes) and all(map(_is_id, value)):
        return Prompt("", ids=tuple(int(i) for i in value))
    found = f"a list holding {value[0]!r}"[:60] if isinstance(value, list) and value else type(value).__name__
    raise InputError(f"a prompt is a string, a dict with `text` and `answer`, or token ids; found {found}")


def _from_mapping(value: Mapping[str, Any]) -> Prompt:
    text, answer = value.get("text"), value.get("answer")
    if not isinstance(text, str) or not (answer is None or isinstance(answer, str)):
        raise InputError(
            f"a prompt needs a string `text` and may have a string `answer`, found keys {sorted(map(str, value))}"
        )
    return Prompt(text, answer)


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def tokenize(
    prompts: Sequence[Any],
    tokenizer: Any,
    *,
    max_tokens: int = 256,
    model_max: int | None = None,
    vocab_size: int | None = None,
    chat_template: bool = False,
    positions: str = "all",
) -> list[TokenPrompt]:
    """Tokenise prompts, cut them, and say where each is measured.

    Args:
        prompts: see :func:`as_prompt`.
        tokenizer: a Hugging Face tokenizer; None is enough for token ids.
        max_tokens, model_max: the cut is at the smaller of the two.
        vocab_size: ids from here on are refused; None leaves that to the model.
        chat_template: render each prompt through the tokenizer's template first.
        positions: ``all`` (1 .. T−1), ``answer`` (t ≥ 1 such that t+1 is one of the answer's
            tokens) or ``last`` (T−1). A prompt without any takes no part.

    Returns:
        One :class:`TokenPrompt` a prompt, in order, those too short to take part included.

    Raises:
        InputError: if a prompt or option cannot be used, no prompt is long enough, or none has an
            answer where one is needed.
    """
    _check_options(max_tokens, positions)
    if isinstance(prompts, (Mapping, Prompt, str, bytes)) or not isinstance(prompts, Iterable):
        raise InputError(f"prompts are a list; found {type(prompts).__name__}, put [ ] around it")
    limit = min(max_tokens, model_max) if model_max else max_tokens
    found, cut, lost = [], 0, 0
    for index, value in enumerate(prompts):
        prompt = as_prompt(value)
        ids, span, text = _encode(prompt, tokenizer, chat_template, positions, index)
        _check_ids(ids, vocab_size, index)
        cut += len(ids) > limit
        lost += _loses_answer(prompt, ids, span, limit)
        found.append(_token_prompt(index, prompt, text, ids[:limit], clip(span, limit), positions))
    _warn_of_cuts(cut, lost, limit, len(found))
    _check_usable(found, positions)
    return found


def _check_options(max_tokens: int, positions: str) -> None:
    if max_tokens < 2:
        raise InputError(f"--max-tokens is {max_tokens}; position 0 never counts, so 2 is the least")
    if positions not in POSITIONS:
        raise InputError(f"--positions is {positions!r}; it is one of {', '.join(POSITIONS)}")


def _encode(
    prompt: Prompt, tokenizer: Any, chat_template: bool, positions: str, index: int
) -> tuple[tuple[int, ...], Span | None, str]:
    """Ids before the cut, the answer's span in them, and the text as it was tokenised."""
    if prompt.ids is not None:
        return prompt.ids, None, ""
    if tokenizer is None:
        raise InputError("this checkpoint has no tokenizer; give prompts as lists of token ids")
    rendered = render(prompt, tokenizer, chat_template)
    ids, span = encode(rendered, tokenizer)
    if positions == "answer" and rendered.has_answer and span is None:
        raise InputError(
            f"--positions answer: prompt {index}: this tokenizer gives no offsets, and the answer begins or "
            "ends inside a token, so its place is not known; begin it with a space, or use --positions all"
        )
    return ids, span, rendered.text


def _loses_answer(prompt: Prompt, ids: Sequence[int], span: Span | None, limit: int) -> bool:
    if not prompt.answer or len(ids) <= limit:
        return False
    # Where the span is not known the answer is still the end of the text.
    return span is None or span[1] > limit


def _check_ids(ids: Sequence[int], vocab_size: int | None, index: int) -> None:
    if not ids:
        return
    low, high = min(ids), max(ids)
    if low < 0 or high > (_LARGEST_ID if vocab_size is None else vocab_size - 1):
        bad = low if low < 0 else high
        upper = "the vocabulary's size" if vocab_size is None else vocab_size
        raise InputError(f"prompt {index} holds the token id {bad}; ids are at least 0 and less than {upper}")


def _token_prompt(
    index: int, prompt: Prompt, text: str, ids: tuple[int, ...], span: Span | None, positions: str
) -> TokenPrompt:
    hashed = prompt.full if prompt.ids is None else " ".join(map(str, prompt.ids))
    return TokenPrompt(
        index=index,
        ids=ids,
        sha256=hashlib.sha256(hashed.encode()).hexdigest(),
        tokens_sha256=hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest(),
        answer_span=span,
        positions=_positions(len(ids), span, positions),
        text=text,
    )


def _positions(n: int, span: Span | None, which: str) -> tuple[int, ...]:
    if n < 2:
        return ()
    if which == "last":
        return (n - 1,)
    if which == "answer":
        return tuple(t - 1 for t in range(*span) if t >= 2) if span else ()
    return tuple(range(1, n))


def _warn_of_cuts(cut: int, lost: int, limit: int, total: int) -> None:
    if not cut:
        return
    answers = f", and with them all or part of {lost} answers" if lost else ""
    warnings.warn(
        f"{cut} of {total} prompts were cut at {limit} tokens{answers}; --max-tokens raises the limit "
        "as far as the model reaches",
        DepthsigWarning,
        stacklevel=3,
    )


def _check_usable(prompts: Sequence[TokenPrompt], positions: str) -> None:
    short = [p.index for p in prompts if p.n_tokens < 2]
    if len(short) == len(prompts):
        raise InputError(
            f"none of the {len(prompts)} prompts has two tokens or more; position 0 never counts, "
            "so a prompt needs at least two"
        )
    if positions == "answer" and not any(p.positions for p in prompts):
        raise InputError(
            "--positions answer: no prompt has an answer (within the cut); use prompts with an "
            "`answer`, or --positions all"
        )
    if short:
        shown = ", ".join(map(str, short[:10])) + (" ..." if len(short) > 10 else "")
        warnings.warn(
            f"{len(short)} of {len(prompts)} prompts have fewer than two tokens and take no part (rows {shown})",
            DepthsigWarning,
            stacklevel=3,
        )
