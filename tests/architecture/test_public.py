"""What a user of the Python package sees: names, options with their meaning, and the lines of the documentation."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import typer
from families import build, disturb

import depthsig
from depthsig.checkpoint.loading import LoadOptions
from depthsig.cli.main import app
from depthsig.measure.request import Request
from depthsig.metrics import Metric
from depthsig.metrics.entries.fields import MoreFields
from depthsig.plan.declared import PlanOptions

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(depthsig, name)
    for name in (
        "load",
        "analyze",
        "check",
        "compare",
        "find_blocks",
        "fit_lens",
        "repeat",
        "export",
        "replicate",
        "metric",
    )
}
COMMANDS = {name: name.replace("_", "-") for name in FUNCTIONS if name not in ("load", "metric")}
COMMAND = typer.main.get_command(app)

ONLY_IN_PYTHON = {
    "tokenizer", "forward", "progress", "draws", "resamples", "out", "model", "signatures", "prompts", "task",
    "agg",  # an enumeration there
}  # fmt: skip
"""What a command does not have, or has in another form."""
SHOWN = {"parts", "scopes", "cuts", "n", "max_tokens", "positions", "keep_first", "ablation"}
"""Of ``analyze``: None where they are left to what is asked for in short; the help shows what they are without it."""


def test_the_names_are_these_and_no_module_is_among_them() -> None:
    assert dir(depthsig) == sorted([*depthsig.__all__, "__version__"])
    for name in depthsig.__all__:
        assert not inspect.ismodule(getattr(depthsig, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'analyse'"):
        depthsig.analyse  # noqa: B018
    assert (Path(depthsig.__file__).parent / "py.typed").exists()


def _explained(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring says of every parameter."""
    text = inspect.getdoc(function) or ""
    block = text.split("Args:\n")[1].split("\n\n")[0]
    one = r"(?:[a-z_]+, )*[a-z_]+: "  # several options may share a meaning, and short ones a line
    entry = re.compile(rf"(?:^    |\. )({one})(.+?)(?=\n    [a-z_]|\. {one}|\Z)", re.M | re.S)
    found = {}
    for names, meaning in entry.findall(block):
        found |= dict.fromkeys(names.removesuffix(": ").split(", "), meaning)
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_lists_every_option_with_type_and_meaning(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    explained = _explained(FUNCTIONS[name])
    assert set(explained) == set(parameters)
    for parameter in parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.kind is not inspect.Parameter.VAR_POSITIONAL
        assert len(explained[parameter.name]) > 8, (parameter.name, explained[parameter.name])
    loose = [p.name for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    assert loose == (["more"] if name == "metric" else [])


def test_a_metric_is_declared_with_any_of_its_fields() -> None:
    named = set(inspect.signature(depthsig.metric).parameters) - {"more"}
    assert named.isdisjoint(MoreFields.__annotations__)
    assert named | set(MoreFields.__annotations__) == {f.name for f in fields(Metric)} - {"own", "function", "scopes"}


@pytest.mark.parametrize("name", ["load", *COMMANDS])
@pytest.mark.parametrize("record", [Request, LoadOptions, PlanOptions])
def test_a_default_is_the_same_wherever_it_stands(name: str, record: type) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    for field in fields(record):
        if field.name not in parameters or field.default is MISSING:
            continue
        default = parameters[field.name].default
        if name == "analyze" and default is None and field.default is not None:
            # Left to --quick, --budget or a preset; what it is without them, the help says.
            said = field.default if isinstance(field.default, tuple) else (field.default,)
            assert f"Default: {', '.join(map(str, said))}." in _explained(FUNCTIONS[name])[field.name], field.name
            continue
        differs = {
            ("export", "dtype"): "auto",  # what is written is what was read
            ("repeat", "memory"): "1GiB", ("repeat", "n"): 100,  # of a task
            ("analyze", "n"): ..., ("find_blocks", "n"): None,  # as Request's for a name or a file, all of a list
            ("fit_lens", "n"): None, ("fit_lens", "max_tokens"): None,  # by the kind of lens
        }  # fmt: skip
        assert default == differs.get((name, field.name), field.default), field.name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_options_of_its_function(name: str) -> None:
    options = {p.name: p for p in COMMAND.commands[COMMANDS[name]].params}  # type: ignore[attr-defined]
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    for parameter in parameters.values():
        if parameter.name in ONLY_IN_PYTHON:
            continue
        if parameter.name not in options:
            assert (name, parameter.name) in {("fit_lens", "device_map"), ("repeat", "device_map")}, parameter.name
            continue
        default, theirs = parameter.default, options[parameter.name].default
        if name == "analyze" and parameter.name in SHOWN:
            shown = options[parameter.name].show_default  # type: ignore[attr-defined]
            value = Request.__dataclass_fields__[parameter.name].default
            value = ",".join(value) if isinstance(value, tuple) else value
            assert theirs is None and shown == ("no" if value is False else str(value)), parameter.name
            continue
        if default in (..., None) or theirs is None:
            continue
        if isinstance(default, (tuple, float)) or isinstance(theirs, str):
            pieces = default if isinstance(default, tuple) else (default,)
            default, theirs = ",".join(f"{p:g}" if isinstance(p, (int, float)) else p for p in pieces), f"{theirs}"
        assert default == theirs, parameter.name


@pytest.fixture(scope="module")
def user_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user") / "script.py"
    path.write_text(
        "import depthsig\n"
        "sig = depthsig.analyze('folder', metrics=['lens'], max_tokens=64)\n"
        "depthsig.analyze('folder', max_token=64)\n"
        "depthsig.load('folder', dtyp='bfloat16')\n"
        "depthsig.find_blocks('folder', orders='0:4')\n"
        "sig.profile('lens.kl', part=3)\n"
        "depthsig.compare([sig], role={})\n"
        "depthsig.metric('mine.x', axes='depth')\n"
        "depthsig.analyze('folder', agg='median')\n"
    )
    (path.parent / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = silent\n"
        "[mypy-torch.*,transformers.*,pandas.*,numpy.*,matplotlib.*,scipy.*,transformer_lens.*]\n"
        "follow_imports = skip\nignore_missing_imports = true\n"
    )
    return path


def test_a_type_checker_finds_misspelt_options(user_script: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "script.py"], cwd=user_script.parent,
        capture_output=True, text=True,
    )  # fmt: skip
    errors = [line for line in ran.stdout.splitlines() if ": error:" in line]
    assert [line.split(":")[1] for line in errors] == ["3", "4", "5", "6", "7", "8", "9"], ran.stdout + ran.stderr
    assert '"max_token"' in errors[0] and "max_tokens" in errors[0]


def six_layers() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=6, num_attention_heads=4, intermediate_size=48
    )
    return disturb(transformers.LlamaForCausalLM(config).eval())


