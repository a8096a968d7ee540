"""A result done again says the same, and where it does not, which numbers moved and what was different."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer

import depthsig
from depthsig.cli.main import main
from depthsig.errors import InputError
from depthsig.signature.same_numbers import TOLERANCE, agreement

LITTLE: dict[str, Any] = {"metrics": ["lens.kl", "residual", "skip"], "progress": False}


def again(folder: Path, **given: Any) -> depthsig.commands.rerun.Rerun:
    found = depthsig.rerun(folder, progress=False, **given)
    assert found.agrees, str(found)
    return found


TEXTS = ["one two", {"text": "2+2=", "answer": "4"}, [5, 6, 7, 8, 9, 10], "three four five"]
WAYS: dict[str, dict[str, Any]] = {
    "a built-in set": {"prompts": "lookup", "n": 3},
    "texts": {"prompts": PROMPTS},
    "texts, answers and token ids": {"prompts": TEXTS},
    "the first of a list": {"prompts": TEXTS, "n": 2},
    "another order": {"prompts": TEXTS, "order": "0:2,1:3,2:4"},
    "a loop, with its control": {"prompts": PROMPTS, "order": "0:1,1:2x4,2:4", "metrics": ["lens.kl", "period"]},
    "other parts, scopes and worst cases": {
        "prompts": TEXTS, "parts": ["attn", "mlp"], "scopes": ["current", "future"], "agg": "both", "cuts": 2,
    },
    "at the answers": {"prompts": "lookup", "n": 3, "positions": "answer", "shots": 1},
    "in other words": {"prompts": "lookup", "n": 3, "reword": 3, "seed": 4, "ablation": "random"},
    "calibrated": {
        "prompts": "lookup", "n": 6, "metrics": ["truncation"],
        "calibration": ["abcd efgh", "ijkl mnop", "qrst", "uvwx yz", "hello you"],
    },
    "quick": {"prompts": "lookup", "quick": True, "max_tokens": 12},
    "a paper's preset": {"prompts": "lookup", "n": 2, "preset": "csordas-2505.13898", "metrics": None},
}  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_done_again_it_is_the_same(how: str, checkpoint: Path, tmp_path: Path) -> None:
    before = depthsig.analyze(str(checkpoint), out=tmp_path / "out", **{**LITTLE, **WAYS[how]})
    found = again(tmp_path / "out")
    assert found.now.info["options"] | {"asked": {}, "n": 0} == before.info["options"] | {"asked": {}, "n": 0}
    assert len(found.now.prompts) == len(before.prompts) and (found.now.control is None) == (before.control is None)
    assert found.agreement.differs == () and str(found).startswith("The same: ")
    assert not found.agreement.numbers.empty


def test_what_was_given_as_objects_is_kept_unless_it_is_not_to_be(checkpoint: Path, tmp_path: Path) -> None:
    kept, left = tmp_path / "kept", tmp_path / "left"
    depthsig.analyze(str(checkpoint), TEXTS, out=kept, **LITTLE)
    lines = [json.loads(line) for line in (kept / "prompts.jsonl").read_text().splitlines()]
    assert lines == [{"text": "one two"}, TEXTS[1], {"ids": TEXTS[2]}, {"text": "three four five"}]
    # They are prompts like any file's.
    signature = depthsig.analyze(str(checkpoint), str(kept / "prompts.jsonl"), **LITTLE)
    assert list(signature.prompts["tokens_sha256"]) == list(depthsig.Signature.load(kept).prompts["tokens_sha256"])
    depthsig.Signature.load(kept).save(tmp_path / "copy", figures=False)
    assert again(tmp_path / "copy").agrees
    depthsig.analyze(str(checkpoint), TEXTS, out=left, store_prompts=False, **LITTLE)
    assert not (left / "prompts.jsonl").exists()
    with pytest.raises(InputError, match=r"holds no prompts.jsonl: its prompts were given as objects"):
        depthsig.rerun(left)
    assert again(left, prompts=TEXTS).agrees
    depthsig.analyze(str(checkpoint), "lookup", n=2, out=kept, **LITTLE)  # a new result leaves no old prompts
    assert not (kept / "prompts.jsonl").exists()


def test_a_live_model_is_given_again(tmp_path: Path) -> None:
    module, tokenizer = build("llama"), byte_tokenizer()
    depthsig.analyze(module, PROMPTS, tokenizer=tokenizer, out=tmp_path, **LITTLE)
    with pytest.raises(InputError, match="the model was given as an object; give it as model="):
        depthsig.rerun(tmp_path)
    assert again(tmp_path, model=module, tokenizer=tokenizer).agrees
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight.mul_(1.01)
    other = depthsig.rerun(tmp_path, model=module, tokenizer=tokenizer, progress=False)
    assert not other.agrees
    moved = other.agreement.moved
    assert {"profiles", "samples"} <= set(moved["table"]) and (moved["largest"] > moved["most"]).all()
    first = other.now.profile("lens.kl").query("index <= 1")["value"]  # what lies before the change has not moved
    assert first.tolist() != other.now.profile("lens.kl").query("index == 3")["value"].tolist()


def test_own_metrics_and_trust_are_given_again(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    text = "import depthsig\n@depthsig.metric('mine.rerun', axis='depth', label='size')\ndef size(h):\n"
    file.write_text(text + "    return h.norm(dim=-1)\n")
    out = tmp_path / "out"
    depthsig.analyze(
        str(checkpoint), PROMPTS, metrics=["mine.rerun"], plugin=file, allow_pickle=True, out=out, progress=False
    )
    with pytest.raises(InputError, match=r"was made with --plugin .*nothing recorded lets code run, so give it again"):
        depthsig.rerun(out, allow_pickle=True)
    with pytest.raises(InputError, match="was made with --allow-pickle; nothing recorded lets code run: give it again"):
        depthsig.rerun(out, plugin=file)
    assert again(out, plugin=file, allow_pickle=True).agrees
    file.write_text(text + "    return 2 * h.norm(dim=-1)\n")
    other = depthsig.rerun(out, plugin=file, allow_pickle=True, progress=False)
    assert not other.agrees
    assert any(one.startswith("the plug-in ") and "its content is another" in one for one in other.agreement.differs)


@pytest.fixture
def result(checkpoint: Path, tmp_path: Path) -> Path:
    own = tmp_path / "model"
    shutil.copytree(checkpoint, own)
    depthsig.analyze(str(own), PROMPTS, out=tmp_path / "out", **LITTLE)
    return tmp_path / "out"


def test_what_moved_is_named(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(result / "profiles.csv")
    here = table.index[(table["metric"] == "lens.kl")][2]
    most = table.loc[table["metric"] == "lens.kl", "value"].abs().max()
    table.loc[here, "value"] += 2 * TOLERANCE * most
    table.to_csv(result / "profiles.csv", index=False)
    record = json.loads((result / "signature.json").read_text())
    record["versions"]["torch"] = "1.0"
    record["threads"] = 99
    (result / "signature.json").write_text(json.dumps(record))
    assert main(["rerun", str(result), "--no-progress"]) == 3
    said = capsys.readouterr().out
    assert said.startswith("Not the same: ") and "profiles: lens.kl (mean), value: 1 of 5 moved, by" in said
    assert f"Different: torch (1.0 before, {torch.__version__} now)." in said
    assert f"Different: the number of threads (99 before, {torch.get_num_threads()} now)." in said
    assert main(["rerun", str(result), "--no-progress", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert not told["agrees"] and [row["metric"] for row in told["moved"]] == ["lens.kl"]
    table.loc[here, "value"] -= 1.5 * TOLERANCE * most
    table.to_csv(result / "profiles.csv", index=False)
    assert main(["rerun", str(result), "--no-progress"]) == 0
    assert "Different: torch" in capsys.readouterr().out


def test_a_model_that_moved_or_changed(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    assert main(["rerun", str(result), "--no-progress"]) == 2
    assert main(["rerun", str(result), "--no-progress", "--checkpoint", str(tmp_path / "elsewhere")]) == 0
    capsys.readouterr()
    from safetensors.torch import load_file, save_file

    file = tmp_path / "elsewhere" / "model.safetensors"
    state = load_file(file)
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"] * 1.5
    save_file(state, file, metadata={"format": "pt"})
    found = depthsig.rerun(result, model=str(tmp_path / "elsewhere"), out=tmp_path / "new", progress=False)
    assert not found.agrees and any(one.startswith("the weights (") for one in found.agreement.differs)
    assert depthsig.Signature.load(tmp_path / "new").info["checkpoint"]["content_hash"] in str(
        found.now.info["checkpoint"]["content_hash"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "prompts.jsonl line 1 is not JSON"),
        ('{"text": "a b c"}\n', "holds 1 prompts, 6 were measured"),
        ('["a"]\n' * 6, "a prompt is a string"),
    ],
)
def test_kept_prompts_are_untrusted(text: str, said: str, result: Path) -> None:
    (result / "prompts.jsonl").write_text(text)
    with pytest.raises(InputError, match=said):
        depthsig.rerun(result)
    (result / "prompts.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as text"):
        depthsig.rerun(result)


def test_other_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerun", str(tmp_path)]) == 2
    (tmp_path / "blocks.json").write_text('{"schema": "depthsig-blocks/1"}')
    assert main(["rerun", str(tmp_path)]) == 2
    assert "a result of another kind (blocks.json)" in capsys.readouterr().err


def test_a_number_that_became_none_has_moved(result: Path) -> None:
    signature = depthsig.Signature.load(result)
    profiles = signature.profiles.copy()
    profiles.loc[3, "value"] = float("nan")
    from dataclasses import replace

    found = agreement(signature, replace(signature, profiles=profiles))
    assert not found.agrees and found.moved["moved"].tolist() == [1]
    gone = agreement(signature, replace(signature, profiles=signature.profiles.drop(index=3)))
    assert not gone.agrees and "there once" in "\n".join(gone.lines())
    assert agreement(signature, signature).agrees


@pytest.mark.parametrize("where", ["options", "plan", "loading"])
@pytest.mark.parametrize("name", ["trust_remote_code", "allow_pickle", "out", "model", "forward", "plugin", "surprise"])
def test_nothing_recorded_becomes_an_argument_that_no_analysis_records(where: str, name: str, result: Path) -> None:
    record = json.loads((result / "signature.json").read_text())
    told = record["options"] if where == "options" else record["given"][where]
    told[name] = True if name in ("trust_remote_code", "allow_pickle") else str(result.parent / "elsewhere")
    (result / "signature.json").write_text(json.dumps(record))
    with pytest.raises(InputError) as refused:
        depthsig.rerun(result, progress=False)
    assert "\n" not in str(refused.value) and not (result.parent / "elsewhere").exists()
    assert "nothing recorded lets code run" in str(refused.value) or "no analysis records" in str(refused.value)


def test_what_is_infinite_stays_so(result: Path) -> None:
    from dataclasses import replace

    signature = depthsig.Signature.load(result)

    def with_first(*values: float) -> depthsig.Signature:
        profiles = signature.profiles.copy()
        profiles.loc[[0, 1], "value"] = values
        return replace(signature, profiles=profiles)

    infinite = with_first(float("inf"), 1.0)
    assert agreement(infinite, with_first(float("inf"), 1.0)).agrees
    assert not agreement(infinite, with_first(2.0, 1.0)).agrees
    assert not agreement(infinite, with_first(float("inf"), 1.5)).agrees
    assert not agreement(infinite, with_first(float("-inf"), 1.0)).agrees
