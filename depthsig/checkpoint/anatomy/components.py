"""Candidate component paths: from ``places.toml``, TransformerLens' architecture adapters, or by name.

Of TransformerLens, only *paths* are taken; no bridge is booted, since that replaces submodules
of the caller's model. Which candidate is right is decided by measuring (:mod:`.adapter`).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthsig import kept
from depthsig.checkpoint.hooks import resolve


@dataclass
class Candidates:
    """Where the components may be; lists are in order of preference.

    Attributes:
        layer_lists: dotted paths of the module lists that hold the layers.
        attn, mlp: per layer list, paths inside a layer whose output may be the contribution.
        norms: paths of the final norm. heads: of the unembedding.
        transform: what the model does to the head's output, if that is known.
        scales: numbers that a sublayer's output may be multiplied by before it is added.
        known: whether TransformerLens knows the architecture.
    """

    layer_lists: list[str] = field(default_factory=list)
    attn: list[str] = field(default_factory=list)
    mlp: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    transform: Callable[[Tensor], Tensor] | None = None
    scales: list[float] = field(default_factory=lambda: [1.0])
    known: bool = False


TOLD: dict[str, dict[str, list[Any]]] = tomllib.loads(
    Path(__file__).with_name("places.toml").read_text(encoding="utf-8")
)
"""What ``places.toml`` tells, by the name of a model's class."""

_ATTN = re.compile(r"attn|attention|temporal_block", re.I)
_MLP = re.compile(r"mlp|ffn|feed_forward|moe|block_sparse", re.I)
_NORM = re.compile(r"norm|^ln", re.I)


def find_candidates(module: nn.Module, config: Any) -> Candidates:
    """Candidates for ``module``: what is told of it, what TransformerLens knows, and what names suggest."""
    candidates = _from_transformer_lens(module, config) or Candidates()
    for told in (TOLD[c.__name__] for c in type(module).__mro__ if c.__name__ in TOLD):
        for name, values in told.items():
            setattr(candidates, name, [*values, *getattr(candidates, name)])
    if not candidates.layer_lists:
        candidates.layer_lists = module_lists(module)
    for path in candidates.layer_lists:
        layers = [m for m in resolve(module, path) or () if isinstance(m, nn.Module)]
        if layers:
            _add_by_name(candidates, layers[0])
    candidates.scales += _scales_in(config)
    return candidates


def _from_transformer_lens(module: nn.Module, config: Any) -> Candidates | None:
    if config is None:
        return None
    key = _key(module, config)
    found = _kept(key)
    if found is None:
        found = _told_by_transformer_lens(module, config)
        if key is not None and found.transform is None:  # a function is not kept
            kept.write(_KIND, key, json.dumps(asdict(found)).encode())
    for name in ("layer_lists", "norms", "heads"):
        setattr(found, name, [path for path in getattr(found, name) if resolve(module, path) is not None])
    return found if found.known else None


_KIND = "places"
"""What TransformerLens says of a class and config is kept between runs: asking it takes a second of imports."""


def _key(module: nn.Module, config: Any) -> str | None:
    """All that its answer depends on; None for what has no config of transformers."""
    try:
        about = config.to_json_string(use_diff=False)
    except Exception:  # of somebody's own making
        return None
    versions = [version(package) for package in ("transformer-lens", "transformers")]
    dtype = str(next((p.dtype for p in module.parameters()), None))
    return json.dumps([1, versions, [c.__name__ for c in type(module).__mro__], dtype, about])


def _kept(key: str | None) -> Candidates | None:
    data = None if key is None else kept.read(_KIND, key)
    try:
        found = None if data is None else Candidates(**json.loads(data))
    except (TypeError, ValueError):
        return None
    lists = () if found is None else (found.layer_lists, found.attn, found.mlp, found.norms, found.heads)
    paths = all(isinstance(one, list) and all(isinstance(path, str) for path in one) for one in lists)
    return found if paths else None


