"""Loading with transformers: what it is called with, and what its errors mean in one line."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from shutil import rmtree
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import quantization_config

from depthsig.checkpoint.anatomy.probe import probe_ids
from depthsig.checkpoint.files.listing import Files
from depthsig.checkpoint.files.size import described_parameters
from depthsig.checkpoint.gguf.gguf_keys import apply_keys
from depthsig.checkpoint.gguf.gguf_tensors import rope_factors
from depthsig.checkpoint.hooks import forward, undisturbed
from depthsig.checkpoint.loading import LoadOptions, device_unusable, offload_folder
from depthsig.checkpoint.streaming.streamed import Build, Shell, build_shell
from depthsig.errors import DepthsigError, InputError, UnsupportedModelError, shown


@dataclass(frozen=True)
class Target:
    """What transformers is called with: the files that were listed, under the name that it knows them by.

    Attributes:
        hub: the hub id; None for local files.
        where: what the user calls it.
    """

    files: Files
    hub: str | None
    options: LoadOptions
    where: str

    @property
    def kind(self) -> str:
        """As in :class:`Checkpoint`."""
        if self.hub is not None:
            return "hub"
        return "folder" if self.files.gguf is None else "gguf"

    @property
    def path(self) -> str:
        """For ``from_pretrained``."""
        return self.hub or str(self.files.folder)

    @property
    def arguments(self) -> dict[str, Any]:
        """For every ``from_pretrained``: the commit that was looked at, and code only where it is allowed."""
        found: dict[str, Any] = {"trust_remote_code": self.options.trust_remote_code}
        if self.hub is not None:
            found["revision"] = self.files.folder.name
        if self.files.gguf is not None:
            found["gguf_file"] = self.files.place.name
        return found

    @property
    def weights(self) -> dict[str, Any]:
        """For the model: how its weights are to be read."""
        if self.files.gguf is None:
            return {"use_safetensors": not self.files.pickled}
        # Unpacked: kernels for packed blocks would be fetched from the hub, and run.
        whole = getattr(quantization_config, "GgufConfig", None)
        return {} if whole is None else {"quantization_config": whole(dequantize=True)}

    def config(self) -> Any:
        """The config of a causal language model, as it runs."""
        try:
            config = AutoConfig.from_pretrained(self.path, **self.arguments)
        except (OSError, ValueError, ImportError) as error:  # about the files, in words for users
            raise InputError(self.explain(error)) from None
        except Exception as error:
            kind = self.files.config.get("model_type")
            raise InputError(self._unbuilt(CONFIG_MAPPING_NAMES.get(str(kind), "config"), error)) from None
        _check_kind(config, self.where, self.kind)
        if self.files.gguf is not None:
            apply_keys(self.files.gguf, config, rope_factors(self.files.gguf))
        return config

    def load(self, config: Any) -> tuple[nn.Module, set[str]]:
        """The model on its device, and the names of weights that it had no place for."""
        with offload_folder(self.options.device_map) as folder:
            module, info, shell = self._loaded(config, {} if folder is None else {"offload_folder": folder})
            if folder is not None:
                weakref.finalize(module, rmtree, folder, ignore_errors=True)  # at the latest when Python ends
            self._check_loaded(info)
            module = self._placed(module, shell)
            self._check_runs(module)
        return module, set(info.get("unexpected_keys") or ())

    def _loaded(self, config: Any, more: dict[str, Any]) -> tuple[Any, Mapping[str, Any], Shell | None]:
        """The model as transformers loads it, what it says of that, and what is not read yet."""
        from transformers import AutoModelForCausalLM  # start-up time

        described = described_parameters(config, self.files, self.where)
        how: dict[str, Any] = {
            "config": config, "dtype": self.dtype(config, described), "device_map": self.options.device_map,
            "output_loading_info": True, "ignore_mismatched_sizes": True,  # told below, by name and shape
        }  # fmt: skip
        module: Any
        info: Mapping[str, Any]
        try:
            if self.options.stream:
                shell = build_shell(self.files, self._unread(config, how), self._check_loaded, self.where)
                return shell.module, shell.info, shell
            module, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
                self.path, **how, **self.weights, **self.arguments, **more
            )
        except (torch.cuda.OutOfMemoryError, DepthsigError):
            raise
        except Exception as error:
            if "Unrecognized configuration class" in str(error):
                raise UnsupportedModelError(
                    f"{self.where} is no causal language model ({config.model_type}); models that "
                    "AutoModelForCausalLM loads work"
                ) from None
            if not described and not getattr(config, "auto_map", None):
                kind = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "model")
                raise InputError(self._unbuilt(kind if isinstance(kind, str) else kind[0], error)) from None
            if "above report" in str(error):  # which went to a log
                raise InputError(
                    f"{self.where} has weights that cannot be put together as its config says; one of them is of "
                    "another model"
                ) from None
            raise InputError(self.explain(error)) from None
        return module, info, None

    def _unread(self, config: Any, how: Mapping[str, Any]) -> Build:
        """Builds the model from tensors that are given: its class takes them only without a path."""
        from transformers import AutoModelForCausalLM  # start-up time

        with torch.device("meta"):
            empty: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=self.options.trust_remote_code)
        kind: Any = type(empty)
        # Of a model that also sees, the class may be that of its language model alone.
        own = config if isinstance(empty.config, type(config)) else config.get_text_config()

        def build(state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            module, info = kind.from_pretrained(None, state_dict=state, **{**how, "config": own})
            module.config.name_or_path = module.name_or_path = self.path
            return module, info

        return build

    def _check_loaded(self, info: Mapping[str, Any]) -> None:
        missing = sorted(info.get("missing_keys") or ())
        if missing:
            raise InputError(
                f"{self.where} lacks {len(missing)} weights of its own architecture (first: {missing[0]!r}), which "
                "would be random; the checkpoint is incomplete or of another model class"
            )
        mismatched = sorted(info.get("mismatched_keys") or (), key=lambda found: str(found[0]))
        if mismatched:
            name, held, wanted = mismatched[0]
            raise InputError(
                f"{self.where} has weights of another shape than its config says ({len(mismatched)}; first: {name!r} "
                f"is {_shape(held)} in its files, and would be {_shape(wanted)}); one of them is of another model"
            )

    def _check_runs(self, module: nn.Module) -> None:
        """That transformers' own class runs with this config: some entries are only read in a forward."""
        if not type(module).__module__.startswith("transformers."):
            return
        try:
            with undisturbed(module):
                forward(module, probe_ids(module))
        except (DepthsigError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            raise InputError(
                f"{self.where} loads, but its own forward fails ({type(error).__name__}: {_first_line(error)}); "
                + (
                    "a family that reads or changes its weights outside its layers loads without --stream"
                    if self.options.stream
                    else "is its config that of these weights?"
                )
            ) from None

    def _placed(self, module: Any, shell: Shell | None) -> nn.Module:
        if self.options.device == "meta":
            raise InputError("--device 'meta' holds no numbers; cpu, cuda or auto works")
        if self.options.device_map is None:
            try:
                device = _device(self.options.device)
                module = module.to(device) if shell is None else shell.start(torch.device(device))
            except (RuntimeError, AssertionError) as error:
                raise InputError(device_unusable(self.options.device, error)) from None
        return module.eval()

    def tokenizer(self) -> tuple[Any, list[str]]:
        """The checkpoint's own tokenizer; None where it has none, with what a user should know of that."""
        try:
            found = AutoTokenizer.from_pretrained(self.path, **self.arguments)
            found("a", verbose=True)  # some entries are only read when it is used
            return found, []
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise InputError(
                    f"the tokenizer of {self.where} is code of its own; --trust-remote-code runs it, if you trust it"
                ) from None
            if isinstance(error, ImportError):  # a package is missing: the message names it
                raise InputError(f"the tokenizer of {self.where} cannot be loaded: {_said(error)}") from None
            if self.files.tokenizer:
                raise InputError(f"the tokenizer of {self.where} is damaged: {_said(error)}") from None
            if self.files.gguf is not None and "tokenizer.ggml.model" in self.files.gguf.keys:
                return None, [f"the tokenizer of {self.where} cannot be read: {_said(error)}"]
            return None, []  # a checkpoint without a tokenizer can still be given token ids

    def dtype(self, config: Any, parameters: int) -> torch.dtype | str:
        """The dtype to load in: the option's, else float32, or the checkpoint's where that would not fit."""
        wanted = self.options.dtype
        if wanted == "auto" and self.files.gguf is not None:
            return torch.float32  # what its blocks stand for
        if isinstance(wanted, torch.dtype) or wanted == "auto":
            return wanted
        if wanted is not None:
            found: torch.dtype = getattr(torch, wanted)
            return found
        if torch.cuda.is_available() and self.options.device != "cpu" and self.files.gguf is None:
            memory = torch.cuda.get_device_properties(0).total_memory
            if 4 * parameters > memory / 2:
                return "auto"
        return torch.float32

    def _unbuilt(self, kind: str, error: Exception) -> str:
        """One line for a config that its own class cannot use."""
        said_by = "config.json" if self.files.gguf is None else "the header"
        return f"{said_by} of {self.where} does not build a {kind} ({_said(error)})"

    def explain(self, error: Exception) -> str:
        """One line for what transformers said in many."""
        return explain(error, self.where[1:-1] if self.files.gguf is None else str(self.files.place), self.kind)


def explain(error: Exception, target: str, kind: str) -> str:
    """One line for what transformers said in many."""
    if "trust_remote_code" in str(error):
        return f"{target!r} brings its own code; --trust-remote-code runs it, if you trust it"
    if kind == "hub":
        offline = "couldn't connect" in str(error) or os.environ.get("HF_HUB_OFFLINE")
        if offline and isinstance(error, OSError):
            return (
                f"{target!r} is no local folder, and the hub cannot be reached (or is switched off); give a local path"
            )
        return f"{target!r} could not be loaded from the hub: {_said(error)}"
    return f"{target!r} could not be loaded: {_said(error)}"


_BARE = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)
"""Errors of Python itself, whose text says little without their name."""


