"""Mistakes that can be known without weights are answered without them, and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from families import PROMPTS, build, byte_tokenizer
from gguf_files import small_llama, write_gguf

import depthsig
from depthsig.checkpoint.known import known, locate
from depthsig.checkpoint.loading import LoadOptions
from depthsig.cli.main import main
from depthsig.errors import InputError
from depthsig.plan.declared import PlanOptions
from depthsig.plan.foreseen import foresee

ROOT = Path(__file__).parents[2]

LAYERS = "the model has layers 0..3"
MISTAKES: dict[str, tuple[str, str]] = {
    "no checkpoint": ("analyze {tmp}/nowhere", "does not exist"),
    "no name": ("analyze no-such-name", "no shipped checkpoint"),
    "a folder without a config": ("analyze {tmp}", "has no config.json"),
    "an order that is none": ("analyze {model} --order 0-4", "bad item '0-4' in order"),
    "an order outside the layers": ("plan {model} --order 0:2,2:9", LAYERS),
    "sizes that do not add up": ("check {model} --order Loop(1-2x3-5)", "must add up to 4"),
    "a loop that is none": ("analyze {model} --loop 3", "not of the form A:B"),
    "a loop outside the layers": ("analyze {model} --loop 2:7", LAYERS),
    "a loop against the order": ("analyze {model} --order 0:2,1:4 --loop 0:3", "contradicts what runs"),
    "grown blocks that do not fit": ("plan {model} --grown 0:4/3", "no whole number of blocks"),
    "iterations of nothing": ("analyze {model} --iterations 3", "no count of iterations to set"),
    "iterations of an order without a loop": ("plan {model} --order 0:4 --iterations 3", "of the one loop in an order"),
    "iterations that are none": ("check {model} --iterations often", "is no count"),
    "prompts that are not there": ("analyze {model} --prompts {tmp}/none.txt", "neither a file nor built-in"),
    "unknown prompts": ("find-blocks {model} --prompts gsm9k", "neither a file nor built-in"),
    "damaged prompts": ("analyze {model} --prompts {tmp}/bad.jsonl", "bad.jsonl"),
    "prompts to check with": ("check {model} --prompts {tmp}/bad.jsonl", "bad.jsonl"),
    "prompts to fit on": ("fit-lens {model} --prompts {tmp}/bad.jsonl --out {tmp}/new", "bad.jsonl"),
    "no lens": ("analyze {model} --lens {tmp}/none", "is no folder"),
    "a folder that is no lens": ("analyze {model} --lens {tmp}", "holds no config.json"),
    "a lens of another width": ("analyze {model} --lens {tmp}/wide", "has 4 translators of width 99"),
    "a lens of another depth": ("analyze {model} --lens {tmp}/deep", "this run has 4 steps of width 32"),
    "a lens for another order": ("analyze {model} --lens {tmp}/fits --order 0:4,3", "this run has 5 steps"),
    "a metric": ("analyze {model} --metrics lens.kll", "lens.kll"),
    "metrics of loops": ("analyze {model} --metrics loop", "loop.* need a loop that runs"),
    "two lenses of a kind": ("analyze {model} --lens {tmp}/fits --lens {tmp}/wide", "are both of the kind tuned"),
    "metrics of a Jacobian lens": ("analyze {model} --metrics jacobian", "need a Jacobian lens"),
    "metrics of a lens": ("analyze {model} --metrics tuned", "need a tuned lens"),
    "a part": ("analyze {model} --parts head", "--parts: found 'head'"),
    "a dtype": ("analyze {model} --dtype float23", "--dtype 'float23' is unknown"),
    "a device": ("analyze {model} --device gpu", "--device 'gpu' is no device"),
    "a revision": ("plan {model} --revision main", "goes with a hub id"),
    "a batch size": ("fit-lens {model} --batch-size 0 --out {tmp}/new", "--batch-size is 0"),
    "memory": ("analyze {model} --memory lots", "lots"),
    "memory of repeats": ("repeat {model} --memory lots", "lots"),
    "a folder of results": ("analyze {model} --out {tmp}/bad.jsonl", "bad.jsonl"),
    "a plug-in": ("analyze {model} --plugin {tmp}/none.py", "none.py"),
    "tokens": ("check {model} --max-tokens 0", "--max-tokens is 0"),
    "a task": ("repeat {model} --task sums", "neither a file nor built-in"),
    "a task without answers": ("repeat {model} --task wikitext", "has no answers"),
    "a span outside the layers": ("repeat {model} --span 2:9", LAYERS),
    "times": ("repeat {model} --times 0", "no count from 1"),
    "damping": ("repeat {model} --damping 2", "a damping is above 0"),
    "no order to export": ("export {model} --out {tmp}/new", "there is no order to export"),
    "an export in the place of something": ("export {model} --order 0:2 --out {tmp}", "exists already"),
    "a learning rate": ("fit-lens {model} --lr 0 --out {tmp}/new", "--lr is 0"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder and a GGUF file of four layers whose weights cannot be read, and what options name."""
    tmp = tmp_path_factory.mktemp("early")
    module, folder = build("llama"), tmp / "model"
    module.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"nothing that could be read")
    (tmp / "bad.jsonl").write_text('{"text": "one"}\n{"text": \n')
    for name, count, width in (("wide", 4, 99), ("deep", 9, 32), ("fits", 4, 32)):
        (tmp / name).mkdir()
        (tmp / name / "params.pt").write_bytes(b"nothing that could be read")
        (tmp / name / "config.json").write_text(json.dumps({"d_model": width, "num_hidden_layers": count}))
    return {"tmp": str(tmp), "model": str(folder)}


