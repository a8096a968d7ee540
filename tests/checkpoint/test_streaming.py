"""A streamed model is the loaded one, to the last bit; what it reads is counted, and what it cannot do is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from causal_lms import build as build_family
from checkpoint_folders import change_weights, configure, read_state, refused
from families import build, byte_tokenizer, disturb
from looped_cases import hrm, zamba2
from safetensors.torch import save_file
from torch import nn

import depthsig
from depthsig import Skip
from depthsig.checkpoint.streaming.headers import read_extents
from depthsig.checkpoint.streaming.reader import Reader
from depthsig.checkpoint.streaming.stream import Stream, stream_of
from depthsig.commands.analyze import Job
from depthsig.commands.forecasting.forecast import forecast
from depthsig.commands.opening import Given
from depthsig.errors import InputError, UnsupportedModelError
from depthsig.measure.request import Request
from depthsig.progress import Progress

pytestmark = pytest.mark.filterwarnings("ignore::depthsig.DepthsigWarning")

IDS = [[5, 6, 7, 8, 9, 10, 11], [4], [9, 3, 3, 17]]

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: disturb(build("llama")),
    "llama_tied": lambda: disturb(build("llama_tied")),
    "gpt2": lambda: disturb(build("gpt2")),  # weights lie transposed
    "gemma2": lambda: disturb(build("gemma2")),  # tied, soft-capped
    "mixtral": lambda: disturb(build("mixtral")),  # experts lie one by one in the files
    "mamba2": lambda: disturb(build("mamba2")),
    "hrm": hrm,  # loops
    "deepseek_v3": lambda: build_family("deepseek_v3"),  # experts beside plain layers, latent attention
    "zamba2": zamba2,  # layers that share blocks
}


def written(name: str, folder: Path, **options: Any) -> Path:
    FAMILIES[name]().save_pretrained(folder, **options)  # type: ignore[operator]
    return folder


def both(folder: Path, **options: Any) -> tuple[depthsig.Model, depthsig.Model, Stream]:
    loaded = depthsig.load(folder, progress=False, **options)
    streamed = depthsig.load(folder, stream=True, progress=False, **options)
    found = stream_of(streamed.module)
    assert found is not None
    assert stream_of(loaded.module) is None
    return loaded, streamed, found


def equal_runs(a: depthsig.Model, b: depthsig.Model) -> bool:
    edits = [None, Skip(1), Skip(2)]
    pairs = zip(a.run(IDS, edits), b.run(IDS, edits), strict=True)
    return all(torch.equal(x, y) for one, other in pairs for x, y in zip(one.logits, other.logits, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_streamed_is_what_is_loaded(name: str, tmp_path: Path) -> None:
    loaded, streamed, found = both(written(name, tmp_path))
    assert equal_runs(loaded, streamed)
    assert (loaded.plan, loaded.costs) == (streamed.plan, streamed.costs)
    own, other = dict(loaded.module.named_buffers()), dict(streamed.module.named_buffers())
    assert own.keys() == other.keys()
    assert all(torch.equal(own[key], other[key]) for key in own)
    assert not streamed.module.training
    assert all(reads > 0 for reads in found.reads)
    # Bound to the files' layers, and not to memory that is full of them:
    there = [p for p in {id(p): p for p in streamed.module.parameters()}.values() if not p.isnan().all()]
    assert sum(p.nbytes for p in there) < sum(p.nbytes for p in loaded.module.parameters())


@pytest.mark.parametrize(("saved", "asked"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "auto")])
def test_numbers_are_converted_as_they_are_when_loaded(saved: str, asked: str, tmp_path: Path) -> None:
    disturb(build("llama")).to(getattr(torch, saved)).save_pretrained(tmp_path)  # type: ignore[operator]
    loaded, streamed, found = both(tmp_path, dtype=asked)
    assert loaded.dtype == streamed.dtype
    assert equal_runs(loaded, streamed)
    assert found.bytes_read % found.units[0].file_bytes != 0  # embedding and head are read, too


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    loaded, streamed, found = both(written("llama", tmp_path, max_shard_size="30KB"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert equal_runs(loaded, streamed)
    assert len(found.units) == 4


def test_names_without_the_base_models_prefix_are_followed(tmp_path: Path) -> None:
    written("llama_tied", tmp_path)
    change_weights(
        tmp_path, lambda state: [state.update({n.removeprefix("model."): state.pop(n)}) for n in list(state)]
    )
    loaded, streamed, _ = both(tmp_path)
    assert equal_runs(loaded, streamed)


def test_an_analysis_is_the_same(checkpoint: Path) -> None:
    asked: dict[str, Any] = {"metrics": ["lens", "residual", "skip", "local"], "parts": "layer,attn", "progress": False}
    one, other = (depthsig.analyze(checkpoint, IDS, stream=stream, **asked) for stream in (False, True))
    for table in ("profiles", "matrices", "scores"):
        assert getattr(one, table).equals(getattr(other, table)), table
    assert other.info["given"]["loading"]["stream"] is True


def test_every_byte_is_read_once_a_pass(tmp_path: Path) -> None:
    _, streamed, found = both(written("llama", tmp_path))
    data = sum(extent.nbytes for file in tmp_path.glob("*.safetensors") for extent in read_extents(file))
    passes = found.reads[0]
    assert found.reads == [passes] * 4
    assert found.bytes_read == data + (passes - 1) * found.pass_bytes  # what stays in memory was read once
    layer = found.units[0].layers[0]
    least = 2 * sum(p.nbytes for p in layer.parameters())
    assert least <= found.held_bytes <= least + 2 * 1024 * len(list(layer.parameters()))  # each is aligned
    with torch.no_grad():
        streamed.module(torch.tensor([IDS[0]]))
        streamed.module(torch.tensor([IDS[0]]))
    assert found.reads == [passes + 2] * 4


def test_a_layer_is_read_once_for_all_edits_and_prompts(tmp_path: Path) -> None:
    _, streamed, found = both(written("llama", tmp_path))
    streamed.run(IDS, [None])
    before = list(found.reads)
    many = [IDS[0]] * 40  # more rows than go through a step at once on a CPU
    streamed.run(many, [Skip(0), Skip(1), Skip(2), Skip(1) + Skip(3)] * 10)
    # The clean run, and one sweep; the first layer is in no edited run, since all that skip it know its input.
    assert [now - then for now, then in zip(found.reads, before, strict=True)] == [1, 2, 2, 2]


def test_a_layer_that_runs_again_at_once_is_not_read_again(tmp_path: Path) -> None:
    disturb(build("llama")).save_pretrained(tmp_path)  # type: ignore[operator]
    streamed = depthsig.load(tmp_path, order="0:1,1:2x5,2:4", stream=True, progress=False)
    found = stream_of(streamed.module)
    assert found is not None
    loaded = depthsig.load(tmp_path, order="0:1,1:2x5,2:4", progress=False)
    before = list(found.reads)
    x, y = streamed.run(IDS, [None]), loaded.run(IDS, [None])
    assert all(torch.equal(a, b) for a, b in zip(x[0].logits, y[0].logits, strict=True))
    assert [now - then for now, then in zip(found.reads, before, strict=True)] == [1, 1, 1, 1]


def test_weights_that_are_not_there_are_nan_and_keep_their_form(tmp_path: Path) -> None:
    loaded, streamed, found = both(written("llama", tmp_path))
    own = dict(loaded.module.named_parameters())
    away = {n: p for n, p in streamed.module.named_parameters() if n in found.weights and p.isnan().any()}
    assert len({n.split(".")[2] for n in away}) >= 2
    for name, weight in away.items():
        assert weight.isnan().all()
        assert (weight.shape, weight.dtype, weight.device) == (own[name].shape, own[name].dtype, own[name].device)
    assert len({p.data_ptr() for p in away.values()}) == len(away)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_weight_that_is_not_finite_is_refused_by_name(dtype: str, tmp_path: Path) -> None:
    written("llama", tmp_path)
    name = "model.layers.2.mlp.up_proj.weight"
    change_weights(tmp_path, lambda state: state[name][3].fill_(torch.inf))
    message = refused(tmp_path, stream=True, dtype=dtype)
    assert repr(name) in message
    assert "not finite" in message


def test_a_file_that_is_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    streamed = depthsig.load(written("llama", tmp_path), stream=True, progress=False)
    change_weights(tmp_path, lambda state: state["model.norm.weight"].add_(1))
    with pytest.raises(InputError, match=r"model.safetensors' was changed or taken away while its layers were read"):
        streamed.run(IDS, [None])


def test_missing_and_misshapen_weights_are_told_as_when_loaded(tmp_path: Path) -> None:
    written("llama", tmp_path)
    name = "model.layers.1.self_attn.q_proj.weight"
    for change in (lambda s: s.pop(name), lambda s: s.update({name: torch.zeros(8, 8)})):
        change_weights(tmp_path, change)
        assert refused(tmp_path, stream=True) == refused(tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"device_map": "auto"}, "--device-map has nothing to spread"), ({"dtype": "int4"}, "is unknown")],
)
def test_options_that_do_not_go_together(options: dict[str, Any], told: str, checkpoint: Path) -> None:
    with pytest.raises(InputError, match=told):
        depthsig.load(checkpoint, stream=True, progress=False, **options)


def test_a_forecast_counts_the_passes(checkpoint: Path) -> None:
    streamed = depthsig.load(checkpoint, stream=True, progress=False)
    found = stream_of(streamed.module)
    assert found is not None
    request = Request(metrics=("lens", "skip"), memory="80KB")  # several batches
    job = Job(Given(streamed), [[5 + i, *range(7, 20)] for i in range(6)], request)
    told = forecast(job.prepare(Progress(False))).reading
    assert told is not None
    before = list(found.reads)
    job.run(None, resume=False, show=Progress(False))
    passes = max(now - then for now, then in zip(found.reads, before, strict=True))
    assert told.passes == passes
    assert told.bytes == passes * found.pass_bytes
    assert told.seconds > 0


def test_what_cannot_be_streamed_is_refused_before_it_is_read(folder: Path, tmp_path: Path) -> None:
    configure(folder, quantization_config={"quant_method": "gptq"})
    assert "is quantised, and --stream reads plain weights only" in refused(folder, stream=True)
    configure(folder, quantization_config=None)
    state = read_state(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert "pickled weights, and --stream reads safetensors" in refused(folder, stream=True, allow_pickle=True)
    packed = tmp_path / "a.gguf"
    packed.write_bytes(b"GGUF")
    with pytest.raises(InputError, match="is one packed file"):
        depthsig.load(packed, stream=True, progress=False)
    with pytest.raises(InputError, match="a live model is used as it is"):
        depthsig.load(build("llama"), stream=True, progress=False)


@pytest.mark.parametrize("metrics", ["weights", "attribution"])
def test_metrics_that_need_all_weights_are_refused(metrics: str, checkpoint: Path) -> None:
    with pytest.raises(InputError, match="needs the weights of all layers at once, or gradients"):
        depthsig.analyze(checkpoint, IDS, metrics=metrics, stream=True, progress=False)
    streamed = depthsig.load(checkpoint, stream=True, progress=False)
    with pytest.raises(InputError, match="needs the weights of all layers at once, or gradients"):
        depthsig.analyze(streamed, IDS, metrics=metrics, progress=False)


def test_gradients_export_and_control_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    streamed = depthsig.load(checkpoint, stream=True, progress=False, order="0:2,1:4")
    with pytest.raises(UnsupportedModelError, match="gradients through layers"):
        streamed.module(torch.tensor([[5, 6, 7]]))
    with pytest.raises(InputError, match="load it without --stream"):
        depthsig.export(streamed, tmp_path / "out")
    with pytest.warns(depthsig.DepthsigWarning, match="no re-initialised control: its layers are read from files"):
        depthsig.analyze(streamed, IDS, metrics=["lens.kl"], control=True, progress=False)


def _header(entries: Any, data: int = 16) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


_GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "truncated or damaged"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "its header would be"),
        (_header([1, 2]), "its header is"),
        (_header({"a": 3}), "holds None numbers"),
        (_header({"a": {**_GOOD, "dtype": "F8_E4M3"}}), "which --stream does not read"),
        (_header({"a": {**_GOOD, "shape": [-2, -2]}}), "has the shape"),
        (_header({"a": {**_GOOD, "shape": [2.0, 2]}}), "has the shape"),
        (_header({"a": {**_GOOD, "shape": [True, 4]}}), "has the shape"),
        (_header({"a": {**_GOOD, "data_offsets": [0, 16, 32]}}), "has the shape"),
        (_header({"a": {**_GOOD, "data_offsets": [16, 0]}}), "which is not its size"),
        (_header({"a": {**_GOOD, "data_offsets": [0, 1 << 40]}}), "which is not its size"),
        (_header({"a": {**_GOOD, "data_offsets": [8, 24]}}), "which is not its size"),
        (_header({"a": {**_GOOD, "shape": [1 << 61, 2]}}), "which is not its size"),
        (b"\x20\0\0\0\0\0\0\0" + b"[" * 32, "truncated or damaged"),
    ],
)
def test_hostile_headers_are_refused_in_one_line(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(told)) as error:
        read_extents(file)
    assert "\n" not in str(error.value)


def test_the_reader_counts_converts_and_notices_the_end(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    wanted = torch.randn(3_000_000).bfloat16()  # more than is converted at a time
    save_file({"a": wanted, "b": torch.arange(6.0).view(2, 3)}, file)
    extents = {one.name: one for one in read_extents(file)}
    reader = Reader([file])
    assert torch.equal(reader.tensor(extents["a"], torch.float32), wanted.float())
    assert torch.equal(reader.tensor(extents["b"]), torch.arange(6.0).view(2, 3))
    assert reader.bytes_read == wanted.nbytes + 24
    with file.open("r+b") as opened:
        opened.truncate(1000)
    with pytest.raises(InputError, match="changed or taken away"):
        reader.tensor(extents["a"])


def test_the_tokenizer_comes_with_it(checkpoint: Path) -> None:
    streamed = depthsig.load(checkpoint, stream=True, progress=False)
    assert streamed.tokenizer("ab")["input_ids"] == byte_tokenizer()("ab")["input_ids"]


@pytest.mark.parametrize("call", [1, 2, 3, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_never_leaves_numbers_of_another_layer(
    call: int, error: type[BaseException], when: str, tmp_path: Path
) -> None:
    loaded, streamed, stream = both(written("llama", tmp_path / "llama"))
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    expected, calls, submit = loaded.logits(ids), 0, stream._thread.submit

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            raise error("can't start new thread")
        found = submit(*args)
        if calls == call:
            raise error("can't start new thread")
        return found

    stream._thread.submit = interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(error):
        for _ in range(3):
            streamed.logits(ids)
    for _ in range(3):
        assert torch.equal(streamed.logits(ids), expected)
