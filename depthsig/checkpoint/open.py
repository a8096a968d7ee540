"""Open a checkpoint: a folder, a hub id, a GGUF file, a shipped name, or a live model."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from depthsig.checkpoint import formats
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.wrappers import config_of, unwrapped
from depthsig.checkpoint.xtransformers import is_wrapper, step_view
from depthsig.errors import InputError, UnsupportedModelError
from depthsig.prompts.shipped import shipped_checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """A causal language model with its provenance.

    Attributes:
        module: the model. A live one is left exactly as it was.
        tokenizer: None where there is none; prompts must then be token ids.
        config: the Hugging Face config, None for other modules.
        name: short name, for results folders. source: as the user gave it.
        kind: ``folder``, ``hub``, ``gguf``, ``live`` or ``bridge``.
        revision: of a hub id. content_hash: SHA-256 over the config and weight files; for a hub
            id, the commit.
        declared: the config's ``"depthsig"`` entry.
        model_max: the model's own maximum length, None where it has none.
        given_tokenizer: whether the tokenizer came as an object, and not from the checkpoint.
    """

    module: nn.Module
    tokenizer: Any
    config: Any
    name: str
    source: str
    kind: str
    revision: str | None = None
    content_hash: str | None = None
    declared: Mapping[str, Any] = field(default_factory=dict)
    model_max: int | None = None
    given_tokenizer: bool = False


def open_checkpoint(
    source: Any, tokenizer: Any = None, options: LoadOptions | None = None, *, progress: bool = False
) -> Checkpoint:
    """Open ``source`` safely and exactly.

    Args:
        source: a local folder, a hub id, a .gguf file, the name of a shipped checkpoint, a live
            model, or a ``TransformerBridge``.
        tokenizer: for live models, and where a checkpoint's own is not to be used.
        progress: show the loader's bars.

    Raises:
        InputError: one line that says what was wrong, what was found, and what would work.
    """
    if isinstance(source, nn.Module):
        return _live(source, tokenizer)
    if not isinstance(source, (str, Path)):
        raise InputError(f"a checkpoint is a path, a hub id or a model; found {type(source).__name__}")
    options = options or LoadOptions()
    place = _locate(str(source))
    arguments: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if isinstance(place, Path) and place.suffix == ".gguf":
        arguments["gguf_file"] = place.name
        target, kind = str(place.parent), "gguf"
    elif isinstance(place, Path):
        raw = formats.read_config(place)
        formats.check_config(raw, repr(str(source)), options.trust_remote_code)
        arguments["use_safetensors"] = formats.check_weights(place, options.allow_pickle)
        target, kind = str(place), "folder"
    else:
        target, kind = place, "hub"
        arguments |= {"revision": options.revision} if options.revision else {}
        arguments["use_safetensors"] = None if options.allow_pickle else True
    with quiet(progress):
        config = _config(target, kind, arguments)
        _check_kind(config, str(source))
        module = _load(target, kind, config, arguments, options)
        found = tokenizer if tokenizer is not None else _tokenizer(target, arguments)
    return Checkpoint(
        module=module,
        tokenizer=found,
        config=module.config,
        name=_name(source, place),
        source=str(source),
        kind=kind,
        revision=options.revision,
        content_hash=_hash(place, config),
        declared=_declared(config, str(source)),
        model_max=model_max(config),
        given_tokenizer=tokenizer is not None,
    )


def _locate(source: str) -> Path | str:
    """A path that exists, a shipped checkpoint's folder, or a hub id."""
    path = Path(source).expanduser()
    if path.is_dir() or path.is_file():
        if path.is_file() and path.suffix != ".gguf":
            raise InputError(f"{source!r} is a file; a Hugging Face folder or a .gguf file works")
        return path
    shipped = shipped_checkpoints()
    if source in shipped:
        return shipped[source]
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or source.endswith(".gguf")
    if looks_like_path or os.sep + os.sep in source or not source.strip():
        raise InputError(
            f"{source!r} does not exist; name a folder, a .gguf file, a hub id or one of `depthsig models`"
        )
    if "/" not in source:
        names = ", ".join(shipped) or "none"
        raise InputError(
            f"{source!r} is no folder, and no shipped checkpoint (there are: {names}); hub ids read owner/name"
        )
    return source


@contextmanager
def quiet(progress: bool) -> Iterator[None]:
    """transformers' bars only where progress is shown; its advice is not for our users.

    The bar of GGUF files knows no switch, so what would go to standard error goes nowhere.
    """
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    (logging.enable_progress_bar if progress else logging.disable_progress_bar)()
    try:
        with contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()


def _config(target: str, kind: str, arguments: dict[str, Any]) -> Any:
    wanted = {k: v for k, v in arguments.items() if k in ("revision", "trust_remote_code", "gguf_file")}
    try:
        return AutoConfig.from_pretrained(target, **wanted)
    except Exception as error:
        raise InputError(_explain(error, target, kind)) from None


