"""Edited runs against naive hooked forwards, and the skip metrics against the published procedure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from families import FAMILIES, PROMPTS, build, byte_tokenizer, looped_model, places
from interrupting import interrupt_skipping

import depthsig
from depthsig.checkpoint.hooks import first_tensor, with_first, with_hidden
from depthsig.engine.edits import Drop, Repeat, Replace, Reverse, Skip, Stop, Swap, compile_edit
from depthsig.errors import InputError
from depthsig.metrics import future_cuts


def naive(model: torch.nn.Module, layers: list, where: Any, edit: Any, ids: torch.Tensor) -> torch.Tensor:
    """One hooked full forward of contribution edits."""
    tokens, handles = ids.shape[1], []
    for one in edit or ():
        at = [p for p in (one.positions or range(1, tokens)) if p < tokens]
        handles.append(_hook(model, layers, where, one, at))
    try:
        with torch.no_grad():
            return model(ids, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def _hook(model: torch.nn.Module, layers: list, where: Any, edit: Any, at: list[int]) -> Any:
    def skip_layer(_m, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        out = first_tensor(output).clone()
        out[:, at] = hidden[:, at]
        return with_first(output, out)

    def skip_part(_m, args, output):
        out = first_tensor(output).clone()
        out.view(1, -1, out.shape[-1])[:, at] = 0
        return with_first(output, out)

    def replace(_m, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        hidden[:, at] = edit.value
        return with_hidden(args, kwargs, hidden)

    if isinstance(edit, Replace):
        place = layers[edit.step] if edit.step < len(layers) else model.get_submodule(where.norm)
        return place.register_forward_pre_hook(replace, with_kwargs=True)
    if edit.part == "layer":
        return layers[edit.step].register_forward_hook(skip_layer, with_kwargs=True)
    return layers[edit.step].get_submodule(getattr(where, edit.part)).register_forward_hook(skip_part)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_equals_the_hooked_forward(name: str) -> None:
    module, where, tokenizer = build(name), places(name), byte_tokenizer(left=True)
    model = depthsig.load(module, tokenizer)
    layers, steps = [layer.module for layer in model.anatomy.layers], len(model.plan)
    width = model.trace.width
    edits: list[Any] = [None, *(Skip(s) for s in range(steps))]
    if where.attn:
        edits += [Skip(s, part=p) for s in range(steps) for p in ("attn", "mlp")]
    edits += [Skip(1, positions=[2, 3]), Skip(0) + Skip(2, positions=[1])]
    edits += [Replace(2, torch.randn(width), positions=[3]), Replace(steps, torch.randn(width), positions=[3])]
    texts = [PROMPTS[i] for i in (0, 1, 3, 4)]  # lengths differ; a hooked forward is made of each edit and prompt
    clean = model.run(texts, [None])[0]
    for run in model.run(texts, edits):
        for text, found, plain in zip(texts, run.logits, clean.logits, strict=True):
            ids = torch.tensor([tokenizer(text).input_ids])
            expected = naive(module, layers, where, run.edit, ids)
            assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), run.edit
            assert torch.allclose(found[0], plain[0], rtol=1e-5, atol=1e-5)  # position 0 never changes


@pytest.mark.parametrize(
    ("edit", "layers"),
    [
        (Swap(0, 2), [2, 1, 0, 3]), (Reverse(0, 4), [3, 2, 1, 0]), (Drop(1, 3), [0, 3]),
        (Repeat(1, 3, times=3), [0, 1, 2, 1, 2, 1, 2, 3]), (Stop(2), [0, 1]), (Swap(0, 2, size=2), [2, 3, 0, 1]),
        (Repeat(3, 4) + Swap(0, 1), [1, 0, 2, 3, 3]),
    ],
)  # fmt: skip
def test_order_edits_equal_running_that_order(edit: Any, layers: list[int]) -> None:
    model = depthsig.load(build("llama"), byte_tokenizer())
    other = model.relabelled(order=",".join(map(str, layers)))
    (run,) = model.run(PROMPTS, [edit])
    for text, found in zip(PROMPTS, run.logits, strict=True):
        ids = torch.tensor([byte_tokenizer()(text).input_ids])
        expected = other.read(other.clean(ids).outputs[-1])[0]
        assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_damping_moves_part_of_the_way() -> None:
    model = depthsig.load(build("llama"), byte_tokenizer())
    ids = torch.tensor([byte_tokenizer()(PROMPTS[0]).input_ids])
    run = model.clean(ids)
    with torch.no_grad():
        x = run.outputs[2]
        again = run.calls[2](run.calls[1](x))
        x = run.calls[3](x + 0.25 * (again - x))
    (found,) = model.run([PROMPTS[0]], [Repeat(1, 3, times=2, damping=0.25)])
    assert torch.allclose(found.logits[0], model.read(x)[0], rtol=1e-4, atol=1e-5)


def test_one_pass_of_a_looped_model_is_skipped_alone() -> None:
    module = looped_model()
    model = depthsig.load(module, byte_tokenizer())
    ids = torch.tensor([byte_tokenizer()(PROMPTS[0]).input_ids])
    calls = []

    def second_pass(m, args, kwargs, output):
        calls.append(m)
        if len(calls) != 2:  # layer 1 runs at steps 1, 3 and 5
            return None
        out = first_tensor(output).clone()
        out[:, 1:] = args[0][:, 1:]
        return with_first(output, out)

    handle = module.model.layers[1].register_forward_hook(second_pass, with_kwargs=True)
    with torch.no_grad():
        expected = module(ids, use_cache=False).logits[0]
    handle.remove()
    (found,) = model.run([PROMPTS[0]], [Skip(3)])
    assert torch.allclose(found.logits[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "edit",
    [
        Skip(4), Skip(-1), Skip(0, part="head"), Skip(0, positions=[0]), Skip(1) + Skip(1, part="attn"),
        Swap(0, 1) + Reverse(1, 3), Drop(1, 3) + Skip(2), Repeat(2, 5), Stop(2) + Skip(3),
    ],
)  # fmt: skip
def test_bad_edits_are_refused_in_one_line(edit: Any) -> None:
    with pytest.raises(InputError) as caught:
        compile_edit(edit, 4, [True] * 4)
    assert "\n" not in str(caught.value)


def test_empty_and_overlapping_ranges_are_refused() -> None:
    for make in (lambda: Repeat(2, 2), lambda: Drop(3, 1), lambda: Swap(0, 1, size=2), lambda: Repeat(0, 1, times=0)):
        with pytest.raises(InputError):
            make()


# The published procedure, plainly: one prompt, one cut, one hooked forward at a time.


def _watch(module: torch.nn.Module, layers: list, ids: torch.Tensor, step: int | None, at: list[int]) -> tuple:
    """Updates of every layer [layer][token, d] and logits, with one layer silenced at some positions."""
    updates: list[np.ndarray] = []
    handles = []

    def change(_m, args, kwargs, output):
        out = first_tensor(output).clone()
        out[:, at] = (args[0] if args else kwargs["hidden_states"])[:, at]
        return with_first(output, out)

    def keep(_m, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        updates.append((first_tensor(output).double() - hidden.double())[0].numpy())

    if step is not None:
        handles.append(layers[step].register_forward_hook(change, with_kwargs=True))
    handles += [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    with torch.no_grad():
        logits = module(ids, use_cache=False).logits[0].double()
    for handle in handles:
        handle.remove()
    return updates, logits


def _values(module: torch.nn.Module, layers: list, ids: list[int], scope: str, cuts: list[int]) -> list[dict]:
    """For every cut: by metric, [position, step] or [position, step, step]."""
    found, tokens, batch = [], len(ids), torch.tensor([ids])
    clean, logits = _watch(module, layers, batch, None, [])
    p = logits.softmax(-1)
    for cut in cuts:
        at = list(range(1, cut)) if scope == "future" else list(range(1, tokens))
        seen = list(range(cut, tokens)) if scope == "future" else list(range(1, tokens))
        n = len(layers)
        out = {"skip.effect": np.full((len(seen), n, n), np.nan)}
        out |= {m: np.full((len(seen), n), np.nan) for m in ("skip.output_l2", "skip.kl", "skip.loss", "skip.top1")}
        for s in range(n):
            edited, other = _watch(module, layers, batch, s, at)
            q = other.softmax(-1)
            for i, t in enumerate(seen):
                for later in range(s + 1, n):
                    gap = np.linalg.norm(clean[later][t] - edited[later][t])
                    out["skip.effect"][i, s, later] = gap / max(np.linalg.norm(clean[later][t]), 1e-6)
                out["skip.output_l2"][i, s] = (p[t] - q[t]).norm()
                out["skip.kl"][i, s] = (p[t] * (logits[t].log_softmax(-1) - other[t].log_softmax(-1))).sum()
                out["skip.top1"][i, s] = float(logits[t].argmax() == other[t].argmax())
                if t + 1 < tokens:
                    target = ids[t + 1]
                    out["skip.loss"][i, s] = logits[t].log_softmax(-1)[target] - other[t].log_softmax(-1)[target]
        found.append(out)
    return found


@pytest.mark.parametrize("name", ["llama", "falcon_multi_query", "mixtral", "mamba2", "gemma2"])
def test_skip_metrics_are_the_published_ones(name: str) -> None:
    module, tokenizer = build(name), byte_tokenizer()
    asked: dict[str, Any] = {"metrics": ["skip"], "scopes": ["current", "future"], "agg": "both", "cuts": 2}
    signature = depthsig.analyze(module, PROMPTS, tokenizer=tokenizer, **asked)
    layers = [layer.module for layer in depthsig.load(module, tokenizer).anatomy.layers]
    for scope in ("current", "future"):
        every = []
        for text in PROMPTS:
            ids = tokenizer(text).input_ids
            cuts = list(future_cuts(len(ids), 2)) if scope == "future" else [0]
            if cuts:
                every.append(_values(module, layers, ids, scope, cuts))
        for metric in every[0][0]:
            worst = np.nanmin if metric == "skip.top1" else np.nanmax
            _compare(signature, metric, scope, [[c[metric] for c in prompt] for prompt in every], worst)


def _compare(signature: Any, metric: str, scope: str, values: list, worst: Any) -> None:
    with np.errstate(all="ignore"), pytest.MonkeyPatch.context():
        means = [np.mean([_nanmean(c) for c in prompt if not np.isnan(c).all()], axis=0)
                 for prompt in values if any(not np.isnan(c).all() for c in prompt)]  # fmt: skip
        extremes = worst(np.concatenate([c for prompt in values for c in prompt]), axis=0)
    absolute = 3e-6 if metric in ("skip.kl", "skip.loss") else 2e-6
    for agg, expected in (("mean", np.mean(means, axis=0)), ("max", extremes)):
        if metric == "skip.effect":
            found = signature.matrices.query("metric == @metric and scope == @scope and agg == @agg")
            assert (found["col"] > found["row"]).all()
            oracle.close(found["value"], expected[found["row"].astype(int), found["col"].astype(int)], absolute)
        else:
            oracle.close(signature.profile(metric, scope=scope, agg=agg)["value"], expected, absolute)


def _nanmean(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    counts = defined.sum(0)
    return np.where(counts > 0, np.where(defined, values, 0).sum(0) / np.maximum(counts, 1), np.nan)


def test_repeat_map_equals_running_each_order() -> None:
    module, tokenizer = build("llama"), byte_tokenizer()
    plain = depthsig.load(module, tokenizer)
    found = depthsig.analyze(module, PROMPTS, tokenizer=tokenizer, metrics=["repeat"]).matrix("repeat.loss")
    assert found.notna().sum().sum() == 10
    for start, end in ((0, 1), (1, 3), (2, 4)):
        other = plain.relabelled(order=f"0:{end},{start}:4")
        losses = []
        for text in PROMPTS:
            ids = tokenizer(text).input_ids
            if len(ids) < 3:
                continue
            pair = []
            for model in (other, plain):
                logs = model.read(model.clean(torch.tensor([ids])).outputs[-1])[0].double().log_softmax(-1)
                pair.append(np.mean([-float(logs[t, ids[t + 1]]) for t in range(1, len(ids) - 1)]))
            losses.append(pair[0] - pair[1])
        assert found.loc[start, end] == pytest.approx(np.mean(losses), abs=3e-6)


def test_interrupted_work_is_gone_on_with(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:

    module, tokenizer = build("llama"), byte_tokenizer()
    asked: dict[str, Any] = {"tokenizer": tokenizer, "metrics": ["skip"], "batch_size": 1}
    whole = depthsig.analyze(module, PROMPTS, **asked)
    calls = interrupt_skipping(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        depthsig.analyze(module, PROMPTS, out=tmp_path / "a", **asked)
    assert (tmp_path / "a.partial").exists() and not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="another"):
        depthsig.analyze(module, PROMPTS[:3], out=tmp_path / "a", resume=True, **asked)
    resumed = depthsig.analyze(module, PROMPTS, out=tmp_path / "a", resume=True, **asked)
    assert len(calls) == 4 + len(PROMPTS) - 3  # three batches were done
    assert not (tmp_path / "a.partial").exists()
    for table in ("profiles", "matrices", "scores"):
        assert getattr(resumed, table).equals(getattr(whole, table)), table


def test_ctrl_c_and_resume_on_the_command_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from depthsig.cli.main import main

    out = tmp_path / "out"
    asked = ["analyze", str(checkpoint), "--prompts", "lookup", "-n", "4", "--batch-size", "1", "--metrics", "skip"]
    asked += ["--scopes", "current", "--out", str(out)]
    calls = interrupt_skipping(monkeypatch, 3)
    assert main(asked) == 130
    partial = tmp_path / "out.partial"
    assert partial.is_dir() and not out.exists()
    with pytest.raises(InputError, match="unfinished"):
        depthsig.Signature.load(partial)
    capsys.readouterr()
    assert main([*asked, "--cuts", "2", "--resume"]) == 2
    assert "cuts" in capsys.readouterr().err
    assert main([*asked, "--resume"]) == 0
    assert len(calls) == 5 and not partial.exists() and {p.name for p in out.iterdir()} >= {"report.html", "scores.csv"}
    assert not (out / "units").exists()
    assert main([*asked, "--recheck"]) == 0  # and once more without a pause: the same numbers
    again = depthsig.Signature.load(out)
    monkeypatch.undo()
    assert main([*asked, "--recheck"]) == 0
    assert again.profiles.equals(depthsig.Signature.load(out).profiles)
