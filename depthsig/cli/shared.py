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

from depthsig.cli.options import candidates
from depthsig.cli.options.browser import open_page
from depthsig.cli.options.command import HOW, OUTPUT, WHAT, WHERE, MissingArgument, configured, settle
from depthsig.cli.options.printing import print_json
from depthsig.errors import DepthsigWarning
from depthsig.progress import Progress

if TYPE_CHECKING:
    from depthsig.checkpoint.loading import LoadOptions

__all__ = [
    "HOW", "OUTPUT", "WHAT", "WHERE", "AllowPickle", "BatchSize", "ChatTemplate", "Checkpoint", "Config",
    "Count", "Device", "DeviceMap", "Dtype", "Grown", "Iterations", "Json", "Loop", "MaxTokens", "Memory",
    "MissingArgument", "NoProgress", "Open", "Order", "Places", "Plugin", "Probes", "Prompts", "Revision", "Seed",
    "Shots", "Stream", "TrustRemoteCode", "candidates", "loading", "open_page", "plain_warnings", "print_json",
    "progress", "refuse_early", "results", "settle",
]  # fmt: skip

Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A local folder, a hub id, a GGUF file, or a name listed by `depthsig models`.",
        autocompletion=candidates.checkpoints,
    ),
]
Order = Annotated[
    str | None, typer.Option(help="Run the layers in this order, e.g. 0:4,4:8x4,8:12.", rich_help_panel=WHAT)
]
Iterations = Annotated[
    str | None,
    typer.Option(
        help="Run the loop this often: a native one, or that of --order. N, or H_cycles=3,L_cycles=2.", metavar="N",
        rich_help_panel=WHAT,
    ),
]  # fmt: skip
Loop = Annotated[str | None, typer.Option(help="Label layers A:B as a loop.", metavar="A:B", rich_help_panel=WHAT)]
Grown = Annotated[
    str | None,
    typer.Option(help="Label layers A:B as grown in blocks of b.", metavar="A:B/b", rich_help_panel=WHAT),
]
Prompts = Annotated[
    str | None,
    typer.Option(
        help="Built-in prompts (`depthsig prompts`), a file (.txt, .jsonl, .json, .csv, .parquet), or text.",
        autocompletion=candidates.prompt_sets,
        rich_help_panel=WHAT,
    ),
]
Count = Annotated[int, typer.Option("-n", help="Use the first n prompts.", rich_help_panel=WHAT)]
MaxTokens = Annotated[int, typer.Option(help="Cut prompts after this many tokens.", rich_help_panel=WHAT)]
ChatTemplate = Annotated[
    bool, typer.Option("--chat-template", help="Use the tokenizer's template.", rich_help_panel=WHAT)
]
Shots = Annotated[
    int, typer.Option(help="Solved examples before each prompt, 0 to 8.", metavar="K", rich_help_panel=WHAT)
]
Probes = Annotated[
    int,
    typer.Option(help="Of so many positions a prompt a loop's spectral radius is measured.", rich_help_panel=WHAT),
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(help="Import a file of your own that declares metrics.", metavar="FILE.py", rich_help_panel=WHAT),
]

Seed = Annotated[int, typer.Option(min=0, help="Seed of generated prompts and of the bootstrap.", rich_help_panel=HOW)]
Config = Annotated[
    Path | None,
    typer.Option(
        help="Take options from a file, as the run.toml of a result; those given here win.", metavar="FILE.toml",
        callback=configured, is_eager=True, rich_help_panel=HOW,
    ),
]  # fmt: skip

Memory = Annotated[str, typer.Option(help="Memory to use beside the model.", rich_help_panel=WHERE)]
BatchSize = Annotated[int | None, typer.Option(help="At most this many prompts at once.", rich_help_panel=WHERE)]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32 (default), bfloat16, float16, or auto.", autocompletion=candidates.dtypes, rich_help_panel=WHERE
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...", rich_help_panel=WHERE)]
DeviceMap = Annotated[str | None, typer.Option(help="Spread the model over devices, e.g. auto.", rich_help_panel=WHERE)]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.", rich_help_panel=WHERE)]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.", rich_help_panel=WHERE)
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream", help="Read layers as they are needed: two in memory, for models larger than it.",
        rich_help_panel=WHERE,
    ),
]  # fmt: skip
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load pickled weights.", rich_help_panel=WHERE)]

FREE = "depthsig-results/{}, with a number where that is taken"
"""Where results go that nobody named a folder for."""


def results(name: str, what: str = "Folder for tables, figures and the report.") -> Any:
    """``--out`` of a command, whose results go to ``name`` where nobody names a folder."""
    return typer.Option(help=what, show_default=FREE.format(name), rich_help_panel=OUTPUT)


NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no progress.", rich_help_panel=OUTPUT)]
Open = Annotated[bool, typer.Option("--open", help="Open the report in the browser when done.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.", rich_help_panel=OUTPUT)]


def progress(no_progress: bool) -> Progress:
    """Bars in a terminal; elsewhere a line every half minute, which a quick run never reaches."""
    return Progress(not no_progress)


def loading(
    dtype: str | None, device: str, device_map: str | None, revision: str | None,
    trust_remote_code: bool, allow_pickle: bool, stream: bool = False,
) -> LoadOptions:  # fmt: skip
    """The record of how a checkpoint is opened."""
    from depthsig.checkpoint.loading import LoadOptions  # start-up time

    return LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle, stream)


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
