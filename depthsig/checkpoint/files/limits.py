"""The longest input that a config allows, wherever it keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_NAMES = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length", "max_sequence_length",
    "seq_length", "context_length", "max_context_length", "model_max_length",
)  # fmt: skip
_PARTS = ("text_config", "llm_config", "language_config", "language_model", "decoder", "thinker_config", "text_model")
"""Where configs of several models keep that of the language model."""
_EXTENDING = ("linear", "dynamic", "yarn")
"""Kinds of rope scaling whose ``max_position_embeddings`` may be the length before it."""


def model_max(config: Any) -> int | None:
    """The longest input that a config allows; None where the architecture sets no limit.

    The smallest of all that it says of the language model. ALiBi knows no limit. A rope that was stretched
    (``factor`` times ``original_max_position_embeddings``) reaches as far as that, where it is further.

    >>> from types import SimpleNamespace as Config
    >>> model_max(Config(vision_config=Config(n_ctx=8), text_config={"n_ctx": 24}))
    24
    """
    found = [limit for part in _parts(config) for limit in _limits(part)]
    return min(found, default=None)


def _parts(config: Any) -> Iterator[Any]:
    """The config and what it holds of the language model."""
    seen: list[Any] = []
    todo = [config]
    while todo and len(seen) < 16:  # a config may hold itself
        part = todo.pop()
        if part is None or any(part is one for one in seen):
            continue
        seen.append(part)
        yield part
        todo += [inner for name in _PARTS if _is_config(inner := _get(part, name))]
        text = getattr(part, "get_text_config", None)
        if text is not None:
            todo.append(text(decoder=True))


def _limits(part: Any) -> Iterator[int]:
    if _get(part, "alibi") or _get(part, "model_type") == "bloom" or _get(part, "position_embedding_type") == "alibi":
        return
    for name in _NAMES:
        value = _get(part, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf"):
            yield max(int(value), _stretched(part)) if name == "max_position_embeddings" else int(value)


def _stretched(part: Any) -> int:
    """How far a stretched rope reaches; 0 where none is."""
    rope = _get(part, "rope_parameters") or _get(part, "rope_scaling")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) not in _EXTENDING:
        return 0
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    numbers = all(isinstance(n, (int, float)) and 0 < n < float("inf") for n in (factor, original))
    return int(factor * original) if numbers else 0  # type: ignore[operator]


def _is_config(value: Any) -> bool:
    return isinstance(value, dict) or hasattr(value, "to_dict") or hasattr(value, "__dict__")


def _get(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, dict) else getattr(part, name, None)
