"""Loop dynamics of the executed loops, and the lens through what comes after a loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from depthsig.analysis.accumulate import Key, Samples
from depthsig.analysis.tokens import Measured
from depthsig.checkpoint.hooks import hooked, undisturbed
from depthsig.engine.edits import Change, Op, Program
from depthsig.engine.model import Model
from depthsig.engine.run import Clean, Rows, run_programs
from depthsig.errors import DepthsigWarning, InputError
from depthsig.metrics import loops
from depthsig.plan.plan import Plan, SpanInfo

CHUNK_BYTES = 24 << 20
CODA = {
    "coda.kl": "kl", "coda.overlap5": "overlap5", "coda.top1": "top1", "coda.entropy": "entropy",
    "coda.target_nll": "nll", "coda.target_rank": "rank",
}  # fmt: skip


def executed_loops(plan: Plan) -> list[SpanInfo]:
    """The loops that really run.

    Raises:
        InputError: if there is none.
    """
    found = [span for span in plan.spans if span.kind == "loop" and span.executed and span.count > 1]
    if not found:
        raise InputError(
            f"loop.* and coda.* need a loop that runs, and this plan has none ({plan}); a model that loops, or an "
            "--order such as 0:4,4:8x4,8:12, has one"
        )
    return found


@dataclass
class LoopObserver:
    """Accumulates ``loop.*`` and ``coda.*``; where several loops run, ``scope`` names the span."""

    model: Model
    wanted: frozenset[str]
    samples: Samples
    first_prompts: frozenset[int] = frozenset()
    token_rows: list[dict] = field(default_factory=list)
    _kept: dict[str, list[tuple[Tensor, Measured]]] = field(default_factory=dict)
    _unseen: bool = False

    def observe(self, clean: Clean, where: Measured) -> None:
        """Accumulate one batch."""
        spans = executed_loops(self.model.plan)
        for span in spans:
            scope = f"{span.start}:{span.end}" if len(spans) > 1 else ""
            states = pass_states(clean, span)
            for chunk in where.chunks(max(1, CHUNK_BYTES // (8 * states[0].shape[-1] * len(states)))):
                taken = torch.stack([chunk.take(h) for h in states]).unflatten(0, (-1, span.size))
                self._dynamics(taken, chunk, span, scope)
        if "loop.attention_entropy" in self.wanted:
            self._entropies(clean, where, spans)
        if self.wanted & set(CODA):
            self._coda(clean, where, max(spans, key=lambda span: span.end))

    def _put(self, name: str, values: Tensor, chunk: Measured, scope: str, rows: range, total: int) -> None:
        """Values [row, phase, token] at ``rows`` of a matrix of ``total`` rows; NaN elsewhere."""
        if f"loop.{name}" not in self.wanted:
            return
        matrix = np.full((len(chunk), total, values.shape[1]), np.nan)
        matrix[:, rows.start : rows.stop] = values.permute(2, 0, 1).double().cpu().numpy()
        self.samples.add(Key(f"loop.{name}", scope=scope), matrix, chunk.prompts)

    def _dynamics(
        self, states: Float[Tensor, "pass phase token d"], chunk: Measured, span: SpanInfo, scope: str
    ) -> None:
        """``states`` are x^0 .. x^{K+1} at every phase."""
        count = span.count
        run, after = states[:-1], states[-1]
        every, turning = range(count), range(1, count)
        for name, function, rows in (
            ("step_norm", loops.step_norm, every), ("step_relative", loops.step_relative, every),
            ("turn_cosine", loops.turn_cosine, turning), ("acceleration", loops.acceleration, turning),
            ("distance_to_last", loops.distance_to_last, every),
        ):  # fmt: skip
            self._put(name, function(run), chunk, scope, rows, count)
        gap = loops.fixed_point_gap(run[-1], after)[None]
        self._put("fixed_point_gap", gap, chunk, scope, range(count, count + 1), count + 1)
        if "loop.output_kl" in self.wanted:
            self._put("output_kl", self._output_kl(run, span), chunk, scope, every, count)
        if "loop.pca" in self.wanted and int(chunk.prompts[0]) in self.first_prompts:
            self._kept.setdefault(scope, []).append((run[:, 0].float().cpu(), chunk))

    def _output_kl(self, run: Float[Tensor, "pass phase token d"], span: SpanInfo) -> Tensor:
        """[K, phase, token], two readouts at a time."""
        found = torch.empty(run.shape[0] - 1, *run.shape[1:3], dtype=torch.float64)
        with undisturbed(self.model.module):
            for phase in range(run.shape[1]):
                previous: Tensor | None = None
                for k in range(run.shape[0]):
                    # x^K is read as the states that enter the last pass: its boundary is theirs.
                    depth = span.start + min(k, span.count - 1) * span.size + phase
                    logits = self.model.readout_at(depth)(run[k, phase])
                    if previous is not None:
                        found[k - 1, phase] = loops.output_kl(torch.stack([previous, logits]))[0]
                    previous = logits
        return found

    def _entropies(self, clean: Clean, where: Measured, spans: Sequence[SpanInfo]) -> None:
        with watching_attention(self.model) as watch:
            self.model.clean(clean.batch.ids)
        steps = watch.steps[-len(self.model.plan) :]
        if not any(steps[s] for span in spans for s in range(span.start, span.end)):
            self._warn_unseen()
        for span in spans:
            scope = f"{span.start}:{span.end}" if len(spans) > 1 else ""
            found = steps[span.start : span.end]
            missing = torch.full(clean.batch.ids.shape, float("nan"))
            values = [torch.stack(e).mean(0) if e else missing for e in found]
            taken = torch.stack([where.take(v[..., None])[:, 0] for v in values])
            self._put(
                "attention_entropy", taken.unflatten(0, (-1, span.size)), where, scope, range(span.count), span.count
            )

    def _warn_unseen(self) -> None:
        if not self._unseen:
            message = f"loop.attention_entropy is empty: {self.model.anatomy.family} has no attention that can be seen"
            warnings.warn(message, DepthsigWarning, stacklevel=2)
        self._unseen = True

    def _coda(self, clean: Clean, where: Measured, span: SpanInfo) -> None:
        """The lens through the steps after the loop: each state stands for what the loop gives out."""
        if span.end == len(self.model.plan):
            return
        from depthsig.metrics.comparison import Reference

        depths = list(range(span.end))
        programs = [_program(clean, span.end - 1, clean.state(d), "output", len(self.model.plan)) for d in depths]
        finals: dict[int, Tensor] = {}
        for numbers, states in run_programs(clean, programs):
            finals.update({n: s.clone() for n, s in zip(numbers, states, strict=True)})
        quantities = frozenset(CODA[m] for m in self.wanted & set(CODA))
        for chunk in where.chunks(256):
            with undisturbed(self.model.module):
                own = self.model.readout(chunk.take(clean.run.outputs[-1])).float()
                reference = Reference(own, chunk.targets, quantities, torch.empty_like(own))
                read = [self.model.readout(chunk.take(finals[d])).float() for d in depths]
                found = [
                    {k: v.clone() for k, v in reference.compare(logits).items()} for logits in [*read, own.clone()]
                ]
            for metric in self.wanted & set(CODA):
                profile = np.full((len(chunk), len(self.model.plan) + 1), np.nan)
                values = torch.stack([f[CODA[metric]] for f in found], dim=1).double()
                profile[:, : len(depths) + 1] = values.cpu().numpy()
                self.samples.add(Key(metric), profile, chunk.prompts)

    def finish(self, text: Callable[[int, int], str]) -> list[dict]:
        """Rows of ``loop.pca``; ``text(prompt, position)`` names a token."""
        rows: list[dict] = []
        for scope, kept in self._kept.items():
            states = torch.cat([s for s, _ in kept], dim=1)
            points, _ = loops.principal_components(states.flatten(0, 1))
            coordinates = points.unflatten(0, states.shape[:2]).tolist()
            owners = [(int(p), t) for _, c in kept for p, t in zip(c.prompts, c.positions.tolist(), strict=True)]
            for k, line in enumerate(coordinates):
                for (prompt, position), point in zip(owners, line, strict=True):
                    if prompt not in self.first_prompts:
                        continue
                    for rank, value in enumerate(point, 1):
                        rows.append({
                            "metric": "loop.pca", "part": "", "scope": scope, "prompt": prompt, "index": k,
                            "position": position, "rank": rank, "token_id": None, "value": value,
                            "token": text(prompt, position), "input_token": text(prompt, position),
                        })  # fmt: skip
        return rows


def pass_states(clean: Clean, span: SpanInfo) -> list[Float[Tensor, "prompt token d"]]:
    """x^0 .. x^{K+1} at every phase, pass after pass; the last two need passes beyond those run.

    An additional pass is the last one again, on other states. Where the model does something
    between passes, it is the last pass but one, whose end the model's own forward leads into the
    next.
    """
    first, size, count = span.start, span.size, span.count
    states = [clean.state(s) for s in range(first, span.end)]
    chained = clean.model.trace.is_chain or not clean.model.is_native
    head = clean.run.outputs[span.end - 1]
    last = first + (count - 1) * size
    for _ in range(2):
        # What enters the pass that is run again, and the step that it enters.
        entry, source = (head, last) if chained else (states[-size], last - size)
        seen = _watch_pass(clean, source, entry, last, size)
        states += seen.before
        head = seen.after
    return states


@dataclass
class _Pass:
    """An observer that keeps what enters each step of one pass, and what leaves the last."""

    start: int
    size: int
    before: list[Tensor] = field(default_factory=list)
    after: Tensor = field(default_factory=lambda: torch.empty(0))

    def step(self, step: int, rows: Rows, before: Tensor, after: Tensor, update: Tensor) -> None:
        if self.start <= step < self.start + self.size:
            self.before.append(before.clone())
            self.after = after.clone()


def _watch_pass(clean: Clean, source: int, entry: Tensor, watched: int, size: int) -> _Pass:
    """Let ``entry`` enter step ``source``, and keep the pass that starts at ``watched``."""
    program = _program(clean, source, entry, "input", watched + size)
    seen = _Pass(watched, size)
    for _ in run_programs(clean, [program], seen):
        pass
    # A change of a step's input is made before the step sees it.
    if source == watched:
        seen.before[0] = entry
    return seen


def _program(clean: Clean, step: int, value: Tensor, where: str, end: int) -> Program:
    """Replace every position of a step's input or output; nothing runs from ``end`` on."""
    mask = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
    change = Change(where, mask=mask, value=value)
    slots = [(Op(s, (change,) if s == step else ()),) if s < end else () for s in range(len(clean.calls))]
    return Program(tuple(slots), name=f"{where} of {step}")


