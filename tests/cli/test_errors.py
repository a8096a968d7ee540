"""Bad input: exit 2, one line, within seconds, and no output folder left behind."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from families import build

from depthsig.cli.main import main
from depthsig.errors import InputError


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("one prompt here\nand another one\n")
    return path


def _copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _broken_checkpoints(kind: str, checkpoint: Path, tmp_path: Path) -> str:
    if kind == "missing":
        return str(tmp_path / "nowhere")
    if kind == "not a name":
        return "no-such-model"
    folder = _copy(checkpoint, tmp_path)
    weights = folder / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "half":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "pickle":
        torch.save(build("llama").state_dict(), folder / "pytorch_model.bin")
        weights.unlink()
    elif kind == "nan":
        model = build("llama")
        model.model.layers[2].mlp.up_proj.weight.data[3, 4] = float("nan")
        model.save_pretrained(folder)
    elif kind == "config":
        _write(folder / "config.json", "{ not json")
    elif kind == "list":
        _write(folder / "config.json", "[1, 2]")
    elif kind == "model type":
        _write(folder / "config.json", '{"model_type": "no_such_model"}')
    elif kind == "no weights":
        weights.unlink()
    elif kind == "adapter":
        (folder / "config.json").rename(folder / "adapter_config.json")
    elif kind == "incomplete":
        from safetensors.torch import load_file, save_file

        state = load_file(weights)
        del state["model.layers.1.mlp.up_proj.weight"]
        save_file(state, weights, metadata={"format": "pt"})
    elif kind == "encoder-decoder":
        _write(folder / "config.json", '{"model_type": "t5", "is_encoder_decoder": true}')
    elif kind == "remote code":
        _write(folder / "config.json", '{"model_type": "mystery", "auto_map": {"AutoModelForCausalLM": "m.M"}}')
    elif kind == "entry":
        config = json.loads((folder / "config.json").read_text())
        _write(folder / "config.json", json.dumps({**config, "depthsig": {"order": [1, 2]}}))
    return str(folder)


BROKEN = {
    "missing": "does not exist", "not a name": "shipped", "truncated": "truncated", "half": "truncated",
    "pickle": "--allow-pickle", "nan": "layers.2.mlp.up_proj", "config": "not valid JSON", "list": "config",
    "model type": "no_such_model", "no weights": "no weights", "adapter": "PEFT", "incomplete": "up_proj",
    "encoder-decoder": "encoder-decoder", "remote code": "--trust-remote-code", "entry": "order",
}  # fmt: skip


def _refused(capsys: pytest.CaptureFixture, arguments: list[str], out: Path, code: int = 2) -> str:
    capsys.readouterr()
    started = time.perf_counter()
    assert main(arguments) == code
    assert time.perf_counter() - started < 20
    error = capsys.readouterr().err
    assert error.startswith("depthsig: ") and error.count("\n") == 1, error
    assert "Traceback" not in error
    assert not out.exists() and not out.with_name(out.name + ".partial").exists()
    return error


@pytest.mark.parametrize("kind", list(BROKEN))
def test_broken_checkpoints(
    kind: str, checkpoint: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, out = _broken_checkpoints(kind, checkpoint, tmp_path), tmp_path / "out"
    error = _refused(capsys, ["analyze", source, "--prompts", str(prompts), "--out", str(out)], out)
    assert BROKEN[kind] in error, error


PROMPT_FILES = {
    "empty": b"", "blank": b"\n  \n", "one token": b"a\nb\n", "binary": bytes(range(256)), "nul": b"ab\0cd\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", list(PROMPT_FILES))
def test_bad_prompt_files(kind: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, path = tmp_path / "out", _write(tmp_path / "p.txt", PROMPT_FILES[kind])
    _refused(capsys, ["analyze", str(checkpoint), "--prompts", str(path), "--out", str(out)], out)


OPTIONS = {
    "span outside": ["--grown", "0:8/4"], "no whole blocks": ["--grown", "0:3/2"], "loop outside": ["--loop", "2:9"],
    "bad range": ["--order", "3:1"], "outside": ["--order", "0:5"], "a billion": ["--order", "0:4x1000000000"],
    "unknown metric": ["--metrics", "lens,nonsense"], "no metric": ["--metrics", ""], "agg": ["--agg", "median"],
    "positions": ["--positions", "answer"], "dtype": ["--dtype", "float13"], "memory": ["--memory", "lots"],
    "n": ["-n", "0"], "tokens": ["--max-tokens", "1"], "device": ["--device", "abacus"], "option": ["--nonsense"],
    "prompts": ["--prompts", "no-such-prompts"], "template": ["--chat-template"], "seed": ["--seed", "x"],
    "negative seed": ["--seed", "-1"],
    "parts": ["--parts", "head"], "scopes": ["--scopes", "past"], "cuts": ["--cuts", "0"],
    "ablation": ["--ablation", "median"], "reword": ["--reword", "-1"],
}  # fmt: skip


@pytest.mark.parametrize("what", list(OPTIONS))
def test_bad_options(what: str, checkpoint: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    arguments = ["analyze", str(checkpoint), "--out", str(out), "--prompts", str(prompts), *OPTIONS[what]]
    _refused(capsys, arguments, out)


def test_output_folders_that_cannot_be_written(
    checkpoint: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    for out in (foreign, _write(tmp_path / "file", "x"), tmp_path / "file" / "below", Path("/proc/nowhere/out")):
        assert main(["analyze", str(checkpoint), "--prompts", str(prompts), "--out", str(out)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_other_peoples_folders_of_our_names_are_left_alone(
    more: list[str], checkpoint: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    asked = ["analyze", str(checkpoint), "--prompts", str(prompts), "--metrics", "residual.norm", "--out"]
    for name in ("a.partial", "b.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("years of work")
    assert main([*asked, str(tmp_path / "a"), *more]) == 2
    error = capsys.readouterr().err
    assert "a.partial" in error and error.count("\n") == 1 and not (tmp_path / "a").exists()
    for _ in range(2):  # the second time replaces a result of ours
        assert main([*asked, str(tmp_path / "b")]) == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith((".b", "b"))) == ["b", "b.old"]
    for name in ("a.partial", "b.old"):
        assert (tmp_path / name / "thesis.tex").read_text() == "years of work"


def test_the_main_job_and_the_report_again(
    checkpoint: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "new" / "out"
    asked = ["analyze", str(checkpoint), "--prompts", str(prompts), "--metrics", "lens,skip", "--out", str(out)]
    assert main([*asked, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    page = Path(printed["report"]).read_text()
    assert "one prompt here" not in page or "<script" not in page
    figures = sorted(p.name for p in (out / "figures").iterdir())
    assert "lens.kl.png" in figures and "plan.png" in figures
    assert not (out.with_name("out.partial")).exists()
    shutil.rmtree(out / "figures")
    # The report must come back with torch blocked: a signature is enough.
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"from depthsig.cli.main import main; sys.exit(main(['report', {str(out)!r}]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    assert sorted(p.name for p in (out / "figures").iterdir()) == figures
    assert main([*asked[:-4], "--metrics", "lens.kl", "--out", str(out)]) == 0  # replaces ours
    assert {p.stem for p in (out / "figures").iterdir()} == {"plan", "lens.kl", "early_exit"}


def test_other_commands(checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", str(checkpoint), "--grown", "0:4/2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["plan"]) == 4
    assert main(["plan", str(checkpoint)]) == 0
    assert "4 steps over 4 layers" in capsys.readouterr().out
    assert main(["check", str(checkpoint), "--prompts", "lookup", "-n", "3", "--json"]) == 0
    assert {c["name"] for c in json.loads(capsys.readouterr().out)["certificates"]} >= {"readout", "identity"}
    for command in ("models", "prompts", "metrics"):
        assert main([command]) == 0 and main([command, "--json"]) == 0
    assert "lens.kl" in capsys.readouterr().out
    assert main(["report", str(checkpoint)]) == 2


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; t = time.perf_counter()\n"
        "from depthsig.cli.main import main\n"
        "assert main(['--help']) == 0; took = time.perf_counter() - t\n"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize("looks", [True, False])
def test_the_collector_is_left_as_it_was(looks: bool, checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if looks else gc.disable)()
        assert main(["plan", str(checkpoint), "--json"]) == 0
        assert gc.isenabled() is looks
    finally:
        (gc.enable if before else gc.disable)()


def test_a_current_folder_that_was_removed(tmp_path: Path) -> None:
    """In a process of its own, since what models run on is then loaded there."""
    (tmp_path / "gone").mkdir()
    code = (
        f"import os; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir(os.getcwd())\n"
        f"from depthsig.cli.main import main; main(['--help'])\n"
        f"raise SystemExit(main(['analyze', 'family-looped', '--out', {str(tmp_path / 'out')!r}]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert run.returncode == 2
    assert run.stderr == "depthsig: the current folder was removed; change into one that exists\n"


def test_a_message_that_quotes_lines_is_one_line() -> None:
    assert str(InputError("the template failed (a\n  b\n)")) == "the template failed (a b )"


def test_interruption_is_exit_130(
    checkpoint: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("depthsig.measure.schedule._run_clean", interrupted)
    out = tmp_path / "out"
    assert main(["analyze", str(checkpoint), "--prompts", str(prompts), "--out", str(out)]) == 130
    assert not out.exists()


class Finalised:
    """Ctrl-C comes while this is taken away, where Python drops whatever is raised."""

    def __del__(self) -> None:
        raise KeyboardInterrupt


def test_an_interruption_that_python_drops_is_heard(
    checkpoint: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        Finalised()
        for _ in range(300):
            time.sleep(0.1)
        raise TimeoutError("the interruption was not heard")

    monkeypatch.setattr("depthsig.measure.schedule._run_clean", interrupted)
    given = ["analyze", str(checkpoint), "--prompts", str(prompts), "--out", str(tmp_path / "out")]
    # Whoever starts tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(given) == 130
    finally:
        signal.signal(signal.SIGINT, before)
