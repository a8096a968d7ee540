"""Repeats judged by tasks: against an expanded model, with intervals, maps, rankings and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import build, byte_tokenizer, looped_model
from looped_cases import CASES
from scipy.stats import spearmanr
from torch.nn import functional as F

import depthsig
from depthsig.cli.main import main
from depthsig.commands.repeat import Study, study
from depthsig.commands.repeats.prediction import prediction_table, predictors
from depthsig.commands.repeats.tasks import parse_damping, parse_times, repeat_edit, repeat_task, spans_of
from depthsig.errors import DepthsigWarning, InputError
from depthsig.prompts import builtin_prompts
from depthsig.report import build as build_page
from depthsig.report.page.repeated_page import draw as draw_page
from depthsig.signature.repeated import Repeated

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module")
def model() -> depthsig.Model:
    return depthsig.load(build("llama"), TOKENIZER)


@pytest.fixture(scope="module")
def grown() -> depthsig.Model:
    return depthsig.load("family-midas")


def _by_hand(
    module: torch.nn.Module, texts: list[tuple[str, str]], times: int, damping: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and exact match of answers with layers 1 and 2 run several times, by calling layers one by one."""
    losses, right, inner = [], [], module.model
    for text, answer in texts:
        ids = torch.tensor([TOKENIZER(text + answer).input_ids])
        first = len(TOKENIZER(text).input_ids)
        tables = inner.rotary_emb(inner.embed_tokens(ids), torch.arange(ids.shape[1])[None])

        def layer(i: int, x: torch.Tensor, tables=tables) -> torch.Tensor:
            out = inner.layers[i](x, position_embeddings=tables)
            return out[0] if isinstance(out, tuple) else out

        with torch.no_grad():
            x = layer(2, layer(1, layer(0, inner.embed_tokens(ids))))
            for _ in range(times - 1):
                x = x + damping * (layer(2, layer(1, x)) - x)
            logits = module.lm_head(inner.norm(layer(3, x)))[0, first - 1 : -1]
        goal = ids[0, first:]
        losses.append(float(F.cross_entropy(logits, goal)))
        right.append(float((logits.argmax(-1) == goal).all()))
    return np.array(losses), np.array(right)


TEXTS = [(p.text, p.answer or "") for p in builtin_prompts("variables1", 12)]


@pytest.mark.parametrize(("times", "damping"), [(2, 1.0), (3, 1.0), (2, 0.5)])
def test_loss_and_accuracy_are_those_of_the_expanded_order(model: depthsig.Model, times: int, damping: float) -> None:
    found = repeat_task(model, ["variables1"], span="1:3", times=(times,), damping=damping, n=12)
    loss, right = _by_hand(model.module, TEXTS, times, damping)
    assert found.loss["variables1"][:, 0] == pytest.approx(loss, rel=1e-4)
    assert found.accuracy["variables1"][:, 0] == pytest.approx(right)
    plain, _ = _by_hand(model.module, TEXTS, 1)
    assert found.base_loss["variables1"] == pytest.approx(plain, rel=1e-4)
    table = found.table()
    row = table[table["times"] == times].iloc[0]
    assert row["delta_loss"] == pytest.approx((loss - plain).mean(), rel=1e-3)
    assert row["delta_loss_low"] <= row["delta_loss"] <= row["delta_loss_high"] and row["n_prompts"] == 12


def test_a_trained_model_scores_as_its_own_greedy_decoding(grown: depthsig.Model) -> None:
    found = repeat_task(grown, ["lookup", "addition"], times=(), n=10)
    for task in ("lookup", "addition"):
        for i, prompt in enumerate(builtin_prompts(task, 10)):
            ids = torch.tensor([grown.tokenizer(prompt.text).input_ids])
            goal = grown.tokenizer(prompt.full).input_ids[ids.shape[1] :]
            said = []
            for _ in goal:
                said.append(int(grown.logits(ids)[0, -1].argmax()))
                ids = torch.cat([ids, torch.tensor([[said[-1]]])], dim=1)
            assert found.base_accuracy[task][i] == float(said == goal)


