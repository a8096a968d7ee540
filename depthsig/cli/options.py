"""Options that several commands share, under the names of DESIGN §9."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

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
Prompts = Annotated[str | None, typer.Option(help="Built-in prompts (`depthsig prompts`), or a .txt or .jsonl file.")]
Count = Annotated[int, typer.Option("-n", help="Use the first n prompts.")]
MaxTokens = Annotated[int, typer.Option(help="Cut prompts after this many tokens.")]
Dtype = Annotated[str | None, typer.Option(help="float32 (default), bfloat16, float16, or auto.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
DeviceMap = Annotated[str | None, typer.Option(help="Spread the model over devices, e.g. auto.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of generated prompts and of the bootstrap.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load pickled weights.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def wants_progress(no_progress: bool) -> bool:
    """Progress is for terminals only."""
    return not no_progress and sys.stderr.isatty()


def loading(
    dtype: str | None, device: str, device_map: str | None, revision: str | None,
    trust_remote_code: bool, allow_pickle: bool,
) -> dict[str, Any]:  # fmt: skip
    """Keyword arguments of :func:`depthsig.load`, defaults left out."""
    options = {
        "dtype": dtype, "device": device, "device_map": device_map, "revision": revision,
        "trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle,
    }  # fmt: skip
    return {k: v for k, v in options.items() if v not in (None, False)}


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Our warnings as one line each on standard error; other libraries' are not for the user."""
    from depthsig.errors import DepthsigWarning

    def show(message: Any, category: type, *args: Any, **kwargs: Any) -> None:
        if issubclass(category, DepthsigWarning):
            print(f"depthsig: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DepthsigWarning)
        warnings.showwarning = show
        yield


def default_out(checkpoint: str) -> Path:
    """``depthsig-results/NAME``, NAME being the last piece of what was given."""
    path = Path(checkpoint).expanduser()
    path = path.resolve() if path.exists() else path  # "." has a name, too
    return Path("depthsig-results") / (path.stem if path.suffix == ".gguf" else path.name or "model")