def _told_by_transformer_lens(module: nn.Module, config: Any) -> Candidates:
    # Start-up time: TransformerLens takes seconds to import, and other models need none of it.
    from transformer_lens.factories import architecture_adapter_factory as factory  # start-up time
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter  # start-up time
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf  # start-up time

    architecture = _architecture(module, factory.SUPPORTED_ARCHITECTURES)
    if architecture is None:
        return Candidates()
    try:
        dtype = next(module.parameters()).dtype
        bridge_config = build_bridge_config_from_hf(config, architecture, "depthsig", dtype)
        adapter = factory.ArchitectureAdapterFactory.select_architecture_adapter(bridge_config)
        mapping = adapter.component_mapping or {}
    except Exception:  # an adapter that cannot be built is one that cannot be used: look by name
        return Candidates()
    found, transform = Candidates(known=True), "apply_output_logits_transform"
    own = getattr(type(adapter), transform) is not getattr(ArchitectureAdapter, transform)
    if own or (getattr(adapter.cfg, "output_logits_soft_cap", None) or 0.0) > 0:  # -1 stands for none
        found.transform = getattr(adapter, transform)
    for component in mapping.values():
        if getattr(component, "is_list_item", False) and component.name is not None:
            found.layer_lists.append(component.name)
            _add_sublayers(found, component)
    for key, store in (("ln_final", found.norms), ("unembed", found.heads)):
        name = getattr(mapping.get(key), "name", None)
        if name:
            store.append(name)
    return found


def _architecture(module: nn.Module, supported: dict) -> str | None:
    return next((c.__name__ for c in type(module).__mro__ if c.__name__ in supported), None)


def _add_sublayers(found: Candidates, block: Any) -> None:
    """Post-norm first (what is added last), then the sublayer, then its output projection."""
    scale = getattr(block, "residual_contribution_scale", None)
    if isinstance(scale, (int, float)):
        found.scales.append(float(scale))
    for names, post, out, store in (
        (("attn", "linear_attn"), "ln1_post", "o", found.attn),
        (("mlp",), "ln2_post", "out", found.mlp),
    ):
        for name in names:
            part = block.submodules.get(name)
            path = getattr(part, "name", None)
            post_norm = getattr(block.submodules.get(post), "name", None)
            inner = getattr(getattr(part, "submodules", {}).get(out), "name", None)
            # OPT has no MLP module: its projections are the layer's own children.
            joined = ".".join(p for p in (path, inner) if p) if inner else None
            paths = [post_norm, path, joined]
            store.extend(p for p in paths if p and p not in store)


def _add_by_name(candidates: Candidates, layer: nn.Module) -> None:
    """Children named like a sublayer, the norms right after them, and their last projection."""
    children = list(layer.named_children())
    for position, (name, child) in enumerate(children):
        for pattern, store in ((_ATTN, candidates.attn), (_MLP, candidates.mlp)):
            if pattern.search(name) and not _NORM.search(name):
                linears = [n for n, m in child.named_modules() if isinstance(m, nn.Linear)]
                after = [n for n, _ in children[position + 1 :] if _NORM.search(n)]
                paths = [name, *(f"{name}.{n}" for n in linears[-1:]), *after]
                store.extend(p for p in paths if p not in store)
    for position, (name, _) in enumerate(children):
        if _NORM.search(name) and position > 0:
            for store in (candidates.attn, candidates.mlp):
                if store and name not in store:
                    store.append(name)


def module_lists(module: nn.Module) -> list[str]:
    """Paths of the outermost module lists, largest share of the parameters first; lists of norms are none."""
    lists = {
        n: m
        for n, m in module.named_modules()
        if isinstance(m, nn.ModuleList) and len(m) and all(c is not None for c in m)
        if any(p.ndim > 1 for p in m.parameters())
    }
    outer = {n: m for n, m in lists.items() if not any(n.startswith(o + ".") for o in lists)}
    return sorted(outer, key=lambda n: -sum(p.numel() for p in outer[n].parameters()))


def _scales_in(config: Any) -> list[float]:
    values = [getattr(config, name, None) for name in ("residual_multiplier", "residual_scale")]
    depth_scale, depth = getattr(config, "scale_depth", None), getattr(config, "num_hidden_layers", None)
    if isinstance(depth_scale, (int, float)) and depth:
        values.append(depth_scale / depth**0.5)  # MiniCPM
    return [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]


def transforms_in(config: Any) -> list[Callable[[Tensor], Tensor]]:
    """What models are known to do after the head, as their configs name it."""

    def number(*names: str) -> float | None:
        values = (getattr(config, name, None) for name in names)
        return next((float(v) for v in values if isinstance(v, (int, float)) and v), None)

    found: list[Callable[[Tensor], Tensor]] = [lambda logits: logits]
    cap = number("final_logit_softcapping", "logits_soft_cap")
    scale = number("logit_scale", "lm_head_multiplier")
    divisor = number("logits_scaling")
    if cap:
        found.append(lambda logits: cap * torch.tanh(logits / cap))
    if scale:
        found.append(lambda logits: logits * scale)
    if divisor:
        found.append(lambda logits: logits / divisor)
    return found
