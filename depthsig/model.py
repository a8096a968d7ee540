"""A checkpoint as a network that can be run, edited and measured: what every analysis works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from depthsig.arguments import check_arguments
from depthsig.checkpoint.anatomy.adapter import Anatomy, find_anatomy
from depthsig.checkpoint.anatomy.offloaded import device_of, devices_of
from depthsig.checkpoint.anatomy.sharing import shared_pieces, tied_to
from depthsig.checkpoint.conduct import conducted
from depthsig.checkpoint.costs.counted import Costs, count_costs
from depthsig.checkpoint.finite import check_finite
from depthsig.checkpoint.hooks import refuse_autocast
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.loops import find_conduct, refuse_loops
from depthsig.checkpoint.open import Checkpoint, open_checkpoint
from depthsig.checkpoint.streaming.stream import streamed_names
from depthsig.engine.edits import Edit
from depthsig.engine.gradients.directions import TokenDirections, token_directions
from depthsig.engine.memory import parse_memory
from depthsig.engine.network import Activations, Network
from depthsig.engine.rows import StepObserver
from depthsig.engine.run import EditedRun, run_edits
from depthsig.errors import InputError, UnsupportedModelError
from depthsig.notebook import lines_as_html, plan_strip
from depthsig.plan.declared import Declared, Iterations, PlanOptions, check_counts, declare_spans, gather
from depthsig.plan.foreseen import check_precision, foresee
from depthsig.plan.plan import Plan, build_plan
from depthsig.plan.trace import Trace, trace_forward
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt, tokenize

if TYPE_CHECKING:
    import torch


Names = str | Sequence[str] | Callable[[str], bool] | None
"""Which activations: names, patterns, a function of a name, or None for all."""


@dataclass(frozen=True, kw_only=True)
class Model(Network):
    """A loaded model that can be run step by step.

    Attributes:
        checkpoint: where it came from, its tokenizer and config.
        declared: the order and the labels that its plan has, and who gave them.
        loading: the options that it was loaded with; None for a live model.
        random_state: seed of a random initial state, None for models without one.
    """

    checkpoint: Checkpoint = field(repr=False)
    declared: Declared
    loading: LoadOptions | None = None
    random_state: int | None = None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, if there is one."""
        return self.checkpoint.tokenizer

    @property
    def costs(self) -> Costs:
        """Parameters, FLOPs and KV memory of a token, counted from the modules and the plan."""
        layers = [layer.module for layer in self.anatomy.layers]
        return count_costs(
            self.module, layers, self.readout.head, self.plan.layers, self.trace.calls, self.checkpoint.config,
            longest=self.checkpoint.model_max,
        )  # fmt: skip

    def relabelled(
        self, *, order: str | None = None, loop: str | None = None, grown: str | None = None,
        iterations: Iterations | None = None,
    ) -> Model:  # fmt: skip
        """The same model with these declarations; those that are left out stay.

        ``iterations`` applies to an order here; how often a model's own loop runs is settled when
        it is loaded.

        Raises:
            InputError: for a declaration that is malformed or contradicts what runs.
        """
        new = PlanOptions(order, loop, grown, iterations).given()
        kept = self.declared.explicit_options().given()
        if "order" in new:
            kept.pop("iterations", None)
        merged: dict[str, Any] = {**kept, **new}
        if "iterations" in new and not (merged.get("order") or self.checkpoint.declared.get("order")):
            raise InputError("--iterations of a model's own loop is given to depthsig.load, or with an --order")
        declared = gather(PlanOptions(**merged), self.checkpoint.declared, self.checkpoint.config)
        plan = declare_spans(self.native, declared, len(self.anatomy.layers))
        _check_order(self.trace, self.native, plan)
        return replace(self, plan=plan, declared=declared)

    def tokens(self, prompts: str | Sequence[Any], max_tokens: int = 256) -> list[TokenPrompt]:
        """Prompts as this model sees them; one string is one prompt.

        Raises:
            InputError: for prompts that cannot be read, or token ids that the model does not have.
        """
        check_arguments(Model.tokens, locals())
        given = [prompts] if isinstance(prompts, str) else prompts
        ready = tokenize(given, self.tokenizer, max_tokens=max_tokens, model_max=self.checkpoint.model_max)
        for prompt in ready:
            self.check_vocabulary(prompt.ids)
        return ready

    def cache(self, prompts: str | Sequence[Any], names: Names = None, *, max_tokens: int = 256) -> Activations:
        """Single activations under TransformerLens' names, one tensor [token, d] a prompt.

        Known: ``blocks.{i}.hook_resid_pre``, ``.hook_resid_mid``, ``.hook_resid_post``,
        ``.hook_attn_out``, ``.hook_mlp_out``; i counts steps, so every pass of a loop has its own (``plan`` shows
        which layer runs at which step). In what is returned, ``["resid_post", i]`` is short for
        ``["blocks.{i}.hook_resid_post"]``.

        Args:
            prompts: strings, ``{"text", "answer"}`` or token ids; one string is one prompt.
            names: one or several, each a name or a pattern as ``blocks.*.hook_resid_post``; or a function that says
                of a name whether it is wanted. Default: all.
            max_tokens: prompts are cut after so many tokens.

        Raises:
            InputError: for a name that is not known, a pattern that nothing fits, or a step outside the plan, and
                within ``torch.autocast``.
        """
        check_arguments(Model.cache, locals())
        refuse_autocast(self.module)
        return self.activations(self.tokens(prompts, max_tokens), self.names_of(names))

    def run_with_cache(
        self, prompts: str | Sequence[Any], names: Names = None, *, names_filter: Names = None, max_tokens: int = 256
    ) -> tuple[list[Float[Tensor, "_token vocab"]], Activations]:
        """Logits, one tensor [token, vocab] a prompt, and what :meth:`cache` gives.

        Prompts differ in length, so both are lists over prompts, where TransformerLens has one padded tensor.

        Args:
            prompts, names, max_tokens: as of :meth:`cache`.
            names_filter: what TransformerLens calls ``names``; one of them is given.

        Raises:
            InputError: as :meth:`cache`, and for both.
        """
        check_arguments(Model.run_with_cache, locals())
        if names is not None and names_filter is not None:
            raise InputError("names and names_filter are two words for the same; give one of them")
        names = names_filter if names is None else names
        kept = self.cache(prompts, names, max_tokens=max_tokens)
        # Not read from what is kept: these are to the last bit the logits of `run`, which goes in batches of its own.
        return self.run(prompts, [None], max_tokens=max_tokens)[0].logits, kept

    def run(
        self, prompts: str | Sequence[Any], edits: Sequence[Edit | None], *, observer: StepObserver | None = None,
        max_tokens: int = 256, memory: str | int = "1GiB",
    ) -> list[EditedRun]:  # fmt: skip
        """Run every edit on every prompt, together and without doing anything twice.

        Args:
            prompts: strings, ``{"text", "answer"}`` or token ids; one string is one prompt.
            edits: each is one run; ``Skip(3) + Swap(5, 7)`` is one run with both, None the clean one.
            observer: sees every step that is really computed.
            max_tokens: prompts are cut after so many tokens.
            memory: for the states on their way, in bytes or as ``"1GiB"``.

        Returns:
            One :class:`~depthsig.engine.run.EditedRun` an edit, with logits per prompt.

        Raises:
            InputError: a step out of range, a part that does not exist, edits that contradict; ``torch.autocast``.
        """
        check_arguments(Model.run, locals())
        refuse_autocast(self.module)
        budget = parse_memory(memory)
        return run_edits(self, self.tokens(prompts, max_tokens), edits, observer=observer, memory=budget)

    def token_directions(
        self, text: Any, tokens: Sequence[int], *, position: int = -1, max_tokens: int = 256
    ) -> TokenDirections:  # fmt: skip
        """How every state would have to move for some tokens' logits to grow, where no Jacobian lens is fitted.

        Args:
            text: one prompt: a string, ``{"text", "answer"}`` or token ids.
            tokens: ids of tokens. position: whose logits are read; -1 is the last one.
            max_tokens: it is cut after so many tokens.

        Returns:
            :class:`~depthsig.engine.gradients.directions.TokenDirections`: ``directions`` [token, depth, position,
            d], ∂logit/∂h_d,t with d = 0..S−1 the state that enters step d, ``scores`` [token, depth, position],
            ⟨∂logit/∂h_d,t, h_d,t⟩, and ``logits`` [token].

        Raises:
            InputError: for ids that the model does not have, no tokens, or a position out of range.
            UnsupportedModelError: for a model that computes without gradients.
        """
        check_arguments(Model.token_directions, locals())
        refuse_autocast(self.module)
        ready = self.tokens([text], max_tokens)[0]
        self.check_vocabulary(tokens)
        return token_directions(self, ready, tokens, position)

    def __str__(self) -> str:
        return f"{self.checkpoint.name} ({self.anatomy.family}): {self.plan}"

    def __repr__(self) -> str:
        layers = f"{len(self.anatomy.layers)} layers of width {self.trace.width}, vocabulary of {self.readout.vocab}"
        dtype = str(self.dtype).removeprefix("torch.")
        known = sum(self.has_parts)
        parts = "known" if known == len(self.plan) else f"known in {known} of {len(self.plan)} steps"
        tokenizer = "none, prompts are token ids" if self.tokenizer is None else type(self.tokenizer).__name__
        return "\n".join(
            [
                f"Model {self.checkpoint.name[:80]} ({self.anatomy.family}, {self.checkpoint.kind})",
                f"  {layers}, {dtype} on {self.device}",
                f"  plan: {self.plan}",
                f"  attention and MLP: {parts if known else 'not known'}",
                f"  tokenizer: {tokenizer}",
            ]
        )

    def _repr_html_(self) -> str:
        return lines_as_html(repr(self)) + plan_strip(self.plan.records())


