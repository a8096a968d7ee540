"""A signature as a run of Weights & Biases: scores as its summary, profiles as a table and curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depthsig.errors import InputError
from depthsig.exports.run_log import config_of, curves_of, scores_of
from depthsig.findings.shown import HEAD

if TYPE_CHECKING:
    from depthsig.signature import Signature

_COLUMNS = ["metric", "part", "scope", "agg", "axis", "index", "value", "ci_low", "ci_high"]


def log_to_wandb(signature: Signature, run: Any = None, *, project: str = "depthsig", name: str | None = None) -> str:
    """Scores go to the run's summary, profiles to a table and one curve each, findings to a table, options to config.

    Where it goes (a server, or a folder where ``WANDB_MODE=offline``) is what the installed ``wandb`` is set to.

    Args:
        run: a run of your own, which stays open; without one, a run is made and finished.
        project, name: of the run that is made; default name: the checkpoint's.

    Returns:
        The folder that ``wandb`` keeps the run in.

    Raises:
        InputError: where ``wandb`` is not installed (extra ``wandb``).
    """
    wandb = _wandb()
    if run is not None:
        _write(wandb, run, signature)
        return str(run.dir)
    named = name or str((signature.info.get("checkpoint") or {}).get("name") or "signature")[:128]
    made = wandb.init(project=project, name=named, job_type="depthsig", config=config_of(signature))
    try:
        _write(wandb, made, signature)
    finally:
        made.finish()
    return str(made.dir)


def _wandb() -> Any:
    try:
        import wandb  # lazily: an optional dependency
    except ImportError:
        raise InputError("wandb is not installed, which a run of it needs; pip install 'depthsig[wandb]'") from None
    return wandb


def _write(wandb: Any, run: Any, signature: Signature) -> None:
    run.summary.update({f"depthsig/{tag}": value for tag, value in scores_of(signature).items()})
    found: dict[str, Any] = {
        "depthsig/profiles": _profiles(wandb, signature),
        "depthsig/findings": _told(wandb, signature),
    }
    for curve in curves_of(signature):
        cells = list(map(list, zip(curve.index.tolist(), curve.value.tolist(), strict=True)))
        table = wandb.Table(columns=[curve.axis, "value"], data=cells)
        found[f"depthsig/{curve.tag}"] = wandb.plot.line(table, curve.axis, "value", title=curve.tag)
    run.log(found)


def _profiles(wandb: Any, signature: Signature) -> Any:
    """Every row of the profiles, undefined cells as empty ones."""
    frame = signature.profiles[_COLUMNS].astype(object)
    rows = frame.where(frame.notna(), None).to_numpy().tolist()
    return wandb.Table(columns=_COLUMNS, data=rows)


def _told(wandb: Any, signature: Signature) -> Any:
    findings = signature.findings()
    rows = [[*row.cells, one["sentence"]] for row, one in zip(findings.shown, findings, strict=True)]
    return wandb.Table(columns=[*HEAD, "sentence"], data=rows)
