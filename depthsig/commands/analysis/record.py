"""The record of an analysis: what was run, on what, and what was given to run it."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import torch

from depthsig import __version__
from depthsig.checkpoint.anatomy.offloaded import is_offloaded
from depthsig.checkpoint.anatomy.patterns import layer_patterns
from depthsig.checkpoint.costs.trained import SAYS
from depthsig.checkpoint.fingerprint import fingerprint
from depthsig.checkpoint.lens_folder import LensKind
from depthsig.commands.opening import ReadyPrompts
from depthsig.engine.certificates import Certificate
from depthsig.errors import DepthsigWarning
from depthsig.measure.request import Request
from depthsig.metrics import Metric
from depthsig.metrics.entries.plugins import plugin_of
from depthsig.model import Model
from depthsig.prompts import TokenPrompt
from depthsig.signature.provenance import versions
from depthsig.signature.schema import SCHEMA
from depthsig.untrusted import made_visible


def describe(
    model: Model, request: Request, certificates: Sequence[Certificate], prompts: ReadyPrompts,
    given: Mapping[str, Any], messages: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """The record kept in ``signature.json``, as it will be read again: with all its text made visible.

    Args:
        given: what the model and its plan were made from, and the user's own files.
        messages: warnings so far.
    """
    checkpoint, plan = model.checkpoint, model.plan
    spans = [
        {"start": s.start, "end": s.end, "size": s.size, "count": s.count, "kind": s.kind,
         "executed": s.executed, "source": s.source}
        for s in plan.spans
    ]  # fmt: skip
    made: dict[str, Any] = made_visible({
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {**versions(), "python": platform.python_version()},
        "checkpoint": {
            "id": checkpoint.repository or checkpoint.source, "name": checkpoint.name, "kind": checkpoint.kind,
            "revision": checkpoint.revision, "content_hash": checkpoint.content_hash,
            "tokenizer_hash": checkpoint.tokenizer_hash,
            "family": model.anatomy.family, "n_layers": len(model.anatomy.layers),
            "vocabulary": model.readout.vocab or None,
            "layer_patterns": layer_patterns(checkpoint.config, len(model.anatomy.layers)),
        },
        "costs": costs_record(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "seed": request.seed,
        "random_state": None if model.random_state is None else {"seed": model.random_state, "by": "position"},
        "plan": plan.records(),
        "spans": {
            "declared": model.declared.record(),
            "executed": [s for s in spans if s["kind"] == "loop" and s["executed"]],
            "labelled": [s for s in spans if s["kind"] != "loop" or not s["executed"]],
            "found": [],
        },
        "certificates": [c.record() for c in certificates],
        "lens": _about(request, "tuned"),
        "jacobian_lens": _about(request, "jacobian"),
        "options": {**request.record(), **model.declared.record(), "prompts": prompts.name},
        "given": {**given, "prompts": _given_prompts(prompts), **_own(request, given["plugins"])},
        "metrics": [one.record() for one in request.needed.values() if one.own],
        # A model that was loaded earlier said its notes then.
        "warnings": list(dict.fromkeys([*checkpoint.notes, *messages, *plan.notes])),
    })  # fmt: skip
    return made


def _about(request: Request, kind: LensKind) -> dict[str, Any] | None:
    lens = request.lenses.get(kind)
    found: dict[str, Any] | None = None if lens is None else lens.about()
    return found


def costs_record(model: Model) -> dict[str, Any]:
    """What a model costs, as ``signature.json`` keeps it: what is counted, and what its files say of training."""
    told = model.checkpoint.trained
    return {**model.costs.record(), **{name: told.get(name) for name in SAYS}}


def _given_prompts(prompts: ReadyPrompts) -> dict[str, Any]:
    return {"name": prompts.name, "objects": prompts.objects, "count": len(prompts.tokens), "first": prompts.first}


def _own(request: Request, plugins: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The files that declare a user's own metrics, now or earlier in this session, and what no file declares."""
    own = [one for one in request.needed.values() if one.own]
    found = [*plugins, *(plugin for one in own if (plugin := plugin_of(one)) is not None)]
    files = {plugin["path"]: dict(plugin) for plugin in found}
    return {"plugins": list(files.values()), "declared": [one.id for one in own if plugin_of(one) is None]}


