"""A re-layered model as an ordinary checkpoint: weights materialised, config and layer types with it."""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from depthsig.arguments import check_arguments
from depthsig.checkpoint.anatomy.adapter import tolerance
from depthsig.checkpoint.anatomy.offloaded import is_offloaded
from depthsig.checkpoint.anatomy.probe import probe_ids
from depthsig.checkpoint.hooks import forward, undisturbed
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.open import quiet
from depthsig.commands.early import Asked, check_order_given, ensure_new
from depthsig.commands.opening import Given
from depthsig.errors import CertificateError, InputError, UnsupportedModelError
from depthsig.model import Model
from depthsig.plan.declared import Iterations, PlanOptions
from depthsig.progress import Progress
from depthsig.signature.folders.writing import writing

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def export(
    model: Any, out: str | Path, *, tokenizer: Any = None, order: str | None = None,
    iterations: Iterations | None = None, dtype: str | torch.dtype = "auto", revision: str | None = None,
    trust_remote_code: bool = False, allow_pickle: bool = False, progress: bool | Progress | None = None,
) -> Path:  # fmt: skip
    """Write a checkpoint with the layers of a plan as its own, in their order.

    Every occurrence of a layer gets its own copy of the weights, so that the checkpoint loads in
    plain transformers and each occurrence has its own slot of the key-value cache. The written
    folder is loaded again and held against the executed order before it gets its name.

    Args:
        model: a :class:`~depthsig.model.Model`, or anything that :func:`depthsig.load` takes.
        out: a folder that does not exist.
        tokenizer: for a live model.
        order: the layers to write, as ``0:4,4:8x2,8:12``; default: the order that the model has.
        iterations: how often the loop of the order runs.
        dtype: of the weights; default: their own.
        revision, trust_remote_code, allow_pickle: as for :func:`depthsig.analyze`.
        progress: show how far it is (the default): bars, or a line every half minute.

    Returns:
        The folder.

    Raises:
        InputError: if the folder exists or cannot be written, or there is no order.
        UnsupportedModelError: for models that cannot be re-layered so.
        CertificateError: if what was written gives other logits.
    """
    check_arguments(export, locals())
    ensure_new(out)
    loaded = isinstance(model, (Model, torch.nn.Module))
    loading = LoadOptions(
        None if loaded and dtype == "auto" else dtype, "auto" if loaded else "cpu", None, revision, trust_remote_code,
        allow_pickle,
    )  # fmt: skip
    given = Given(model, tokenizer, loading, PlanOptions(order, iterations=iterations))
    return write_relayered(given.open(0, Progress.of(progress), Asked(exported=True)), out)


def write_relayered(model: Model, out: str | Path) -> Path:
    """As :func:`export`, of a model that was loaded with its order."""
    target = Path(out)
    ensure_new(target)
    if model.is_streamed:
        raise InputError("a model whose layers are read as they are needed is not written; load it without --stream")
    state, config = relayered(model)
    with writing(target, record=None) as partial, quiet(False):
        _write(model, state, config, partial)
        _prove(model, partial)
    return target


def relayered(model: Model) -> tuple[dict[str, torch.Tensor], Any]:
    """State dict and config of the re-layered model."""
    check_order_given(model.plan.order)
    config, path = model.checkpoint.config, _stack(model)
    layers = model.plan.layers
    count = len(model.anatomy.layers)
    new = copy.deepcopy(config)
    found = [name for name in _COUNTS if name in config.to_dict() and getattr(config, name) == count]
    if not found:
        raise UnsupportedModelError(
            f"{model.anatomy.family}: none of {', '.join(_COUNTS)} in its config says {count} layers, so a "
            "re-layered checkpoint cannot be described"
        )
    for name in found:
        setattr(new, name, len(layers))
    _per_layer(config, new, layers, count)
    if hasattr(new, "auto_map") and not _brings_code(model.module):
        delattr(new, "auto_map")  # the code that it names is not the model that was exported
    if hasattr(new, "depthsig"):
        entry = {k: v for k, v in new.depthsig.items() if k == "prompts"}
        delattr(new, "depthsig")
        if entry:
            new.depthsig = entry
    state: dict[str, torch.Tensor] = {}
    prefix = path + "."
    for name, tensor in model.module.state_dict().items():
        if not name.startswith(prefix):
            state[name] = tensor
            continue
        index, _, rest = name[len(prefix) :].partition(".")
        for step, layer in enumerate(layers):
            if layer == int(index):
                state[f"{prefix}{step}.{rest}"] = tensor.clone()
    return state, new


