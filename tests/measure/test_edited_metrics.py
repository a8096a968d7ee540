"""Local effects, order edits, erasure, integrated gradients and scores, each against plain code of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, places

import depthsig
from depthsig.checkpoint.hooks import first_tensor, with_first
from depthsig.cli.main import main
from depthsig.metrics import depth_score, future_cuts, late_share, relative_change

TOKENIZER = byte_tokenizer()


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text).input_ids


def capture(module: torch.nn.Module, layers: list, where: Any, ids: list[int]) -> dict[str, Any]:
    """Clean inputs, updates and parts of every layer, how to call it again, and logits."""
    seen: dict[str, list] = {"h": [], "delta": [], "attn": [], "mlp": [], "call": []}

    def layer(m, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        seen["h"].append(hidden.clone())
        seen["delta"].append(first_tensor(output) - hidden)
        rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
        seen["call"].append(lambda x, m=m, a=args[1:], k=rest: first_tensor(m(x, *a, **k)))

    handles = [x.register_forward_hook(layer, with_kwargs=True) for x in layers]
    if where.attn:
        for kind in ("attn", "mlp"):
            handles += [
                x.get_submodule(getattr(where, kind)).register_forward_hook(
                    lambda _m, _a, o, kind=kind: seen[kind].append(first_tensor(o).clone())
                )
                for x in layers
            ]
    with torch.no_grad():
        logits = module(torch.tensor([ids]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    last = seen["h"][-1] + seen["delta"][-1]
    return {**seen, "h": [*seen["h"], last], "logits": logits}


@pytest.mark.parametrize("part", ["layer", "attn", "mlp"])
def test_local_effect(part: str) -> None:
    module, where = build("llama"), places("llama")
    layers = list(module.model.layers)
    found = depthsig.analyze(
        module,
        PROMPTS,
        tokenizer=TOKENIZER,
        metrics=["local"],
        parts=[part],
        scopes=["current", "future"],
        agg="both",
        cuts=2,
    ).matrices
    for scope in ("current", "future"):
        means, everything = [], []
        for text in PROMPTS:
            ids = ids_of(text)
            clean, cuts = capture(module, layers, where, ids), []
            for cut in future_cuts(len(ids), 2) if scope == "future" else [len(ids)]:
                seen = list(range(cut, len(ids))) if scope == "future" else list(range(1, len(ids)))
                values = np.full((len(seen), 4, 4), np.nan)
                for s in range(4):
                    taken = clean["delta"][s] if part == "layer" else clean[part][s]
                    for later in range(s + 1, 4):
                        x = clean["h"][later].clone()
                        x[:, 1:cut] -= taken[:, 1:cut]
                        with torch.no_grad():
                            change = clean["call"][later](x) - x
                        values[:, s, later] = relative_change(clean["delta"][later], change)[0, seen].numpy()
                cuts.append(values.mean(0))
                everything.append(values)
            if cuts:
                means.append(np.mean(cuts, axis=0))
        expected = {"mean": np.mean(means, axis=0), "max": np.concatenate(everything).max(0)}
        for agg, matrix in expected.items():
            rows = found[(found["scope"] == scope) & (found["agg"] == agg)]
            assert len(rows) == 6 and (rows["part"] == part).all()
            oracle.close(rows["value"], matrix[rows["row"].astype(int), rows["col"].astype(int)], 2e-6)


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_skipping_a_sublayer(part: str) -> None:
    """Hook the sublayer's output to zero; effects are on later whole layers."""
    module, where = build("gemma2"), places("gemma2")
    layers = list(module.model.layers)
    signature = depthsig.analyze(
        module, PROMPTS[:1], tokenizer=TOKENIZER, metrics=["skip"], parts=[part], scopes=["current"]
    )
    ids = ids_of(PROMPTS[0])
    clean = capture(module, layers, where, ids)
    for s in range(4):

        def silence(_m, _a, output):
            out = first_tensor(output).clone()
            out[:, 1:] = 0
            return with_first(output, out)

        handle = layers[s].get_submodule(getattr(where, part)).register_forward_hook(silence)
        edited = capture(module, layers, where, ids)
        handle.remove()
        gap = (clean["logits"].softmax(-1) - edited["logits"].softmax(-1)).norm(dim=-1)[1:].mean()
        found = signature.profile("skip.output_l2", part=part)["value"][s]
        assert found == pytest.approx(float(gap), rel=1e-4, abs=1e-7)
        for later in range(s + 1, 4):
            change = relative_change(clean["delta"][later], edited["delta"][later])[0, 1:].mean()
            found = signature.matrix("skip.effect", part=part).loc[s, later]
            assert found == pytest.approx(float(change), rel=1e-4)


