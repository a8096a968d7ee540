"""``maintained.*``: a layer's part taken away in a pass and in every later one, against plain hooks that count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer
from looped_cases import CASES, Case, Naive
from torch import Tensor, nn

import depthsig
from depthsig.cli.main import main
from depthsig.engine.certificates import Verdict
from depthsig.errors import InputError
from depthsig.measure.providers import Work
from depthsig.measure.request import Request
from depthsig.measure.schedule import providers
from depthsig.metrics import entry, future_cuts
from depthsig.plan.plan import build_plan
from depthsig.report.alt_texts import side_by_side_in_words
from depthsig.report.figure_rows import KEPT_UP
from depthsig.report.gallery import figures_for
from depthsig.report.scale import Scale

TOKENIZER = byte_tokenizer(left=True)
TEXTS = [PROMPTS[i] for i in (3, 4)]
LOOPS = [name for name in CASES if name != "zamba2"]  # whose layers run once each
ADDED = {"layer": "layer", "attn": "input_layernorm_2", "mlp": "post_attention_layernorm_2"}
"""What Ouro's parts add to the residual stream comes out of a norm of theirs."""
OUTPUTS = ("output_l2", "kl", "loss", "top1")


class Watched:
    """One prompt's updates [step][token, d] and logits, with a part changed at some steps by a plain hook."""

    def __init__(self, case: Case, module: nn.Module, ids: list[int], part: str = "layer") -> None:
        self.case, self.module, self.ids, self.part = case, module, ids, part

    def run(self, steps: list[int], at: list[int], instead: Any = None) -> tuple[list[np.ndarray], Tensor, list[Any]]:
        """Updates, logits, and what the part added at every step.

        Args:
            instead: of a step, what stands in its part's place; None: nothing.
        """
        updates: list[np.ndarray] = []
        entered: list[Tensor] = []
        added: list[Any] = []

        def value(step: int, old: Tensor) -> Tensor:
            return torch.zeros_like(old) if instead is None else instead(step).to(old).expand_as(old)

        def enter(m: nn.Module, args: tuple, kwargs: dict) -> None:
            entered.append((args[0] if args else kwargs["hidden_states"]).clone())
            added.append(None)

        def leave(m: nn.Module, args: tuple, output: Any) -> Any:
            step, out = len(updates), oracle.first(output).clone()
            before = entered[step]
            if self.part == "layer":
                added[step] = (out - before)[0]
                if step in steps:
                    out[:, at] = before[:, at] + value(step, out)[:, at]
            updates.append((out.double() - before.double())[0].numpy())
            return (out, *output[1:]) if isinstance(output, tuple) else out

        def within(m: nn.Module, args: tuple, output: Any) -> Any:
            step, out = len(updates), oracle.first(output).clone()
            added[step] = out[0]
            if step in steps:
                out[:, at] = value(step, out)[:, at]
            return (out, *output[1:]) if isinstance(output, tuple) else out

        once = {id(m): m for m in self.case.layers(self.module)}.values()
        handles = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in once]
        handles += [m.register_forward_hook(leave) for m in once]
        if self.part != "layer":
            handles += [m.get_submodule(self.part).register_forward_hook(within) for m in once]
        with torch.no_grad():
            result = self.case.call(self.module, torch.tensor([self.ids]))
        for handle in handles:
            handle.remove()
        result = getattr(result, "logits", result["logits"] if isinstance(result, dict) else result)
        logits = next(t for t in result if t is not None) if isinstance(result, tuple) else result
        return updates, logits[0].double(), added


def kept_up(order: tuple[int, ...], step: int) -> list[int]:
    """The step and every later pass of its layer, told by hand."""
    return [s for s, layer in enumerate(order) if s >= step and layer == order[step]]


