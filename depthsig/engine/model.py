"""A checkpoint with its anatomy and plan: what every analysis works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from depthsig.checkpoint.adapter import Anatomy, Layer, find_anatomy
from depthsig.checkpoint.conduct import conducted
from depthsig.checkpoint.finite import check_finite
from depthsig.checkpoint.hooks import forward as native_forward
from depthsig.checkpoint.hooks import undisturbed
from depthsig.checkpoint.loops import find_conduct, parse_iterations, refuse_unsupported
from depthsig.checkpoint.open import Checkpoint, open_checkpoint
from depthsig.checkpoint.readout import Readout
from depthsig.checkpoint.sharing import shared_pieces, tied_to
from depthsig.engine.calls import LayerCall, row_specs
from depthsig.engine.clean import CleanRun, layer_calls, native_run, ordered_run
from depthsig.errors import InputError, UnsupportedModelError
from depthsig.plan.declared import Declared, check_counts, declare, gather
from depthsig.plan.plan import Plan, build_plan
from depthsig.plan.trace import Trace, trace_forward

if TYPE_CHECKING:
    from depthsig.engine.edited import EditedRun
    from depthsig.engine.edits import Edit


@dataclass(frozen=True)
class Model:
    """A loaded model that can be run step by step.

    Attributes:
        checkpoint: where it came from, its module and tokenizer.
        anatomy: where its layers, parts and readout are.
        native: the plan of the model's own forward, as traced.
        plan: the plan that is run: the native one, or the declared order, with its labels.
        random_state: seed of a random initial state, None for models without one.
    """

    checkpoint: Checkpoint
    anatomy: Anatomy
    trace: Trace
    native: Plan
    plan: Plan
    declared: Declared
    random_state: int | None = None
    _specs: dict[int, dict[int, tuple]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def module(self) -> nn.Module:
        """The live model."""
        return self.checkpoint.module

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, if there is one."""
        return self.checkpoint.tokenizer

    @property
    def readout(self) -> Readout:
        """From the last residual state to logits."""
        return self.anatomy.readout

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return next(self.module.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return next(self.module.parameters()).device

    @property
    def is_native(self) -> bool:
        """Whether the plan is the model's own order of layers."""
        return self.plan.layers == self.native.layers

    def layer_at(self, step: int) -> Layer:
        """The module that runs at a step; of layers that share all weights, the very one."""
        layers = self.trace.layers if self.is_native else self.plan.layers
        return self.anatomy.layers[layers[step]]

    def readout_at(self, depth: int) -> Readout:
        """The readout of h_depth: the head alone where the final norm was applied already."""
        if self.is_native and depth < len(self.trace.normed) and self.trace.normed[depth]:
            return replace(self.readout, norms=())
        return self.readout

    def logits(self, ids: Int[Tensor, "row token"]) -> Float[Tensor, "row token vocab"]:
        """The model's own logits, in its own order of layers."""
        with undisturbed(self.module):
            return native_forward(self.module, ids)

    def clean(self, ids: Int[Tensor, "row token"], *, parts: bool = False) -> CleanRun:
        """The unedited run of the plan, with every step's input and output."""
        if self.is_native:
            return native_run(self.module, self.anatomy, self.trace, ids, parts=parts)[0]
        return ordered_run(self.module, self.anatomy, self.trace, self.plan, ids, parts=parts)

    def executed(self, ids: Int[Tensor, "row token"]) -> CleanRun:
        """The model's own order of layers, run step by step by the executor."""
        return ordered_run(self.module, self.anatomy, self.trace, self.native, ids)

    def read(self, hidden: Float[Tensor, "*batch d"], depth: int | None = None) -> Float[Tensor, "*batch vocab"]:
        """Logits of residual states: of h_S, or of those at ``depth``."""
        with undisturbed(self.module):
            return (self.readout if depth is None else self.readout_at(depth))(hidden)

    def relabelled(self, **options: Any) -> Model:
        """The same model with these declarations (``order``, ``loop``, ``grown``); others stay.

        ``iterations`` applies to an order here; how often a model's own loop runs is settled when
        it is loaded.
        """
        new = {name: value for name, value in options.items() if value is not None}
        kept = {name: getattr(self.declared, name) for name in self.declared.explicit}
        if "order" in new:
            kept.pop("iterations", None)
        merged = {**kept, **new}
        if "iterations" in new and not (merged.get("order") or self.checkpoint.declared.get("order")):
            raise InputError("--iterations of a model's own loop is given to depthsig.load, or with an --order")
        named = _named(*(merged.get(name) for name in ("order", "loop", "grown", "iterations")))
        declared = gather(named, self.checkpoint.declared, self.checkpoint.config)
        plan = declare(self.native, declared, len(self.anatomy.layers))
        _check_order(self.trace, self.native, plan)
        return replace(self, plan=plan, declared=declared)

    def cache(
        self, prompts: Sequence[Any], names: Sequence[str], **options: Any
    ) -> dict[str, list[Float[Tensor, "token d"]]]:
        """Single activations under TransformerLens' names, one tensor [token, d] a prompt.

        Known: ``blocks.{i}.hook_resid_pre``, ``.hook_resid_mid``, ``.hook_resid_post``,
        ``.hook_attn_out``, ``.hook_mlp_out``; i counts steps, so every pass of a loop has its own.
        """
        from depthsig.engine.cache import cache_activations

        return cache_activations(self, prompts, names, **options)

    def run(self, prompts: Sequence[Any], edits: Sequence[Edit | None], **options: Any) -> list[EditedRun]:
        """Run every edit on every prompt, together and without doing anything twice.

        Args:
            prompts: strings, ``{"text", "answer"}`` or token ids.
            edits: each is one run; ``Skip(3) + Swap(5, 7)`` is one run with both, None the clean one.
            options: ``observer`` (a :class:`~depthsig.engine.run.StepObserver`), ``max_tokens``,
                ``memory`` (bytes or e.g. ``"1GiB"`` for the states on their way).

        Returns:
            One :class:`~depthsig.engine.edited.EditedRun` an edit, with logits per prompt.

        Raises:
            InputError: a step out of range, a part that does not exist, edits that contradict.
        """
        from depthsig.engine.edited import run_edits

        return run_edits(self, prompts, edits, **options)

    def row_specs(self, tokens: int) -> dict[int, tuple]:
        """For prompts of ``tokens`` tokens: how each layer's arguments grow with the batch."""
        if tokens not in self._specs:
            seen = []
            for rows in (2, 3):
                ids = torch.ones(rows, tokens, dtype=torch.long, device=self.device)
                seen.append(layer_calls(self.module, self.anatomy, self.trace, ids)[1])
            two, three = seen
            specs = row_specs([two[k][0] for k in two], [three[k][0] for k in two])
            self._specs[tokens] = dict(zip(two, specs, strict=True))
        return self._specs[tokens]

    def with_rows(self, run: CleanRun, tokens: int) -> list[LayerCall]:
        """The calls of a run, ready to be made for any selection of its prompts."""
        specs = self.row_specs(tokens)
        layers = (self.layer_at(step).index for step in range(len(self.plan)))
        return [replace(c, rows=specs[layer]) for layer, c in zip(layers, run.calls, strict=True)]

    def __str__(self) -> str:
        return f"{self.checkpoint.name} ({self.anatomy.family}): {self.plan}"


def load(
    source: Any,
    tokenizer: Any = None,
    *,
    order: str | None = None,
    loop: str | None = None,
    grown: str | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    iterations: int | str | Mapping[str, int] | None = None,
    seed: int = 0,
    **options: Any,
) -> Model:
    """Load a checkpoint, or wrap a live model, and trace its plan.

    Args:
        source: a local folder, a hub id, a GGUF file, the name of a shipped checkpoint, a live
            Hugging Face model, or a ``TransformerBridge``.
        tokenizer: for live models.
        order, loop, grown: as the command's options of the same names.
        forward: for live models that are not called as ``module(ids)``: ``f(module, ids)`` gives
            the logits (or something with them).
        iterations: run a loop this often instead of as trained: a number, or ``{"H_cycles": 3}``.
        seed: of a random initial state.
        options: ``dtype``, ``device``, ``device_map``, ``revision``, ``trust_remote_code``,
            ``allow_pickle``, ``progress``; see :func:`depthsig.checkpoint.open.open_checkpoint`.

    Raises:
        InputError: for anything that cannot be loaded safely and exactly; one line says why.
    """
    wanted = parse_iterations(iterations)
    checkpoint = open_checkpoint(source, tokenizer, **options)
    check_finite(checkpoint.module)
    refuse_unsupported(checkpoint.config)
    declared = gather(_named(order, loop, grown, iterations), checkpoint.declared, checkpoint.config)
    # An order says itself what is repeated; its count is forced in the order.
    native_counts = {} if declared.order is not None else wanted
    conduct, counts = find_conduct(
        checkpoint.module, checkpoint.config, function=forward, iterations=native_counts, seed=seed
    )
    checkpoint = replace(checkpoint, module=conducted(checkpoint.module, conduct))
    anatomy = find_anatomy(checkpoint.module, checkpoint.config)
    trace = trace_forward(checkpoint.module, anatomy.layers, anatomy.readout)
    native = check_counts(_native_plan(anatomy, trace), counts)
    plan = declare(native, declared, len(anatomy.layers))
    _check_order(trace, native, plan)
    return Model(checkpoint, anatomy, trace, native, plan, declared, conduct.seed)


def _native_plan(anatomy: Anatomy, trace: Trace) -> Plan:
    """The traced steps; layers that share all their weights count as one."""
    modules = [layer.module for layer in anatomy.layers]
    tied = tied_to(modules)
    plan = build_plan([tied[i] for i in trace.layers], len(modules), boundaries=trace.boundaries)
    same = [f"layer {i} has all its weights from layer {j} and counts as it" for i, j in enumerate(tied) if i != j]
    return replace(plan, notes=(*plan.notes, *same, *shared_pieces(modules)))


def _named(order: str | None, loop: str | None, grown: str | None, iterations: Any) -> Mapping[str, str | None]:
    forced = parse_iterations(iterations)
    text = ",".join(f"{name}={count}" if name else str(count) for name, count in forced.items())
    return {"order": order, "loop": loop, "grown": grown, "iterations": text or None}


def _check_order(trace: Trace, native: Plan, plan: Plan) -> None:
    if plan.layers == native.layers or plan.order is None:
        return
    if not trace.is_chain:
        at = next(i for i, chained in enumerate(trace.chained) if not chained)
        raise UnsupportedModelError(
            f"another order of layers cannot be run exactly: this model does something between "
            f"steps {at - 1} and {at} ({trace.boundaries[at]}); leave --order out"
        )
    if trace.varying is not None:
        raise UnsupportedModelError(
            f"another order of layers cannot be run exactly: this model gives layer {trace.varying} other arguments "
            "at every pass (a time or a step size); leave --order out"
        )


def check_vocabulary(model: Model, ids: Sequence[int]) -> None:
    """Refuse token ids that the model has no embedding for."""
    size = model.readout.vocab
    if size and ids and (max(ids) >= size or min(ids) < 0):
        raise InputError(
            f"token id {max(ids)} is outside the model's vocabulary of {size}; "
            "the tokenizer does not belong to this checkpoint"
        )