def test_the_lines_of_the_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    six_layers().save_pretrained("tiny")  # type: ignore[operator]
    model = depthsig.load("tiny")
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12, 13, 14], [15, 16, 17, 18, 19]]
    assert len(model.plan) == 6
    assert list(model.cache(prompts, ["blocks.3.hook_resid_pre"])) == ["blocks.3.hook_resid_pre"]
    sig = depthsig.analyze(model, prompts, metrics=["lens", "skip"], grown="0:6/2")
    assert len(sig.profile("lens.kl")) == 7 and set(sig.tokens("lens.tokens")["prompt"]) == {0, 1, 2}
    assert len(sig.samples("lens.kl")) == 3 * 7
    assert len(sig.matrix("skip.effect")) and 0 <= sig.score("settling_depth") <= 6
    sig = depthsig.analyze(model, prompts, metrics=["skip"], parts=["layer"], scopes=["current"], batch_size=8)
    other = depthsig.analyze(model, prompts[:2], metrics=["skip"], order="0:2,2:4x2,4:6", max_tokens=64, memory="4GiB")
    assert sig.plot("skip.effect").get_xlabel()
    sig.save("out/a")
    assert depthsig.Signature.load("out/a").scores.equals(sig.scores)
    assert isinstance(depthsig.compare([sig, other]), depthsig.Comparison)
    # A live model with its tokenizer, too.
    live = transformers.AutoModelForCausalLM.from_pretrained("tiny")
    assert depthsig.load(live, None).plan.layers == model.plan.layers


def test_functions_of_the_design_are_usable_alone() -> None:
    from depthsig.metrics import block_periodicity, depth_score, kl_divergence, topk_overlap

    p, q = torch.zeros(2, 8), torch.arange(16.0).view(2, 8)
    assert kl_divergence(p, p).abs().max() < 1e-9 < float(kl_divergence(p, q).min())
    assert topk_overlap(q, q).tolist() == [1.0, 1.0]
    assert depth_score(np.array([1.0, 2.0, 3.0])) == pytest.approx((0 + 2 + 6) / 6)
    assert block_periodicity(np.sin(np.arange(16.0)), 0, 4, 4).testable


def test_what_schema_2_says_of_empty_cells(tmp_path: Path) -> None:
    """`part` and `scope` are `-` where they do not apply, in every table, in memory as on disk."""
    sig = depthsig.analyze(build("gpt2"), [[3, 4, 5, 6]], metrics=["lens", "skip"])
    sig.save(tmp_path / "out", figures=False)
    for saved in (sig, depthsig.Signature.load(tmp_path / "out")):
        for name in ("profiles", "matrices", "scores", "tokens_table"):
            table = getattr(saved, name)
            for column in {"part", "scope", "metric"} & set(table):
                assert table[column].notna().all() and (table[column] != "").all(), (name, column)
        assert set(saved.profile("lens.kl")["part"]) <= {"-"}