def _said(error: Exception) -> str:
    """What an error says, in one line."""
    return f"{type(error).__name__}: {_first_line(error)}" if isinstance(error, _BARE) else _first_line(error)


def _first_line(error: Exception) -> str:
    """The first line of an error's text, with the next where it announces that."""
    found = ""
    for line in str(error).splitlines():
        found = f"{found} {line.strip()}".strip()
        if found and not found.endswith(":"):
            break
    return (found or type(error).__name__)[:500]


def _shape(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "one number"


def _check_kind(config: Any, where: str, kind: str) -> None:
    """Refuse by name what is no causal language model, and what needs a package that is not there."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{where} is an encoder-decoder model ({config.model_type}); causal language models work"
        )
    text = config.get_text_config(decoder=True)
    for one in (config, text):
        quantization = getattr(one, "quantization_config", None)
        if quantization is None:
            continue
        named = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        method = getattr(named, "quant_method", named)
        method = str(getattr(method, "value", method))
        if not (kind == "gguf" and method == "gguf"):
            _check_quantizer(method, where)


def _check_quantizer(method: str, where: str) -> None:
    needs = {
        "bitsandbytes": "bitsandbytes",
        "gptq": "gptqmodel",
        "awq": "gptqmodel",
        "compressed-tensors": "compressed_tensors",
    }
    package = needs.get(method)
    if package is None or find_spec(package) is None:
        raise UnsupportedModelError(
            f"{where} is quantised ({shown(method)[1:-1]}), which needs {package or 'a package'} that is not "
            "installed; an unquantised checkpoint works"
        )


def _device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
