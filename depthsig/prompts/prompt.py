"""A prompt as the user gives it, and as a model sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """Text with an optional answer, appended verbatim; or ready token ids.

    >>> Prompt("2+2=", "4").full
    '2+2=4'
    """

    text: str
    answer: str | None = None
    ids: tuple[int, ...] | None = None

    @property
    def full(self) -> str:
        """The text with its answer."""
        return self.text + (self.answer or "")


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt's token ids and where it is measured.

    Attributes:
        index: 0-based row among the prompts asked for.
        ids: token ids after the cut.
        sha256: of the UTF-8 text with its answer before any cut (of the ids as space-separated
            decimals, where ids were given).
        tokens_sha256: of the ids as run, little-endian int64.
        answer_span: half-open token positions of the answer inside ``ids``, None without one.
        positions: the measured positions, never 0; empty where the prompt takes no part.
        text: what was tokenised: the text with its answer, through the chat template where one was
            asked for; empty where ids were given.
    """

    index: int
    ids: tuple[int, ...]
    sha256: str
    tokens_sha256: str
    answer_span: tuple[int, int] | None
    positions: tuple[int, ...]
    text: str = ""

    @property
    def n_tokens(self) -> int:
        """Tokens after the cut."""
        return len(self.ids)
