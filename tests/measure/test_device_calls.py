"""What an analysis asks of a device, counted without one: the calls of operators, and what makes the host wait.

A model of SmolLM2's shape is measured with fake tensors at the block sizes of a GPU, so nothing is computed. Fake
tensors raise where a value is asked for (``.item()``, ``bool()``, a boolean index); what is copied to the host goes
through one function, which is counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

import depthsig
from depthsig.engine import device, memory
from depthsig.engine.certificates import Verdict
from depthsig.measure.blocks import fallback
from depthsig.measure.providers import Work
from depthsig.measure.request import Request
from depthsig.measure.resume import Units
from depthsig.measure.schedule import measure
from depthsig.model import Model
from depthsig.progress import Progress
from depthsig.prompts import tokenize

LAYERS, PROMPTS, TOKENS = 18, 16, 128  # counts are of a layer, and SmolLM2 has 30


class Calls(TorchDispatchMode):
    """Counts operators, views among them; what only asks a tensor about itself is none."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("aten", "depthsig"):
            self.by_name[str(func)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.by_name.values())


def _shaped(layers: int) -> Model:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576, num_hidden_layers=layers, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
        intermediate_size=1536, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    return depthsig.load(LlamaForCausalLM(config).bfloat16().eval())


@pytest.fixture(scope="module")
def model() -> Model:
    return _shaped(LAYERS)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A GPU's block sizes; the list holds how much was copied to the host, transfer by transfer."""
    copied: list[int] = []

    def of_nothing(tensor: torch.Tensor) -> np.ndarray:
        copied.append(tensor.numel())
        kind = {torch.bool: bool, torch.long: np.int64}.get(tensor.dtype, np.float64)
        return np.zeros(tensor.shape, dtype=kind)

    monkeypatch.setattr(memory, "CPU", memory.GPU)
    monkeypatch.setattr(device, "_copied", of_nothing)
    yield copied


def _counted(model: Model, **asked: Any) -> Calls:
    request = Request(**asked)
    ids = np.random.default_rng(0).integers(1, 49152, (PROMPTS, TOKENS)).tolist()
    work = Work(model, request, tokenize(ids, None), Verdict(True, True, ()))
    model._specs.clear()  # transformers makes other masks of fake tensors than of real ones
    with FakeTensorMode(allow_non_fake_inputs=True), Calls() as calls:
        measure(work, lambda: Units.open(None, {}, "", False), Progress(False))
    return calls


def _own_calls(model: Model, rows: int, *, parts: bool = False) -> int:
    """Calls of the model's own forward up to its head, with its states copied."""
    ids = torch.ones(rows, TOKENS, dtype=torch.long)
    with FakeTensorMode(allow_non_fake_inputs=True), Calls() as calls:
        model.clean(ids, parts=parts, later=device.Pending())
    return calls.total


def test_the_lens_of_all_depths(model: Model, as_on_a_gpu: list[int]) -> None:
    calls = _counted(model, metrics=["lens"])
    beside = calls.total - _own_calls(model, PROMPTS)
    assert beside <= 60 * (LAYERS + 1), (beside / (LAYERS + 1), calls.by_name.most_common(20))
    assert calls.by_name["depthsig.compare_rows.default"] <= 2 * (LAYERS + 1)
    assert len(as_on_a_gpu) <= 4  # the batch's end: one for each dtype


def test_skip_of_all_layers(model: Model, as_on_a_gpu: list[int]) -> None:
    calls = _counted(model, metrics=["skip"], scopes=["current"])
    most = memory.GPU.step_tokens // (PROMPTS * TOKENS)
    blocks = sum(-(-step // most) for step in range(LAYERS))  # step s is passed by the edits of the s before it
    own = _own_calls(model, PROMPTS) + blocks * _layer_calls(model)
    assert calls.by_name["depthsig.compare_rows.default"] == LAYERS
    beside, allowed = calls.total - own, 40 * blocks + 40 * (LAYERS + 1)
    assert beside <= allowed, (beside, allowed, calls.by_name.most_common(20))
    assert len(as_on_a_gpu) <= 4


def test_all_parts_and_scopes_and_other_metrics_never_wait_inside_a_batch(
    as_on_a_gpu: list[int],
) -> None:
    asked = {"metrics": ["skip", "local", "residual"], "parts": ["layer", "attn", "mlp"]}
    _counted(_shaped(3), scopes=["current", "future"], cuts=2, **asked)
    assert len(as_on_a_gpu) <= 3 * 4  # the clean run, skip and local: each at its end


def test_the_plain_code_of_a_block_where_triton_is_not() -> None:
    """What one call of each operator stands for where no kernel runs: so many for a piece of rows."""
    rows = fallback.PIECE_BYTES // (4 * 49152)
    for pieces in (1, 3):
        with FakeTensorMode(), Calls() as calls:
            logits = torch.zeros(pieces * rows, 49152, dtype=torch.bfloat16, device="cpu")
            stats, _, _ = fallback.row_stats(logits, torch.zeros(len(logits), dtype=torch.long), 5)
            read = calls.total
            fallback.divergences(logits, logits, stats, stats, [True] * 4)
        compared = calls.total - read
        assert read <= 36 * pieces + 5 and compared <= 137 * pieces + 2, (read, compared)


def _layer_calls(model: Model) -> int:
    """Calls of one layer by itself."""
    ids = torch.ones(PROMPTS, TOKENS, dtype=torch.long)
    with FakeTensorMode(allow_non_fake_inputs=True):
        run = model.clean(ids, later=device.Pending())
        with Calls() as calls, torch.no_grad():
            run.calls[1](run.inputs[1])
    return calls.total