def test_every_span_once(model: depthsig.Model) -> None:
    assert len(spans_of(model)) == 10
    found = repeat_task(model, ["lookup", "phop"], times="1,2", n=6)
    assert len(found.runs) == 10
    ranking = found.ranking(2, 1.0)
    assert ranking["delta_loss"].is_monotonic_increasing and ranking["rank"].tolist() == list(range(1, 11))
    first = ranking.iloc[0]
    column = [(r.start, r.end) for r in found.runs].index((first["start"], first["end"]))
    change = np.mean([(found.loss[t][:, column] - found.base_loss[t]).mean() for t in found.loss])
    assert first["delta_loss"] == pytest.approx(change)


def test_spans_and_loops() -> None:
    looped = depthsig.load(looped_model(), TOKENIZER)
    assert set(spans_of(looped)) == {(0, 1), (1, 2), (2, 3), (1, 3), (3, 4)}
    # In a loop the span is repeated in every pass.
    edit = repeat_edit(looped.plan, (1, 3), 2)
    assert str(edit) == "repeat 1:3 x2 + repeat 3:5 x2 + repeat 5:7 x2"
    with pytest.raises(InputError, match="straddles a loop boundary"):
        repeat_edit(looped.plan, (0, 2), 2)
    huginn = depthsig.load(CASES["huginn"].build(), TOKENIZER)
    assert (1, 3) in spans_of(huginn) and (0, 2) not in spans_of(huginn)
    ouro = depthsig.load(CASES["ouro"].build(), TOKENIZER)
    found = repeat_task(ouro, ["lookup"], span="0:3", times=(2,), n=3)
    assert np.isfinite(found.loss["lookup"]).all()


def test_prediction_is_a_rank_correlation(model: depthsig.Model) -> None:
    found = study(model, ["lookup", "variables1"], times=(2,), n=8, predict=True)
    table = found.frames["prediction"].set_index("predictor")
    assert {"skip_effect", "skip_loss", "cosine", "relative", "block_influence", "angular", "length"} <= set(
        table.index
    )
    spans, values = found.scores.deltas(2, 1.0)
    lengths = [b - a for a, b in spans]
    assert table.loc["length", "spearman"] == pytest.approx(spearmanr(lengths, values.mean(0)).statistic)
    assert (table["ci_low"] <= table["ci_high"]).all() and (table["n_spans"] == 10).all()
    signature = depthsig.analyze(model, ["one prompt of some length", "and another"], metrics=["residual", "skip"])
    known = predictors(signature, model.plan, spans)
    angular = signature.matrix("residual.angular")
    assert known["angular"][spans.index((1, 3))] == angular.loc[1, 2]
    influence = signature.profile("residual.block_influence")["value"]
    assert known["block_influence"][spans.index((1, 3))] == pytest.approx(influence[1:3].mean())
    labelled = model.relabelled(grown="0:4/2")
    edges = predictors(signature, labelled.plan, [(0, 2), (1, 3), (1, 4)])["borders"]
    assert edges.tolist() == [2.0, 0.0, 1.0]
    assert len(prediction_table(found.scores, signature, labelled.plan, times=2, damping=1.0)) == 8


def draw(found: Study, folder: Path) -> None:
    draw_page(Repeated.of(found.frames, found.info), folder)