def load(
    source: Any, tokenizer: Any = None, *,
    order: str | None = None, loop: str | None = None, grown: str | None = None, iterations: Iterations | None = None,
    forward: Callable[[nn.Module, Tensor], Any] | None = None, seed: int = 0,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False,
    stream: bool = False, progress: bool | Progress | None = None,
) -> Model:  # fmt: skip
    """Load a checkpoint, or wrap a live model, and trace its plan.

    Args:
        source: a local folder, a hub id (or TransformerLens' short name of one, as ``gpt2-small``), a GGUF file,
            the name of a shipped checkpoint, a live Hugging Face model, or a ``TransformerBridge``.
        tokenizer: for live models.
        order: run the layers in this order, as ``0:4,4:8x4,8:12`` or ``Loop(4-4x4-4)``.
        loop: label layers ``A:B`` as a loop.
        grown: label layers as grown, ``A:B/b`` with blocks of b layers.
        iterations: run a loop this often instead of as trained: a number, or ``{"H_cycles": 3}``.
        forward: for live models that are not called as ``module(ids)``: ``f(module, ids)`` gives
            the logits (or something with them).
        seed: of a random initial state.
        dtype: ``float32`` (default; on a GPU the checkpoint's own where float32 weights would take
            more than half of its memory), ``bfloat16``, ``float16``, or ``auto``: the checkpoint's.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` ...
        device_map: spread the model over devices, as in transformers.
        revision: of a hub id.
        trust_remote_code: run code that a checkpoint brings.
        allow_pickle: load pickled weights.
        stream: read layers from safetensors as they are needed, two of them in memory at most.
        progress: show how far it is (the default): bars, or a line every half minute.

    Raises:
        InputError: for anything that cannot be loaded safely and exactly; one line says why.
    """
    check_arguments(load, locals())
    loading = LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle, stream)
    plan = PlanOptions(order, loop, grown, iterations)
    return open_model(source, tokenizer, loading, plan, forward=forward, seed=seed, progress=Progress.of(progress))


