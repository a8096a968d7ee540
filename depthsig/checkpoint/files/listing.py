"""Which files of a checkpoint are read: looked at before anything is loaded, and hashed afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from depthsig.checkpoint.files.held import HeldTensor
from depthsig.checkpoint.files.names import check_named_files, read_object
from depthsig.checkpoint.files.naming import name_of, repository_of
from depthsig.checkpoint.files.tensors import by_name, safetensors_header
from depthsig.checkpoint.files.unmeasurable import refuse_unmeasurable
from depthsig.checkpoint.files.weight_files import find_weights
from depthsig.checkpoint.gguf.gguf_header import GgufHeader, read_header
from depthsig.checkpoint.known import read_config, refuse_adapter, refuse_encoder_decoder
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.own_entry import check_declared
from depthsig.errors import InputError, shown
from depthsig.untrusted import is_file

_TOKENIZER = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
    "*.model", "*.tiktoken", "*.spm", "tekken.json", "additional_chat_templates/*.jinja",
)  # fmt: skip


@dataclass(frozen=True)
class Files:
    """The files of a checkpoint that are read; no other is.

    Attributes:
        place: the folder, or the GGUF file.
        config: config.json as it stands; empty for a GGUF file.
        weights: the weight files, in the order of their names.
        tensors: what they hold, by name; empty where they are pickled.
        pickled: whether they are pickles.
        gguf: the header of a GGUF file, else None.
        notes: what a user should know of the files themselves.
    """

    place: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    tensors: Mapping[str, HeldTensor]
    pickled: bool = False
    gguf: GgufHeader | None = None
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where everything that is read lies."""
        return self.place if self.gguf is None else self.place.parent

    @property
    def name(self) -> str:
        """Short name, for results."""
        return name_of(self.place)

    @property
    def repository(self) -> tuple[str, str] | tuple[None, None]:
        """Hub id and commit, where the files are a snapshot of one."""
        return repository_of(self.folder) or (None, None)

    @cached_property
    def tokenizer(self) -> tuple[Path, ...]:
        """Files that a tokenizer may be read from."""
        found = {path for kind in _TOKENIZER for path in self.folder.glob(kind) if is_file(path)}
        return tuple(sorted(found))

    def content_hash(self, code: Iterable[Path] = ()) -> str:
        """SHA-256 over names and bytes of config, weights and the code that ran with them."""
        return self._own_hash if not (more := tuple(code)) else self._hash_with(more)

    @cached_property
    def _own_hash(self) -> str:
        return self._hash_with(())

    def _hash_with(self, code: tuple[Path, ...]) -> str:
        config = [] if self.gguf is not None else [self.folder / "config.json"]
        return _hash(self.folder, [*config, *self.weights, *code])

    def tokenizer_hash(self) -> str | None:
        """The same over the tokenizer's files; None where there are none."""
        if self.gguf is not None and not self.tokenizer:
            return self.content_hash()  # of the same one file
        paths = [*self.tokenizer, *([self.place] if self.gguf is not None else [])]
        return _hash(self.folder, paths) if paths else None


def list_files(place: Path, options: LoadOptions, where: str) -> Files:
    """The files of a folder or a GGUF file, checked.

    Args:
        where: what the user calls it, for messages.

    Raises:
        InputError, UnsupportedModelError: in one line, for what is damaged, incomplete, of another kind, outside the
            folder, or needs a flag that was not given.
    """
    if place.is_file():
        return _list_gguf(place, options)
    config = read_config(place, where)
    _check_config(config, where, options.trust_remote_code)
    told = _check_tokenizer(place, where, options.trust_remote_code)
    found = find_weights(place, config, options.allow_pickle, where)
    tensors = {} if found.pickled else by_name([t for path in found.paths for t in safetensors_header(path)])
    notes = [*_native_beside_own(config, where, options.trust_remote_code), *told]
    if found.unused is not None:
        notes.append(
            f"{found.unused.name} of {where} names other weight files than {found.paths[0].name}, which is read"
        )
    return Files(place, config, found.paths, tensors, found.pickled, notes=tuple(notes))


def _list_gguf(place: Path, options: LoadOptions) -> Files:
    refuse_adapter(place.parent, repr(str(place)))
    told = _check_tokenizer(place.parent, repr(str(place)), options.trust_remote_code)
    header = read_header(place)
    return Files(place, {}, (place,), by_name(header.tensors), gguf=header, notes=tuple(told))


def _check_config(config: Mapping[str, Any], where: str, trust_remote_code: bool) -> None:
    """Refuse what is no causal language model, or needs code that was not allowed."""
    own = config.get("auto_map")
    if own is not None and not isinstance(own, dict):
        raise InputError(f"{where}: the auto_map of its config is {shown(own)}; it must be an object")
    if own and not trust_remote_code and not _is_native(config):
        raise InputError(f"{where} brings its own code (auto_map); --trust-remote-code runs it, if you trust it")
    if not trust_remote_code:
        _refuse_kernels(config, where)
    refuse_encoder_decoder(config, where)
    refuse_unmeasurable(config, where)
    check_declared(config.get("depthsig"), where)


def _refuse_kernels(config: Mapping[str, Any], where: str) -> None:
    """An implementation called ``owner/name`` is code of a repository, which transformers would fetch and run."""
    for key, value in config.items():
        names = value.values() if isinstance(value, dict) else [value]
        if key.endswith("_implementation") or key.endswith("_implementation_internal"):
            named = next((name for name in names if isinstance(name, str) and "/" in name), None)
            if named is not None:
                raise InputError(
                    f"{where}: {key} of its config names code of the hub ({shown(named)[1:-1]}); "
                    "--trust-remote-code runs it, if you trust it"
                )
        elif isinstance(value, dict):
            _refuse_kernels(value, where)


def _check_tokenizer(folder: Path, where: str, trust_remote_code: bool) -> list[str]:
    """What a tokenizer's config names must be inside the folder; what of it is not run is told."""
    path = folder / "tokenizer_config.json"
    if not is_file(path):
        return []
    config = read_object(path)
    check_named_files(config, folder, repr(str(path)))
    if config.get("auto_map"):
        told = f"the tokenizer of {where} names code of its own (auto_map), which is not run: transformers' own is"
        return [] if trust_remote_code else [told]
    named = config.get("tokenizer_class")
    if not isinstance(named, str) or _is_tokenizer(named):  # what is no text is refused where it is read
        return []
    return [
        f"the tokenizer of {where} is a {shown(named)[1:-1]}, which transformers does not know; another class is used"
    ]


def _is_tokenizer(name: str) -> bool:
    """Whether transformers has a tokenizer of this name, though perhaps not the package that it needs."""
    try:
        return tokenizer_class_from_name(name) is not None
    except ImportError:
        return True


def _native_beside_own(config: Mapping[str, Any], where: str, trust_remote_code: bool) -> list[str]:
    if not config.get("auto_map") or trust_remote_code:
        return []
    kind = config["model_type"]
    return [f"{where} names code of its own (auto_map), which is not run: transformers' own {kind} is"]


def _is_native(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") in CONFIG_MAPPING_NAMES


def _hash(folder: Path, paths: Iterable[Path]) -> str:
    """SHA-256 over names and bytes, in the order of the names; links are followed."""
    digest = hashlib.sha256()
    named = {path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name: path for path in paths}
    for name, path in sorted(named.items()):
        digest.update(name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
