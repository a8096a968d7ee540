"""From prompts to token ids, answer spans and measured positions.

Token ids are exactly ``tokenizer(text).input_ids``: whatever special tokens that tokenizer adds,
and no others. Position 0 never counts: the first real token is an attention sink.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from depthsig.errors import DepthsigWarning, InputError
from depthsig.prompts.prompt import Prompt, TokenPrompt


def as_prompt(value: Any) -> Prompt:
    """A :class:`Prompt` from a string, ``{"text", "answer"}``, or a sequence of token ids.

    Raises:
        InputError: for anything else.
    """
    if isinstance(value, Prompt):
        return value
    if isinstance(value, str):
        return Prompt(value)
    if isinstance(value, Mapping):
        text, answer = value.get("text"), value.get("answer")
        if not isinstance(text, str) or not (answer is None or isinstance(answer, str)):
            raise InputError(
                f"a prompt needs a string `text` and may have a string `answer`, found keys {sorted(map(str, value))}"
            )
        return Prompt(text, answer)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Sequence) and all(isinstance(i, (int, np.integer)) for i in value):
        return Prompt("", ids=tuple(int(i) for i in value))
    raise InputError(
        f"a prompt is a string, a dict with `text` and `answer`, or token ids; found {type(value).__name__}"
    )


def tokenize(
    prompts: Sequence[Any],
    tokenizer: Any,
    *,
    max_tokens: int = 256,
    model_max: int | None = None,
    chat_template: bool = False,
    positions: str = "all",
) -> list[TokenPrompt]:
    """Tokenise prompts, cut them, and say where each is measured.

    Args:
        prompts: see :func:`as_prompt`.
        tokenizer: a Hugging Face tokenizer; None is enough for token ids.
        max_tokens, model_max: the cut is at the smaller of the two.
        chat_template: render each prompt through the tokenizer's template first.
        positions: ``all`` (1 .. T−1), ``answer`` (those that predict the answer's tokens) or
            ``last``.

    Raises:
        InputError: if no prompt is long enough, or none has an answer where one is needed.
    """
    limit = min(max_tokens, model_max) if model_max else max_tokens
    found, cut, cut_answers = [], 0, 0
    for index, value in enumerate(prompts):
        prompt = as_prompt(value)
        ids, span, full = _ids_and_span(prompt, tokenizer, chat_template)
        cut += len(ids) > limit
        cut_answers += span is not None and span[1] > limit
        ids, span = ids[:limit], _clip(span, limit)
        found.append(_token_prompt(index, prompt, full, ids, span, positions))
    _warn_of_cuts(cut, cut_answers, limit, len(found))
    _check_usable(found, positions)
    return found


def _token_prompt(
    index: int, prompt: Prompt, full: str, ids: tuple[int, ...], span: tuple[int, int] | None, positions: str
) -> TokenPrompt:
    hashed = prompt.full if prompt.ids is None else " ".join(map(str, prompt.ids))
    return TokenPrompt(
        index=index,
        ids=ids,
        sha256=hashlib.sha256(hashed.encode("utf-8", "surrogatepass")).hexdigest(),
        tokens_sha256=hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest(),
        answer_span=span,
        positions=_positions(len(ids), span, positions),
        text=full,
    )


def _positions(n: int, span: tuple[int, int] | None, which: str) -> tuple[int, ...]:
    if n < 2:
        return ()
    if which == "last":
        return (n - 1,)
    if which == "answer":
        return tuple(t - 1 for t in range(*span) if t >= 2) if span else ()
    return tuple(range(1, n))


def _ids_and_span(
    prompt: Prompt, tokenizer: Any, chat_template: bool
) -> tuple[tuple[int, ...], tuple[int, int] | None, str]:
    if prompt.ids is not None:
        return prompt.ids, None, ""
    if tokenizer is None:
        raise InputError("this checkpoint has no tokenizer; give prompts as lists of token ids")
    text, answer_at = prompt.full, len(prompt.text)
    extra: dict[str, Any] = {}
    if chat_template:
        text, answer_at = _render(prompt, tokenizer)
        extra["add_special_tokens"] = False
    if prompt.answer and getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, return_offsets_mapping=True, **extra)
        end = answer_at + len(prompt.answer)
        span = _span(encoded["offset_mapping"], answer_at, end)
        return tuple(encoded["input_ids"]), span, text
    ids = tuple(tokenizer(text, **extra)["input_ids"])
    if not prompt.answer:
        return ids, None, text
    return ids, _span_by_prefix(tokenizer, text, answer_at, ids, extra), text


def _render(prompt: Prompt, tokenizer: Any) -> tuple[str, int]:
    """The prompt through the chat template, and where its answer begins."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("--chat-template: this tokenizer has no chat template; leave the option out")
    messages = [{"role": "user", "content": prompt.text}]
    if prompt.answer:
        messages.append({"role": "assistant", "content": prompt.answer})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not prompt.answer)
    at = text.rfind(prompt.answer) if prompt.answer else len(text)
    if at < 0:  # templates may strip an answer's white space
        at = text.rfind((prompt.answer or "").strip())
    if at < 0:
        raise InputError("--chat-template: the answer was not found in the rendered conversation")
    return text, at


def _span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Tokens that hold a character of [start, end); one that straddles the border belongs to it."""
    inside = [i for i, (a, b) in enumerate(offsets) if b > a and b > start and a < end]
    return (inside[0], inside[-1] + 1) if inside else None


def _span_by_prefix(
    tokenizer: Any, text: str, answer_at: int, ids: tuple[int, ...], extra: dict[str, Any]
) -> tuple[int, int] | None:
    """For tokenizers without offsets: the answer starts where the text's own tokens stop agreeing."""
    alone = tokenizer(text[:answer_at], **extra)["input_ids"]
    shared = next((i for i, (a, b) in enumerate(zip(alone, ids, strict=False)) if a != b), None)
    start = min(len(alone), len(ids)) if shared is None else shared
    return (start, len(ids)) if start < len(ids) else None


def _clip(span: tuple[int, int] | None, limit: int) -> tuple[int, int] | None:
    if span is None or span[0] >= limit:
        return None
    return span[0], min(span[1], limit)


def _warn_of_cuts(cut: int, answers: int, limit: int, total: int) -> None:
    if not cut:
        return
    lost = f", {answers} of them inside or before the answer" if answers else ""
    warnings.warn(
        f"{cut} of {total} prompts were cut at {limit} tokens{lost}; --max-tokens raises the limit "
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
