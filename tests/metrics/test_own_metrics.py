"""A metric of one's own: declared in a notebook or a plug-in, and then like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer
from interrupting import interrupt_skipping

import depthsig
from depthsig.cli.main import main
from depthsig.commands.analysis.record import identity
from depthsig.errors import DepthsigWarning, InputError
from depthsig.measure.request import Request
from depthsig.metrics import all_metrics, entry, forget
from depthsig.metrics.entries.plugins import import_plugins
from depthsig.report import build as build_page

TOKENIZER = byte_tokenizer()

PLUGIN = """
import depthsig

@depthsig.metric("mine.participation", axis="depth", label="participation ratio", formula="(Σh²)²/Σh⁴", source="mine")
def participation(h):
    return (h**2).sum(-1) ** 2 / (h**4).sum(-1)

@depthsig.metric("mine.share", axis="step", parts=("layer", "attn", "mlp"), label="share", limits=(0, None))
def share(u, r):
    return u.norm(dim=-1) / (r.norm(dim=-1) + u.norm(dim=-1))

@depthsig.metric("mine.surprise", axis="depth", label="surprise", unit="nats", groups=("lens", "mine"))
def surprise(logits, targets):
    logs = logits.log_softmax(-1)
    return -logs.gather(-1, targets.clamp_min(0)[:, None])[:, 0].masked_fill(targets < 0, float("nan"))

@depthsig.metric("mine.likeness", rows="step", cols="step", label="likeness of updates")
def likeness(us):
    us = us / us.norm(dim=-1, keepdim=True)
    return (us[:, None] * us[None]).sum(-1)

