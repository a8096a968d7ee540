"""Options that several commands share, under the same names."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from depthsig.errors import DepthsigWarning
from depthsig.progress import Progress

if TYPE_CHECKING:
    from depthsig.checkpoint.loading import LoadOptions

Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A local folder, a hub id, a GGUF file, or a name listed by `depthsig models`.",
    ),
]
Order = Annotated[str | None, typer.Option(help="Run the layers in this order, e.g. 0:4,4:8x4,8:12.")]
Iterations = Annotated[
    str | None,
    typer.Option(
        help="Run the loop this often: a native one, or that of --order. N, or H_cycles=3,L_cycles=2.", metavar="N"
    ),
]
Loop = Annotated[str | None, typer.Option(help="Label layers A:B as a loop.", metavar="A:B")]
Grown = Annotated[str | None, typer.Option(help="Label layers A:B as grown in blocks of b.", metavar="A:B/b")]
Prompts = Annotated[
    str | None,
    typer.Option(help="Built-in prompts (`depthsig prompts`), a file (.txt, .jsonl, .json, .csv, .parquet), or text."),
]
Count = Annotated[int, typer.Option("-n", help="Use the first n prompts.")]
MaxTokens = Annotated[int, typer.Option(help="Cut prompts after this many tokens.")]
ChatTemplate = Annotated[bool, typer.Option("--chat-template", help="Use the tokenizer's template.")]
Plugin = Annotated[
    list[Path] | None, typer.Option(help="Import a file of your own that declares metrics.", metavar="FILE.py")
]
Memory = Annotated[str, typer.Option(help="Memory to use beside the model.")]
BatchSize = Annotated[int | None, typer.Option(help="At most this many prompts at once.")]
Dtype = Annotated[str | None, typer.Option(help="float32 (default), bfloat16, float16, or auto.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
DeviceMap = Annotated[str | None, typer.Option(help="Spread the model over devices, e.g. auto.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of generated prompts and of the bootstrap.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load pickled weights.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no progress.")]
FREE = "depthsig-results/{}, with a number where that is taken"
"""Where results go that nobody named a folder for."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def progress(no_progress: bool) -> Progress:
    """Bars in a terminal; elsewhere a line every half minute, which a quick run never reaches."""
    return Progress(not no_progress)


def loading(
    dtype: str | None, device: str, device_map: str | None, revision: str | None,
    trust_remote_code: bool, allow_pickle: bool,
) -> LoadOptions:  # fmt: skip
    """The record of how a checkpoint is opened."""
    from depthsig.checkpoint.loading import LoadOptions  # start-up time

    return LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle)


def refuse_early(
    checkpoint: str, load: LoadOptions, order: str | None = None, loop: str | None = None, grown: str | None = None,
    iterations: str | None = None, **asked: Any,
) -> None:  # fmt: skip
    """Answer mistakes before what is needed to load a model is imported, which takes seconds.

    Args:
        asked: as in :class:`~depthsig.commands.early.Asked`.
    """
    from depthsig.commands import early  # start-up time
    from depthsig.plan.declared import PlanOptions  # start-up time

    early.refuse_early(checkpoint, load, PlanOptions(order, loop, grown, iterations), early.Asked(**asked))
    _import_models()


def _import_models() -> None:
    """Import what opens models, without the looks for garbage among its many objects, which find none."""
    looks = gc.isenabled()
    gc.disable()
    try:
        import depthsig.model  # noqa: F401  # start-up time
    finally:
        if looks:
            gc.enable()


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Our warnings as one line each on standard error; other libraries' are not for the user."""

    def show(message: Any, category: type, *args: Any, **kwargs: Any) -> None:
        if issubclass(category, DepthsigWarning):
            print(f"depthsig: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DepthsigWarning)
        warnings.showwarning = show
        yield


@dataclass
class Places:
    """The folder that a command writes to: the one that was named, or one of its own.

    Attributes:
        named: as it was given. target: the folder, once it is known.
        replaced: what is lost of another analysis, in words; empty if nothing.
    """

    named: Path | None
    record: str = "signature.json"
    target: Path = Path()
    replaced: str = ""

    def __call__(self, name: str, identity: str) -> Path:
        """Choose the folder for a result of this name and identity.

        Raises:
            InputError: if it cannot be written.
        """
        from depthsig.signature.folders.choosing import IDENTITY, settle  # start-up time
        from depthsig.signature.folders.kinds import record_in  # start-up time

        self.target = settle(name, identity, self.record) if self.named is None else self.named
        before = record_in(self.target / self.record)
        if before and before.get(IDENTITY) != identity:
            self.replaced = f" (in the place of another result, of {before.get('created', 'unknown date')})"
        return self.target