def test_the_folder(model: depthsig.Model, tmp_path: Path) -> None:
    found = study(model, ["lookup"], times=(2,), damping=(1, 0.5), n=6)
    out = found.save(tmp_path / "out", draw)
    names = {p.name for p in out.iterdir()}
    assert names == {"repeat.csv", "ranking.csv", "samples.parquet", "repeat.json", "figures", "report.html"}
    before = (out / "report.html").read_bytes()
    assert build_page(out).read_bytes() == before
    assert {p.name for p in (out / "figures").glob("*.png")} == {
        "map.x2.png", "map.x2.damped0.5.png", "map.lookup.x2.png", "map.lookup.x2.damped0.5.png",
    }  # fmt: skip
    found.save(out, draw)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="no depthsig result"):
        found.save(tmp_path / "other")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    common = ["repeat", "family-midas", "--task", "lookup", "-n", "5", "--no-progress"]
    assert main([*common, "--span", "4:8", "--times", "1,2,3", "--damping", "1,0.5", "--out", str(out)]) == 0
    assert "answers with the span repeated" in capsys.readouterr().out
    assert {p.name for p in (out / "figures").glob("*.png")} == {"times.loss.png", "times.accuracy.png"}
    assert "<h1>family-midas: layers 4:8 repeated</h1>" in (out / "report.html").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main([*common, "--span", "4:8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == "depthsig-results/family-midas-repeat" and Path(told["report"]).is_file()
    rows = told["repeat"]
    assert [r["times"] for r in rows] == [1, 2] and rows[1]["start"] == 4


def _tasks(tmp_path: Path) -> dict[str, str]:
    files = {
        "no answers.jsonl": '{"text": "one two three"}\n', "empty.jsonl": "", "broken.jsonl": "{",
        "short.jsonl": '{"text": "", "answer": "a"}\n',
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    return {name: str(tmp_path / name) for name in files}


BAD = [
    (["--span", "0:99"], "reaches layer"), (["--span", "4:4"], "empty"), (["--span", "x"], "A:B"),
    (["--times", "0"], "no count"), (["--times", "1,99999"], "no count"), (["--times", "two"], "no count"),
    (["--damping", "0"], "above 0"), (["--damping", "2"], "above 0"), (["--damping", "a"], "above 0"),
    (["--task", "no-such"], "no-such"), (["--task", ","], "names nothing"), (["--task", "wikitext"], "no answers"),
    (["-n", "0"], "-n is 0"), (["--predict", "--span", "0:4"], "--predict"),
    (["--predict", "--times", "1"], "--predict"), (["--iterations", "0"], "1 to 1024"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), BAD)
def test_bad_input(options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "new" / "out"
    assert main(["repeat", "family-midas", *options, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("depthsig: ") and error.count("\n") == 1, error
    assert not out.parent.exists()


def test_a_span_over_a_loops_border(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build("llama").save_pretrained(tmp_path / "source")
    TOKENIZER.save_pretrained(tmp_path / "source")
    capsys.readouterr()
    out = tmp_path / "out"
    arguments = ["repeat", str(tmp_path / "source"), "--order", "0:1,1:3x2,3", "--task", "lookup", "-n", "3"]
    assert main([*arguments, "--span", "0:2", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "straddles a loop boundary" in error and error.count("\n") == 1 and not out.exists()
    assert main([*arguments, "--span", "1:3", "--out", str(out)]) == 0


@pytest.mark.parametrize("name", ["no answers.jsonl", "empty.jsonl", "broken.jsonl", "short.jsonl"])
def test_bad_task_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "new" / "out"
    task = _tasks(tmp_path)[name]
    assert main(["repeat", "family-midas", "--task", task, "--span", "0:4", "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not out.parent.exists()


def test_prompts_whose_answer_does_not_fit_are_left_out(model: depthsig.Model, tmp_path: Path) -> None:
    lines = [{"text": "ab " * 10, "answer": "c"}, {"text": "ab " * 90, "answer": "c"}, {"text": "no answer here"}]
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.warns(DepthsigWarning, match="2 of 3"):
        found = repeat_task(model, [path], span="1:2", n=10)
    assert found.loss["task"].shape == (1, 1)


def test_grammar() -> None:
    assert parse_times("1,2,2,4") == (2, 4) and parse_times([1]) == ()
    assert parse_damping("1,0.25") == (1.0, 0.25) and parse_damping(0.5) == (0.5,)
