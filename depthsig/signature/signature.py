"""A signature: the tables of one analysis with their provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from depthsig.arguments import check_arguments
from depthsig.errors import DepthsigError, InputError, near, shown
from depthsig.metrics import Metric
from depthsig.metrics.registry import with_own
from depthsig.metrics.rules import SHOWN_TOKENS
from depthsig.signature import storage
from depthsig.signature.consistency import wrong_control
from depthsig.signature.folders.choosing import IDENTITY, identity_of, settle
from depthsig.signature.folders.kinds import CONTROL, FINDINGS
from depthsig.signature.folders.writing import writing
from depthsig.signature.holding import HeldMetrics, held_metrics, missing, rows_of, to_dataset, told, told_html
from depthsig.signature.reading import read_given, read_tables
from depthsig.signature.records import STEP_COLUMNS, RecordedStep
from depthsig.signature.schema import FILES, TABLES
from depthsig.signature.tabular import conform
from depthsig.terms import NONE
from depthsig.untrusted import is_there

if TYPE_CHECKING:
    import xarray

    from depthsig.findings.shown import Findings


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class Signature:
    """What one analysis measured, saved and loaded without its model.

    Attributes:
        info: what ``signature.json`` holds: checkpoint, plan, certificates, options, versions.
        profiles, matrices, scores, prompts, samples_table, tokens_table: the tables, with the
            columns of :data:`depthsig.signature.schema.TABLES`.
        given: what was given as objects, by the file of the results folder that keeps it (:data:`GIVEN`): prompts, and
            calibration prompts, as ``.jsonl``.
        control: the same measurement of the same architecture with re-initialised weights, where
            it was made; kept in ``control/`` of the results folder.
    """

    info: dict[str, Any]
    profiles: pd.DataFrame = field(default_factory=_empty, repr=False)
    matrices: pd.DataFrame = field(default_factory=_empty, repr=False)
    scores: pd.DataFrame = field(default_factory=_empty, repr=False)
    prompts: pd.DataFrame = field(default_factory=_empty, repr=False)
    samples_table: pd.DataFrame = field(default_factory=_empty, repr=False)
    tokens_table: pd.DataFrame = field(default_factory=_empty, repr=False)
    given: Mapping[str, str] = field(default_factory=dict, repr=False)
    control: Signature | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, attribute in _ATTRIBUTES.items():
            object.__setattr__(self, attribute, conform(getattr(self, attribute), TABLES[name], FILES[name]))

    @cached_property
    def entries(self) -> Mapping[str, Metric]:
        """Every metric that its tables may hold, by id: the built-in ones, and its user's own as they were declared."""
        return with_own(self.info.get("metrics", []))

    @property
    def plan(self) -> pd.DataFrame:
        """The steps that were run, one row each."""
        steps = self.info.get("plan", [])
        there = [
            name for name in RecordedStep.model_fields if name in STEP_COLUMNS or any(name in step for step in steps)
        ]
        frame = pd.DataFrame(steps).reindex(columns=there)
        for column in frame.columns.difference(["span", "boundary"]):
            frame[column] = frame[column].astype("Int64")
        return frame

    @property
    def metrics(self) -> HeldMetrics:
        """The ids of the metrics and scores that it holds: a list, with ``.of("profile")`` and ``.frame()``."""
        return held_metrics(self)

    def rows(self, metric: str) -> pd.DataFrame:
        """Everything that a figure shows, as a table.

        Args:
            metric: the id of a metric or score, of which all rows are given; or a figure's name, as its file has it:
                ``plan``, ``early_exit``, ``period.skip.output_l2.layer.current``, ``skip.effect.layer.current``.

        Raises:
            InputError: if nothing of it was measured; the message says what was.
        """
        check_arguments(Signature.rows, locals())
        if not isinstance(metric, str):
            raise InputError(f"a metric or figure is named by a string; found {shown(metric)}")
        if metric in self.metrics:
            return rows_of(self, metric)
        from depthsig.report.figure_rows import rows_behind  # lazily: figures read signatures

        found = rows_behind(self, metric)
        return rows_of(self, metric) if found is None or found.empty else found

    def to_xarray(self) -> xarray.Dataset:
        """Profiles and matrices as one dataset, a variable a metric.

        Dimensions are ``part``, ``scope``, ``agg`` and ``index``, or ``row`` and ``col``; coordinates are the
        intervals (``lens.kl.ci_low``, ``lens.kl.ci_high``) and, along ``index`` for metrics over depths and steps,
        ``layer``, ``iteration``, ``block``, ``phase`` (-1 where one does not apply) and ``span``.

        Raises:
            InputError: where xarray is not installed (extra ``xarray``).
        """
        return to_dataset(self)

    def profile(
        self, metric: str, part: str | None = None, scope: str | None = None, agg: str | None = None
    ) -> pd.DataFrame:
        """Rows of ``profiles.csv`` of one metric, ordered by index.

        Where ``part``, ``scope`` or ``agg`` are left out, ``layer``, ``current`` and ``mean`` are
        taken if they are there.

        Raises:
            InputError: if nothing of it was measured; the message says what was.
        """
        check_arguments(Signature.profile, locals())
        return _choose(self.profiles, metric, part, scope, agg, self).sort_values("index", ignore_index=True)

    def matrix(
        self, metric: str, part: str | None = None, scope: str | None = None, agg: str | None = None
    ) -> pd.DataFrame:
        """A matrix as a table of rows x columns, NaN where a cell is undefined."""
        check_arguments(Signature.matrix, locals())
        frame = _choose(self.matrices, metric, part, scope, agg, self)
        return frame.pivot(index="row", columns="col", values="value")

    def score(
        self, score: str, metric: str | None = None, part: str | None = None, scope: str | None = None,
        agg: str | None = None,
    ) -> float:  # fmt: skip
        """The value of one score; NaN where it is undefined."""
        check_arguments(Signature.score, locals())
        frame = self.scores.rename(columns={"score": "metric", "metric": "of"})
        if metric is not None:
            frame = frame[frame["of"] == metric]
        return float(_choose(frame, score, part, scope, agg, self)["value"].iloc[0])

    def samples(
        self, metric: str, part: str | None = None, scope: str | None = None, agg: str | None = None
    ) -> pd.DataFrame:
        """Per-prompt values of one metric."""
        check_arguments(Signature.samples, locals())
        return _choose(self.samples_table, metric, part, scope, agg, self).reset_index(drop=True)

    def tokens(self, metric: str = SHOWN_TOKENS, prompt: int | None = None) -> pd.DataFrame:
        """Token-level values of one metric, of one prompt or of all that were kept."""
        check_arguments(Signature.tokens, locals())
        frame = self.tokens_table[self.tokens_table["metric"] == metric]
        if frame.empty:
            raise InputError(missing(metric, self.tokens_table["metric"]) + self._elsewhere(metric))
        return frame if prompt is None else frame[frame["prompt"] == prompt]

    def _elsewhere(self, metric: Any) -> str:
        """Where to look for a metric that another table has, as the end of a message."""
        have = held_metrics(self)
        if metric not in have:
            return ""
        ways = {"profile": ".profile", "matrix": ".matrix", "token": ".tokens", "score": ".score"}
        return "; look at " + next(f"{way}({metric!r})" for kind, way in ways.items() if metric in have.of(kind))

    def findings(self) -> Findings:
        """What the numbers say about the model: a dozen claims, each judged beside a reference.

        Returns:
            A list of records with ``id``, ``sentence``, ``metric``, ``value``, ``ci_low``, ``ci_high``,
            ``reference`` and ``verdict`` (``holds``, ``does not hold`` or ``open``), which shows itself as a table.
        """
        from depthsig.findings import findings_of  # lazily: rules read signatures

        return findings_of(self)

    def plot(self, metric: str, ax: Any = None, **choice: Any) -> Any:
        """Draw one metric; returns the axes (the figure is ``ax.figure``)."""
        check_arguments(Signature.plot, locals())
        from depthsig.report.gallery import plot_metric  # lazily: computing never plots

        return plot_metric(self, metric, ax=ax, **choice)

    def save(self, directory: str | Path, *, figures: bool = True) -> Path:
        """Write the results folder, whole or not at all; an older result is replaced.

        Args:
            figures: with the page, and the figures that it shows; without them, the tables alone.

        Raises:
            InputError: if the folder is no result of ours, or cannot be written.

        Returns:
            The folder.
        """
        if figures:
            self.report(directory)
            return Path(directory)
        with writing(directory) as partial:
            self.write(partial)
        return Path(directory)

    def report(self, directory: str | Path | None = None, *, figures: Literal["page", "all"] = "page") -> Path:
        """Write the results folder with its page, as :meth:`save` does, and say where the page is.

        Args:
            directory: default: a folder of its own in ``depthsig-results``, named by the checkpoint; other results
                there are left alone.
            figures: files of those figures that the page shows, one each; or of ``all``, each as PNG, SVG and PDF.

        Raises:
            InputError: if the folder is no result of ours, or cannot be written.

        Returns:
            The path of the page.
        """
        from depthsig.report import save  # lazily: computing never plots

        if directory is not None:
            return save(self, directory, figures)
        # With what makes it this result in its record, so that it goes to the same folder once more.
        own = replace(self, info={**self.info, IDENTITY: self.info.get(IDENTITY) or identity_of(self.info)})
        return save(own, own._own_folder(), figures)

    def _own_folder(self) -> Path:
        """Where its page goes that nobody named a folder for: its own result there, or the first free name."""
        name = re.sub(r"[^\w.+-]+", "_", str(self.info.get("checkpoint", {}).get("name", "")))[:80].lstrip("._")
        return settle(name or "signature", str(self.info[IDENTITY]))

    def to_card(self, into: str | Path | None = None) -> str:
        """A section for a Hugging Face model card, in Markdown; put into a card too, where one is named.

        Args:
            into: a README.md: the section goes between ``<!-- depthsig:start -->`` and ``<!-- depthsig:end -->``, or
                after the end of a card that has no such lines.

        Raises:
            InputError: if the card cannot be read.
        """
        check_arguments(Signature.to_card, locals())
        from depthsig.exports.model_card import model_card, put_into  # lazily: it reads findings

        section = model_card(self)
        if into is not None:
            put_into(into, section)
        return section

    def to_tensorboard(self, to: Any, *, step: int = 0) -> None:
        """Write scores, profiles and findings as a run of TensorBoard.

        Args:
            to: a new folder, or a ``SummaryWriter``, which stays open.
            step: where scores stand: of a checkpoint in training, its training step.

        Raises:
            InputError: where TensorBoard is not installed (extra ``tensorboard``), or the folder is not empty.
        """
        check_arguments(Signature.to_tensorboard, locals())
        from depthsig.exports.tensorboard_run import log_to_tensorboard  # lazily: it reads findings

        log_to_tensorboard(self, to, step)

    def to_wandb(self, run: Any = None, *, project: str = "depthsig", name: str | None = None) -> str:
        """Write scores, profiles and findings as a run of Weights & Biases; returns the run's folder.

        Args:
            run: a run of your own, which stays open; without one, a run is made and finished.
            project, name: of the run that is made.

        Raises:
            InputError: where ``wandb`` is not installed (extra ``wandb``).
        """
        check_arguments(Signature.to_wandb, locals())
        from depthsig.exports.wandb_run import log_to_wandb  # lazily: it reads findings

        return log_to_wandb(self, run, project=project, name=name)

    def write(self, folder: Path) -> None:
        """Write ``signature.json``, the tables and the findings into a folder that exists."""
        self._write_tables(folder)
        self.write_findings(folder)
        for name, text in self.given.items():
            (folder / name).write_text(text, encoding="utf-8")
        if self.control is not None:
            (folder / CONTROL).mkdir(exist_ok=True)
            # What is put there says that it is a control, so that nothing else is taken for one.
            said = {"control": "as it was given", **self.control.info}
            replace(self.control, info=said)._write_tables(folder / CONTROL)

    def write_findings(self, folder: Path) -> None:
        """Write ``findings.json`` into a folder that exists."""
        storage.write_record(folder / FINDINGS, self.findings())

    def _write_tables(self, folder: Path) -> None:
        tables = {name: getattr(self, attribute) for name, attribute in _ATTRIBUTES.items()}
        storage.write_tables(folder, self.info, tables)

    @classmethod
    def load(cls, directory: str | Path) -> Signature:
        """Read a results folder.

        Raises:
            InputError: naming what is missing or damaged.
        """
        check_arguments(cls.load, locals())
        folder = Path(directory)
        found = replace(cls._read(directory), given=read_given(folder))
        if not is_there(folder / CONTROL):
            return found
        inside = folder / CONTROL
        if is_there(inside / CONTROL):
            raise InputError(f"{str(inside)!r} is damaged: the result of a control has no control of its own")
        control = cls._read(inside)
        wrong = wrong_control(found.info, found.prompts, control.info, control.prompts)
        if wrong:
            raise InputError(f"{str(inside)!r} is damaged: {wrong}")
        return replace(found, control=control)

    @classmethod
    def _read(cls, directory: str | Path) -> Signature:
        """A results folder without its control."""
        info, tables = read_tables(directory)
        return cls(info, **{_ATTRIBUTES[name]: frame for name, frame in tables.items()})

    def __repr__(self) -> str:
        return "\n".join([*told(self), *("" if self._found is None else str(self._found)).splitlines()])

    def _repr_html_(self) -> str:
        return told_html(self, "" if self._found is None else self._found._repr_html_())

    @cached_property
    def _found(self) -> Findings | None:
        """The findings, which are shown whenever a cell ends in a signature; None where they cannot be judged."""
        try:
            return self.findings()
        except (DepthsigError, LookupError, TypeError, ValueError):
            return None  # of a record that somebody put together, which is to be looked at all the more


_ATTRIBUTES = {
    "profiles": "profiles", "matrices": "matrices", "scores": "scores", "prompts": "prompts",
    "samples": "samples_table", "tokens": "tokens_table",
}  # fmt: skip
_DEFAULTS = {"part": "layer", "scope": "current", "agg": "mean"}


def _choose(
    frame: pd.DataFrame, metric: str, part: str | None, scope: str | None, agg: str | None, signature: Signature
) -> pd.DataFrame:
    rows = frame[frame["metric"] == metric]
    if rows.empty:
        raise InputError(missing(metric, frame["metric"]) + signature._elsewhere(metric))
    for column, value in (("part", part), ("scope", scope), ("agg", agg)):
        have = list(dict.fromkeys(rows[column]))
        value = NONE if value == "" else value
        if value is None:
            value = _DEFAULTS[column] if _DEFAULTS[column] in have else have[0]
        if value not in have:
            raise InputError(
                f"{metric!r} has no {column} {value!r}; it has {', '.join(map(repr, have))}{near(value, have)}"
            )
        rows = rows[rows[column] == value]
    return rows