def open_model(
    source: Any, tokenizer: Any, loading: LoadOptions, options: PlanOptions, *,
    forward: Callable[[nn.Module, Tensor], Any] | None = None, seed: int = 0, progress: bool | Progress = False,
) -> Model:  # fmt: skip
    """As :func:`load`, with its options as records."""
    live = isinstance(source, nn.Module)
    if live:
        _check_live(source, loading)
    foresee(source, loading, options)  # before any weight is read
    checkpoint = open_checkpoint(source, tokenizer, loading, progress=progress)
    check_precision(one.type for one in devices_of(checkpoint.module))
    check_finite(checkpoint.module, streamed_names(checkpoint.module))
    refuse_loops(checkpoint.module, checkpoint.config, repr(checkpoint.source))
    declared = gather(options, checkpoint.declared, checkpoint.config)
    # An order says itself what is repeated; its count is forced in the order.
    native_counts = {} if declared.order is not None else options.counts
    conduct, counts = find_conduct(
        checkpoint.module, checkpoint.config, function=forward, iterations=native_counts, seed=seed
    )
    module = conducted(checkpoint.module, conduct)
    anatomy = find_anatomy(module, checkpoint.config)
    trace = trace_forward(module, anatomy.layers, anatomy.readout)
    native = check_counts(_native_plan(anatomy, trace), counts)
    native = replace(native, notes=(*native.notes, *conduct.notes))
    plan = declare_spans(native, declared, len(anatomy.layers))
    _check_order(trace, native, plan)
    return Model(
        module=module, anatomy=anatomy, trace=trace, native=native, plan=plan,
        checkpoint=replace(checkpoint, module=module), declared=declared, loading=None if live else loading,
        random_state=conduct.seed,
    )  # fmt: skip


