"""Prompt files of every format with anything in them: prompts, or one line that says what is wrong."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import HOSTILE, JUNK, held, settings
from hypothesis import given
from hypothesis import strategies as st
from prompts.byte_tokenizer import byte_tokenizer

from depthsig.prompts import load_prompts, tokenize

COUNTS: Counter[str] = Counter()
SUFFIXES = [".txt", "", ".md", ".jsonl", ".JSONL", ".ndjson", ".json", ".JSON", ".csv", ".tsv", ".parquet", ".yaml"]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([HOSTILE, "", " ", "\ufeff", "a\r", "\u2028x", "\ud800", "\0", "a,b\n\"c", "word " * 500]),
)  # fmt: skip
ENTRIES = st.one_of(TEXTS, st.fixed_dictionaries({"text": TEXTS | JUNK}, optional={"answer": TEXTS | JUNK}), JUNK)


@pytest.fixture(scope="module", autouse=True)
def _told(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nfuzzed prompt files: {dict(sorted(COUNTS.items()))}")


def content(data: st.DataObject) -> bytes:
    """Bytes of one of the formats, whatever the file is called."""
    entries = data.draw(st.lists(ENTRIES, max_size=4))
    how = data.draw(st.sampled_from(["lines", "list", "objects", "table", "deep", "bytes"]))
    if how == "bytes":
        return data.draw(st.binary(max_size=60))
    if how == "deep":
        return b"[" * data.draw(st.sampled_from([900, 100_000])) + b"\n" + b"9" * 5000
    if how == "table":
        written = io.StringIO()
        rows = csv.writer(written, escapechar="\\")
        rows.writerow(data.draw(st.sampled_from([["text"], ["text", "answer"], ["answer"], ["text", "text"], []])))
        rows.writerows([[str(e)[:40], "x"][: data.draw(st.integers(0, 2))] for e in entries])
        return written.getvalue().encode("utf-8", "surrogatepass")
    text = json.dumps(entries) if how == "list" else "\n".join(map(str if how == "lines" else json.dumps, entries))
    return data.draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe"])) + text.encode("utf-8", "surrogatepass")


def check(folder: Path, data: st.DataObject) -> None:
    path = folder / ("p" + data.draw(st.sampled_from(SUFFIXES)))
    path.write_bytes(content(data))
    n = data.draw(st.sampled_from([1, 2, 10**400]))
    found = held(COUNTS, "prompts", lambda: load_prompts(str(path), n=n))
    if found is not None:
        held(COUNTS, "tokens", lambda: tokenize(found, byte_tokenizer(), max_tokens=8))


def test_prompt_files(tmp_path: Path) -> None:
    settings(150)(given(st.data())(lambda data: check(tmp_path, data)))()
    assert COUNTS["prompts"] > 15 and COUNTS["prompts refused"] > 15


@pytest.mark.slow
@pytest.mark.long
def test_many_prompt_files(tmp_path: Path) -> None:
    settings(3000)(given(st.data())(lambda data: check(tmp_path, data)))()