def identity(
    model: Model, prompts: Sequence[TokenPrompt], request: Request, calibration: Sequence[TokenPrompt] = ()
) -> dict[str, Any]:
    """What makes an analysis what it is; a result of another identity is another result.

    Args:
        calibration: prompts that readouts are fitted on.
    """
    return {
        "checkpoint": model.checkpoint.content_hash or _weights(model), "tokenizer": model.checkpoint.tokenizer_hash,
        "plan": list(model.plan.layers), "declared": model.declared.record(),
        "dtype": str(model.dtype), "prompts": [p.tokens_sha256 for p in prompts], **request.record(),
        "content of --lens": [one.content_hash for one in request.lenses.values()] or None,
        "calibration prompts": [p.tokens_sha256 for p in calibration],
        "plug-in or metric of your own": {one.id: _fingerprint(one) for one in request.needed.values() if one.own},
    }  # fmt: skip


def continuing(identity: Mapping[str, Any], *, streamed: bool = False) -> dict[str, Any]:
    """What must be the same for unfinished work to be gone on with: an analysis by this very version.

    Args:
        streamed: whether layers are read as they are needed, in other batches.
    """
    return {**identity, "version": __version__, **({"--stream": True} if streamed else {})}


def _weights(model: Model) -> str:
    """SHA-256 over the weights of a model that came as an object, and what it is called."""
    digest = hashlib.sha256(model.checkpoint.source.encode())
    for name, tensor in model.checkpoint.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    if is_offloaded(model.checkpoint.module):
        digest.update(repr(sorted(fingerprint(model.checkpoint.module).items())).encode())
    return digest.hexdigest()


def _fingerprint(one: Metric) -> str:
    """Of a user's own metric: its entry, its file where one declares it, and its function's code.

    Of a function declared in Python, the code, defaults and numbers that it uses count, and of the functions
    that it calls likewise, whatever objects they hold.
    """
    pieces = (one.record(), plugin_of(one), _code(one.function, set()))
    return hashlib.sha256(repr(pieces).encode()).hexdigest()


def _code(function: Any, seen: set[int]) -> Any:
    """What a function computes with, as far as it can be told; a library's functions by their names."""
    code = getattr(function, "__code__", None)
    if code is None or id(code) in seen:
        return getattr(function, "__qualname__", "")
    seen.add(id(code))
    used = {name: function.__globals__[name] for name in sorted(code.co_names) if name in function.__globals__}
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return (code.co_code, _constants(code), code.co_names, [_plain(v, seen) for v in function.__defaults__ or ()],
            {name: _plain(v, seen) for name, v in used.items()}, [_plain(v, seen) for v in cells])  # fmt: skip


def _plain(value: Any, seen: set[int]) -> Any:
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(v, seen) for v in value]
    return _code(value, seen) if hasattr(value, "__code__") else type(value).__qualname__


def _constants(code: Any) -> tuple[Any, ...]:
    """Constants of a function; code inside it by its own code, since its repr holds an address."""
    found = getattr(code, "co_consts", ())
    return tuple((c.co_code, _constants(c)) if hasattr(c, "co_code") else c for c in found)


def prompts_table(prompts: Sequence[TokenPrompt], cuts: Mapping[int, Sequence[int]]) -> pd.DataFrame:
    """``prompts.csv``: every prompt that was asked for, the short ones too."""
    return pd.DataFrame({
        "prompt": [p.index for p in prompts],
        "sha256": [p.sha256 for p in prompts],
        "tokens_sha256": [p.tokens_sha256 for p in prompts],
        "n_tokens": [p.n_tokens for p in prompts],
        "cuts": [" ".join(map(str, cuts.get(p.index, ()))) for p in prompts],
    })  # fmt: skip


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Our own warnings, shown as usual and kept for the record."""
    messages: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def record(message: Any, category: type, *args: Any, **kwargs: Any) -> None:
            if issubclass(category, DepthsigWarning):
                messages.append(str(message))
            show(message, category, *args, **kwargs)

        warnings.simplefilter("always", DepthsigWarning)
        warnings.showwarning = record
        yield messages
