"""Where a prompt's answer lies among its token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from depthsig.errors import InputError, shown
from depthsig.prompts.prompt import Prompt
from depthsig.untrusted import within

Span = tuple[int, int]
_SECONDS = 20.0
_ROOM = 1_000_000
"""Characters that a template may write around what is said: system prompts and tools are long."""
_PLACEHOLDER = "\ue000answer\ue000"  # private use: no template and no prompt has it


@dataclass(frozen=True)
class Rendered:
    """The text that is tokenised, and the characters [start, end) of it that are the answer."""

    text: str
    start: int
    end: int
    special_tokens: bool = True

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer to look for."""
        return self.end > self.start


def render(prompt: Prompt, tokenizer: Any, chat_template: bool) -> Rendered:
    """The prompt with its answer appended verbatim, or through the tokenizer's chat template.

    With a template the text is the user's message and the answer the assistant's; without an
    answer the assistant's turn is opened. The template writes its own special tokens, so the
    tokenizer adds none.

    Raises:
        InputError: if there is no template, it fails, or it changes the answer.
    """
    if not chat_template:
        return Rendered(prompt.full, len(prompt.text), len(prompt.full))
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("--chat-template: this tokenizer has no chat template; leave the option out")
    text = _apply(tokenizer, prompt.text, prompt.answer)
    if prompt.text.strip() not in text and text == _apply(tokenizer, prompt.text + _PLACEHOLDER, prompt.answer):
        raise InputError(
            "--chat-template: the tokenizer's template leaves out what the user says; leave the option out"
        )
    if not prompt.answer:
        return Rendered(text, len(text), len(text), special_tokens=False)
    before, _, after = _apply(tokenizer, prompt.text, _PLACEHOLDER).partition(_PLACEHOLDER)
    for answer in (prompt.answer, prompt.answer.strip()):  # many templates strip what is said
        if text == before + answer + after:
            return Rendered(text, len(before), len(before) + len(answer), special_tokens=False)
    raise InputError(
        "--chat-template: this template changes the assistant's words, so the answer cannot be found "
        "in it; leave the option out, or give prompts that are already rendered"
    )


def _apply(tokenizer: Any, text: str, answer: str | None) -> str:
    messages = [{"role": "user", "content": text}]
    if answer:
        messages.append({"role": "assistant", "content": answer})
    write = partial(tokenizer.apply_chat_template, messages, tokenize=False, add_generation_prompt=not answer)
    try:
        rendered = within(_SECONDS, write)
    except Exception as error:  # whatever a template raises is about the template
        reason = shown(f"{error}" or type(error).__name__, 400)[1:-1]
        raise InputError(
            f"--chat-template: the tokenizer's template failed ({reason}); leave the option out"
        ) from error
    if not isinstance(rendered, str) or len(rendered) > _ROOM + 2 * len(text) + 2 * len(answer or ""):
        found = f"{len(rendered):,} characters" if isinstance(rendered, str) else type(rendered).__name__
        raise InputError(f"--chat-template: this template makes {found} of a message; leave the option out")
    return rendered


def encode(rendered: Rendered, tokenizer: Any) -> tuple[tuple[int, ...], Span | None]:
    """Token ids, exactly ``tokenizer(text).input_ids``, and the answer's token span.

    The span is None without an answer, and where a tokenizer has no offsets and the answer begins
    in the middle of a token, so that its place cannot be known.

    Raises:
        InputError: if the tokenizer cannot read the text.
    """
    options: dict[str, Any] = {} if rendered.special_tokens else {"add_special_tokens": False}
    if not rendered.has_answer:
        return _ids(tokenizer, rendered.text, **options), None
    if not getattr(tokenizer, "is_fast", False):
        ids = _ids(tokenizer, rendered.text, **options)
        return ids, _span_without_offsets(tokenizer, rendered, ids)
    encoded = _call(tokenizer, rendered.text, return_offsets_mapping=True, **options)
    return tuple(encoded["input_ids"]), span_of(encoded["offset_mapping"], rendered.start, rendered.end)


def span_of(offsets: Sequence[tuple[int, int]], start: int, end: int) -> Span | None:
    """Half-open token span of the characters [start, end).

    A token that straddles the border belongs to the answer. Special tokens, at (0, 0), do not. Some
    tokenizers trim white space from offsets: a token of nothing else is left with an empty
    range at its own end.

    >>> span_of([(0, 0), (0, 3), (3, 5), (5, 6)], 4, 6)
    (2, 4)
    """
    inside = [i for i, (a, b) in enumerate(offsets) if (a < end and b > start if b > a else start < b <= end)]
    return (inside[0], inside[-1] + 1) if inside else None


def _span_without_offsets(tokenizer: Any, rendered: Rendered, ids: tuple[int, ...]) -> Span | None:
    """Exact or nothing: the answer's tokens are known if those before and after it stand alone."""
    bare = _ids(tokenizer, rendered.text, add_special_tokens=False)
    before = _ids(tokenizer, rendered.text[: rendered.start], add_special_tokens=False)
    through = _ids(tokenizer, rendered.text[: rendered.end], add_special_tokens=False)
    clean = bare[: len(before)] == before and bare[: len(through)] == through
    if not clean or len(through) == len(before):
        return None
    shift = next((i for i in range(len(ids) - len(bare) + 1) if ids[i : i + len(bare)] == bare), None)
    return None if shift is None else (shift + len(before), shift + len(through))


def _ids(tokenizer: Any, text: str, **options: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in _call(tokenizer, text, **options)["input_ids"])


def _call(tokenizer: Any, text: str, **options: Any) -> Any:
    # A lone surrogate, which JSON can hold, is no text: it has no UTF-8.
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise InputError(f"a prompt holds a lone surrogate, which is no text: {text[:40]!r}; remove it")
    found = tokenizer(text, verbose=False, **options)
    if not isinstance(found, Mapping) or "input_ids" not in found:
        raise InputError(f"the tokenizer gives {type(found).__name__}, where a mapping with input_ids was expected")
    return found


def clip(span: Span | None, limit: int) -> Span | None:
    """What is left of a span after a cut at ``limit`` tokens."""
    if span is None or span[0] >= limit:
        return None
    return span[0], min(span[1], limit)
