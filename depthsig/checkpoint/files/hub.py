"""A hub id as a folder: its snapshot of one commit, with the files that are read and no others."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, snapshot_download

from depthsig.checkpoint.files.names import leads_out, read_object
from depthsig.checkpoint.files.unmeasurable import refuse_unmeasurable
from depthsig.checkpoint.files.weight_files import PICKLE, PICKLE_INDEX, SAFE, SAFE_INDEX
from depthsig.untrusted import is_file

_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm")
_CODE = "*.py"


def fetch_snapshot(repository: str, revision: str | None, *, allow_pickle: bool, code: bool) -> Path:
    """Bring what is read of a repository into the hub's cache, and say where it lies.

    What is there already is not fetched again; offline, the cache alone is looked at. The folder is named by the
    commit, so that everything afterwards is of one state of the repository.

    Args:
        allow_pickle: fetch pickled weights, where there are no others.
        code: fetch the code that it brings.

    Raises:
        OSError, ValueError: as huggingface_hub has them: no such repository or revision, no network, no access.
        InputError: for a config or an index that is damaged.
        UnsupportedModelError: for what is refused by its config, before its weights are fetched.
    """
    small = [*_SMALL, *([_CODE] if code else [])]
    folder = Path(snapshot_download(repository, revision=revision, allow_patterns=small, ignore_patterns=["*/*"]))
    if is_file(folder / "config.json"):
        refuse_unmeasurable(read_object(folder / "config.json"), repr(repository))
    for name, index in [(_named(folder) or SAFE, SAFE_INDEX), *([(PICKLE, PICKLE_INDEX)] if allow_pickle else [])]:
        _fetch(repository, folder, [name])
        _fetch(repository, folder, _shards(folder, name if name.endswith(".json") else index))
        if is_file(folder / name) or is_file(folder / index):
            break
    return folder


def cached_revisions(repository: str) -> list[str]:
    """The revisions of a hub id that lie on this machine: branches and tags by name, else commits."""
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    refs, snapshots = cache / "refs", cache / "snapshots"
    named = {path.relative_to(refs).as_posix(): path for path in sorted(refs.rglob("*")) if is_file(path)}
    commits = {name: _commit(path) for name, path in named.items()}
    there = {path.name for path in snapshots.iterdir()} if snapshots.is_dir() else set()
    return [*(name for name, commit in commits.items() if commit in there), *sorted(there - set(commits.values()))]


def _commit(path: Path) -> str:
    """The commit that a branch or tag stands for; of a longer file only its beginning is read."""
    with path.open("rb") as file:
        return file.read(64).decode(errors="replace").strip()[:40]


def _fetch(repository: str, folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not is_file(folder / name)]
    if missing:
        snapshot_download(repository, revision=folder.name, allow_patterns=missing)


def _named(folder: Path) -> str | None:
    """The weight file that the config names, where it is one of the repository."""
    path = folder / "config.json"
    name = read_object(path).get("transformers_weights") if is_file(path) else None
    return name if isinstance(name, str) and not leads_out(name) else None


def _shards(folder: Path, index: str) -> list[str]:
    """The files that an index names; whether it may name them is checked where they are listed."""
    names = read_object(folder / index).get("weight_map") if is_file(folder / index) else None
    found = {name for name in names.values() if isinstance(name, str)} if isinstance(names, dict) else set()
    return sorted(name for name in found if not leads_out(name))