def with_mean_update(module: torch.nn.Module, clean: list[dict[str, Any]], s: int, text: str) -> torch.Tensor:
    """Logits with layer s's update replaced by its mean over the counted tokens of the clean runs."""
    layers, mean = list(module.model.layers), torch.cat([c["delta"][s][0, 1:] for c in clean]).mean(0)

    def put(_m, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        out = first_tensor(output).clone()
        out[:, 1:] = hidden[:, 1:] + mean
        return with_first(output, out)

    handle = layers[s].register_forward_hook(put, with_kwargs=True)
    edited = capture(module, layers, places("llama"), ids_of(text))
    handle.remove()
    return edited["logits"]


def test_mean_ablation_puts_the_mean_contribution_in_its_place() -> None:
    module, where = build("llama"), places("llama")
    layers = list(module.model.layers)
    clean = [capture(module, layers, where, ids_of(t)) for t in PROMPTS]
    signature = depthsig.analyze(
        module, PROMPTS, tokenizer=TOKENIZER, metrics=["skip.kl"], scopes=["current"], ablation="mean"
    )
    for s in range(4):
        values = []
        for text, before in zip(PROMPTS, clean, strict=True):
            edited = with_mean_update(module, clean, s, text)
            logs = before["logits"].double().log_softmax(-1)
            values.append(float((logs.exp() * (logs - edited.double().log_softmax(-1))).sum(-1)[1:].mean()))
        assert signature.profile("skip.kl")["value"][s] == pytest.approx(np.mean(values), rel=1e-4, abs=3e-6)


@pytest.mark.parametrize("metric", ["skip.output_l2", "erasure.effect"])
def test_means_are_of_all_prompts_whichever_are_measured(metric: str) -> None:
    """What is restricted is where changes are looked at, not what is put in the place of a step or state."""
    module = build("llama")
    prompts = [{"text": PROMPTS[0], "answer": PROMPTS[1]}, PROMPTS[2], PROMPTS[3]]
    options: dict[str, Any] = {"tokenizer": TOKENIZER, "metrics": [metric], "ablation": "mean", "scopes": ["current"]}
    answers = depthsig.analyze(module, prompts, positions="answer", **options)
    alone = depthsig.analyze(module, prompts[:1], positions="answer", **options)
    if metric == "erasure.effect":  # the answer's positions are what erasure looks at in any case
        every = depthsig.analyze(module, prompts, **options).tokens(metric).query("prompt == 0")["value"]
        values, other = (s.tokens(metric).query("prompt == 0")["value"] for s in (answers, alone))
        assert values.to_numpy() == pytest.approx(every.to_numpy(), rel=1e-4, abs=1e-6)
    else:
        before = oracle_skip(module, prompts)
        values, other = (s.profile(metric)["value"] for s in (answers, alone))
        assert values.to_numpy() == pytest.approx(before, rel=1e-4)
    assert np.abs(values.to_numpy() - other.to_numpy()).max() > 1e-4
    assert list(answers.prompts["cuts"]) == [""] * 3  # no future was asked for


def oracle_skip(module: torch.nn.Module, prompts: list[Any]) -> list[float]:
    """‖p − p'‖₂ at the predictions of the first prompt's answer, each layer's update replaced by its mean."""
    layers, where = list(module.model.layers), places("llama")
    texts = [p if isinstance(p, str) else p["text"] + p["answer"] for p in prompts]
    clean = [capture(module, layers, where, ids_of(t)) for t in texts]
    begin = len(ids_of(prompts[0]["text"])) - 1  # the last token of the text predicts the answer's first
    found = []
    for s in range(4):
        edited = with_mean_update(module, clean, s, texts[0])
        gap = (clean[0]["logits"].softmax(-1) - edited.softmax(-1)).norm(dim=-1)
        found.append(float(gap[begin:-1].mean()))
    return found


def test_order_edits_are_other_orders_of_the_whole_sequence() -> None:
    module = build("llama")
    signature = depthsig.analyze(module, PROMPTS, tokenizer=TOKENIZER, metrics=["order"], grown="0:4/2")
    plain = depthsig.load(module, TOKENIZER)
    orders = {
        ("order.swap_next", 1): "0,2,1,3", ("order.reverse", 0): "3,2,1,0", ("order.skip_block", 1): "0,3",
    }  # fmt: skip
    for (name, step), order in orders.items():
        kl, loss = _order_values(plain, order)
        found = signature.profile(f"{name}.kl")["value"][step], signature.profile(f"{name}.loss")["value"][step]
        assert found == pytest.approx((kl, loss), rel=1e-4, abs=3e-6), name
    assert signature.profile("order.swap_next.kl")["value"].isna().tolist() == [False, False, False, True]
    assert signature.profile("order.skip_block.kl")["value"].isna().tolist() == [False, False, False, True]
    kl, loss = _order_values(plain, "2,3,0,1")
    blocks = signature.matrix("order.swap_blocks.kl")
    assert blocks.to_numpy() == pytest.approx(np.array([[0, kl], [kl, 0]]), rel=1e-4, abs=3e-6)


def _order_values(plain: depthsig.Model, order: str) -> tuple[float, float]:
    other, kls, losses = plain.relabelled(order=order), [], []
    for text in PROMPTS:
        ids = ids_of(text)
        logs, edited = (
            m.read(m.clean(torch.tensor([ids])).outputs[-1])[0].double().log_softmax(-1) for m in (plain, other)
        )
        kls.append(float((logs.exp() * (logs - edited)).sum(-1)[1:].mean()))
        if len(ids) > 2:
            at = range(1, len(ids) - 1)
            losses.append(np.mean([float(logs[t, ids[t + 1]] - edited[t, ids[t + 1]]) for t in at]))
    return float(np.mean(kls)), float(np.mean(losses))


ANSWERS = [{"text": "12+34=", "answer": "46;"}, {"text": "a4;b7;>b", "answer": "7"}]


@pytest.mark.parametrize("prompts", [ANSWERS, [PROMPTS[0], PROMPTS[4]]], ids=["answers", "plain"])
def test_erasure(prompts: list) -> None:
    module, where = build("llama"), places("llama")
    layers = list(module.model.layers)
    found = depthsig.analyze(module, prompts, tokenizer=TOKENIZER, metrics=["erasure"]).tokens("erasure.effect")
    texts = [p if isinstance(p, str) else p["text"] + p["answer"] for p in prompts]
    clean = [capture(module, layers, where, ids_of(t)) for t in texts]
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids = ids_of(text)
        for d, t in [(0, 1), (2, 3), (4, 2), (1, len(ids) - 2)]:
            mean = torch.cat([c["h"][d][0, 1:] for c in clean]).mean(0)
            edited = _with_state(module, layers, ids, d, t, mean)
            gap = (clean[row]["logits"].softmax(-1) - edited.softmax(-1)).norm(dim=-1)
            if isinstance(prompt, str):
                after = gap[t + 1 :]
            else:
                first = len(ids_of(prompt["text"]))
                after = gap[first - 1 : len(ids) - 1]
            cell = found.query("prompt == @row and index == @d and position == @t")["value"]
            assert float(cell.iloc[0]) == pytest.approx(float(after.max()), rel=1e-4, abs=1e-7)
        rows = found[found["prompt"] == row]
        last = len(ids) - 1 if isinstance(prompt, str) else len(ids)  # nothing follows the last position
        assert set(rows["position"]) == set(range(1, last)) and set(rows["index"]) == set(range(5))


def _with_state(module: Any, layers: list, ids: list[int], d: int, t: int, value: torch.Tensor) -> torch.Tensor:
    def replace(_m, args):
        hidden = args[0].clone()
        hidden[:, t] = value
        return (hidden, *args[1:])

    place = layers[d] if d < len(layers) else module.model.norm
    handle = place.register_forward_pre_hook(replace)
    with torch.no_grad():
        logits = module(torch.tensor([ids]), use_cache=False).logits[0]
    handle.remove()
    return logits


def test_integrated_gradients() -> None:
    module, where = build("llama"), places("llama")
    layers = list(module.model.layers)
    signature = depthsig.analyze(module, ANSWERS, tokenizer=TOKENIZER, metrics=["attribution"])
    assert 0 <= signature.score("attribution.completeness") < 0.05
    ids = ids_of(ANSWERS[0]["text"] + ANSWERS[0]["answer"])
    first = len(ids_of(ANSWERS[0]["text"]))
    clean = capture(module, layers, where, ids)
    for d in (1, 4):
        state = clean["h"][d][0].detach()
        baseline = state.clone()
        baseline[1:] = state[1:].mean(0)
        total = torch.zeros_like(state)
        for k in range(32):
            point = (baseline + (k + 0.5) / 32 * (state - baseline)).requires_grad_(True)
            x = point[None]
            for s in range(d, 4):
                x = clean["call"][s](x)
            logs = module.lm_head(module.model.norm(x))[0].log_softmax(-1)
            sum(logs[t - 1, ids[t]] for t in range(first, len(ids))).backward()
            total += point.grad
        expected = ((state - baseline) * total / 32).sum(-1)[1:].numpy()
        rows = signature.tokens("attribution.ig", prompt=0).query("index == @d").sort_values("position")
        oracle.close(rows["value"], expected, 1e-5)
        assert rows["input_token"].tolist() == [TOKENIZER.decode([i]) for i in ids[1:]]


def test_scores_of_known_profiles() -> None:
    assert late_share(np.ones(9)) == pytest.approx(1 / 3)
    assert late_share(np.array([0, 0, 0, 1.0]), n=4) == 1
    # Of four steps the last third begins at 8/3: a third of step 2 counts, and all of step 3.
    assert late_share(np.array([0, 0, 3.0, 0])) == pytest.approx(1 / 3)
    assert late_share(np.array([1.0, 0, 0, 9.0]), n=3) == 0
    assert depth_score(np.array([[0, 0, 2.0], [1, 1, 1]])).tolist() == [2, 1]
    assert np.isnan(depth_score(np.zeros(3))) and np.isnan(late_share(np.zeros(3)))


def test_scores_come_from_the_aggregated_tables() -> None:
    asked: dict[str, Any] = {"metrics": ["skip"], "scopes": "current,future", "agg": "both"}
    signature = depthsig.analyze(build("llama"), PROMPTS, tokenizer=TOKENIZER, **asked)
    for scope, n in (("current", 4), ("future", 3)):
        for agg in ("mean", "max"):
            choice = {"scope": scope, "agg": agg}
            profile = signature.profile("skip.output_l2", **choice)["value"].to_numpy()
            centre = (np.arange(4) * profile).sum() / profile.sum()
            assert signature.score("depth_score.output", **choice) == pytest.approx(centre)
            assert signature.score("depth_score.output.relative", **choice) == pytest.approx(centre / (n - 1))
            weights = np.clip(np.arange(1, n + 1) - 2 * n / 3, 0, 1)
            share = (weights * profile[:n]).sum() / profile[:n].sum()
            assert signature.score("late_share", **choice) == pytest.approx(share)
            matrix = signature.matrix("skip.effect", **choice)
            effects = np.array([*(np.nansum(matrix.loc[s]) / (3 - s) for s in range(3)), 0.0])
            centre = (np.arange(4) * effects).sum() / effects.sum()
            assert signature.score("depth_score.effect", **choice) == pytest.approx(centre)
            assert signature.score("depth_score.effect.relative", **choice) == pytest.approx(centre / 2)
    assert signature.profile("skip.output_l2", scope="future")["value"].iloc[-1] == 0


def test_cuts_and_short_prompts() -> None:
    assert future_cuts(256, 4) == (8, 88, 168, 248)
    assert future_cuts(13, 4) == (8,) and future_cuts(12, 4) == ()
    asked: dict[str, Any] = {"metrics": ["skip.kl"], "scopes": ["current", "future"]}
    signature = depthsig.analyze(build("llama"), PROMPTS, tokenizer=TOKENIZER, **asked)
    lengths = [len(ids_of(t)) for t in PROMPTS]
    assert signature.prompts["cuts"].tolist() == [" ".join(map(str, future_cuts(n, 4))) for n in lengths]
    longer = sum(n >= 13 for n in lengths)
    assert set(signature.profile("skip.kl", scope="future")["n_prompts"]) == {longer}
    assert set(signature.profile("skip.kl", scope="current")["n_prompts"]) == {len(PROMPTS)}


def test_batches_and_memory_change_nothing() -> None:
    asked: dict[str, Any] = {"tokenizer": TOKENIZER, "metrics": ["skip", "repeat"], "parts": "layer,attn,mlp"}
    asked["scopes"] = ["current", "future"]
    module = build("qwen2")
    one = depthsig.analyze(module, PROMPTS, **asked)
    for options in ({"batch_size": 1}, {"memory": "20MB"}, {"batch_size": 4}):
        other = depthsig.analyze(module, PROMPTS, **asked, **options)
        for table in ("profiles", "matrices"):
            a, b = getattr(one, table), getattr(other, table)
            oracle.close(b["value"], a["value"], 3e-6)


def test_parts_that_are_not_known_are_said() -> None:
    with pytest.warns(depthsig.errors.DepthsigWarning, match="parts"):
        signature = depthsig.analyze(
            build("mamba2"), PROMPTS, tokenizer=TOKENIZER, metrics=["skip.kl"], parts=["layer", "attn"]
        )
    assert set(signature.profiles["part"]) == {"layer"}


def test_a_dry_run_computes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert (
        main(["analyze", "family-looped", "-n", "3", "--dry-run", "--metrics", "skip,repeat", "--out", str(out)]) == 0
    )
    said = capsys.readouterr().out
    assert "24 steps over 12 layers" in said and "skip:" in said and "estimated time" in said
    assert not out.exists()
