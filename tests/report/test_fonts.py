"""Tokens of any script: in a font that is installed, or as text, and said once."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pandas as pd
import pytest
from made_signatures import late, signature, skip_only

from depthsig.errors import DepthsigWarning
from depthsig.report import fonts, save
from depthsig.report.figures.top_tokens import readable
from depthsig.signature import Signature

WORDS = ["你好", "さくら", "한국어", "नमस्ते", "مرحبا", "שלום", "👩‍👩‍👧", "<b>&", "$x$", "hello"]


def with_tokens(words: list[str]) -> Signature:
    made = signature(skip_only(late(3, 0.5)), 3)
    rows = [
        {"metric": "lens.tokens", "prompt": 0, "index": d, "position": p, "token": word, "rank": 1, "token_id": p,
         "value": 0.5, "input_token": word}
        for d in range(4) for p, word in enumerate(words, 1)
    ]  # fmt: skip
    table = pd.DataFrame(rows).assign(part="-", scope="-")
    return Signature(
        made.info, made.profiles, prompts=made.prompts, samples_table=made.samples_table, tokens_table=table
    )


def shown_in_page(page: str) -> str:
    found = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    return "".join(re.sub(r"<!--.*?-->", "", base64.b64decode(x).decode(), flags=re.S) for x in found)


def test_what_no_font_has_is_text_on_the_page_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: [])
    fonts._fonts_for.cache_clear()
    with pytest.warns() as said:
        page = save(with_tokens(WORDS), tmp_path / "a").read_text(encoding="utf-8")
    fonts._fonts_for.cache_clear()
    ours = [w for w in said if issubclass(w.category, DepthsigWarning)]
    assert len(ours) == 1 and "no installed font has" in str(ours[0].message)
    assert not [w for w in said if "Glyph" in str(w.message)]
    text = shown_in_page(page)
    assert all(word in text for word in WORDS[:7]) and "&lt;b&gt;&amp;" in text and "<b>&" not in text
    assert all(word in (tmp_path / "a/figures/lens.tokens.0.svg").read_text(encoding="utf-8") for word in WORDS[:7])


def test_ordinary_tokens_are_drawn_as_before(tmp_path: Path) -> None:
    page = save(with_tokens(["hello", "é", "Ω", "␣x"]), tmp_path / "a").read_text(encoding="utf-8")
    assert not re.search(r"data:image/svg\+xml;base64,", page) and "data:image/png;base64," in page  # of its figures
    assert {p.suffix for p in (tmp_path / "a" / "figures").iterdir()} == {".png"}


@pytest.mark.parametrize(
    ("token", "cell"),
    [("one two three", "one␣two…"), ("你好世界和平", "你好世…"), ("你好世界", "你好世界"), ("नमस्ते", "नमस्ते"),
     ("é" * 9, "é" * 7 + "…"), ("\u202eevil", "·evil"), ("👩‍👩‍👧", "👩‍👩‍👧"), ("\n\t", "↵⇥")],
)  # fmt: skip
def test_cells_are_clipped_by_what_they_take(token: str, cell: str) -> None:
    assert readable(token) == cell
