"""What is kept between runs: whole or absent, whatever happens to the folder, and never a reason to fail."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from depthsig import kept
from depthsig.errors import DepthsigError, DepthsigWarning

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept, "_SAID", [])
    monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_tests_have_a_folder_of_their_own() -> None:
    assert "pytest" in str(kept.place())


def test_what_is_written_is_read(folder: Path) -> None:
    assert kept.read("some-kind", "key") is None and not folder.exists()
    for data in (b"", b"\n\nlines\n", bytes(range(256)) * 1000):
        kept.write("some-kind", "key", data)
        assert kept.read("some-kind", "key") == data
    assert kept.read("some-kind", "other") is None and kept.read("other-kind", "key") is None
    assert kept.kinds() == [kept.Kind("some-kind", 1, files(folder)[0].stat().st_size)]


@pytest.mark.parametrize("kind", ["", "..", "a/b", "Big", "a" * 40, "a.b"])
def test_a_kind_is_a_name_and_no_path(folder: Path, kind: str) -> None:
    with pytest.raises(ValueError, match="no kind"):
        kept.write(kind, "key", b"data")


@pytest.mark.parametrize("place", [0, 20, -1])
@pytest.mark.parametrize("change", ["flipped", "cut"])
def test_a_damaged_record_is_absent(folder: Path, place: int, change: str) -> None:
    kept.write("kind", "key", b"some data")
    (path,) = files(folder)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data if change == "flipped" else path.read_bytes()[: place or None][:-1])
    assert kept.read("kind", "key") is None
    kept.write("kind", "key", b"anew")
    assert kept.read("kind", "key") == b"anew"


def test_a_record_under_the_name_of_another_is_absent(folder: Path) -> None:
    kept.write("kind", "one", b"of one")
    (path,) = files(folder)
    kept.write("kind", "two", b"of two")
    (other,) = set(files(folder)) - {path}
    path.replace(other)
    assert kept.read("kind", "two") is None


@pytest.mark.parametrize("instead", ["folder", "fifo", "link", "huge"])
def test_something_else_in_its_place_is_absent(folder: Path, instead: str) -> None:
    kept.write("kind", "key", b"data")
    (path,) = files(folder)
    path.unlink()
    if instead == "folder":
        path.mkdir()
    elif instead == "fifo":
        os.mkfifo(path)
    elif instead == "link":
        path.symlink_to(folder / "nothing")
    else:
        with path.open("wb") as opened:
            opened.truncate(1 << 40)  # no byte of it is stored
    assert kept.read("kind", "key") is None


def test_a_folder_that_cannot_be_written_is_said_once_and_fails_nothing(folder: Path) -> None:
    folder.write_text("a file in its place")
    with pytest.warns(DepthsigWarning, match="nothing is kept for the next run") as said:
        kept.write("kind", "key", b"data")
        kept.write("kind", "key", b"data")
    assert len(said) == 1 and kept.read("kind", "key") is None and kept.kinds() == [] and kept.clear() == 0


def test_a_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.write("kind", "key", b"before")

    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as opened:
            opened.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.warns(DepthsigWarning, match="No space left"):
        kept.write("kind", "key", b"data")
    assert kept.read("kind", "key") == b"before" and len(files(folder)) == 1


def test_several_may_write_at_once(folder: Path) -> None:
    values = [bytes([i]) * 100_000 for i in range(8)]

    def work(data: bytes) -> None:
        for _ in range(20):
            kept.write("kind", "key", data)
            assert kept.read("kind", "key") in values

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, values))
    assert len(files(folder)) == 1


def test_clearing_removes_what_is_ours_alone(folder: Path, tmp_path: Path) -> None:
    for kind in ("one", "two"):
        kept.write(kind, "key", b"data")
        kept.write(kind, "other", b"data")
    (folder / "one" / ".depthsig-abc_12.part").write_text("left by a killed process")
    own = tmp_path / "own"
    own.mkdir()
    (own / files(folder / "two")[0].name).write_text("not ours")
    (folder / "linked").symlink_to(own)
    (folder / "one" / "notes.txt").write_text("not ours")
    (folder / "notes.txt").write_text("not ours")
    assert [(k.name, k.entries) for k in kept.kinds()] == [("one", 3), ("two", 2)]
    assert kept.clear("one") == 3 and kept.read("one", "key") is None and kept.read("two", "key") == b"data"
    (folder / "two" / ("0" * 40 + ".kept")).symlink_to(own)
    assert kept.clear() == 2
    assert (folder / "one" / "notes.txt").exists() and (folder / "notes.txt").exists() and len(files(own)) == 1
    assert kept.kinds() == []


def test_what_was_used_longest_ago_goes_first(folder: Path, tmp_path: Path) -> None:
    for number, key in enumerate("abcd"):
        kept.write("units", key, bytes(1000))
        os.utime(_last(folder), (number, number))
    kept.write("other", "a", bytes(1000))
    size = _last(folder).stat().st_size
    assert kept.trim("units", 4 * size) == 0
    assert kept.read("units", "a", touch=True) == bytes(1000)  # used now
    assert kept.read("units", "b") == bytes(1000)  # looked at, no more
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(10_000))
    (folder / "units" / ("0" * 40 + ".kept")).symlink_to(outside)
    assert kept.trim("units", 2 * size + 10) == 2
    assert [kept.read("units", key) is not None for key in "abcd"] == [True, False, False, True]
    assert kept.trim("units", 0) == 2 and kept.trim("nothing", 0) == 0
    assert kept.read("other", "a") == bytes(1000) and outside.exists()


def _last(folder: Path) -> Path:
    return max(files(folder), key=lambda path: path.stat().st_mtime_ns)


def test_what_is_too_large_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LARGEST_RECORD", 1000)
    kept.write("kind", "small", bytes(900))
    kept.write("kind", "large", bytes(1000))
    assert kept.read("kind", "small") == bytes(900) and kept.read("kind", "large") is None and len(files(folder)) == 1


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEPTHSIG_CACHE", " ")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for platform, variable, usual in (
        ("linux", "XDG_CACHE_HOME", ".cache"), ("darwin", "", "Library/Caches"),
        ("win32", "LOCALAPPDATA", "AppData/Local"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "platform", platform)
        assert kept.place() == tmp_path / usual / "depthsig"
        if variable:
            monkeypatch.setenv(variable, "relative")
            assert kept.place() == tmp_path / usual / "depthsig"
            monkeypatch.setenv(variable, str(tmp_path / "other"))
            assert kept.place() == tmp_path / "other" / "depthsig"
    monkeypatch.setenv("DEPTHSIG_CACHE", "~/mine")
    assert kept.place() == tmp_path / "mine"


def test_without_a_home_nothing_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("DEPTHSIG_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(DepthsigError, match="DEPTHSIG_CACHE names a folder"):
        kept.place()
    with pytest.warns(DepthsigWarning, match="no home"):
        kept.write("kind", "key", b"data")
    assert kept.read("kind", "key") is None and kept.kinds() == []


def test_it_needs_nothing_heavy() -> None:
    code = "import sys, depthsig.kept; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.strip() == "set()", ran.stderr


def test_what_is_kept_may_be_read_by_whoever_shares_the_folder() -> None:
    umask = os.umask(0o022)
    try:
        kept.write("places", "shared", b"a")
    finally:
        os.umask(umask)
    (entry,) = (kept.place() / "places").glob(f"{kept._name('places', 'shared')}.kept")
    assert entry.stat().st_mode & 0o777 == 0o644
