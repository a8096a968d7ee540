"""Results folders: the old result or the new one at every moment, and nobody else's things touched."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import kills

from depthsig.errors import DepthsigError, InputError
from depthsig.signature.folders import exchange, locks
from depthsig.signature.folders import writing as folders
from depthsig.signature.folders.choosing import IDENTITY, RESULTS, ensure_results, settle
from depthsig.signature.folders.kinds import RECORDS, SIGNATURE, WRITTEN, result_kind


def _write(out: Path, text: str, record: str = SIGNATURE, extra: str = "") -> None:
    """A small result: a record, a table, figures."""
    with folders.writing(out, record) as partial:
        (partial / "profiles.csv").write_text(text)
        if extra:
            (partial / extra).write_text(text)
        (partial / "figures").mkdir()
        for name in ("a.svg", "b.svg"):
            (partial / "figures" / name).write_text(text)
        (partial / record).write_text(json.dumps({"schema": RECORDS[record] + "2", "text": text}))


def _redraw(out: Path) -> None:
    with folders.redrawing(out, leave=("figures",)) as partial:
        (partial / "figures").mkdir()
        (partial / "figures" / "a.svg").write_text("drawn again")


def _content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def _left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(params=["exchange", "steps"])
def landing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the operating system's exchange of two folders, and without."""
    if request.param == "steps":
        monkeypatch.setattr(exchange, "_exchanged", lambda a, b: False)
    return request.param


@pytest.mark.parametrize("record", [SIGNATURE, "lens.json"])
@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_a_kill_at_any_moment_leaves_the_old_result_or_the_new(
    old: bool, record: str, landing: str, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    out = work / "out"

    def prepare() -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if old:
            _write(out, "old", record, extra="notes.md")

    prepare()
    before = _content(out) if old else {}
    _write(out, "new", record)
    after = _content(out)
    assert ("notes.md" in after) == old  # what is no result of ours is kept
    count = 0
    for moment in kills(work, prepare, lambda: _write(out, "new", record)):
        count += 1
        there = out.exists()
        if landing == "exchange" or not old:
            assert there or not old, moment
        if there:
            assert _content(out) in (before, after), moment
        _write(out, "new", record)  # and the next run goes on
        assert _content(out) == after, moment
        assert _left(work) == ["out"], moment
    assert count > 10


def test_a_kill_at_any_moment_of_drawing_again(landing: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    out = work / "out"

    def prepare() -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        _write(out, "old", extra="notes.md")

    prepare()
    before = _content(out)
    _redraw(out)
    after = _content(out)
    assert after["notes.md"] == "old"
    assert after["figures/a.svg"] == "drawn again"
    for moment in kills(work, prepare, lambda: _redraw(out)):
        if landing == "exchange" or out.exists():
            assert _content(out) in (before, after), moment
        _write(out, "old", extra="notes.md")  # whatever runs next finds its way
        _redraw(out)
        assert _content(out) == after, moment
        assert _left(work) == ["out"], moment


def test_unfinished_work_of_another_run_never_enters_a_result(tmp_path: Path) -> None:
    out = tmp_path / "out"
    partial = folders.begin(out)
    (partial / "prediction.csv").write_text("stale")
    (partial / "control").mkdir()
    (partial / "control" / "signature.json").write_text("{}")
    locks.release(partial)
    _write(out, "new")
    assert set(_content(out)) == {"profiles.csv", SIGNATURE, "figures/a.svg", "figures/b.svg"}
    assert _left(tmp_path) == ["out"]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [_fifo, _socket, _nowhere, _circle, Path.touch])
def test_what_is_no_folder_is_refused_and_stays(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "out"
    make(path)
    before = path.lstat()
    with pytest.raises(InputError, match="out"):
        _write(path, "new")
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert _left(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "names no folder"), (".", "names no folder"), ("..", "names no folder"), ("a/..", "names no folder"),
        ("a\0b", "null"), ("x" * 250, "too long"), ("a/" + "x" * 5000, "too long"), ("a\udcffb", "surrogates"),
        ("x.partial", "unfinished"), (".x.depthsig-old", "unfinished"), ("x.report.partial", "unfinished"),
        ("~/x", "shell"),
    ],
)  # fmt: skip
def test_names_that_no_results_folder_can_have(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        folders.ensure_writable(name)
    assert "\n" not in str(caught.value)
    assert _left(tmp_path) == []


def test_the_folder_one_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "out", "old")
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(InputError, match="the folder you are in"):
        _write(tmp_path / "out", "new")
    with pytest.raises(InputError, match="the folder you are in"):
        _redraw(Path())