_SOFTMAXES = (F.softmax, torch.softmax, torch.Tensor.softmax)


class AttentionWatch(TorchFunctionMode):
    """Entropies of the attention that runs, step by step: [row, query] tensors a step.

    Attention is the fused kernel, or, where a model computes it in pieces ("eager"), a softmax over the
    last axis of [row, head, query, key] with as many keys as queries.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.steps:
            self.steps[-1].append(loops.attention_entropy(attention_weights(*args, **kwargs)).float())
        out = func(*args, **kwargs)
        if func in _SOFTMAXES and self.steps and out.ndim == 4 and out.shape[-1] == out.shape[-2]:
            self.steps[-1].append(loops.attention_entropy(out).float())
        return out


@contextmanager
def watching_attention(model: Model) -> Iterator[AttentionWatch]:
    """Entropies of every step's attention while the model runs; empty for steps without any."""
    watch = AttentionWatch()

    def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
        watch.steps.append([])

    with hooked(pre=[(layer.module, begin) for layer in model.anatomy.layers]), watch:
        yield watch


def attention_weights(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Float[Tensor, "row head query key"]:  # fmt: skip
    """The weights that ``scaled_dot_product_attention`` applies with these arguments."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = factor * query.float() @ key.float().mT
    if is_causal:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~causal, float("-inf"))
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1).nan_to_num(0.0)
