"""``fit-lens``: a tuned lens for a model, fitted to its own final output."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from depthsig.arguments import check_arguments
from depthsig.checkpoint.lens_folder import LENS_TYPE
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.translators import SCHEMA, TunedLens, write_lens
from depthsig.commands.early import Asked
from depthsig.commands.lenses.checked import head_hash
from depthsig.commands.lenses.numbers import check_numbers
from depthsig.commands.lenses.training import Fit, HeldOut, Schedule, Trainer, capture
from depthsig.commands.opening import Given, default_prompts, token_prompts
from depthsig.engine.certificates import certify, judge
from depthsig.engine.memory import clean_tokens, parse_memory
from depthsig.errors import DepthsigWarning, InputError
from depthsig.model import Model
from depthsig.plan.declared import Iterations, PlanOptions
from depthsig.progress import Progress
from depthsig.prompts import BUILTIN, Prompt, TokenPrompt, load_prompts
from depthsig.prompts.builtin import DEFAULT_N
from depthsig.prompts.primitives import TASKS
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.folders.kinds import LENS
from depthsig.signature.folders.writing import ensure_writable, writing
from depthsig.signature.provenance import versions
from depthsig.untrusted import made_visible

STEPS, RATE, DECAY = 100, 0.3, 1e-3
GENERATED = 1000
"""Generated prompts to fit on, where their number is left to us."""

HELD_OUT = 0.2
HELD_OUT_TOKENS = 512
"""Held-out tokens that maps are judged on: enough, since differences are paired, and a readout of all costs."""


@dataclass(frozen=True)
class FittedLens:
    """A fitted tuned lens with its record.

    Attributes:
        lens: to give to :func:`depthsig.analyze` as ``lens=``.
        depths: one row a depth 0..S−1: ``layer``, held-out KL(p‖q_d) in nats with the ``plain``
            and the ``tuned`` lens, and ``kept``, where the map comes from.
        record: what ``lens.json`` says. name: of the checkpoint.
    """

    lens: TunedLens
    depths: pd.DataFrame
    record: dict[str, Any]
    name: str = "model"

    def save(self, out: str | Path, draw: Callable[[FittedLens, Path], Any] | None = None) -> Path:
        """Write the lens in tuned-lens' own format (``config.json``, ``params.pt``) with ``lens.json``.

        Args:
            draw: puts a page into the folder that it is given.

        Raises:
            InputError: if the folder is no result of ours, or cannot be written.
        """
        with writing(out, LENS) as partial:
            write_lens(self.lens, partial, self.record)
            if draw is not None:
                draw(self, partial)
        return Path(out)

    def __repr__(self) -> str:
        uses = "  .lens is what analyze takes, .depths its table, .save(DIR) keeps it"
        return f"FittedLens of {self.name[:80]}: {self}\n{uses}"

    def __str__(self) -> str:
        plain, tuned = self.depths["plain"].mean(), self.depths["tuned"].mean()
        return (
            f"tuned lens of {len(self.lens)} translators: held-out KL from {plain:.3g} to {tuned:.3g} nats over depths"
        )


def fit_lens(
    model: Any, prompts: Any = None, *, tokenizer: Any = None, n: int | None = None, max_tokens: int = 256,
    chat_template: bool = False, steps: int = STEPS, lr: float = RATE, weight_decay: float = DECAY,
    order: str | None = None, iterations: Iterations | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False,
    memory: str | int = "4GiB", batch_size: int | None = None, seed: int = 0, out: str | Path | None = None,
    progress: bool | Progress | None = None,
) -> FittedLens:  # fmt: skip
    """Fit one affine map a depth to the model's final output (Belrose et al. 2303.08112).

    Args:
        model: a :class:`~depthsig.model.Model`, or anything that :func:`depthsig.load` takes.
        prompts: as for :func:`depthsig.analyze`. Of built-in ones the first 20, which ``analyze``
            takes, are left out. A fifth of them is held out.
        tokenizer: for a live model.
        n: how many of the prompts; default all, and 1,000 generated ones.
        max_tokens: cut prompts after this many tokens.
        chat_template: use the tokenizer's template.
        steps: of 256 random tokens; 0 leaves it at the ridge regressions.
        lr, weight_decay: of the optimiser, in its usual units.
        order: run the layers in this order, as ``0:4,4:8x4,8:12``.
        iterations: run a loop this often: a number, or ``{"H_cycles": 3}``.
        forward: for live models that are not called as ``module(ids)``: ``f(module, ids)``.
        dtype, device, device_map: how and where it is loaded, as for :func:`depthsig.analyze`.
        revision, trust_remote_code, allow_pickle: as for :func:`depthsig.analyze`.
        memory: for the states that maps are fitted to; where they do not fit, they are computed
            in several turns. The maps themselves take about 16 bytes a weight besides.
        batch_size: at most this many prompts at once.
        seed: of generated prompts, of what is held out, and of the tokens of each step.
        progress: show how far it is (the default): bars, or a line every half minute.
        out: folder to save the lens in; checked before anything is computed.

    Raises:
        InputError: bad input or options. CertificateError: the numbers could not be trusted.
    """
    check_arguments(fit_lens, locals())
    started = time.perf_counter()
    check_numbers(n=n, max_tokens=max_tokens, steps=steps, lr=lr, weight_decay=weight_decay, batch_size=batch_size)
    budget = parse_memory(memory)
    if out is not None:
        ensure_writable(out, LENS)
    show = Progress.of(progress)
    loading = LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    given = Given(model, tokenizer, loading, PlanOptions(order, iterations=iterations), forward)
    opened = given.open(seed, show, Asked(prompts, n, seed))
    texts, name = fitting_prompts(default_prompts(opened) if prompts is None else prompts, n, seed)
    ready = token_prompts(texts, opened, max_tokens=max_tokens, chat_template=chat_template)
    train, held = _split(ready, seed)
    certificates = certify(opened, [p.ids for p in ready])
    verdict = judge(certificates)
    size = batch_size if verdict.pad else 1
    fits = _fitted(opened, train, held, budget, size, Schedule(steps, lr, weight_decay, seed), show)
    depths = _table(fits, opened)
    tokens = {"train": sum(len(p.positions) for p in train), "held_out": sum(len(p.positions) for p in held)}
    _warn(depths, tokens["train"], opened.trace.width)
    asked = {"n": n, "max_tokens": max_tokens, "chat_template": chat_template, "steps": steps, "lr": lr,
             "weight_decay": weight_decay, "seed": seed, "prompts": name, **opened.declared.record()}  # fmt: skip
    made_of = {
        "checkpoint": opened.checkpoint.content_hash or opened.checkpoint.source, "dtype": str(opened.dtype),
        "layers": list(opened.plan.layers), "prompts": [p.tokens_sha256 for p in ready], **asked,
    }  # fmt: skip
    record = {
        "schema": SCHEMA,
        IDENTITY: identity_of(made_of),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "checkpoint": {"id": opened.checkpoint.source, "content_hash": opened.checkpoint.content_hash},
        "dtype": str(opened.dtype).removeprefix("torch."),
        "layers": list(opened.plan.layers),
        "options": asked,
        "certificates": [c.record() for c in certificates],
        "loss": "KL(final ‖ lens), nats, mean over held-out tokens; the same tokens chose among maps",
        "tokens": {**tokens, "judged": min(tokens["held_out"], HELD_OUT_TOKENS)},
        "prompts": {"train": [p.tokens_sha256 for p in train], "held_out": [p.tokens_sha256 for p in held]},
        "depths": depths.to_dict(orient="records"),
        "seconds": round(time.perf_counter() - started, 3),
    }
    record = made_visible(record)
    weights, biases = zip(*(fits[d].map for d in sorted(fits)), strict=True)
    lens = TunedLens(weights, biases, config=_config(opened), record=record)
    fitted = FittedLens(lens, depths, record, opened.checkpoint.name)
    if out is not None:
        fitted.save(out)
        fitted = replace(fitted, lens=replace(lens, source=str(out)))
    return fitted


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


def _split(prompts: Sequence[TokenPrompt], seed: int) -> tuple[list[TokenPrompt], list[TokenPrompt]]:
    """Prompts to fit on, in random order, and those held out; what stands twice counts once."""
    once = list({p.tokens_sha256: p for p in reversed(prompts) if p.positions}.values())[::-1]
    if len(once) < 2:
        raise InputError(
            "fit-lens holds out a fifth of the prompts and needs two different ones of two tokens or more; "
            f"found {len(once)}"
        )
    order = np.random.default_rng(seed).permutation(len(once))
    held = max(1, round(HELD_OUT * len(once)))
    return [once[i] for i in order[held:]], [once[i] for i in order[:held]]


def _fitted(
    model: Model, train: Sequence[TokenPrompt], held: Sequence[TokenPrompt], budget: int, batch_size: int | None,
    schedule: Schedule, show: Progress,
) -> dict[int, Fit]:  # fmt: skip
    tokens = clean_tokens(model, budget)
    judged = capture(model, _first(held, HELD_OUT_TOKENS), tokens, batch_size)
    # A quarter of the budget, since pieces and whole are there at once; a quarter is for the readout.
    bytes_a_token = judged[:, 0].numel() * judged.element_size()
    groups = _groups(train, max(1, budget // 4 // bytes_a_token))

    def pool(group: Sequence[TokenPrompt]) -> Any:
        return lambda: capture(model, group, tokens, batch_size)

    with show.stage("fitting", schedule.steps) as tick, torch.no_grad():
        trainer = Trainer(model, HeldOut(model, judged[:, :HELD_OUT_TOKENS]), schedule, tick)
        return trainer.fit([pool(group) for group in groups])


def _first(prompts: Sequence[TokenPrompt], tokens: int) -> list[TokenPrompt]:
    """Prompts up to the one that brings the counted tokens to ``tokens``."""
    before = np.cumsum([0, *(len(p.positions) for p in prompts)])[:-1]
    return [p for p, count in zip(prompts, before, strict=True) if count < tokens]


def _groups(prompts: Sequence[TokenPrompt], tokens: int) -> list[list[TokenPrompt]]:
    """Prompts in groups of at most ``tokens`` counted tokens (or one prompt)."""
    groups: list[list[TokenPrompt]] = [[]]
    count = 0
    for prompt in prompts:
        if groups[-1] and count + len(prompt.positions) > tokens:
            groups.append([])
            count = 0
        groups[-1].append(prompt)
        count += len(prompt.positions)
    return groups


def _table(fits: dict[int, Fit], model: Model) -> pd.DataFrame:
    depths = sorted(fits)
    return pd.DataFrame({
        "depth": depths, "layer": [model.plan.layers[d] for d in depths],
        "plain": [fits[d].plain for d in depths], "tuned": [fits[d].best for d in depths],
        "kept": [fits[d].kept for d in depths],
    })  # fmt: skip


def _warn(depths: pd.DataFrame, tokens: int, width: int) -> None:
    plain = depths.loc[depths["kept"] == "identity", "depth"].tolist()
    if plain:
        shown = ", ".join(map(str, plain[:10])) + (" ..." if len(plain) > 10 else "")
        message = f"at depths {shown} no map did better on held-out prompts than the plain lens, which is kept there"
        warnings.warn(f"{message}; more prompts may help", DepthsigWarning, stacklevel=3)
    if tokens < width:
        message = f"maps of width {width} were fitted to {tokens} tokens only; more prompts make a better lens"
        warnings.warn(message, DepthsigWarning, stacklevel=3)


def _config(model: Model) -> dict[str, Any]:
    """The ``config.json`` that tuned-lens writes; a translator a step, where layers run several times."""
    return {
        "base_model_name_or_path": model.checkpoint.source, "d_model": model.trace.width,
        "num_hidden_layers": len(model.plan), "bias": True, "base_model_revision": model.checkpoint.revision,
        "unembed_hash": head_hash(model), "lens_type": LENS_TYPE,
    }  # fmt: skip