def test_a_link_to_a_result_is_followed(tmp_path: Path) -> None:
    _write(tmp_path / "real", "old")
    (tmp_path / "out").symlink_to("real")
    _write(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink()
    assert _content(tmp_path / "real")["profiles.csv"] == "new"
    assert _left(tmp_path) == ["out", "real"]


def test_links_beside_a_result_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    (tmp_path / "out.partial").symlink_to("victim")
    with pytest.raises(InputError, match="not depthsig's"):
        _write(tmp_path / "out", "new")
    _write(tmp_path / "drawn", "old")
    shutil.rmtree(tmp_path / "drawn" / "figures")
    (tmp_path / "drawn" / "figures").symlink_to("../victim")
    _redraw(tmp_path / "drawn")
    assert _content(victim) == {"precious": "x"}
    assert not (tmp_path / "drawn" / "figures").is_symlink()


def test_somebody_elses_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "precious").write_text("x")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "precious").write_text("x")
    (tmp_path / ".depthsig-out").write_text("x")
    before = _content(tmp_path)
    for name in ("foreign", "out"):
        with pytest.raises(InputError, match="depthsig"):
            _write(tmp_path / name, "new")
    assert _content(tmp_path) == before


def test_two_processes_do_not_write_one_result(tmp_path: Path) -> None:
    code = f"""
        import sys
        from depthsig.signature.folders import writing as folders
        folders.begin({str(tmp_path / "out")!r})
        print("here", flush=True)
        sys.stdin.read()
    """
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        with pytest.raises(InputError, match="another process"):
            _write(tmp_path / "out", "new")
        other.kill()
    _write(tmp_path / "out", "new")  # a lock goes with its process
    assert _left(tmp_path) == ["out"]


def test_interrupted_work_is_left_to_others(tmp_path: Path) -> None:
    partial = folders.begin(tmp_path / "out")
    (partial / folders.UNITS).mkdir()
    (partial / folders.UNITS / "piece.npz").touch()
    code = f"from depthsig.signature.folders.writing import begin; begin({str(tmp_path / 'out')!r})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0
    folders.leave(tmp_path / "out")
    # Of this test: what another left in this process is its own.
    assert [one for one in folders.kept() if one.parent == tmp_path] == [partial]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_folder_taken_away_meanwhile_is_said(tmp_path: Path) -> None:
    _write(tmp_path / "out", "old")
    before = _content(tmp_path)
    with (
        pytest.raises(DepthsigError, match="cannot be written: No such file") as caught,
        folders.writing(tmp_path / "out") as partial,
    ):
        shutil.rmtree(partial)
        (partial / "profiles.csv").write_text("new")
    assert caught.value.exit_code == 1
    assert _content(tmp_path) == before


def test_a_result_that_somebody_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="meanwhile"), folders.writing(tmp_path / "out") as partial:
        (partial / SIGNATURE).write_text('{"schema": "depthsig-signature/2"}')
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").write_text("x")
    assert _content(tmp_path) == {"out/precious": "x"}