def expected(one: Watched, scope: str, instead: Any = None) -> list[dict[str, np.ndarray]]:
    """For every cut, the means over positions of all metrics."""
    tokens, order, found = len(one.ids), one.case.order, []
    clean, final, _ = one.run([], [])
    p = final.softmax(-1)
    for cut in future_cuts(tokens, 4) if scope == "future" else (0,):
        at, seen = (range(1, cut), range(cut, tokens)) if scope == "future" else (range(1, tokens), range(1, tokens))
        effect, out = np.full((len(order), len(order)), np.nan), {name: np.zeros(len(order)) for name in OUTPUTS}
        for s in range(len(order)):
            updates, logits, _ = one.run(kept_up(order, s), list(at), instead)
            q = logits.softmax(-1)
            for later in range(s + 1, len(order)):
                if later not in kept_up(order, s):
                    gap = np.linalg.norm(clean[later] - updates[later], axis=-1)
                    effect[s, later] = (gap / np.maximum(np.linalg.norm(clean[later], axis=-1), 1e-6))[
                        list(seen)
                    ].mean()
            nll = [
                [-float(x[t].log_softmax(-1)[one.ids[t + 1]]) for t in seen if t + 1 < tokens] for x in (final, logits)
            ]
            out["output_l2"][s] = float((p - q).norm(dim=-1)[list(seen)].mean())
            out["kl"][s] = np.mean([oracle.kl(final[t].numpy(), logits[t].numpy()) for t in seen])
            out["loss"][s] = np.mean(nll[1]) - np.mean(nll[0])
            out["top1"][s] = float((final.argmax(-1) == logits.argmax(-1))[list(seen)].double().mean())
        found.append({"effect": effect, **out})
    return found


def check(signature: depthsig.Signature, part: str, scope: str, wanted: list[list[dict[str, np.ndarray]]]) -> None:
    wanted = [cuts for cuts in wanted if cuts]
    for name in ("effect", *OUTPUTS):
        mean = np.mean([np.mean([cut[name] for cut in cuts], axis=0) for cuts in wanted], axis=0)
        if name == "effect":
            rows = signature.matrices.query("metric == 'maintained.effect' and part == @part and scope == @scope")
            there = np.full(mean.shape, np.nan)
            there[rows["row"].astype(int), rows["col"].astype(int)] = rows["value"]
            assert (np.isnan(there) == np.isnan(mean)).all()  # of what is taken away there is no effect
        else:
            there = signature.profile(f"maintained.{name}", part=part, scope=scope)["value"].to_numpy(float)
        assert np.nanmax(np.abs(there - mean)) <= max(1e-5 * np.nanmax(np.abs(mean)), 3e-6), name


@pytest.mark.parametrize("name", LOOPS)
def test_every_kind_of_loop_equals_plain_hooks(name: str) -> None:
    case = CASES[name]
    module = case.build()
    parts = ["layer", "attn"] if name == "ouro" else ["layer"]
    asked: dict[str, Any] = {"metrics": ["maintained"], "parts": parts, "control": False, "progress": False}
    scopes = ["current", "future"] if name in ("ouro", "hrm_text") else ["current"]
    signature = depthsig.analyze(module, TEXTS, tokenizer=TOKENIZER, scopes=scopes, **asked)
    for part in parts:
        watched = [Watched(case, module, TOKENIZER(text).input_ids, ADDED[part]) for text in TEXTS]
        for scope in scopes:
            check(signature, part, scope, [expected(one, scope) for one in watched])


@pytest.mark.parametrize("part", ["layer", "mlp"])
def test_every_step_has_its_own_mean(part: str) -> None:
    """Over all counted tokens of all prompts, step by step."""
    case = CASES["ouro"]
    module = case.build()
    signature = depthsig.analyze(
        module, TEXTS, tokenizer=TOKENIZER, metrics=["maintained"], parts=[part], ablation="mean", control=False,
        progress=False,
    )  # fmt: skip
    watched = [Watched(case, module, TOKENIZER(text).input_ids, ADDED[part]) for text in TEXTS]
    added = [one.run([], [])[2] for one in watched]
    means = [torch.cat([of[s][1:] for of in added]).double().mean(0) for s in range(len(case.order))]
    check(signature, part, "current", [expected(one, "current", lambda s: means[s]) for one in watched])


