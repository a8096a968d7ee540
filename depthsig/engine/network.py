"""A network that can be run step by step: where its pieces are, and which layer runs when."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from depthsig.checkpoint.anatomy.adapter import Anatomy, Layer
from depthsig.checkpoint.anatomy.offloaded import device_of
from depthsig.checkpoint.anatomy.probe import embedding_of
from depthsig.checkpoint.anatomy.readout import Readout
from depthsig.checkpoint.finite import is_finite, lacks_a_number, not_finite
from depthsig.checkpoint.hooks import forward, undisturbed
from depthsig.checkpoint.streaming.stream import stream_of
from depthsig.engine.batch import make_batch
from depthsig.engine.calls import LayerCall, RowSpec, row_specs
from depthsig.engine.clean_run import CleanRun, layer_calls, native_run, ordered_run
from depthsig.engine.device import Pending
from depthsig.errors import CertificateError, InputError, near, shown
from depthsig.plan.plan import Plan
from depthsig.plan.trace import Trace
from depthsig.prompts import TokenPrompt

_NAME = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)")
_FORMS = "blocks.{i}.hook_resid_pre, _resid_mid, _resid_post, _attn_out or _mlp_out"


class NotCached(InputError, KeyError):
    """An activation that is not among those that were kept; a missing key for whoever takes the dictionary for one."""


class Activations(dict[str, list[Tensor]]):
    """Activations by TransformerLens' names, which are found as ``cache["resid_post", 3]``, too.

    The number counts steps there, as in the names: of a loop every pass has its own. -1 is the last step.

    Attributes:
        layers: which layer runs at each step.
    """

    def __init__(self, found: Mapping[str, list[Tensor]], layers: Sequence[int]) -> None:
        super().__init__(found)
        self.layers = tuple(layers)

    def __missing__(self, key: Any) -> list[Tensor]:
        """What a short form stands for.

        Raises:
            NotCached: for what is no such form, a step outside the plan, or an activation that was not kept.
        """
        name = self._name_of(key) if isinstance(key, tuple) else key
        if name in self:
            return self[name]
        raise NotCached(
            f"{shown(name)} is not among the {len(self)} activations that were kept{near(name, self)}; keys are names, "
            f"{_FORMS}, or ('resid_post', i)"
        )

    def _name_of(self, key: tuple[Any, ...]) -> str:
        kind, step = key if len(key) == 2 else (None, None)
        if not isinstance(kind, str) or isinstance(step, bool) or not isinstance(step, int):
            raise NotCached(f"{shown(key)} names no activation; a short form is a kind and a step: ('resid_post', 3)")
        steps = len(self.layers)
        if not -steps <= step < steps:
            passes = [at for at, layer in enumerate(self.layers) if layer == step]
            also = f"; layer {step} runs at steps {', '.join(map(str, passes))}" if passes else ""
            raise NotCached(f"{shown(key)}: the number counts steps, and the plan has 0..{steps - 1}{also}")
        return f"blocks.{step % steps}.hook_{kind.removeprefix('hook_')}"


@dataclass(frozen=True)
class Network:
    """What the engine works on.

    Attributes:
        module: the live model.
        anatomy: where its layers, parts and readout are.
        native: the plan of the model's own forward, as traced.
        plan: the plan that is run: the native one, or another order, with its labels.
    """

    module: nn.Module = field(repr=False)
    anatomy: Anatomy = field(repr=False)
    trace: Trace = field(repr=False)
    native: Plan = field(repr=False)
    plan: Plan
    _specs: dict[int, dict[int, tuple[RowSpec | None, ...]]] = field(default_factory=dict, repr=False, compare=False)

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
        return device_of(self.module)

    @property
    def is_streamed(self) -> bool:
        """Whether layers are read from files as they run."""
        return stream_of(self.module) is not None

    @property
    def is_native(self) -> bool:
        """Whether the plan is the model's own order of layers."""
        return self.plan.layers == self.native.layers

    @property
    def is_chain(self) -> bool:
        """Whether the plan's steps can be run one by one: nothing happens between them."""
        return self.trace.is_chain or not self.is_native

    @property
    def has_parts(self) -> list[bool]:
        """For every step, whether its attention and MLP contributions are known."""
        return [self.anatomy.layers[step.layer].has_parts for step in self.plan]

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
            return forward(self.module, ids)

    def clean(self, ids: Int[Tensor, "row token"], *, parts: bool = False, later: Pending | None = None) -> CleanRun:
        """The unedited run of the plan, with every step's input and output.

        Args:
            later: where it is to be said that a state is no number; None: at once.

        Raises:
            CertificateError: where a state is NaN or infinite, naming the layer.
        """
        if self.is_native:
            run = native_run(self.module, self.anatomy, self.trace, ids, parts=parts)[0]
        else:
            run = ordered_run(self.module, self.anatomy, self.trace, self.plan, ids, parts=parts)
        asked = Pending() if later is None else later
        # What was no number once never is one again.
        asked.add(lambda lacks: self.refuse_not_finite(run, ids) if lacks else None, lacks_a_number(run.outputs[-1]))
        if later is None:
            asked.settle()
        return run

    def refuse_not_finite(self, run: CleanRun, ids: Int[Tensor, "row token"]) -> None:
        """Refuse a run of which a real token's state is no number.

        Raises:
            CertificateError: naming the layer and the dtype.
        """
        real = ids.flip(-1).cumsum(-1).flip(-1) != 0  # zeros at the end may be padding
        for step, out in enumerate(run.outputs):
            if not is_finite(out[real]):
                layer = self.layer_at(step)
                raise CertificateError(not_finite(f"layer {layer.index} ({layer.path}, step {step})", out.dtype))

    def executed(self, ids: Int[Tensor, "row token"]) -> CleanRun:
        """The model's own order of layers, run step by step by the executor."""
        return ordered_run(self.module, self.anatomy, self.trace, self.native, ids)

    def read(self, hidden: Float[Tensor, "*batch d"], depth: int | None = None) -> Float[Tensor, "*batch vocab"]:
        """Logits of residual states: of h_S, or of those at ``depth``."""
        with undisturbed(self.module):
            return (self.readout if depth is None else self.readout_at(depth))(hidden)

    def row_specs(self, tokens: int) -> dict[int, tuple[RowSpec | None, ...]]:
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
        """The calls of a run, ready to be made for any selection of its prompts.

        None where layers read what others left when they ran: no such call can be made by itself.
        """
        if self.trace.reads is not None:
            return []
        specs = self.row_specs(tokens)
        layers = (self.layer_at(step).index for step in range(len(self.plan)))
        return [replace(c, rows=specs[layer]) for layer, c in zip(layers, run.calls, strict=True)]

    def activations(self, prompts: Sequence[TokenPrompt], names: Sequence[str]) -> Activations:
        """Under every of TransformerLens' names one tensor [token, d] a prompt, position 0 included.

        Raises:
            InputError: for a name that is not known, a step outside the plan, or an attention or MLP
                output whose place in this model is not known.
        """
        wanted = {name: _parse(name, len(self.plan)) for name in names}
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        parts = any(kind in ("resid_mid", "attn_out", "mlp_out") for _, kind in wanted.values())
        for prompt in prompts:
            run = self.clean(make_batch([prompt.ids], [0], self.device).ids, parts=parts)
            for name, (step, kind) in wanted.items():
                found[name].append(_pick(run, step, kind, name, self)[0])
        return Activations(found, self.plan.layers)

    def check_vocabulary(self, ids: Sequence[int]) -> None:
        """Refuse token ids that the model has no embedding for.

        Raises:
            InputError: naming the id and the vocabulary's size.
        """
        embedding = embedding_of(self.module)
        sizes = [self.readout.vocab, *([] if embedding is None else [embedding.shape[0]])]
        size = min(s for s in sizes if s) if any(sizes) else 0
        if size and ids and (max(ids) >= size or min(ids) < 0):
            raise InputError(
                f"token id {max(ids)} is outside the model's vocabulary of {size}; "
                "the tokenizer does not belong to this checkpoint"
            )

    def names_of(self, names: str | Sequence[str] | Callable[[str], bool] | None) -> list[str]:
        """Names of activations that this network has.

        Args:
            names: one name or several, each perhaps a pattern (``blocks.*.hook_resid_post``), a function that says
                of a name whether it is wanted, or None for all.

        Raises:
            InputError: for a name that is not known, a step outside the plan, or a choice that nothing fits.
        """
        if isinstance(names, str):
            names = [names]
        if names is not None and not callable(names):
            if not isinstance(names, Iterable):
                raise InputError(f"names are text, a list of it or a function; found {type(names).__name__}")
            given = list(names)
            wrong = [name for name in given if not isinstance(name, str)]
            if wrong:
                raise InputError(f"a name of an activation is text; found {type(wrong[0]).__name__}")
            chosen = [one for name in given for one in (self._matching(name) if _is_pattern(name) else [name])]
            return list(dict.fromkeys(chosen))
        chosen = [name for name in self._there() if names is None or names(name)]
        if not chosen:
            raise InputError(f"the filter takes none of this model's activations; they are {_FORMS}")
        return chosen

    def _matching(self, pattern: str) -> list[str]:
        found = fnmatch.filter(self._there(), pattern)
        if not found:
            raise InputError(
                f"no activation fits {shown(pattern)}; this model has {_FORMS}, i = 0..{len(self.plan) - 1}"
            )
        return found

    def _there(self) -> list[str]:
        """Every activation that is there, step by step: those between parts only where the parts are known."""
        found = []
        for step, known in enumerate(self.has_parts):
            layer = self.anatomy.layers[self.plan[step].layer]
            kinds = ["resid_pre", *["attn_out", "mlp_out"] * known, *["resid_mid"] * (known and not layer.parallel)]
            found += [f"blocks.{step}.hook_{kind}" for kind in (*kinds, "resid_post")]
        return found


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _kinds(name: str) -> list[str]:
    """The names of one step, which a misspelt one is held against."""
    number = re.search(r"\d{1,6}", name)
    kinds = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
    return [f"blocks.{number[0] if number else 0}.hook_{kind}" for kind in kinds]


def _parse(name: str, steps: int) -> tuple[int, str]:
    match = _NAME.fullmatch(name)
    if not match:
        raise InputError(f"unknown activation {shown(name)}{near(name, _kinds(name))}; known are {_FORMS}")
    step = int(match[1])
    if step >= steps:
        raise InputError(f"{name!r}: step {step} is outside the plan, which has steps 0..{steps - 1}")
    return step, match[2]


def _pick(run: CleanRun, step: int, kind: str, name: str, network: Network) -> Tensor:
    if kind == "resid_pre":
        return run.inputs[step]
    if kind == "resid_post":
        return run.outputs[step]
    part = run.mlp[step] if kind == "mlp_out" else run.attn[step]
    layer = network.anatomy.layers[network.plan[step].layer]
    if part is None:
        raise InputError(f"{name!r}: where {network.anatomy.family} keeps its attention and MLP is not known")
    if kind != "resid_mid":
        return part
    if layer.parallel:
        raise InputError(f"{name!r}: a parallel layer has no state between attention and MLP")
    return run.inputs[step] + part