def _stack(model: Model) -> str:
    config = model.checkpoint.config
    if is_offloaded(model.module):
        raise UnsupportedModelError(
            "weights of this model are offloaded by accelerate, and are copied from memory; load it without "
            "--device-map, or with one that keeps all of it in memory"
        )
    if config is None or not hasattr(model.module, "save_pretrained"):
        raise UnsupportedModelError("only models with a Hugging Face config can be exported as a checkpoint")
    if len(model.anatomy.stacks) != 1 or not model.trace.is_chain:
        raise UnsupportedModelError(
            f"{model.anatomy.family} keeps its layers in {len(model.anatomy.stacks)} stacks or does something between "
            "them; only one plain stack can be re-layered"
        )
    if getattr(config, "quantization_config", None):
        raise UnsupportedModelError("a quantised checkpoint cannot be exported re-layered; load the unquantised one")
    natural = tuple(range(len(model.anatomy.layers)))
    if model.native.layers != natural:
        raise UnsupportedModelError(
            "this model's own forward already runs its layers in another order; only plain stacks can be re-layered"
        )
    return model.anatomy.stacks[0]


def _per_layer(config: Any, new: Any, layers: Sequence[int], count: int) -> None:
    """Lists with an entry a layer (``layer_types``) follow the layers; patterns that don't are refused."""
    for name, value in config.to_dict().items():
        if isinstance(value, (list, tuple)) and len(value) == count and name not in ("architectures",):
            setattr(new, name, [value[i] for i in layers])
    # What a config derives from a layer's number would change with the number.
    for name in ("no_rope_layers", "layer_types"):
        pattern = getattr(config, name, None)
        if pattern is not None and len(pattern) != count:
            raise UnsupportedModelError(f"the config's {name} has {len(pattern)} entries for {count} layers")


def _write(model: Model, state: dict[str, torch.Tensor], config: Any, folder: Path) -> None:
    with torch.device("meta"):
        shell: Any = type(model.module)(config)
    tied = set(getattr(shell, "_tied_weights_keys", None) or ())
    missing = set(shell.state_dict()) - set(state) - tied
    extra = set(state) - set(shell.state_dict())
    if missing or extra:
        raise UnsupportedModelError(
            f"{model.anatomy.family}: the re-layered model would lack or not know {sorted(missing | extra)[:2]}; "
            "its layers differ by their number"
        )
    shell.load_state_dict(state, strict=False, assign=True)
    shell.tie_weights()
    if hasattr(model.module, "generation_config"):
        shell.generation_config = copy.deepcopy(model.module.generation_config)
    shell.save_pretrained(folder)
    if hasattr(model.tokenizer, "save_pretrained"):
        model.tokenizer.save_pretrained(folder)
    for code in model.checkpoint.code:  # none where it was not allowed to run
        shutil.copy(code, folder / code.name)


def _brings_code(module: Any) -> bool:
    """Whether the model that runs is itself made by code of a checkpoint."""
    return type(module).__module__.partition(".")[0] == "transformers_modules"


@torch.no_grad()
def _prove(model: Model, folder: Path) -> None:
    """The written checkpoint, loaded as anybody would, against the executed order; with and without cache."""
    trusted = _brings_code(model.module)  # what runs already runs once more; nothing else does
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype, trust_remote_code=trusted)
    loaded = loaded.to(model.device).eval()
    ids = probe_ids(model.module, 1, 8).to(model.device)
    wanted = model.read(model.clean(ids).outputs[-1]).float()
    allowed = tolerance(model.dtype) * float(wanted.abs().max())
    gap = float((forward(loaded, ids).float() - wanted).abs().max())
    if not gap <= allowed:
        raise CertificateError(f"the exported checkpoint's logits are off by {gap:.3g} (tolerated {allowed:.3g})")
    with undisturbed(loaded):
        first = loaded(ids[:, :5], use_cache=True)
        cache = getattr(first, "past_key_values", None)
        if cache is None:
            return
        rest = loaded(ids[:, 5:], past_key_values=cache, use_cache=True).logits.float()
    gap = float((rest - wanted[:, 5:]).abs().max())
    if not gap <= allowed:
        raise CertificateError(f"with a key-value cache the exported logits are off by {gap:.3g}")


def mergekit_yaml(layers: Sequence[int], source: str, dtype: str = "float32") -> str:
    """The passthrough merge that mergekit would make of the same order.

    >>> print(mergekit_yaml([0, 1, 2, 1, 2], "model"))
    merge_method: passthrough
    dtype: float32
    slices:
    - sources:
      - model: model
        layer_range: [0, 3]
    - sources:
      - model: model
        layer_range: [1, 3]
    """
    lines = ["merge_method: passthrough", f"dtype: {dtype}", "slices:"]
    for start, end in ranges(layers):
        lines += ["- sources:", f"  - model: {source}", f"    layer_range: [{start}, {end}]"]
    return "\n".join(lines)


def ranges(layers: Sequence[int]) -> list[tuple[int, int]]:
    """The order as half-open ranges of layers that follow each other.

    >>> ranges([0, 1, 2, 1, 2, 5])
    [(0, 3), (1, 3), (5, 6)]
    """
    found = [[layers[0], layers[0] + 1]] if layers else []
    for before, layer in itertools.pairwise(layers):
        if layer == before + 1:
            found[-1][1] = layer + 1
        else:
            found.append([layer, layer + 1])
    return [(a, b) for a, b in found]
