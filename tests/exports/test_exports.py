"""A signature told elsewhere: in a model card, in TensorBoard, in Weights & Biases."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_signatures import late, noisy, signature, skip_only

from depthsig import InputError, Signature
from depthsig.cli.main import main
from depthsig.exports.model_card import CLOSES, OPENS, escaped, model_card, put_into
from depthsig.exports.run_log import config_of, curves_of, scores_of, tag_of

EVIL = "<script>alert(1)</script> | [x](javascript:1) `a` **b** <!-- depthsig:end --> @all https://evil.example"


def made(name: str = "toy", **options: Any) -> Signature:
    values = {
        **skip_only(late(6, 0.5)), ("lens.kl", "-", "-", "depth"): noisy(np.linspace(2, 0, 7), 6),
        ("contribution.norm", "attn", "-", "step"): np.tile([1.0, 2.0, 0.0, 4.0, 5.0, 6.0], (6, 1)),
    }  # fmt: skip
    found = signature({key: value[:6] for key, value in values.items()}, 6, name=name, options=options)
    scores = pd.DataFrame({
        "score": ["late_share", "settling_depth"], "metric": "-", "part": ["layer", "-"], "scope": ["current", "-"],
        "agg": ["mean", "max"], "value": [0.5, np.nan], "ci_low": np.nan, "ci_high": np.nan, "p_value": np.nan,
        "n_prompts": 6, "null": "", "note": "",
    })  # fmt: skip
    undefined = (found.profiles["metric"] == "contribution.norm") & (found.profiles["index"] == 2)
    return replace(found, scores=scores, profiles=found.profiles.assign(value=found.profiles["value"].mask(undefined)))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return made().save(tmp_path / "toy", figures=False)


# --- the card ---


def test_a_card_has_every_finding_as_a_row_and_a_sentence() -> None:
    one = made()
    card = model_card(one)
    assert card.startswith("## How this model uses its depth\n")
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(one.findings()) and {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
    assert sum(line.startswith("- ") for line in card.splitlines()) == len(one.findings())
    assert "of toy: 6 steps, 6 prompts (made), float32" in card


def test_what_a_checkpoint_says_is_text() -> None:
    card = model_card(made(EVIL, prompts=f"x/{EVIL}"))
    for bad in ("<script", "[x](", "**b**", " @all", "://", CLOSES):
        assert bad not in card, bad
    assert sum(line.startswith("| ") for line in card.splitlines()) == 15 and "```" not in card
    assert escaped("a\n## b\r\nc") == "a \\#\\# b c"


def test_a_card_tells_nothing_of_its_writers_folders() -> None:
    given = {"source": "toy", "loading": {}, "plan": {}, "plugins": [], "declared": [],
             "prompts": {"name": "p", "objects": False, "count": 6}}  # fmt: skip
    one = made(prompts="/home/me/secret/p.txt")
    card = model_card(replace(one, info={**one.info, "given": given}))
    assert "secret" not in card and "(p.txt)" in card and "```" not in card
    open_to_all = made(prompts="gsm8k")
    shown = model_card(replace(open_to_all, info={**open_to_all.info, "given": given}))
    assert "```bash\ndepthsig analyze toy" in shown


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_only_what_stands_between_the_markers_changes(tmp_path: Path, ends: str) -> None:
    card = tmp_path / "README.md"
    before, after = f"---{ends}license: mit{ends}---{ends}# Ünïcode{ends}", f"{ends}## Mine{ends}no end of line"
    card.write_bytes(f"{before}{OPENS}{ends}old{ends}{CLOSES}{after}".encode())
    card.chmod(0o640)
    assert put_into(card, "new\nlines\n") is True
    wanted = f"{before}{OPENS}{ends}new{ends}lines{ends}{CLOSES}{after}".encode()
    assert card.read_bytes() == wanted and card.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_card_without_markers_gets_them_at_its_end(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Model")
    assert put_into(card, "a\n") is False and put_into(card, "b\n") is True
    assert card.read_text() == f"# Model\n\n{OPENS}\nb\n{CLOSES}\n"


@pytest.mark.parametrize(("text", "says"), [
    (OPENS, "has 1 times"), (f"{CLOSES}{OPENS}", "in this order"), (2 * (OPENS + CLOSES), "has 2 times"),
])  # fmt: skip
def test_a_card_with_half_a_pair_is_left_alone(tmp_path: Path, text: str, says: str) -> None:
    card = tmp_path / "README.md"
    card.write_text(text)
    with pytest.raises(InputError, match=says):
        put_into(card, "a")
    assert card.read_text() == text


def test_what_is_no_card_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, says in (("none.md", "does not exist"), ("bytes", "no text"), (".", "is a folder")):
        with pytest.raises(InputError, match=says):
            put_into(tmp_path / name, "a")


def test_the_command_and_python_write_the_same_card(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(saved)]) == 0
    printed = capsys.readouterr().out
    card = tmp_path / "README.md"
    card.write_text("# Model\n")
    assert Signature.load(saved).to_card(card) == printed and printed in card.read_text()
    assert main(["card", str(saved), "--into", str(card)]) == 0
    assert "was replaced" in capsys.readouterr().out
    assert main(["card", str(tmp_path / "nowhere")]) == 2


# --- runs ---


def test_tags_scores_and_curves_are_those_of_the_tables() -> None:
    one = made()
    assert scores_of(one) == {"late_share/layer/current": 0.5}  # the undefined one is left out
    curves = {curve.tag: curve for curve in curves_of(one)}
    assert set(curves) == {"skip.output_l2/layer/current", "lens.kl", "contribution.norm/attn"}
    part = curves["contribution.norm/attn"]
    assert part.axis == "step" and part.index.tolist() == [0, 1, 3, 4, 5] and part.value.tolist() == [1, 2, 4, 5, 6]
    assert tag_of("<b>/../x") == "_b_.._x"
    config = config_of(made(metrics=["lens", "skip"], asked={"quick": True}))
    assert config["name"] == "toy" and config["steps"] == 6 and config["metrics"] == "lens,skip"
    assert all(value is None or isinstance(value, (bool, int, float, str)) for value in config.values())


@pytest.mark.extra
def test_tensorboard_reads_what_was_written(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard", reason="extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "runs" / "toy"
    assert main(["log", str(saved), "--to", "tensorboard", "--out", str(folder)]) == 0
    assert f"tensorboard --logdir {folder.parent}" in capsys.readouterr().out
    found = EventAccumulator(str(folder)).Reload()
    curve = found.Scalars("profiles by step/contribution.norm/attn")
    assert [(event.step, event.value) for event in curve] == [(0, 1), (1, 2), (3, 4), (4, 5), (5, 6)]
    assert [event.value for event in found.Scalars("scores/late_share/layer/current")] == [0.5]
    (text,) = found.Tensors("findings/text_summary")
    assert text.tensor_proto.string_val[0].decode() == model_card(Signature.load(saved))
    assert main(["log", str(saved), "--to", "tensorboard", "--out", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_writer_of_ones_own_gets_scores_at_its_step() -> None:
    said: list[tuple[Any, ...]] = []
    writer = SimpleNamespace(add_scalar=lambda *a: said.append(a), add_text=lambda *a: said.append(a))
    made().to_tensorboard(writer, step=500)
    assert ("scores/late_share/layer/current", 0.5, 500) in said and said[-1][0] == "findings"
    assert ("profiles by depth/lens.kl", pytest.approx(0), 6) in said


@pytest.mark.extra
def test_wandb_gets_summary_tables_and_curves(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="extra wandb")
    logged: dict[str, Any] = {}
    run = SimpleNamespace(summary={}, log=logged.update, dir="here")
    one = Signature.load(saved)
    assert one.to_wandb(run) == "here"
    assert run.summary == {"depthsig/late_share/layer/current": 0.5}
    profiles = logged["depthsig/profiles"]
    assert isinstance(profiles, wandb.Table) and len(profiles.data) == len(one.profiles)
    values = [row[6] for row in profiles.data if row[0] == "contribution.norm"]
    assert values == [1, 2, None, 4, 5, 6]
    assert len(logged["depthsig/findings"].data) == len(one.findings()) and "depthsig/lens.kl" in logged


@pytest.mark.slow
def test_wandb_keeps_a_run_offline(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="extra wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert main(["log", str(saved), "--to", "wandb", "--name", "mine"]) == 0
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_what_is_not_installed_is_said_in_one_line(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package, extra in (("torch.utils.tensorboard", "tensorboard"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["log", str(saved), "--to", extra, "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"pip install 'depthsig[{extra}]'" in error