def analyzed(model: Any, prompts: Any = TEXTS, **options: Any) -> depthsig.Signature:
    return depthsig.analyze(
        model, prompts, **{"tokenizer": TOKENIZER, "metrics": ["skip", "maintained"], "control": False,
                           "progress": False, **options},
    )  # fmt: skip


@pytest.mark.parametrize("ablation", ["zero", "mean", "random"])
def test_where_a_layer_runs_no_more_it_is_a_skip(ablation: str) -> None:
    """In the last pass, and outside the loop; elsewhere it is another run."""
    case = CASES["huginn"]
    found = analyzed(case.build(), ablation=ablation, agg="both", parts=["layer"])
    last = [s for s in range(len(case.order)) if kept_up(case.order, s) == [s]]
    others = [s for s in range(len(case.order)) if s not in last]
    assert len(last) == 4 and len(others) == 4
    for agg in ("mean", "max"):
        for name in OUTPUTS:
            single, kept = (found.profile(f"{on}.{name}", agg=agg)["value"].to_numpy() for on in ("skip", "maintained"))
            assert single[last] == pytest.approx(kept[last], rel=1e-4, abs=1e-6)
        assert not np.allclose(single[others], kept[others], rtol=1e-2) or name == "top1"
        matrices = [found.matrix(f"{on}.effect", agg=agg) for on in ("skip", "maintained")]
        for s in last[:-1]:
            assert matrices[0].loc[s].dropna().to_numpy() == pytest.approx(
                matrices[1].loc[s].dropna().to_numpy(), rel=1e-4
            )


def test_in_random_directions_every_pass_is_turned_by_its_own() -> None:
    case = CASES["ouro"]
    module, text = case.build(), TEXTS[0]
    ids = TOKENIZER(text).input_ids
    found = analyzed(module, [text], ablation="random", metrics=["maintained.output_l2"])
    clean, wanted = Naive(case, module, torch.tensor([ids])).logits[0], []
    for s in range(len(case.order)):

        def edit(step: int, before: Tensor, after: Tensor, s: int = s) -> Tensor:
            if step not in kept_up(case.order, s):
                return after
            turned, g = after.clone(), oracle.plain_directions(ids, step, "layer", after.shape[-1])
            turned[:, 1:] -= ((after - before).norm(dim=-1, keepdim=True) * g)[:, 1:]
            return turned

        edited = Naive(case, module, torch.tensor([ids]), edit).logits[0]
        wanted.append(float((clean.softmax(-1) - edited.softmax(-1)).norm(dim=-1)[1:].mean()))
    assert found.profile("maintained.output_l2")["value"].to_numpy() == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_an_order_makes_loops_and_batches_change_nothing() -> None:
    module = build("llama")
    looped = {"order": "0:1,1:3x3,3:4", "scopes": ["current", "future"], "parts": ["attn"], "metrics": ["maintained"]}
    together, alone = (analyzed(module, TEXTS, batch_size=size, **looped) for size in (None, 1))
    for table in ("profiles", "matrices"):
        a, b = (getattr(one, table) for one in (together, alone))
        assert (a["metric"] == b["metric"]).all()
        assert a["value"].to_numpy() == pytest.approx(b["value"].to_numpy(), rel=1e-3, abs=1e-5, nan_ok=True)
    model = depthsig.load(module, TOKENIZER, order="0:1,1:3x3,3:4")
    edits = [depthsig.Skip(layer=1, passes=passes, part="attn") for passes in ("all", "1:")]
    clean, *runs = model.run(TEXTS, [None, *edits])
    values = together.profile("maintained.output_l2", part="attn", scope="current")["value"].to_numpy()
    for run, step in zip(runs, (1, 3), strict=True):
        apart = [
            float((p.softmax(-1) - q.softmax(-1)).norm(dim=-1)[1:].mean())
            for p, q in zip(clean.logits, run.logits, strict=True)
        ]
        assert values[step] == pytest.approx(np.mean(apart), rel=1e-4)