def _explain(error: Exception, target: str, kind: str) -> str:
    """One line for what transformers said in many."""
    first = _first_line(error)
    if "trust_remote_code" in str(error):
        return f"{target!r} brings its own code; --trust-remote-code runs it, if you trust it"
    if kind == "hub":
        offline = (isinstance(error, OSError) and "couldn't connect" in str(error)) or os.environ.get("HF_HUB_OFFLINE")
        if offline:
            return (
                f"{target!r} is no local folder, and the hub cannot be reached (or is switched off); give a local path"
            )
        return f"{target!r} could not be loaded from the hub: {first}"
    return f"{target!r} could not be loaded: {first}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _check_kind(config: Any, source: str) -> None:
    """Refuse by name what is no causal language model."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{source!r} is an encoder-decoder model ({config.model_type}); causal language models work"
        )
    quantization = getattr(config, "quantization_config", None)
    if quantization:
        method = (
            quantization.get("quant_method")
            if isinstance(quantization, dict)
            else getattr(quantization, "quant_method", None)
        )
        if str(getattr(method, "value", method)) not in ("gguf", "QuantizationMethod.GGUF"):
            _check_quantizer(str(getattr(method, "value", method)), source)


def _check_quantizer(method: str, source: str) -> None:
    needs = {
        "bitsandbytes": "bitsandbytes",
        "gptq": "gptqmodel",
        "awq": "gptqmodel",
        "compressed-tensors": "compressed_tensors",
    }
    package = needs.get(method)
    if package is None or find_spec(package) is None:
        raise UnsupportedModelError(
            f"{source!r} is quantised ({method}), which needs {package or 'a package'} that is not installed; "
            "an unquantised checkpoint works"
        )


def _dtype(options: LoadOptions, config: Any) -> torch.dtype | str:
    if isinstance(options.dtype, torch.dtype) or options.dtype == "auto":
        return options.dtype
    if options.dtype is not None:
        return getattr(torch, options.dtype)
    if torch.cuda.is_available() and options.device != "cpu":
        free = torch.cuda.get_device_properties(0).total_memory
        if 4 * _parameters(config) > free / 2:
            return "auto"
    return torch.float32


def _parameters(config: Any) -> int:
    """How many parameters a config describes, without allocating them."""
    from transformers import AutoModelForCausalLM  # start-up time: seconds, where a live model needs none

    try:
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(config)
    except Exception:  # unknown to this version: the load itself will say so
        return 0
    return sum(p.numel() for p in module.parameters())


def _load(target: str, kind: str, config: Any, arguments: dict[str, Any], options: LoadOptions) -> nn.Module:
    from transformers import AutoModelForCausalLM  # start-up time

    module: Any
    info: dict[str, Any]
    try:
        module, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            target, config=config if kind != "gguf" else None, dtype=_dtype(options, config),
            device_map=options.device_map, output_loading_info=True, **arguments,
        )  # fmt: skip
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        if "Unrecognized configuration class" in str(error):
            raise UnsupportedModelError(
                f"{target!r} is no causal language model ({config.model_type}); models that "
                "AutoModelForCausalLM loads work"
            ) from None
        if kind == "hub" and "safetensors" in str(error):
            raise InputError(f"{target!r} has no safetensors weights; --allow-pickle loads pickled ones") from None
        raise InputError(_explain(error, target, kind)) from None
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise InputError(
            f"{target!r} lacks {len(missing)} weights of its own architecture (first: {missing[0]!r}), which "
            "would be random; the checkpoint is incomplete or of another model class"
        )
    mismatched = list(info.get("mismatched_keys") or ())
    if mismatched:
        raise InputError(f"{target!r} has weights of another shape than its config says (first: {mismatched[0]})")
    if options.device_map is None:
        try:
            module = module.to(_device(options.device))
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--device {options.device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return module.eval()


def _device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _tokenizer(target: str, arguments: dict[str, Any]) -> Any:
    wanted = {k: v for k, v in arguments.items() if k in ("revision", "trust_remote_code", "gguf_file")}
    try:
        return AutoTokenizer.from_pretrained(target, **wanted)
    except Exception as error:
        if isinstance(error, ImportError):  # a package is missing: the message names it
            raise InputError(f"the tokenizer of {target!r} cannot be loaded: {_first_line(error)}") from None
        files = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
        if any((Path(target) / name).is_file() for name in files):
            raise InputError(f"the tokenizer of {target!r} is damaged: {_first_line(error)}") from None
        return None  # a checkpoint without a tokenizer can still be given token ids


def _declared(config: Any, source: str) -> Mapping[str, Any]:
    entry = getattr(config, "depthsig", None)
    if entry is None:
        return {}
    if not isinstance(entry, dict):
        raise InputError(f'{source!r}: the "depthsig" entry of its config is {entry!r}; it must be an object')
    return entry


def model_max(config: Any) -> int | None:
    """The longest input that a config allows; None where the architecture sets no limit."""
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _hash(place: Path | str, config: Any) -> str | None:
    if isinstance(place, str):
        return getattr(config, "_commit_hash", None)
    return formats.content_hash([place] if place.is_file() else formats.hashed_files(place))


def _name(source: Any, place: Path | str) -> str:
    if isinstance(place, str):
        return place.split("/")[-1]
    return place.stem if place.is_file() else place.resolve().name


def _live(module: nn.Module, tokenizer: Any) -> Checkpoint:
    """A caller's model, used where it is; a ``TransformerBridge`` is run through itself."""
    module = unwrapped(module)
    is_bridge = any(c.__name__ == "TransformerBridge" for c in type(module).__mro__)
    config = config_of(module)
    if is_bridge:
        config = getattr(module.original_model, "config", None)
        tokenizer = tokenizer if tokenizer is not None else getattr(module, "tokenizer", None)
        module = module.original_model  # type: ignore[assignment]
    if is_wrapper(module):
        module = step_view(module)
    name = str(getattr(config, "_name_or_path", "") or type(module).__name__).rstrip("/").split("/")[-1]
    return Checkpoint(
        module=module,
        tokenizer=tokenizer,
        config=config,
        name=name,
        source=name,
        kind="bridge" if is_bridge else "live",
        declared=_declared(config, name),
        model_max=model_max(config),
    )
