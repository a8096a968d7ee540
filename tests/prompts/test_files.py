"""Prompt files: what is read, what is left out, what is refused and where."""

from __future__ import annotations

import time

import pytest

from depthsig.errors import DepthsigWarning, InputError
from depthsig.prompts import Prompt, read_prompts


def write(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_lines(tmp_path):
    path = write(tmp_path / "p.txt", "one \r\n\n   \n\ttwo\u2028still two\r\nlast")
    assert read_prompts(path) == [Prompt("one "), Prompt("\ttwo\u2028still two"), Prompt("last")]


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert read_prompts(write(tmp_path / "p.txt", "\ufeffone\n"))[0].text == "one"


@pytest.mark.parametrize("name", ["p.md", "p", "p.TXT"])
def test_other_suffixes_are_read_as_text(tmp_path, name):
    assert read_prompts(write(tmp_path / name, '{"text": "a"}\n')) == [Prompt('{"text": "a"}')]


@pytest.mark.parametrize("name", ["p.jsonl", "p.JSONL"])
def test_jsonl_is_verbatim(tmp_path, name):
    lines = '{"text": " a\\n ", "answer": " b "}\n\n{"text": "c", "answer": null, "other": 1}\r\n'
    assert read_prompts(write(tmp_path / name, lines)) == [Prompt(" a\n ", " b "), Prompt("c")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 2 is not JSON"),
        ("[1]", "line 2 has no `text`, found list"),
        ('{"prompt": "a"}', "line 2 has no `text`, found the keys"),
        ('{"text": 3}', "line 2: `text` is int"),
        ('{"text": "a", "answer": ["b"]}', "line 2: `answer` is list"),
        ('{"text": ' + "9" * 5000 + "}", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_bad_jsonl_names_its_line(tmp_path, line, message):
    path = write(tmp_path / "p.jsonl", '{"text": "a"}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompts"),
        (b"\n \r\n\t\n", "holds no prompts"),
        (b"caf\xe9\n", "not UTF-8: line 1"),
        (b"fine\n\xff\xfea\x00", "line 2 holds a NUL byte"),
        (b"PK\x03\x04\x00\x00", "NUL byte"),
    ],
)
def test_files_that_are_no_prompts(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_prompts(write(tmp_path / "p.txt", content))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="is a folder"):
        read_prompts(tmp_path)
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(InputError, match="does not exist"):
            read_prompts(name)


def test_what_n_leaves_out_is_said(tmp_path):
    path = write(tmp_path / "p.txt", "a\nb\n\n \u3000\nc\nd\n")
    with pytest.warns(DepthsigWarning, match="first 2 of 4 prompts in p.txt"):
        assert len(read_prompts(path, 2)) == 2
    assert len(read_prompts(path, 4)) == 4  # nothing left out, nothing said
    with pytest.raises(InputError, match="1 is the least"):
        read_prompts(path, 0)


def test_a_large_file_is_quick_with_n(tmp_path):
    path = write(tmp_path / "p.jsonl", b'{"text": "some text that is not too short"}\n' * 400_000)
    started = time.perf_counter()
    with pytest.warns(DepthsigWarning, match="of 400000 prompts"):
        read_prompts(path, 20)
    assert time.perf_counter() - started < 2