@depthsig.metric("mine.damage", on="skip", axis="step", label="damage of a skip", unit="nats")
def damage(logits, final):
    return (final.log_softmax(-1).exp() * (final.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)

@depthsig.metric("mine.highest", needs=("mine.participation",), label="most used depth")
def highest(profile):
    return profile.argmax(-1)
"""
NAMES = ["participation", "share", "surprise", "likeness", "damage", "highest"]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return path


@pytest.fixture
def measured(plugin: Path) -> depthsig.Signature:
    return depthsig.analyze(
        build("llama"), PROMPTS, tokenizer=TOKENIZER, plugin=plugin, metrics=["mine", "skip.kl"], grown="0:4/2",
        scopes=["current", "future"], control=False,
    )  # fmt: skip


def states_of(module: torch.nn.Module, text: str) -> list[torch.Tensor]:
    """The state at every depth, by plain hooks."""
    seen: list[torch.Tensor] = []
    hooks = [x.register_forward_pre_hook(lambda _m, a: seen.append(a[0][0])) for x in module.model.layers]
    hooks.append(module.model.norm.register_forward_pre_hook(lambda _m, a: seen.append(a[0][0])))
    with torch.no_grad():
        module(torch.tensor([TOKENIZER(text).input_ids]))
    for hook in hooks:
        hook.remove()
    return seen


def test_its_numbers_are_those_of_plain_code(measured: depthsig.Signature) -> None:
    module = build("llama")
    plain = []
    for text in PROMPTS:
        states = states_of(module, text)
        plain.append([float(((h**2).sum(-1) ** 2 / (h**4).sum(-1))[1:].mean()) for h in states])
    profile = measured.profile("mine.participation")
    assert profile["value"].to_numpy() == pytest.approx(np.mean(plain, axis=0), rel=1e-5)
    assert (profile["ci_low"] < profile["value"]).all() and (profile["value"] < profile["ci_high"]).all()
    assert (profile["n_prompts"] == len(PROMPTS)).all() and profile["block"].notna().sum() == 4
    samples = measured.samples("mine.participation").pivot(index="prompt", columns="index", values="value")
    assert samples.to_numpy() == pytest.approx(np.array(plain), rel=1e-5)
    # What the product has of its own, again.
    nll = depthsig.analyze(module, PROMPTS, tokenizer=TOKENIZER, metrics=["lens.target_nll", "skip.kl"])
    wanted = nll.profile("lens.target_nll")["value"].to_numpy()
    assert measured.profile("mine.surprise")["value"].to_numpy() == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    for scope in ("current", "future"):
        wanted = measured.profile("skip.kl", scope=scope)["value"].to_numpy()
        assert measured.profile("mine.damage", scope=scope)["value"].to_numpy() == pytest.approx(wanted, abs=1e-4)


def test_declared_parts_are_measured_whatever_parts_says(measured: depthsig.Signature) -> None:
    for part in ("layer", "attn", "mlp"):
        assert len(measured.profile("mine.share", part=part)) == 4
    assert set(measured.profiles.query("metric == 'skip.kl'")["part"]) == {"layer"}


def test_scores_matrices_and_worst_cases(plugin: Path) -> None:
    found = depthsig.analyze(
        build("llama"), PROMPTS, tokenizer=TOKENIZER, plugin=plugin, metrics=["mine.highest", "mine.likeness"],
        agg="both",
    )  # fmt: skip
    profile = found.scores.query("score == 'mine.highest'").set_index("agg")
    assert profile.loc["mean", "value"] in range(5)
    matrix = found.matrix("mine.likeness").to_numpy()
    assert np.diag(matrix) == pytest.approx(np.ones(4), abs=1e-5) and matrix == pytest.approx(matrix.T, abs=1e-5)
    assert (found.matrix("mine.likeness", agg="max").to_numpy() >= matrix - 1e-6).all()


def test_it_is_drawn_saved_loaded_and_reported_without_its_function(
    measured: depthsig.Signature, tmp_path: Path
) -> None:
    measured.save(tmp_path / "out", figures=False)
    for name in NAMES:
        forget(f"mine.{name}")
    again = depthsig.Signature.load(tmp_path / "out")
    assert again.profiles.equals(measured.profiles)
    axes = again.plot("mine.participation")
    assert axes.get_ylabel() == "participation ratio"
    assert axes.lines[0].get_ydata() == pytest.approx(measured.profile("mine.participation")["value"])
    assert again.plot("mine.surprise").get_ylabel() == "surprise [nats]"
    page = build_page(tmp_path / "out").read_text(encoding="utf-8")
    assert "(Σh²)²/Σh⁴" in page and "likeness of updates" in page
    assert again.entries["mine.share"].parts == ("layer", "attn", "mlp") and again.entries["mine.share"].own
    record = json.loads((tmp_path / "out" / "signature.json").read_text(encoding="utf-8"))
    assert {m["id"] for m in record["metrics"]} == {f"mine.{n}" for n in NAMES}
    assert len(record["given"]["plugins"][0]["sha256"]) == 64


def test_periods_are_tested_on_it(plugin: Path) -> None:
    found = depthsig.analyze(
        build("llama"), PROMPTS, tokenizer=TOKENIZER, plugin=plugin, metrics=["mine", "period"],
        order="0,1:3x5,3", control=False,
    )  # fmt: skip
    tested = found.scores[found.scores["score"] == "period.p"].set_index("metric")
    assert {"mine.share", "mine.damage", "mine.likeness"} <= set(tested.index)
    assert not {"mine.participation", "mine.surprise"} & set(tested.index)  # over depths, which blocks do not cut


def test_compare_takes_it_along(plugin: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"tokenizer": TOKENIZER, "plugin": plugin, "metrics": ["mine.participation", "lens.kl"]}
    folders = []
    for seed in (0, 1):
        found = depthsig.analyze(build("llama", seed=seed), PROMPTS, **asked)
        folders.append(found.save(tmp_path / f"s{seed}", figures=False))
    for name in NAMES:
        forget(f"mine.{name}")
    compared = depthsig.compare(folders, resamples=20, out=tmp_path / "c")
    assert "mine.participation" in compared.info["profiles"]["compared"]
    assert compared.distance_matrix("mine.participation").to_numpy().max() > 0
    from depthsig.report.page.compared_page import build as page_of

    page = page_of(tmp_path / "c").read_text(encoding="utf-8")
    assert "mine.participation" in page and "participation ratio" in page


def test_compare_refuses_two_quantities_under_one_name(tmp_path: Path) -> None:
    found = []
    for axis in ("depth", "step"):
        depthsig.metric("mine.x", axis=axis)(lambda h: h.sum(-1))
        found.append(depthsig.analyze(build("llama"), PROMPTS, tokenizer=TOKENIZER, metrics=["mine.x", "lens.kl"]))
    with pytest.raises(InputError, match=r"'mine\.x' was declared with axis 'depth' in .* and 'step' in"):
        depthsig.compare(found)


def test_interrupted_work_is_gone_on_with(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {
        "tokenizer": TOKENIZER, "plugin": plugin, "metrics": ["mine"], "batch_size": 1, "out": tmp_path / "out",
    }  # fmt: skip
    interrupt_skipping(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        depthsig.analyze(build("llama"), PROMPTS, **asked)
    plugin.write_text(PLUGIN.replace("h**4", "h**6"), encoding="utf-8")
    with pytest.raises(InputError, match="begun with another plug-in or metric of your own"):
        depthsig.analyze(build("llama"), PROMPTS, resume=True, **asked)
    plugin.write_text(PLUGIN, encoding="utf-8")
    resumed = depthsig.analyze(build("llama"), PROMPTS, resume=True, **asked)
    monkeypatch.undo()
    whole = depthsig.analyze(build("llama"), PROMPTS, **{**asked, "out": None})
    assert resumed.profiles.equals(whole.profiles) and resumed.matrices.equals(whole.matrices)


def test_on_the_command_line(plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: Any, code: int = 0) -> str:
        assert main([*map(str, arguments)]) == code
        for one in all_metrics().values():  # a command leaves nothing to the next
            if one.own:
                forget(one.id)
        told = capsys.readouterr()
        return told.out if code == 0 else told.err

    listed = run("metrics", "--plugin", plugin)
    assert "mine.participation" in listed and "(Σh²)²/Σh⁴" in listed
    asked = ["analyze", "family-midas", "-n", 5, "--max-tokens", 24, "--metrics", "mine", "--plugin", plugin]
    told = json.loads(run(*asked, "--dry-run", "--json"))
    assert {piece["name"] for piece in told["pieces"]} == {"clean run", "skip"}
    out = tmp_path / "out"
    run(*asked, "--out", out, "--no-control")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "(Σh²)²/Σh⁴" in page and f"--plugin {plugin}" in page
    table = (out / "profiles.csv").read_text(encoding="utf-8")
    assert table.count("mine.participation,-,-,mean") == 25
    run("report", out)  # without the plug-in
    assert "unknown metric" in run("analyze", "family-midas", "--metrics", "mine.participation", code=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ValueError('no\\nway')", "failed: ValueError: no way"),
        ("import depthsig\n@depthsig.metric('lens.kl', axis='depth')\ndef f(h): ...", "'lens.kl' is built in"),
        ("import depthsig\n@depthsig.metric('a.b', axis='depth')\ndef f(hh): ...", "asks for 'hh', which nothing"),
        ("def f(:", "SyntaxError"), ("import sys; sys.exit(3)", "SystemExit"), ("import no_such", "ModuleNotFound"),
    ],
)  # fmt: skip
def test_a_plugin_that_fails_is_one_line_and_exit_2(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    assert main(["analyze", "family-midas", "--plugin", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error and str(path) in error and error.count("\n") == 1 and not out.exists()


def test_a_plugin_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--plugin", str(tmp_path / "none.py")]) == 2
    assert "cannot be read" in capsys.readouterr().err


DECLARED_BADLY: list[tuple[dict[str, Any], str, str]] = [
    ({"id": "Mine.X", "axis": "depth"}, "h", "an id is written family.name"),
    ({"id": "mine", "axis": "depth"}, "h", "an id is written family.name"),
    ({"id": "lens.kl", "axis": "depth"}, "h", "built in"),
    ({"id": "mine.x", "axis": "depth"}, "hidden", "asks for 'hidden', which nothing offers over depth"),
    ({"id": "mine.x", "axis": "depths"}, "h", "nothing is offered over depths"),
    ({"id": "mine.x", "axis": "depth", "on": "nowhere"}, "h", "there is no run 'nowhere'"),
    ({"id": "mine.x", "axis": "depth", "colour": "red"}, "h", "there is no field 'colour'"),
    ({"id": "mine.x", "rows": "step"}, "us", "give an axis for a profile, or rows and cols for a matrix"),
    ({"id": "mine.x", "axis": "depth", "limits": ("a", 1)}, "h", "None or finite numbers"),
    ({"id": "mine.x", "axis": "depth", "limits": None}, "h", "None or finite numbers"),
    ({"id": "mine.x", "axis": "depth", "centre": float("nan")}, "h", "None or finite numbers"),
    ({"id": "mine.x", "axis": "depth", "kind": "score"}, "h", "a score over depth; over depth there is profile or tok"),
    ({"id": "mine.x", "kind": "profile"}, "hs", "a profile over nothing; over nothing there is score"),
    ({"id": "mine.x", "axis": "step", "on": "skip", "kind": "token"}, "logits", "no token-level values are kept of"),
    ({"id": "mine.x", "axis": "step", "parts": ("attention",)}, "u", "there is no part 'attention'; there are layer"),
    ({"id": "mine.x", "axis": "depth", "parts": ("attn",)}, "h", "parts are of what is taken away or added"),
    ({"id": "mine.x", "axis": "depth", "fused": "kl"}, "logits", "fused is for built-in metrics"),
    ({"id": "mine.x", "axis": "depth", "figure": "trajectories"}, "h", "'trajectories'; of a profile it is profile"),
    ({"id": "mine.x", "axis": "depth", "label": "x", "first_col": "a"}, "h", "first_col is 'a'"),
    ({"id": "mine.x", "axis": "iteration", "on": "loop", "level": "pooled"}, "xs", "declare it with kind='token'"),
    ({"id": "mine.x", "on": "periods"}, "profile", "periods are tested of every metric over steps by themselves"),
    ({"id": "mine.x", "on": "scores"}, "n", "a score is made of other metrics; name them in needs"),
    ({"id": "mine.x", "needs": ("late_share",)}, "p", "'late_share' is a score of scores; needs are profiles or"),
    ({"id": "mine.x", "needs": ("lens.tokens",)}, "p", "'lens.tokens' is a token of readout; needs are profiles or"),
    ({"id": "mine.x", "needs": ("residual.norm",), "on": "readout"}, "p", "measured on clean, not readout"),
    ({"id": "mine.x", "needs": ("lens.kl",), "on": "coda"}, "p", "nothing is offered over nothing; there is, on coda"),
    ({"id": "mine.x", "axis": "depth", "worst": "mean"}, "h", "worst is 'mean'"),
    ({"id": "mine.x", "axis": "depth", "label": 3}, "h", "label is 3; it is text"),
    ({"id": "mine.x", "needs": ("no.such",)}, "profile", "unknown metric 'no.such'"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "asks", "said"), DECLARED_BADLY, ids=[said for _, _, said in DECLARED_BADLY])
def test_declared_badly_is_said_at_once(fields: dict[str, Any], asks: str, said: str) -> None:
    before = dict(all_metrics())
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        depthsig.metric(**fields)(eval(f"lambda {asks}: {asks}.sum(-1)"))
    assert dict(all_metrics()) == before


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda h: h, r"gives the shape \[\d+, 32\]; \[\d+\] was expected, a number for each row"),
        (lambda h: h.sum(), r"gives the shape \[\]"),
        (lambda h: h.sum(-1).to(torch.complex64), "gives complex numbers"),
        (lambda h: None, "gives the shape"),
        (lambda h: h.nonsense(), r"'mine\.bad' failed: AttributeError"),
        (lambda h: h.mul_(2).sum(-1), "changes 'h', which others are given too"),
    ],
)
def test_a_function_that_gives_the_wrong_thing_is_named(function: Any, said: str, tmp_path: Path) -> None:
    depthsig.metric("mine.bad", axis="depth")(function)
    with pytest.raises(InputError, match=said):
        depthsig.analyze(
            build("llama"), PROMPTS, tokenizer=TOKENIZER, metrics=["mine.bad"], out=tmp_path / "out"
        )  # fmt: skip
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_cell_that_is_run_twice_replaces_its_metric() -> None:
    for factor in (1, 2):
        depthsig.metric("mine.twice", axis="depth")(lambda h, factor=factor: factor * h.norm(dim=-1))
    found = depthsig.analyze(build("llama"), PROMPTS, tokenizer=TOKENIZER, metrics=["mine.twice", "residual.norm"])
    twice, once = (found.profile(name)["value"].to_numpy() for name in ("mine.twice", "residual.norm"))
    assert twice == pytest.approx(2 * once, rel=1e-6)
    assert entry("mine.twice").own and not entry("residual.norm").own
    with pytest.raises(InputError, match="built in and stays"):
        forget("residual.norm")


def test_half_precision_arrives_in_float32_and_one_token_is_enough() -> None:
    seen: list[Any] = []

    @depthsig.metric("mine.dtypes", axis="step")
    def dtypes(h: Any, h_next: Any, u: Any, r: Any) -> Any:
        seen.append((h.dtype, h_next.dtype, u.dtype, r.dtype))
        assert h.shape == h_next.shape == u.shape == r.shape and h.ndim == 2
        return (h_next - h - u).norm(dim=-1)

    module = build("llama", dtype=torch.bfloat16)
    with pytest.warns(DepthsigWarning):
        found = depthsig.analyze(module, ["a", "ab"], tokenizer=byte_tokenizer(left=True), metrics=["mine.dtypes"])
    assert set(seen) == {(torch.float32,) * 4}
    assert len(found.profile("mine.dtypes")) == 4


def test_a_view_of_what_is_given_is_its_own_value() -> None:
    depthsig.metric("mine.view", axis="depth")(lambda logits: logits[:, 5])
    depthsig.metric("mine.copy", axis="depth")(lambda logits: logits[:, 5].clone())
    depthsig.metric("mine.output", on="skip", axis="step")(lambda logits: logits[:, 5])
    depthsig.metric("mine.output_copy", on="skip", axis="step")(lambda logits: logits[:, 5].clone())
    asked = ["mine.view", "mine.copy", "mine.output", "mine.output_copy", "lens.kl", "skip.kl"]
    found = depthsig.analyze(build("llama"), PROMPTS, tokenizer=byte_tokenizer(), metrics=asked, scopes="current")
    for name, copy in (("mine.view", "mine.copy"), ("mine.output", "mine.output_copy")):
        assert found.profile(name)["value"].tolist() == found.profile(copy)["value"].tolist()
    assert found.profile("mine.view")["value"].nunique() > 3


@pytest.mark.parametrize("change", [lambda a: np.abs(a, out=a), lambda a: a.sort(axis=-1)], ids=["abs", "sort"])
def test_changes_behind_torch_are_noticed(change: Any) -> None:
    def in_numpy(h: Any) -> Any:
        array = h.numpy()
        change(array)
        return array.sum(-1)

    depthsig.metric("mine.numpy", axis="depth")(in_numpy)
    with pytest.raises(InputError, match="changes 'h', which others are given too"):
        depthsig.analyze(build("llama"), PROMPTS[:1], tokenizer=byte_tokenizer(), metrics=["mine.numpy"])


def test_columns_are_numbered_as_built_in_ones() -> None:
    depthsig.metric("mine.repeated", on="repeat", rows="start", cols="end")(lambda logits: logits.sum(-1))
    depthsig.metric("mine.ahead", rows="depth", cols="ahead")(
        lambda hs: hs[1:].norm(dim=-1)[:, None].expand(-1, len(hs) - 1, -1)
    )
    asked = ["mine.repeated", "repeat.loss", "mine.ahead", "residual.angular"]
    found = depthsig.analyze(build("llama"), PROMPTS[:2], tokenizer=byte_tokenizer(), metrics=asked).matrices
    where = {name: set(zip(rows["row"], rows["col"], strict=True)) for name, rows in found.groupby("metric")}
    assert where["mine.repeated"] == where["repeat.loss"] and where["mine.ahead"] == where["residual.angular"]


@pytest.mark.parametrize(
    ("fields", "function", "said"),
    [
        ({"needs": ("lens.kl",)}, lambda p: p, "gives the shape"),
        ({"needs": ("lens.kl",)}, lambda p: p.nothing, "failed: AttributeError"),
        ({"needs": ("lens.kl",), "on": "readout"}, lambda p: p.nothing, "failed: AttributeError"),
        ({"axis": "depth", "kind": "token"}, lambda logits: None, "gives the shape"),
        ({"axis": "depth", "on": "attribution"}, lambda rest, h: 1.0, "gives the shape"),
        ({"on": "attribution"}, lambda rest, h: h.sum(-1), "gives the shape"),
        ({"axis": "depth", "result": "nothing"}, lambda h: h.sum(-1), "failed: AttributeError"),
    ],
)
def test_what_a_function_of_any_run_does_wrong_is_one_line(fields: Any, function: Any, said: str) -> None:
    depthsig.metric("mine.wrong", **fields)(function)
    with pytest.raises(InputError, match=f"'mine.wrong' {said}"):
        depthsig.analyze(build("llama"), PROMPTS[:2], tokenizer=byte_tokenizer(), metrics=["mine.wrong"])


def test_names_that_a_page_or_a_formula_has_are_only_names(tmp_path: Path) -> None:
    depthsig.metric("plan.cost", axis="depth", label="cost $x_{$ y", unit="$")(lambda h: h.sum(-1))
    depthsig.metric("definitions.cost", rows="step", cols="step", label="a$b")(
        lambda us: (us[:, None] * us[None]).sum(-1)
    )
    found = depthsig.analyze(
        build("llama"), PROMPTS[:2], tokenizer=byte_tokenizer(), metrics=["plan.cost", "definitions.cost"]
    )
    found.save(tmp_path / "out", figures=False)
    assert main(["report", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("plan.cost") > 1 and page.count('id="definitions"') == 1


def test_a_plugin_imported_before_is_still_the_one_that_declares(plugin: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo words")
    options = {"tokenizer": byte_tokenizer(), "metrics": ["mine.participation"]}
    first = depthsig.analyze(build("llama"), str(prompts), plugin=plugin, **options)
    second = depthsig.analyze(build("llama"), str(prompts), **options)
    assert first.info["given"]["plugins"] == second.info["given"]["plugins"] != []
    assert second.info["given"]["declared"] == []


HELPED = """
import depthsig

SCALE = {scale}

def helper(x):
    return x.norm(dim=-1) * {factor}

def size(h):
    return helper(h) * SCALE
"""


def test_unfinished_work_is_of_the_helpers_and_numbers_that_a_function_uses(tmp_path: Path) -> None:
    def asked_with(scale: int, factor: int, file: bool) -> str:
        text = HELPED.format(scale=scale, factor=factor)
        if file:
            path = tmp_path / "own.py"
            path.write_text(text + '\ndepthsig.metric("mine.size", axis="depth")(size)\n')
            import_plugins(path)
        else:
            names: dict[str, Any] = {}
            exec(text, names)
            depthsig.metric("mine.size", axis="depth")(names["size"])
        model = depthsig.load(build("llama"), TOKENIZER)
        return json.dumps(identity(model, [], Request(metrics="mine.size")), sort_keys=True)

    for file in (False, True):
        first = asked_with(1, 1, file)
        assert asked_with(1, 1, file) == first
        assert asked_with(2, 1, file) != first and asked_with(1, 2, file) != first