def _check_live(module: nn.Module, loading: LoadOptions) -> None:
    """A live model is used where and as it is: what says otherwise would not be done, so it is refused."""
    first = next(module.parameters(), None)
    own = {} if first is None else {"dtype": str(first.dtype).removeprefix("torch."), "device": str(device_of(module))}
    for name in ("dtype", "device", "device_map", "revision", "stream"):
        value = loading.given().get(name)
        if value is not None and str(value).removeprefix("torch.") != own.get(name):
            raise InputError(
                f"{name} = {value!r} goes with a checkpoint; a live model is used as it is"
                + (f", in {own['dtype']} on {own['device']}" if own else "")
            )


def _native_plan(anatomy: Anatomy, trace: Trace) -> Plan:
    """The traced steps; layers that share all their weights count as one."""
    modules = [layer.module for layer in anatomy.layers]
    tied = tied_to(modules)
    plan = build_plan([tied[i] for i in trace.layers], len(modules), boundaries=trace.boundaries)
    same = [f"layer {i} has all its weights from layer {j} and counts as it" for i, j in enumerate(tied) if i != j]
    reads = [] if trace.reads is None else [f"{trace.why_no_chain}: every edit runs all layers, none is answered for"]
    return replace(plan, notes=(*plan.notes, *same, *shared_pieces(modules), *reads))


def _check_order(trace: Trace, native: Plan, plan: Plan) -> None:
    if plan.layers == native.layers or plan.order is None:
        return
    if not trace.is_chain:
        raise UnsupportedModelError(
            f"another order of layers cannot be run exactly: {trace.why_no_chain}; leave --order out"
        )
    if trace.varying is not None:
        raise UnsupportedModelError(
            f"another order of layers cannot be run exactly: this model gives layer {trace.varying} other arguments "
            "at every pass (a time or a step size); leave --order out"
        )
