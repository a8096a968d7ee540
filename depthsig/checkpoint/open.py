"""Open a checkpoint: a folder, a hub id, a GGUF file, a shipped name, or a live model."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import RevisionNotFoundError
from torch import nn
from transformers.utils import logging

from depthsig.checkpoint.costs.trained import told_training
from depthsig.checkpoint.files.agreement import check_agreement
from depthsig.checkpoint.files.hub import cached_revisions, fetch_snapshot
from depthsig.checkpoint.files.limits import model_max
from depthsig.checkpoint.files.listing import list_files
from depthsig.checkpoint.files.size import check_counts
from depthsig.checkpoint.fingerprint import Fingerprint, fingerprint
from depthsig.checkpoint.gguf.gguf_reading import read_once
from depthsig.checkpoint.known import check_revision, locate
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.own_entry import check_declared
from depthsig.checkpoint.pretrained import Target, explain
from depthsig.checkpoint.streaming.unstreamable import refuse_pickled, refuse_unstreamable
from depthsig.checkpoint.wrappers import config_of, unwrapped
from depthsig.checkpoint.xtransformers import is_wrapper, step_view
from depthsig.errors import DepthsigError, DepthsigWarning, InputError, visible
from depthsig.progress import Progress


@dataclass(frozen=True)
class Checkpoint:
    """A causal language model with its provenance.

    Attributes:
        module: the model. A live one is left exactly as it was.
        tokenizer: None where there is none; prompts must then be token ids.
        config: the Hugging Face config, None for other modules.
        name: short name, for results folders and people: control characters in it are visible.
        source: as the user gave it.
        kind: ``folder``, ``hub``, ``gguf``, ``live`` or ``bridge``.
        repository: hub id, where the files are of one. revision: their commit.
        content_hash: SHA-256 over the files that were used: config, weights, and code that ran.
        tokenizer_hash: the same over the tokenizer's; None where it is not the checkpoint's own.
        declared: the config's ``"depthsig"`` entry.
        model_max: the model's own maximum length, None where it has none.
        given_tokenizer: whether the tokenizer came as an object, and not from the checkpoint.
        code: files with code of the checkpoint, where it was allowed to run.
        notes: what the files say or hold that is not what runs.
        weights: what the weights were when they were loaded; empty for a live model.
        trained: tokens and FLOPs of its training, as far as its files tell them.
    """

    module: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)
    config: Any = field(repr=False)
    name: str
    source: str
    kind: str
    repository: str | None = None
    revision: str | None = None
    content_hash: str | None = None
    tokenizer_hash: str | None = None
    declared: Mapping[str, Any] = field(default_factory=dict)
    model_max: int | None = None
    given_tokenizer: bool = False
    code: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    weights: Fingerprint = field(default_factory=dict, repr=False)
    trained: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", visible(self.name))
        object.__setattr__(self, "notes", tuple(map(visible, self.notes)))


def open_checkpoint(
    source: Any, tokenizer: Any = None, options: LoadOptions | None = None, *, progress: bool | Progress = False
) -> Checkpoint:
    """Open ``source`` safely and exactly.

    Args:
        source: a local folder, a hub id, a .gguf file, the name of a shipped checkpoint, a live
            model, or a ``TransformerBridge``.
        tokenizer: for live models, and where a checkpoint's own is not to be used.
        progress: show how far it is.

    Raises:
        InputError: one line that says what was wrong, what was found, and what would work.
    """
    if isinstance(source, nn.Module):
        return _live(source, tokenizer)
    if not isinstance(source, (str, Path)):
        raise InputError(f"a checkpoint is a path, a hub id or a model; found {type(source).__name__}")
    options, where, show = options or LoadOptions(), repr(str(source)), Progress.of(progress)
    place = locate(str(source))
    check_revision(options.revision, place, where)
    if isinstance(place, str) and place != str(source):
        warnings.warn(f"{where} is taken as the hub id {place!r}", DepthsigWarning, stacklevel=2)
    packed = isinstance(place, Path) and place.is_file()
    size = Path(place).stat().st_size if packed else None
    if options.stream:
        refuse_unstreamable(place, None, where)
    with show.stage(f"loading {Path(place).name}", size) as tick, quiet(show.bars and not packed):
        files = list_files(_fetched(place, options) if isinstance(place, str) else place, options, where)
        if options.stream:
            refuse_unstreamable(files.folder, files.config, where)
            refuse_pickled(files.pickled, where)
        check_counts(files.config if files.gguf is None else files.gguf.own(), files, where)
        target = Target(files, place if isinstance(place, str) else None, options, where)
        with read_once(files.gguf, tick):
            config = target.config()
            module, unexpected = target.load(config)
            found, notes = (tokenizer, []) if tokenizer is not None else target.tokenizer()
            notes = [*files.notes, *check_agreement(files, module, unexpected, where), *notes]
    for note in notes:
        warnings.warn(note, DepthsigWarning, stacklevel=2)
    repository, commit = files.repository
    return Checkpoint(
        module=module,
        tokenizer=found,
        config=module.config,
        name=_name_of_hub(place, options.revision) if isinstance(place, str) else files.name,
        source=str(source),
        kind=target.kind,
        repository=repository,
        revision=commit,
        content_hash=files.content_hash(_code_of(module)),
        tokenizer_hash=files.tokenizer_hash() if tokenizer is None and found is not None else None,
        declared=check_declared(getattr(config, "depthsig", None), where),
        model_max=model_max(config),
        given_tokenizer=tokenizer is not None,
        code=tuple(sorted(files.folder.glob("*.py"))) if options.trust_remote_code else (),
        notes=tuple(notes),
        weights=fingerprint(module),
        trained=told_training(files.folder) if files.gguf is None else {},
    )


def _fetched(repository: str, options: LoadOptions) -> Path:
    """The snapshot of a hub id."""
    try:
        return fetch_snapshot(
            repository, options.revision, allow_pickle=options.allow_pickle, code=options.trust_remote_code
        )
    except DepthsigError:
        raise
    except Exception as error:
        there = cached_revisions(repository) if options.revision is not None else []
        if there and isinstance(error, OSError) and not isinstance(error, RevisionNotFoundError):
            named = ", ".join(map(visible, there[:60])) + (", …" if len(there) > 60 else "")
            raise InputError(
                f"revision {options.revision!r} of {repository!r} is not on this machine, and the hub cannot be "
                f"reached (or is switched off); there are {named}"
            ) from None
        raise InputError(explain(error, repository, "hub")) from None


def _name_of_hub(repository: str, revision: str | None) -> str:
    """Short name of a hub id: with the revision where one was asked for, for a training has dozens of them."""
    name = repository.split("/")[-1]
    if revision in (None, "main"):
        return name
    told = re.sub(r"[^\w.+-]+", "-", str(revision)).strip("-._")
    return f"{name}-{told[:12] if re.fullmatch('[0-9a-f]{40}', told) else told[:60]}"


@contextmanager
def quiet(progress: bool) -> Iterator[None]:
    """transformers' bars only where progress is shown; its advice is not for our users.

    The bar of GGUF files knows no switch, so what would go to standard error goes nowhere.
    """
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    (logging.enable_progress_bar if progress else logging.disable_progress_bar)()
    try:
        with contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()


def _code_of(module: nn.Module) -> list[Path]:
    """The files of code that transformers fetched and ran for a model: its class's, and what lies with it."""
    package, _, _ = type(module).__module__.rpartition(".")
    if not package.startswith("transformers_modules"):
        return []
    found = (getattr(m, "__file__", None) for name, m in sys.modules.items() if name.startswith(package + "."))
    return [Path(file) for file in found if file]


def _live(module: nn.Module, tokenizer: Any) -> Checkpoint:
    """A caller's model, used where it is; a ``TransformerBridge`` is run through itself."""
    module = unwrapped(module)
    is_bridge = any(c.__name__ == "TransformerBridge" for c in type(module).__mro__)
    config = config_of(module)
    if is_bridge:
        config = getattr(module.original_model, "config", None)
        tokenizer = tokenizer if tokenizer is not None else getattr(module, "tokenizer", None)
        module = module.original_model  # type: ignore[assignment]
    if is_wrapper(module):
        module = step_view(module)
    name = str(getattr(config, "_name_or_path", "") or type(module).__name__).rstrip("/").split("/")[-1]
    return Checkpoint(
        module=module,
        tokenizer=tokenizer,
        config=config,
        name=name,
        source=name,
        kind="bridge" if is_bridge else "live",
        declared=check_declared(getattr(config, "depthsig", None), repr(name)),
        model_max=model_max(config),
    )
