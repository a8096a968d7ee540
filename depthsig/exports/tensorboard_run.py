"""A signature as a run of TensorBoard: scores, profiles as curves, findings as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthsig.errors import InputError
from depthsig.exports.model_card import model_card
from depthsig.exports.run_log import curves_of, scores_of
from depthsig.untrusted import is_folder, is_there

if TYPE_CHECKING:
    from depthsig.signature import Signature


def log_to_tensorboard(signature: Signature, to: str | Path | Any, step: int = 0) -> None:
    """Write scores at ``step``, every profile as a curve over its own axis, and the findings as text.

    Args:
        to: a new folder, or a ``SummaryWriter`` of your own, which stays open.
        step: where scores stand on the x-axis: of a checkpoint in training, its training step.

    Raises:
        InputError: where TensorBoard is not installed (extra ``tensorboard``), or the folder has something in it.
        OSError: where it cannot be written.
    """
    if not isinstance(to, (str, Path)):
        _write(to, signature, step)
        return
    Writer = _writer()
    folder = Path(to)
    if is_there(folder) and (not is_folder(folder) or any(folder.iterdir())):
        # A second file of events in it would draw every curve twice.
        raise InputError(f"{str(folder)!r} is not empty; name a new folder, or remove what is there")
    with Writer(str(folder)) as writer:
        _write(writer, signature, step)


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # lazily: an optional dependency
    except ImportError:
        raise InputError(
            "TensorBoard is not installed, which writing a run of it needs; pip install 'depthsig[tensorboard]'"
        ) from None
    return SummaryWriter


def _write(writer: Any, signature: Signature, step: int) -> None:
    for tag, value in scores_of(signature).items():
        writer.add_scalar(f"scores/{tag}", value, step)
    for curve in curves_of(signature):
        for index, value in zip(curve.index, curve.value, strict=True):
            writer.add_scalar(f"profiles by {curve.axis}/{curve.tag}", float(value), int(index))
    writer.add_text("findings", model_card(signature), step)