def test_nothing_is_left_of_work_that_failed_not_even_parents(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folders.writing(tmp_path / "a" / "b" / "out"):
        raise ZeroDivisionError
    assert _left(tmp_path) == []
    folders.ensure_writable(tmp_path / "a" / "b" / "out")
    assert _left(tmp_path) == []


def test_every_analysis_keeps_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ensure_results()
    assert _left(tmp_path) == []

    def analyze(identity: str) -> str:
        out = settle("model", identity)
        with folders.writing(out) as partial:
            (partial / SIGNATURE).write_text(json.dumps({"schema": "depthsig-signature/2", IDENTITY: identity}))
        return out.name

    assert [analyze(i) for i in "abcbac"] == ["model", "model-2", "model-3", "model-2", "model", "model-3"]
    shutil.rmtree(RESULTS / "model")
    assert analyze("c") == "model-3"
    assert analyze("d") == "model"
    (RESULTS / "model-4").mkdir()
    (RESULTS / "model-4" / "precious").write_text("x")
    assert analyze("e") == "model-5"
    assert result_kind(RESULTS / "model-4") is None


def test_unfinished_work_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    partial = folders.begin(RESULTS / "model")
    (partial / folders.UNITS).mkdir()
    (partial / folders.UNITS / "request.json").write_text(json.dumps({IDENTITY: "a"}))
    locks.release(partial.resolve())
    assert settle("model", "b").name == "model-2"
    assert settle("model", "a").name == "model"


def test_names_of_results_are_known() -> None:
    """What a result holds is written by a command, or carried over: :data:`WRITTEN` tells which."""
    from depthsig.signature.compared import TABLES

    assert {f"{name}.csv" for name in TABLES} <= WRITTEN["compare.json"]
    assert set(WRITTEN) == set(RECORDS) and all(kind in names for kind, names in WRITTEN.items())


MINE = (
    "units/thesis.txt",
    "units.tmp/a",
    "config.json",
    "params.pt",
    "claims.csv",
    "compare.json",
    "empty/of/notes.md",
)
"""Of names that depthsig uses elsewhere."""


@pytest.mark.parametrize("act", [lambda out: _write(out, "new"), _redraw], ids=["again", "redrawn"])
def test_what_is_no_file_of_this_kind_of_result_is_carried_over(act: Callable[[Path], None], tmp_path: Path) -> None:
    out = tmp_path / "out"
    _write(out, "old")
    for name in MINE:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    os.mkfifo(out / "fifo")
    (out / "prediction.csv").write_text("of another kind")
    for _ in range(2):
        act(out)
        assert dict.fromkeys(MINE, "{}").items() <= _content(out).items()
        assert (out / "fifo").is_fifo() and (out / "prediction.csv").exists()
    assert result_kind(out) == SIGNATURE and _left(tmp_path) == ["out"]
    _write(tmp_path / "lens", "old", "lens.json", extra="params.pt")
    _write(tmp_path / "lens", "new", "lens.json")
    assert not (tmp_path / "lens" / "params.pt").exists()


@pytest.mark.parametrize("name", ["control", "figures", "figures/a", "control/b/c", "profiles.csv/a", ".depthsig"])
def test_no_result_goes_where_another_keeps_its_own(name: str, tmp_path: Path) -> None:
    _write(tmp_path / "out", "old")
    before = _content(tmp_path)
    with pytest.raises(InputError, match="out"):
        _write(tmp_path / "out" / name, "new")
    assert _content(tmp_path) == before
    _write(tmp_path / "out" / "sub", "nested")
    _write(tmp_path / "control", "a name like any other, elsewhere")
    _write(tmp_path / "out", "new")
    assert _content(tmp_path / "out")["sub/profiles.csv"] == "nested"


def test_no_result_goes_into_unfinished_work(tmp_path: Path) -> None:
    partial = folders.begin(tmp_path / "out")
    with pytest.raises(InputError, match="clears"):
        _write(partial / "sub", "new")
    folders.end(tmp_path / "out")


def test_a_current_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    _write(tmp_path / "out", "new")
    _redraw(tmp_path / "out")
    assert _left(tmp_path) == ["out"]
    for name in ("out", "../out"):
        with pytest.raises(InputError, match="current folder, which was removed"):
            _write(Path(name), "new")
