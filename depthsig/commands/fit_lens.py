"""``fit-lens``: a lens for a model: affine maps fitted to its final output, or Jacobians."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthsig.arguments import check_arguments
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.early import Asked
from depthsig.commands.lenses.fitted import FittedLens
from depthsig.commands.lenses.jacobian_fit import JACOBIAN_PROMPTS, SKIP, TARGET, Averaged, fit_jacobian
from depthsig.commands.lenses.numbers import DECAY, MAX_TOKENS, RATE, STEPS, check_kind, check_numbers
from depthsig.commands.lenses.ready import ReadyFit
from depthsig.commands.lenses.training import Schedule
from depthsig.commands.lenses.tuned_fit import fit_tuned
from depthsig.commands.opening import Given, default_prompts, token_prompts
from depthsig.engine.memory import parse_memory
from depthsig.errors import DepthsigWarning, InputError
from depthsig.plan.declared import Iterations, PlanOptions
from depthsig.progress import Progress
from depthsig.prompts import BUILTIN, Prompt, load_prompts
from depthsig.prompts.builtin import DEFAULT_N
from depthsig.prompts.primitives import TASKS
from depthsig.signature.folders.kinds import LENS
from depthsig.signature.folders.writing import ensure_writable

GENERATED = 1000
"""Generated prompts to fit on, where their number is left to us."""

Place = Callable[[str, str], "str | Path"]
"""The folder of a lens, by its name and identity."""


def fit_lens(
    model: Any, prompts: Any = None, *, tokenizer: Any = None, kind: str = "tuned", n: int | None = None,
    max_tokens: int | None = None, chat_template: bool = False, steps: int = STEPS, lr: float = RATE,
    weight_decay: float = DECAY, skip_first: int = SKIP, target: str = TARGET,
    order: str | None = None, iterations: Iterations | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False,
    memory: str | int = "4GiB", batch_size: int | None = None, seed: int = 0, resume: bool = False,
    out: str | Path | None = None, progress: bool | Progress | None = None,
) -> FittedLens:  # fmt: skip
    """Fit a lens: one affine map a depth, or one Jacobian a depth.

    A ``tuned`` lens is fitted to the model's final output (Belrose et al. 2303.08112). A ``jacobian`` lens is
    J_d = mean over prompts of (1/|V|) Σ_{t∈V} Σ_{t'∈V, t'≥t} ∂h_S,t'/∂h_d,t (Gurnee et al. 2026), V the positions
    after ``skip_first`` and without the last; ``.lens.jacobians`` are S matrices [width out, width in] in float32,
    d the state that enters step d, so that a loop has one a pass. Every prompt counts alike.

    Args:
        model: a :class:`~depthsig.model.Model`, or anything that :func:`depthsig.load` takes.
        prompts: as for :func:`depthsig.analyze`. Of built-in ones the first 20, which ``analyze``
            takes, are left out. For a tuned lens a fifth of them is held out; a Jacobian lens uses all.
        tokenizer: for a live model.
        kind: ``tuned`` or ``jacobian``.
        n: how many of the prompts; default all, and of generated ones 1,000; for ``jacobian`` 100 built-in ones.
        max_tokens: cut prompts after this many tokens; default 256, for ``jacobian`` 128.
        chat_template: use the tokenizer's template.
        steps: of 256 random tokens; 0 leaves it at the ridge regressions. Of a tuned lens.
        lr, weight_decay: of the optimiser, in its usual units.
        skip_first: of a Jacobian lens: leading positions left out.
        target: of a Jacobian lens: ``end``, the state that leaves the last step, before the final norm; or
            ``pass``, what leaves the end of the pass of a loop that the step belongs to (Wang & Reid 2609.01924).
        order: run the layers in this order, as ``0:4,4:8x4,8:12``.
        iterations: run a loop this often: a number, or ``{"H_cycles": 3}``.
        forward: for live models that are not called as ``module(ids)``: ``f(module, ids)``.
        dtype, device, device_map: how and where it is loaded, as for :func:`depthsig.analyze`.
        revision, trust_remote_code, allow_pickle: as for :func:`depthsig.analyze`.
        memory: for the states that maps are fitted to, or for sums of Jacobians (half) and what gradients need
            (half); where these do not fit, it goes in several turns. The maps take about 16 bytes a weight besides.
        batch_size: at most this many prompts at once.
        seed: of generated prompts, of what is held out, and of the tokens of each step.
        resume: go on from what an interrupted Jacobian fit with the same ``out`` left.
        progress: show how far it is (the default): bars, or a line every half minute.
        out: folder to save the lens in; checked before anything is computed.

    Raises:
        InputError: bad input or options. CertificateError: the numbers could not be trusted.
        UnsupportedModelError: for Jacobians of a model that computes without gradients, or is not causal.
    """
    check_arguments(fit_lens, locals())
    if out is not None:
        ensure_writable(out, LENS)
    loading = LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    given = Given(model, tokenizer, loading, PlanOptions(order, iterations=iterations), forward)
    schedule, averaged = Schedule(steps, lr, weight_decay, seed), Averaged(skip_first, target)
    job = LensJob(given, prompts, kind, n, max_tokens, chat_template, schedule, averaged, memory, batch_size)
    fitted = job.run(None if out is None else lambda *_: out, resume, Progress.of(progress))
    if out is not None:
        fitted.save(out)
        fitted = replace(fitted, lens=replace(fitted.lens, source=str(out)))
    return fitted


@dataclass(frozen=True)
class LensJob:
    """A lens that is to be fitted, with the options of :func:`fit_lens`, which are checked when it is made."""

    given: Given
    prompts: Any
    kind: str
    n: int | None
    max_tokens: int | None
    chat_template: bool
    schedule: Schedule
    averaged: Averaged
    memory: str | int
    batch_size: int | None

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, or belong to the other kind.

        Raises:
            InputError: naming the option.
        """
        plan, mean = self.schedule, self.averaged
        tuned = {"steps": plan.steps, "lr": plan.rate, "weight_decay": plan.decay}
        check_kind(self.kind, **tuned, skip_first=mean.skip, target=mean.target)
        numbers = {"n": self.n, "max_tokens": self.max_tokens, "batch_size": self.batch_size}
        check_numbers(self.kind, **tuned, **numbers, skip_first=mean.skip)
        parse_memory(self.memory)

    def run(self, place: Place | None, resume: bool, show: Progress) -> FittedLens:
        """Fit it.

        Args:
            place: the folder that it will be saved in, asked before the fit; None: none.
            resume: go on from unfinished work in that folder.
        """
        if resume and self.kind == "tuned":
            raise InputError("--resume goes with --kind jacobian; a tuned lens is fitted in one go")
        ready = self._ready(show)
        memory = parse_memory(self.memory)
        if self.kind == "jacobian":
            return fit_jacobian(ready, self.averaged, memory, place, resume, show)
        fitted = fit_tuned(ready, self.schedule, self.batch_size, memory, show)
        if place is not None:
            place(f"{fitted.name}-lens", ready.identity)
        return fitted

    def _ready(self, show: Progress) -> ReadyFit:
        seed = self.schedule.seed
        model = self.given.open(seed, show, Asked(self.prompts, self.n, seed))
        source = default_prompts(model) if self.prompts is None else self.prompts
        texts, name = fitting_prompts(source, self._count(source), seed)
        most = MAX_TOKENS[self.kind] if self.max_tokens is None else self.max_tokens
        tokens = token_prompts(texts, model, max_tokens=most, chat_template=self.chat_template)
        return ReadyFit(model, tokens, self.kind, self._asked(most, name) | model.declared.record())

    def _count(self, source: Any) -> int | None:
        """How many prompts, where their number is left to us."""
        named = isinstance(source, (str, Path)) and str(source) in BUILTIN
        return JACOBIAN_PROMPTS if self.n is None and named and self.kind == "jacobian" else self.n

    def _asked(self, max_tokens: int, name: str) -> dict[str, Any]:
        plan, mean = self.schedule, self.averaged
        shared = {"n": self.n, "max_tokens": max_tokens, "chat_template": self.chat_template}
        if self.kind == "jacobian":
            return {"kind": self.kind, **shared, "skip_first": mean.skip, "target": mean.target, "seed": plan.seed,
                    "prompts": name}  # fmt: skip
        return {**shared, "steps": plan.steps, "lr": plan.rate, "weight_decay": plan.decay, "seed": plan.seed,
                "prompts": name}  # fmt: skip


def fitting_prompts(source: Any, n: int | None, seed: int) -> tuple[list[Prompt], str]:
    """Prompts to fit on, and their name; of built-in ones without the first 20, which are for analyses."""
    named = isinstance(source, (str, Path))
    if not named or str(source) not in BUILTIN:
        return load_prompts(source, n=n, seed=seed), str(source) if named else "given"
    wanted = DEFAULT_N + (GENERATED if n is None else n) if source in TASKS else None
    every = load_prompts(source, n=wanted or len(load_prompts(source, n=None)), seed=seed)
    first = {p.full for p in every[:DEFAULT_N]}
    found = [p for p in every[DEFAULT_N:] if p.full not in first][:n]
    if n is not None and len(found) < n:
        message = f"{source} has {len(found)} prompts to fit on (the first {DEFAULT_N} are for analyses), not {n}"
        warnings.warn(message, DepthsigWarning, stacklevel=3)
    return found, str(source)
