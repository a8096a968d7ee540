"""The section of a Hugging Face model card that tells how a model uses its depth, in Markdown."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from depthsig.errors import InputError
from depthsig.findings.shown import HEAD
from depthsig.signature.provenance import again
from depthsig.terms import counted
from depthsig.untrusted import size_of

if TYPE_CHECKING:
    from depthsig.signature import Signature

OPENS, CLOSES = "<!-- depthsig:start -->", "<!-- depthsig:end -->"
"""Between these lines a card is ours to replace."""
LARGEST_CARD = 4 << 20
"""Bytes of a card that can be meant."""
_NOT_FOR_CARDS = re.compile(r"(^|[\s'\"=])(/|~|\.\.?/|[A-Za-z]:\\)|<")
"""What leaves a command out: a path on its writer's machine, which others have no use for, and what begins a marker."""
_SIGNS = re.compile(r"([\\`*_{}\[\]|~$@#!])")
_LINK = re.compile(r"(://|www\.)", re.IGNORECASE)


def model_card(signature: Signature) -> str:
    """A section in Markdown: what was measured, the findings as a table and as sentences, and how to do it again.

    Whatever comes from the checkpoint or from a saved record is escaped.
    """
    findings = signature.findings()
    lines = ["## How this model uses its depth", "", _measured(signature.info, len(signature.prompts)), ""]
    lines += [_row(HEAD), _row(["---"] * len(HEAD), escape=False)]
    lines += [_row(row.cells) for row in findings.shown]
    lines += ["", *(f"- {escaped(one['sentence'])}" for one in findings), "", escaped(findings.rate)]
    told = again(signature.info)
    if told.command and not _NOT_FOR_CARDS.search(told.command):
        lines += ["", "Measured again by:", "", *_fenced(told.command)]
    return "\n".join(lines) + "\n"


def put_into(card: str | Path, section: str) -> bool:
    """Put a section between the markers of a card, or after its end where it has none.

    The rest of the file stays as it is, its line ends too; it is replaced whole or not at all.

    Returns:
        Whether there were markers.

    Raises:
        InputError: if the file is not there, is no text, or its markers are not one pair.
        OSError: if it cannot be written.
    """
    path = Path(card).resolve()
    text = _read(path)
    ends = "\r\n" if "\r\n" in text else "\n"
    ours = ends.join([OPENS, *section.rstrip("\n").split("\n"), CLOSES])
    if found := _markers(text, path):
        _replace(path, text[: found[0]] + ours + text[found[1] :])
        return True
    gap = "" if not text else ends if text.endswith("\n") else 2 * ends
    _replace(path, text + gap + ours + ends)
    return False


def escaped(text: Any) -> str:
    """Text on one line that Markdown shows as it is: no emphasis, link, table cell, mention, formula or HTML.

    >>> escaped("a|b <i> *c* https://d")
    'a\\\\|b &lt;i&gt; \\\\*c\\\\* https:&#47;&#47;d'
    """
    line = _SIGNS.sub(r"\\\1", " ".join(str(text).split()).replace("&", "&amp;"))
    line = line.replace("<", "&lt;").replace(">", "&gt;")
    return _LINK.sub(lambda found: found[0].replace("/", "&#47;").replace(".", "&#46;"), line)


def _measured(info: dict[str, Any], prompts: int) -> str:
    """What was measured of what, in a sentence or two."""
    version = (info.get("versions") or {}).get("depthsig")
    by = f"depthsig {escaped(version)}" if version else "depthsig"
    name = escaped((info.get("checkpoint") or {}).get("name", "?"))
    given = (info.get("options") or {}).get("prompts")
    of = f" ({escaped(PurePath(given).name)})" if isinstance(given, str) else ""
    return (
        f"Measured with {by} of {name}: {counted(len(info.get('plan', [])), 'step')}, "
        f"{counted(prompts, 'prompt')}{of}, "
        f"{escaped(info.get('dtype') or 'dtype unknown')}. Intervals are over prompts, and say nothing about another "
        "training run."
    )


def _row(cells: Iterable[str], *, escape: bool = True) -> str:
    return f"| {' | '.join(escaped(cell) if escape else cell for cell in cells)} |"


def _fenced(command: str) -> list[str]:
    """A block of code, fenced by more backticks than the command has in a row."""
    line = " ".join(command.split())
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", line)), default=0))
    return [f"{fence}bash", line, fence]


def _read(path: Path) -> str:
    try:
        if size_of(path) > LARGEST_CARD:
            raise InputError(f"{str(path)!r} is larger than {LARGEST_CARD:,} bytes; a model card is a short text")
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise InputError(f"{str(path)!r} does not exist; name the README.md of a model") from None
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} is no text in UTF-8; name the README.md of a model") from None


def _markers(text: str, path: Path) -> tuple[int, int] | None:
    """Where the section between the markers begins and ends."""
    counts = text.count(OPENS), text.count(CLOSES)
    if counts == (0, 0):
        return None
    start, end = text.find(OPENS), text.find(CLOSES)
    if counts != (1, 1) or end < start:
        raise InputError(
            f"{str(path)!r} has {counts[0]} times {OPENS!r} and {counts[1]} times {CLOSES!r}; one of each, in this "
            "order, or none of them works"
        )
    return start, end + len(CLOSES)


def _replace(path: Path, text: str) -> None:
    """Write beside the file and move it there, with the rights that it had."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".depthsig-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        Path(beside).chmod(path.stat().st_mode & 0o7777)
        Path(beside).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(beside).unlink()
        raise
