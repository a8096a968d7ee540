"""Files of a Jacobian lens, as TransformerLens itself writes and reads them; and bad ones."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lenses import write_as_tuned_lens
from torch import Tensor

from depthsig.checkpoint.jacobian.jacobians import JacobianLens, read_jacobian_lens, write_jacobian_lens
from depthsig.checkpoint.jacobian.lens_kinds import lens_kind
from depthsig.checkpoint.translators import read_lens
from depthsig.errors import InputError

WIDTH, DEPTHS = 6, 4


def some_jacobians(depths: int = DEPTHS) -> JacobianLens:
    generator = torch.Generator().manual_seed(2)
    matrices = tuple(torch.randn(WIDTH, WIDTH, generator=generator) for _ in range(depths))
    return JacobianLens(matrices, config={"n_prompts": 3, "base_model_name_or_path": "some/model"})


def payload(**changes: Any) -> dict[Any, Any]:
    """As the reference writes it: layers 0..2 of a model of four, no J_0."""
    matrices = {layer: torch.randn(WIDTH, WIDTH).half() for layer in range(3)}
    return {"J": matrices, "n_prompts": 7, "source_layers": [0, 1, 2], "d_model": WIDTH, **changes}


def test_what_is_written_is_read_again_and_by_transformer_lens(tmp_path: Path) -> None:
    from transformer_lens.tools.analysis import JacobianLens as Theirs

    lens = some_jacobians()
    write_jacobian_lens(lens, tmp_path, {"schema": "depthsig-lens/1", "kind": "jacobian"})
    again = read_jacobian_lens(tmp_path)
    assert again.content_hash == lens.content_hash and again.depths == (0, 1, 2, 3) and again.prompts == 3
    assert all(torch.equal(a, b) for a, b in zip(again.jacobians, lens.jacobians, strict=True))
    theirs = Theirs.load(str(tmp_path / "jacobian_lens.pt"))
    assert (theirs.source_layers, theirs.n_prompts, theirs.d_model) == ([0, 1, 2], 3, WIDTH)
    state = torch.randn(5, WIDTH)
    for depth in range(1, DEPTHS):
        torch.testing.assert_close(theirs.transport(state, depth - 1), again.transport(state, depth))
    # Written again by them, the Jacobian of the embeddings is still there.
    theirs.save(str(tmp_path / "again.pt"), dtype=torch.float32)
    assert read_jacobian_lens(tmp_path / "again.pt").content_hash == lens.content_hash
    assert again.record["kind"] == "jacobian" and lens_kind(tmp_path) == lens_kind(tmp_path / "again.pt") == "jacobian"


def test_reads_what_transformer_lens_writes(tmp_path: Path) -> None:
    from transformer_lens.tools.analysis import JacobianLens as Theirs

    matrices = {layer: torch.randn(WIDTH, WIDTH) for layer in (0, 2)}
    Theirs(matrices, n_prompts=5, d_model=WIDTH, metadata={"model_name": "gpt2", "target_layer": 3}).save(
        str(tmp_path / "theirs.pt")
    )
    lens = read_jacobian_lens(tmp_path)
    assert [j is None for j in lens.jacobians] == [True, False, True, False] and lens.prompts == 5
    torch.testing.assert_close(lens.jacobians[3].float(), matrices[2], rtol=1e-3, atol=1e-3)
    assert lens.about()["base_model"] == "gpt2" and "fitted for 'gpt2'" in repr(lens)
    with pytest.raises(InputError, match="no Jacobian of depth 0; it has"):
        lens.transport(torch.zeros(WIDTH), 0)


def test_sums_of_an_unfinished_fit_are_their_mean(tmp_path: Path) -> None:
    sums = {layer: torch.full((WIDTH, WIDTH), 6.0) for layer in range(3)}
    torch.save({"jacobian_sum": sums, "n_done": 4, "next_idx": 4, "target_layer": 3}, tmp_path / "sums.pt")
    lens = read_jacobian_lens(tmp_path / "sums.pt")
    assert float(lens.jacobians[1].max()) == 1.5 and lens.prompts == 4


def test_transport_keeps_dtype_and_computes_in_float32() -> None:
    lens = some_jacobians().to("cpu")
    state = torch.randn(2, 3, WIDTH).bfloat16()
    found = lens.transport(state, 1)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.einsum("oi,bti->bto", lens.jacobians[1], state.float()).bfloat16())
    with pytest.raises(InputError, match="found none"):
        JacobianLens((None, None))


def test_kinds_are_told_by_what_is_there(tmp_path: Path) -> None:
    write_as_tuned_lens(tmp_path / "tuned")
    assert lens_kind(tmp_path / "tuned") == "tuned"
    torch.save(payload(), tmp_path / "published.pt")
    assert lens_kind(tmp_path / "published.pt") == lens_kind(tmp_path) == "jacobian"
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, word in (
        (tmp_path / "tuned" / "params.pt", "named by its folder"), (empty, "no jacobian_lens.pt"),
        (tmp_path / "nothing", "no file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            lens_kind(path)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def _with(layer: Any, matrix: Any) -> dict[Any, Any]:
    found = payload()
    return {**found, "J": {**found["J"], layer: matrix}}


def _square(**kinds: Any) -> Tensor:
    return torch.zeros(WIDTH, WIDTH, **kinds)


BAD: dict[str, tuple[Any, str]] = {
    "list": ([1], "a list"), "other keys": ({"foo": 1}, "no Jacobian lens"), "no matrices": (payload(J=[1]), "a list"),
    "nothing": ({"J": {}}, "empty"), "shape": (_with(1, torch.ones(WIDTH, 3)), "shape"),
    "vector": (_with(0, torch.ones(WIDTH)), "shape"), "scalar": (_with(0, torch.ones(())), "no d_model|shape"),
    "dtype": (_with(1, _square(dtype=torch.int8)), "int8"), "nan": (_with(2, _square() + math.nan), "not finite"),
    "infinite": (_with(2, _square() + math.inf), "not finite"), "layer": (_with("one", _square()), "whole numbers"),
    "negative": (_with(-1, _square()), "whole numbers"), "far": (_with(10**9, _square()), "whole numbers"),
    "bool": (payload(J={True: _square()}), "whole numbers"), "no tensor": (_with(1, "x"), "no tensor"),
    "meta": (_with(1, _square(device="meta")), "plain tensors"), "sparse": (_with(1, _square().to_sparse()), "plain"),
    "view": (_with(1, torch.zeros(1).expand(10**7, 10**7)), "more than the file"),
    "width": (payload(d_model=9), "d_model is 9"), "prompts": (payload(n_prompts=-1), "n_prompts"),
    "target": (payload(metadata={"target_layer": 10**9}), "target_layer"),
    "near target": (payload(metadata={"target_layer": 2}), "target_layer"),
    "metadata": (payload(metadata=[1]), "metadata"), "no sums": ({"jacobian_sum": {}, "n_done": 0}, "n_done"),
    "too large": (_with(1, _square(dtype=torch.float64) + 1e300), "not finite"),
    "too many": ({"jacobian_sum": {0: _square()}, "n_done": 10**400}, "prompts"),
    "first": (payload(metadata={"J_0": "AAAA"}), "no matrix"),
    "first text": (payload(metadata={"J_0": "ä"}), "no matrix"),
    "first number": (payload(metadata={"J_0": 3}), "no matrix"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*BAD, "bomb", "raw pickle", "truncated", "folder of two", "text"])
def test_bad_files_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path, word = tmp_path / "lens.pt", "more than tensors"
    if kind in BAD:
        found, word = BAD[kind]
        torch.save(found, path)
    elif kind == "bomb":
        torch.save({"J": _Bomb(tmp_path / "exploded")}, path)
    elif kind == "raw pickle":
        path.write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded"), protocol=2))
    elif kind == "folder of two":
        torch.save(payload(), path)
        torch.save(payload(), tmp_path / "b.pt")
        path, word = tmp_path, r"2 \.pt files"
    else:
        torch.save(payload(), path)
        path.write_bytes(path.read_bytes()[:700] if kind == "truncated" else b"not a lens")
        word = "truncated or damaged|more than tensors"
    with pytest.raises(InputError, match=word) as caught:
        read_jacobian_lens(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert not (tmp_path / "exploded").exists()


def test_what_the_metadata_say_is_plain_and_visible(tmp_path: Path) -> None:
    said = {"model_name": "\x1b[31mred", "deep": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]], "tensor": torch.zeros(2)}
    torch.save(payload(metadata=said), tmp_path / "lens.pt")
    (tmp_path / "lens.json").write_text(json.dumps({"schema": "depthsig-lens/1"}))  # of a tuned lens
    lens = read_jacobian_lens(tmp_path / "lens.pt")
    assert lens.config["model_name"] == "\\x1b[31mred" and not {"deep", "tensor"} & set(lens.config)
    assert lens.record == {}


def test_a_list_that_unfolds_without_end_is_left_out(tmp_path: Path) -> None:
    folded: list[Any] = ["x"] * 10
    for _ in range(14):
        folded = [folded] * 10
    torch.save(payload(metadata={"folded": folded, "corpus": ["a", {"b": 1}]}), tmp_path / "lens.pt")
    config = read_jacobian_lens(tmp_path / "lens.pt").config
    assert "folded" not in config and config["corpus"] == ["a", {"b": 1}]


def test_what_signatures_keep_of_it_is_json(tmp_path: Path) -> None:
    said = {"model_name": math.nan, "unembed_hash": [math.inf], "target": {"a": math.nan}}
    torch.save(payload(metadata=said), tmp_path / "lens.pt")
    about = read_jacobian_lens(tmp_path / "lens.pt").about()
    json.dumps(about, allow_nan=False)
    assert (about["base_model"], about["unembed_hash"], about["target"]) == (None, None, "end")


@pytest.mark.parametrize("said", [{"prompts": [1]}, {"prompts": {"train": [{}]}}, {"layers": 3}, {"checkpoint": "x"}])
@pytest.mark.parametrize("kind", ["tuned", "jacobian"])
def test_a_damaged_record_is_refused(kind: str, said: dict[str, Any], tmp_path: Path) -> None:
    record = {"schema": "depthsig-lens/1", "kind": kind, **said}
    if kind == "tuned":
        write_as_tuned_lens(tmp_path)
        (tmp_path / "lens.json").write_text(json.dumps(record))
    else:
        write_jacobian_lens(some_jacobians(), tmp_path, record)
    with pytest.raises(InputError, match="is damaged: it says") as caught:
        (read_lens if kind == "tuned" else read_jacobian_lens)(tmp_path)
    assert "\n" not in str(caught.value)