def arguments(text: str, places: dict[str, str]) -> list[str]:
    return [piece.format(**places) for piece in text.split()]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_without_weights(
    name: str, places: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(places["tmp"])
    before = sorted(Path(places["tmp"]).iterdir())
    text, said = MISTAKES[name]
    assert main(arguments(text, places)) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1, told
    assert sorted(Path(places["tmp"]).iterdir()) == before


def test_none_of_them_needs_torch(places: dict[str, str]) -> None:
    commands = [arguments(text, places) for text, _ in MISTAKES.values()]
    code = (
        "import json, sys; sys.modules.update(torch=None, transformers=None)\n"
        "from depthsig.cli.main import main\n"
        "print([(c, code) for c in json.loads(sys.argv[1]) if (code := main(c)) != 2])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, env=environment,
        cwd=places["tmp"],
    )  # fmt: skip
    assert ran.stdout.strip() == "[]", ran.stderr


def test_of_a_gguf_file_the_header_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_gguf(small_llama(), tmp_path / "a.gguf", keys={"=tokenizer.ggml.tokens": ["a"] * 64})
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patched:
        patched.setattr("depthsig.model.open_checkpoint", lambda *_, **__: pytest.fail("weights are read"))
        assert main(["plan", str(path), "--order", "0:3"]) == 2
        assert "reaches layer 2, the model has layers 0..1" in capsys.readouterr().err
        assert main(["analyze", str(path), "--lens", _lens(tmp_path, 3, 32)]) == 2
        assert "this run has 2 steps of width 32" in capsys.readouterr().err
    found = known(path, "a")
    assert (found.layers, found.width, found.plain) == (2, 32, True)
    path.write_bytes(path.read_bytes()[:-500])
    assert main(["plan", str(path)]) == 2 and "truncated" in capsys.readouterr().err


def _lens(tmp_path: Path, count: int, width: int) -> str:
    folder = tmp_path / f"{count}x{width}"
    folder.mkdir()
    (folder / "params.pt").write_bytes(b"")
    (folder / "config.json").write_text(json.dumps({"d_model": width, "num_hidden_layers": count}))
    return str(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": "0:9"}, LAYERS), ({"loop": "0:9"}, LAYERS), ({"iterations": 2}, "no count of iterations"),
        ({"device": "gpu"}, "no device"), ({"revision": "main"}, "hub id"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", ["load", "analyze", "check"])
def test_python_functions_answer_alike(
    function: str, options: dict[str, Any], said: str, places: dict[str, str]
) -> None:
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        getattr(depthsig, function)(places["model"], **options)


def test_what_is_said_early_is_what_would_be_said_later(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mistakes = [
        {"order": "0:9"}, {"order": "x"}, {"order": "0:4", "iterations": 3}, {"loop": "0:9"}, {"grown": "0:4/3"},
        {"iterations": 3}, {"iterations": "H_cycles=2"}, {"order": "0:2,1:4", "loop": "0:3"},
        {"order": "Loop(1-1x1-9)"},
    ]  # fmt: skip
    early = [_said(checkpoint, options) for options in mistakes]
    monkeypatch.setattr("depthsig.model.foresee", lambda *_: None)
    assert early == [_said(checkpoint, options) for options in mistakes] and all(early)


def _said(checkpoint: Path, options: dict[str, Any]) -> str:
    with pytest.raises(InputError) as told:
        depthsig.load(checkpoint, **options)
    return str(told.value)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma2", "opt", "bloom", "mixtral", "phi3"])
def test_what_is_known_is_what_is_loaded(family: str, tmp_path: Path) -> None:
    build(family).save_pretrained(tmp_path / family)
    found, model = known(tmp_path / family, family), depthsig.load(tmp_path / family)
    assert (found.layers, found.width) == (len(model.anatomy.layers), model.trace.width)
    assert found.plain and model.plan.layers == tuple(range(found.layers or 0))


def test_shipped_checkpoints_are_foreseen() -> None:
    for name in ("family-baseline", "family-looped", "family-midas"):
        found = foresee(name, LoadOptions(), PlanOptions())
        model = depthsig.load(name)
        assert found.plan is not None and found.plan.records() == model.plan.records()
        assert str(found.plan) == str(model.plan)


def test_what_is_not_known_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "something_new", "num_hidden_layers": 4}))
    options = [
        {"order": "0:9"}, {"loop": "7:9"}, {"grown": "4:12/4"}, {"iterations": 3}, {"order": "Loop(4-4x2-4)"},
    ]  # fmt: skip
    for given in options:
        assert foresee(tmp_path, LoadOptions(), PlanOptions(**given)).plan is None
        assert foresee("owner/name", LoadOptions(revision="main"), PlanOptions(**given)).plan is None
    with pytest.raises(InputError, match="bad item"):
        foresee(tmp_path, LoadOptions(), PlanOptions("0-9"))


def test_a_looped_config_leaves_the_plan_to_the_trace(tmp_path: Path) -> None:
    entries = {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 8, "total_ut_steps": 3}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    found = foresee(tmp_path, LoadOptions(), PlanOptions(loop="0:4", iterations=2))
    assert found.plan is None and found.known.layers == 4
    with pytest.raises(InputError, match=r"layers 0\.\.3"):
        foresee(tmp_path, LoadOptions(), PlanOptions(loop="0:5"))


def test_a_device_that_is_not_there(places: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["plan", places["model"], "--device", "cuda:7"]) == 2
    assert "--device 'cuda:7' cannot be used" in capsys.readouterr().err


def test_a_device_needs_no_spelling_of_its_case(checkpoint: Path) -> None:
    assert depthsig.load(checkpoint, device="cpu").device.type == "cpu"
    assert len(depthsig.analyze(checkpoint, PROMPTS, metrics=["lens"], n=2).prompts) == 2


def test_places_are_found(tmp_path: Path) -> None:
    assert locate("family-looped") == depthsig_path("family-looped") and locate("owner/name") == "owner/name"


def depthsig_path(name: str) -> Path:
    from depthsig.prompts.shipped import shipped_checkpoints

    return shipped_checkpoints()[name]
