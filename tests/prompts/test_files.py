"""Prompt files: what is read, what is left out, what is refused and where."""

from __future__ import annotations

import os
import time

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
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


ROWS = [Prompt("two, and", "4"), Prompt('a "b"\nc')]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", '\ufeff[{"text": "two, and", "answer": "4"}, "a \\"b\\"\\nc"]'),
        ("p.JSON", '[{"text": "two, and", "answer": "4"}, {"text": "a \\"b\\"\\nc", "answer": null}]'),
        ("p.csv", '\ufefftext,answer,other\r\n"two, and",4,x\r\n\r\n"a ""b""\nc",,y\r\n'),
        ("p.CSV", 'answer,text\n4,"two, and"\n,"a ""b""\nc"\n'),
        ("p.tsv", 'text\tanswer\ntwo, and\t4\n"a ""b""\nc"\t\n'),
        ("p.ndjson", '{"text": "two, and", "answer": "4"}\n{"text": "a \\"b\\"\\nc"}\n'),
    ],
)
def test_files_are_read_as_what_they_are(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert read_prompts(path) == ROWS
    with pytest.warns(DepthsigWarning, match="first 1 of 2"):
        assert read_prompts(path, 1) == ROWS[:1]


@pytest.mark.parametrize("name", ["p.parquet", "p.PARQUET"])
def test_parquet(tmp_path, name):
    table = pd.DataFrame({"other": [1, 2], "text": [p.text for p in ROWS], "answer": [p.answer for p in ROWS]})
    table.to_parquet(tmp_path / name)
    assert read_prompts(tmp_path / name) == ROWS
    with pytest.warns(DepthsigWarning, match="first 1 of 2"):
        assert read_prompts(tmp_path / name, 1) == ROWS[:1]
    table.assign(text=[1, 2]).to_parquet(tmp_path / name)
    with pytest.raises(InputError, match="row 0: `text` is int"):
        read_prompts(tmp_path / name)
    table.drop(columns="text").to_parquet(tmp_path / name)
    with pytest.raises(InputError, match="no column `text`"):
        read_prompts(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    with pytest.raises(InputError):
        read_prompts(tmp_path / name)


def test_parquet_of_odd_columns(tmp_path):
    path = tmp_path / "p.parquet"
    for column in (pa.array([2**62], pa.duration("s")), pa.array([2**30], pa.date32()), pa.array([[1]])):
        pq.write_table(pa.table({"text": column}), path)
        with pytest.raises(InputError):
            read_prompts(path)
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(InputError, match="or two"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", '{"text": "a"}', "holds dict"),
        ("p.json", "[1]", "entry 1 has no `text`, found int"),
        ("p.json", '["a", {"text": "b", "answer": 3}]', "entry 2: `answer` is int"),
        ("p.json", "[" * 100_000, "is not JSON"),
        ("p.json", "[]", "holds no prompts"),
        ("p.csv", "prompt\na\n", "no column `text`"),
        ("p.csv", "text,text\na,b\n", "no column `text`"),
        ("p.csv", "text,answer\na\n", "line 2 has 1 cells"),
        ("p.csv", 'text\n"a', "is no table"),
        ("p.csv", "text\n", "holds no prompts"),
        ("p.csv", b"text\ncaf\xe9\n", "not UTF-8"),
        ("p.yaml", "- text: a\n", "not read"),
        ("p.txt.gz", b"\x1f\x8b", "not read"),
    ],
)
def test_other_content_is_refused_in_one_line(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as refused:
        read_prompts(write(tmp_path / name, content))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.json", "p.csv", "p.parquet"])
def test_nothing_but_regular_files_of_some_size_is_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="no regular file"):
        read_prompts(tmp_path / name)
    (tmp_path / name).unlink()
    with (tmp_path / name).open("wb") as file:
        file.truncate(2 << 30)  # a hole, which takes no place on the disk
    with pytest.raises(InputError, match="at most"):
        read_prompts(tmp_path / name)
