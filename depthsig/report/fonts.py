"""Characters of any script in figures: drawn in a font that is installed, or kept as text and said."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from matplotlib import get_data_path
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager, get_font, weight_dict
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from depthsig.errors import DepthsigWarning, shown
from depthsig.report.figures.cells import Cells

_UNSHOWN = frozenset("\n\r\t\u200c\u200d\ufe0e\ufe0f")
"""What no font needs a glyph for."""


def foreign_texts(figure: Figure) -> dict[Text, frozenset[str]]:
    """The texts of a figure that hold characters which its own font lacks, with those characters."""
    own = _characters(findfont(FontProperties()))
    found = {text: frozenset(text.get_text()) - own - _UNSHOWN for text in _texts(figure)}
    return {text: characters for text, characters in found.items() if characters}


def _texts(artist: Artist) -> Iterator[Text]:
    """Every text of an artist but for numbers at ticks."""
    if isinstance(artist, Text):
        yield artist
    if isinstance(artist, Axis) and not isinstance(artist.get_major_formatter(), FixedFormatter | FuncFormatter):
        yield artist.label
        return
    for child in artist.get_children():
        yield from _texts(child)


def use_installed_fonts(figure: Figure) -> list[str]:
    """:func:`use_fonts` for all texts of a figure."""
    return use_fonts(foreign_texts(figure))


def use_fonts(foreign: Mapping[Text, frozenset[str]]) -> list[str]:
    """Draw such texts in other fonts that have their characters; returns those texts that no installed font has."""
    lacking = []
    for text, characters in foreign.items():
        families, missing = _fonts_for(characters)
        text.set_fontfamily([FontProperties().get_name(), *families])
        each = text.texts() if isinstance(text, Cells) else (text.get_text(),)
        lacking += [one for one in each if missing & set(one)]
    return lacking


def say_lacking(texts: list[str]) -> None:
    """One warning about all texts whose characters no installed font has."""
    if texts:
        warnings.warn(
            f"{len(texts)} labels in figures (such as {shown(texts[0].strip(), 30)}) have characters that no installed "
            "font has: boxes in PNG and PDF, text in SVG and in the report; fonts such as Noto Sans have them",
            DepthsigWarning,
            stacklevel=4,
        )


@contextmanager
def quiet_glyphs() -> Iterator[None]:
    """Without what matplotlib itself says of each missing character, and of each font of another weight."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


@lru_cache(maxsize=256)
def _fonts_for(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Installed fonts that together have the characters, as few as a greedy choice finds; and what none has."""
    missing, families = characters, []
    for font in _installed():
        if missing and missing & _characters(font.fname):
            families.append(font.name)
            missing -= _characters(font.fname)
    return tuple(families), missing


@lru_cache(maxsize=1)
def _installed() -> list[FontEntry]:
    """Upright fonts, those of ordinary weight first, in an order that depends on their names alone.

    Of those that come with matplotlib only the general ones: others have boxes for every character, or symbols in
    the place of letters.
    """
    own = str(Path(get_data_path()))
    general = [
        f for f in fontManager.ttflist
        if f.style == "normal" and (not f.fname.startswith(own) or f.name in ("DejaVu Sans", "STIXGeneral"))
    ]  # fmt: skip
    return sorted(general, key=lambda f: (abs(_weight(f) - 400), f.name, Path(f.fname).name))


def _weight(font: FontEntry) -> int:
    return font.weight if isinstance(font.weight, int) else weight_dict.get(font.weight, 400)


@lru_cache(maxsize=512)
def _characters(path: str) -> frozenset[str]:
    """Every character of a font file; none of one that cannot be drawn with."""
    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):  # removed meanwhile, or in a format that FreeType does not scale
        return frozenset()