def test_in_half_precision() -> None:
    """bfloat16: near to what float32 gives, where little is amplified."""
    module = build("llama")
    order = {"order": "0:1,1:3x2,3:4", "metrics": ["maintained.output_l2"]}
    single, half = (analyzed(m, PROMPTS[:3], **order) for m in (module, build("llama", dtype=torch.bfloat16)))
    a, b = (one.profile("maintained.output_l2")["value"].to_numpy(float) for one in (single, half))
    assert np.isfinite(b).all() and np.allclose(a, b, rtol=0.15)


# --- what is asked for, and what is shown ---


def test_a_model_without_a_loop_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"maintained\.\* need a loop that runs, and this plan has none"):
        analyzed(build("llama"))
    assert main(["analyze", "family-midas", "--metrics", "maintained", "--dry-run"]) == 2
    assert "maintained.* need a loop that runs" in capsys.readouterr().err
    assert main(["analyze", "family-midas", "--metrics", "maintained", "--order", "0:4,4:8x2,8:24", "--dry-run"]) == 0
    assert "maintained" in capsys.readouterr().out


def test_it_is_asked_for_by_name_and_compared_with_nothing_of_single_steps() -> None:
    assert not any(one.on == "maintained" for one in Request().selected)
    assert {one.id for one in Request(metrics="maintained").selected} == {
        "maintained.effect", *(f"maintained.{name}" for name in OUTPUTS),
    }  # fmt: skip
    run = entry("maintained.loss").run
    assert run.several and run.loops and run.by_part


def test_no_period_is_tested_of_edits_of_several_steps() -> None:
    """Blank cells, one a pass, would be a pattern of their own."""
    found = analyzed(CASES["ouro"].build(), metrics=["skip", "maintained", "period"])
    tested = set(found.scores.query("score == 'period.strength'")["metric"])
    assert "skip.effect" in tested and not any(name.startswith("maintained") for name in tested)


def test_the_figure_draws_what_the_tables_say(tmp_path: Path) -> None:
    measures = [f"{on}.{name}" for on in ("skip", "maintained") for name in ("output_l2", "kl", "loss")]
    found = analyzed(build("llama"), order="0:1,1:3x2,3:4", parts=["layer", "attn"], metrics=measures)
    drawn = {d.name: d for d in figures_for(found) if d.name.startswith("across_passes")}
    assert set(drawn) == {"across_passes.layer.current", "across_passes.attn.current"}
    for part in ("layer", "attn"):
        one = drawn[f"across_passes.{part}.current"]
        assert len(one.figure.axes) == 3 and one.group == "Layer skip, maintained"
        for ax, name in zip(one.figure.axes, ("output_l2", "kl", "loss"), strict=True):
            for on, label in (("skip", "in one pass"), ("maintained", "and in every later one")):
                (line,) = [x for x in ax.lines if x.get_label() == label]
                values = found.profile(f"{on}.{name}", part=part)["value"].to_numpy()
                np.testing.assert_array_equal(line.get_ydata(), Scale.of(entry(f"{on}.{name}"), values).within(values))
        rows = found.rows(one.name)
        assert set(rows["part"]) == {part} and rows["metric"].nunique() == 6
        assert one.alt == side_by_side_in_words(rows, KEPT_UP, found.entries) and "in every later one" in one.alt
    found.save(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "One pass and every later one, layer, current" in page
    assert (tmp_path / "out" / "figures" / "across_passes.layer.current.png").stat().st_size > 10_000
    half = analyzed(CASES["nanbeige"].build(), metrics=["maintained.kl"])
    assert not [d for d in figures_for(half) if d.name.startswith("across_passes")]


def test_what_is_forecast_is_what_is_run() -> None:
    """A run for every step, part, scope and cut, as of skip."""
    model = depthsig.load(CASES["ouro"].build(), TOKENIZER)
    assert model.plan.layers == build_plan(CASES["ouro"].order, 3).layers
    request = Request(metrics="skip,maintained", parts="layer,attn", scopes="current,future")
    work = Work(model, request, model.tokens(PROMPTS), Verdict(True, True, ()))
    single, kept = providers(work)[1]
    assert (single.name, kept.name) == ("skip", "maintained")
    assert all(single.cost(p) == kept.cost(p) for p in work.counted)
