"""`replicate`: who takes part, what is measured once, what is kept, and that one call says what another does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from families import byte_tokenizer, disturb
from transformers import LlamaConfig, LlamaForCausalLM

import depthsig
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands import replicate as command
from depthsig.commands.replicate import replicate
from depthsig.commands.replicating.taking_part import joined, key_of, read_members
from depthsig.errors import InputError
from depthsig.prompts.shipped import data_path
from depthsig.replication import judging
from depthsig.signature import Signature
from depthsig.signature.folders.writing import kept
from depthsig.signature.replications.replication import Replication

PAPER = "2602.16490"
SHIPPED = data_path("signatures")
FEW: dict[str, Any] = {"quick": True, "resamples": 50, "progress": False}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny checkpoints, in blocks of two and without."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("grown", "plain")):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=272, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False,
        )  # fmt: skip
        disturb(LlamaForCausalLM(config).eval(), seed).save_pretrained(root / name)
        byte_tokenizer().save_pretrained(root / name)
    return root


def roles(two: Path) -> dict[str, Any]:
    return {"midas": f"{two / 'grown'}[grown=0:6/2]", "baseline": str(two / "plain")}


@pytest.fixture(scope="module", autouse=True)
def _untrained_models_take_part() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "LEARNED", 2.0)
        yield


@pytest.fixture(scope="module")
def analyses() -> list[tuple[str, tuple[str, ...]]]:
    return []


@pytest.fixture(autouse=True)
def _counted(analyses: list[tuple[str, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch) -> None:
    real = command.analyze
    analyses.clear()

    def counted(model: depthsig.Model, prompts: str, **options: Any) -> Signature:
        analyses.append((f"{model.checkpoint.name} on {prompts}", tuple(options["metrics"])))
        return real(model, prompts, **options)

    monkeypatch.setattr(command, "analyze", counted)


def same(one: Replication, other: Replication) -> None:
    for name in ("replication", "networks", "curves", "runs"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))


ONLY = "E5,E7,E16"


@pytest.fixture(scope="module")
def once(two: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Replication, Path]:
    out = tmp_path_factory.mktemp("once") / "out"
    return replicate(PAPER, roles=roles(two), only=ONLY, out=out, **FEW), out


def test_every_claim_has_a_verdict_or_says_why_not(once: tuple[Replication, Path]) -> None:
    found, out = once
    table = found.replication.set_index(["claim", "role"])
    assert set(table.index.get_level_values("claim")) == {c["id"] for c in found.info["claims"]}
    assert (table.loc["E16.loss", "grown"]["note"]).startswith(("8 prompts", "networks: 1 of grown, 1 of baseline"))
    assert table.loc[("E5.blocks", "grown"), "verdict"] == "undecided"  # one network an arm, and nothing known
    assert "no network has the role looped" in table.loc[("E16.loss", "looped"), "note"]
    assert "no network has the role lidas" in table.loc[("E7.lidas", "lidas"), "note"]
    assert not out.with_name("out.partial").exists()
    assert {n["role"] for n in found.info["networks"]} == {"midas", "baseline"}
    assert all(len(n["content_hash"]) == 64 for n in found.info["networks"])
    same(Replication.load(out), found)
    assert set(found.signatures) == {"grown-lookup", "plain-lookup"}
    blocks = found.signatures["plain-lookup"].info["spans"]["labelled"]
    assert [(s["size"], s["count"]) for s in blocks] == [(2, 3)]  # as long as the others'


def test_again_from_the_folders_that_it_wrote_and_from_models(
    once: tuple[Replication, Path], two: Path, analyses: list[tuple[str, tuple[str, ...]]]
) -> None:
    """The same tables; what lies in the folders is not measured again."""
    found, out = once
    given = {
        r: [v, out / "signatures" / f"{n}-lookup"]
        for (r, v), n in zip(roles(two).items(), ("grown", "plain"), strict=True)
    }
    same(replicate(PAPER, roles=given, only=ONLY, **FEW), found)
    assert analyses == []
    loaded = {
        "midas": depthsig.load(two / "grown", grown="0:6/2"), "baseline": [depthsig.load(two / "plain")],
    }  # fmt: skip
    same(replicate(PAPER, roles=loaded, only=ONLY, **FEW), found)


def test_untrained_models_use_no_depth(
    once: tuple[Replication, Path], two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "LEARNED", 0.9)
    folders = {"midas": once[1] / "signatures" / "grown-lookup", "baseline": once[1] / "signatures" / "plain-lookup"}
    found = replicate(PAPER, roles=folders, only="E5", **FEW).replication
    assert set(found["verdict"]) == {"not measurable"} and "grown has learned nothing" in found["note"].iloc[0]


def test_interrupted_and_gone_on_with(
    two: Path, tmp_path: Path, once: tuple[Replication, Path], monkeypatch: pytest.MonkeyPatch,
    analyses: list[tuple[str, tuple[str, ...]]],
) -> None:  # fmt: skip
    out, begun = tmp_path / "out", []
    real = command.pruning_runs

    def interrupted(model: depthsig.Model, *args: Any, **options: Any) -> pd.DataFrame:
        begun.append(model.checkpoint.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(model, *args, **options)

    monkeypatch.setattr(command, "pruning_runs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replicate(PAPER, roles=roles(two), only=ONLY, out=out, **FEW)
    assert not out.exists() and tmp_path / "out.partial" in kept() and begun == ["grown", "plain"]
    # A piece that is damaged is measured anew; the others are read.
    pieces = sorted((tmp_path / "out.partial" / "units").iterdir())
    assert len(pieces) == 4  # what was asked for, an analysis of each, pruning of the first
    damaged = next(p for p in pieces if (p / "made" / "runs.parquet").exists())
    (damaged / "made" / "runs.parquet").write_bytes(b"no table")
    analyses.clear()
    same(replicate(PAPER, roles=roles(two), only=ONLY, out=out, resume=True, **FEW), once[0])
    assert analyses == [] and begun == ["grown", "plain", "grown", "plain"]
    assert not (tmp_path / "out.partial").exists() and Replication.load(out)


def test_pieces_of_other_labels_are_not_gone_on_with(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, analyses: list[tuple[str, tuple[str, ...]]]
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "judge", stop)
    for label, n in (("0:6/2", 2), ("0:6/3", 2), ("0:6/3", 0)):
        analyses.clear()
        given = {"midas": f"{two / 'grown'}[grown={label}]", "baseline": str(two / "plain")}
        with pytest.raises(KeyboardInterrupt):
            replicate(PAPER, roles=given, only="E5", out=tmp_path / "out", resume=True, **FEW)
        assert len(analyses) == n, label
    # Without resume everything is begun anew.
    analyses.clear()
    with pytest.raises(KeyboardInterrupt):
        replicate(PAPER, roles=given, only="E5", out=tmp_path / "out", **FEW)
    assert len(analyses) == 2


def test_nothing_is_left_behind_by_what_was_given_wrongly(two: Path, tmp_path: Path) -> None:
    given = {"midas": str(two / "grown"), "baseline": [str(two / "grown") + "/"]}
    with pytest.raises(InputError, match="is named in two roles, midas and baseline"):
        replicate(PAPER, roles=given, only="E5", out=tmp_path / "out", **FEW)
    assert list(tmp_path.iterdir()) == []


def test_what_one_network_cannot_do_stops_no_other(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = command.repeat_runs

    def refused(model: depthsig.Model, *args: Any, **options: Any) -> pd.DataFrame:
        if model.checkpoint.name == "grown":
            raise InputError("steps 2:4 cannot be run again: the model does something between them")
        return real(model, *args, **options)

    monkeypatch.setattr(command, "repeat_runs", refused)
    found = replicate(PAPER, roles=roles(two), only="E8", **FEW)
    row = found.replication.set_index(["claim", "role"]).loc[("E8.best", "grown")]
    assert row["verdict"] == "not measurable" and "grown: steps 2:4 cannot be run again" in row["note"]
    assert any("steps 2:4" in said for said in found.info["warnings"]) and set(found.runs["network"]) == {"plain"}


def test_networks_that_no_claim_is_about_are_not_opened(
    two: Path, monkeypatch: pytest.MonkeyPatch, analyses: list[tuple[str, tuple[str, ...]]]
) -> None:
    given = {"looped": str(two / "plain"), "midas": f"{two / 'grown'}[grown=0:6/2]"}
    found = replicate(PAPER, roles=given, only="E7", **FEW)
    assert [n["name"] for n in found.info["networks"]] == ["grown"] and analyses == []
    assert set(found.replication["verdict"]) == {"not measurable"}


def test_the_family_s_tables_alone() -> None:
    given = {
        role: [SHIPPED / f"{role}-seed{seed}-{prompts}" for seed in (1, 2) for prompts in ("gsm8k", "lookup")]
        for role in ("looped", "lidas", "baseline")
    }
    found = replicate(PAPER, roles=given, only="E1,E4,E7", resamples=50, progress=False)
    assert len(found.info["networks"]) == 6  # two signatures of a network are one
    table = found.replication.set_index(["claim", "role"])
    assert "networks: 2 of looped, 2 of baseline" in table.loc[("E1.late", "looped"), "note"]
    assert table.loc[("E4.trained", "looped"), "verdict"] == "not measurable"
    assert table.loc[("E7.lidas", "lidas"), "estimate"] > 0
    same(replicate(PAPER, roles=given, only="E1,E4,E7", resamples=50, progress=False), found)


# --- who takes part -----------------------------------------------------------------------------------------------


def test_a_folder_and_a_checkpoint_of_one_network_are_one() -> None:
    folder = SHIPPED / "midas-seed2-lookup"
    members = read_members({"midas": ["family-midas", folder, folder]}, LoadOptions())
    assert [m.given is None for m in members] == [False, True] and len(members[1].signatures) == 2
    key = key_of(Signature.load(folder))
    assert joined(members, members[0], key).signatures and not members[1].signatures


def test_one_network_has_one_role() -> None:
    folder = SHIPPED / "midas-seed2-lookup"
    with pytest.raises(InputError, match="is named in two roles, midas and looped; a network has one"):
        read_members({"midas": folder, "looped": SHIPPED / "midas-seed2-gsm8k"}, LoadOptions())
    members = read_members({"looped": "family-midas", "midas": folder}, LoadOptions())
    with pytest.raises(InputError, match="'family-midas' is named in two roles, midas and looped"):
        joined(members, members[0], key_of(Signature.load(folder)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "unknown roles: none"),
        ({"loops": "family-looped"}, "unknown roles: 'loops'"),
        ({"looped": []}, "has nobody in it"),
        ({"looped": "family-looped+"}, "names nothing beside a +"),
        ({"looped": ""}, "names nothing"),
        ({"looped": "nowhere/to/be/found"}, "nowhere/to/be/found"),
        ({"looped": "family-midas", "grown": "family-midas"}, "is named twice, as looped and as grown"),
        ({"looped": "family-midas[order=0:24]+family-midas[order=0:24]"}, "is named twice"),
        ("looped=family-midas[order=9:1]", "9:1"),
        (["family-midas"], "it is a dictionary by role, or text"),
        ({"looped": "\x1b[31mred"}, "\\x1b[31mred"),
        ({"looped": 7}, "a checkpoint is a path, a hub id or a model; found int"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else value[:20].replace("\x1b", "escape").replace("/", " "),
)  # fmt: skip
def test_roles_that_are_none(given: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        replicate(PAPER, roles=given, only="E1", **FEW)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_plus_may_belong_to_a_name(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "plain", tmp_path / "a+b")
    text = f"looped={tmp_path / 'a+b'}+{tmp_path / 'a+b'}[order=0:2,2:4x2,4:6]+family-midas"
    found = [(m.given.model, m.given.plan.order) for m in read_members(text, LoadOptions()) if m.given is not None]
    assert found == [(str(tmp_path / "a+b"), None), (str(tmp_path / "a+b"), "0:2,2:4x2,4:6"), ("family-midas", None)]


def test_signatures_of_live_models_are_told_apart_by_name_or_not_at_all(two: Path) -> None:
    one, other = (Signature.load(SHIPPED / f"baseline-seed1-{p}") for p in ("gsm8k", "lookup"))
    again = Signature.load(SHIPPED / "baseline-seed2-lookup")
    for signature in (one, other, again):
        signature.info["checkpoint"].update(content_hash=None, id="live", name="Llama")
    assert len(read_members({"baseline": [one, other]}, LoadOptions())) == 1
    with pytest.raises(InputError, match="may be of one network or of two"):
        read_members({"baseline": [one, other, again]}, LoadOptions())
    again.info["checkpoint"]["name"] = "another"
    assert len(read_members({"baseline": [one, other, again]}, LoadOptions())) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": "much"}, "much"), ({"resamples": 0}, "resamples"), ({"seed": -1}, "seed"),
        ({"only": "E99"}, "'E99' is no experiment"), ({"resume": True}, "--resume needs the --out folder"),
    ],
    ids=["memory", "resamples", "seed", "only", "resume"],
)  # fmt: skip
def test_options_are_answered_before_any_work(two: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replicate(PAPER, **{"roles": roles(two), "only": "E5", **FEW, **options})


KILLED = """
import os, sys
sys.path[:0] = {paths!r}
from depthsig.commands import replicate as command
made = command.pruning_runs
def killed(model, *args, **options):
    if model.checkpoint.name == "plain":
        os.kill(os.getpid(), 9)
    return made(model, *args, **options)
command.pruning_runs = killed
command.replicate({paper!r}, roles={roles!r}, only="E16", out={out!r}, quick=True, resamples=50, progress=False)
"""


@pytest.mark.slow
def test_killed_and_gone_on_with(two: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths = [str(Path(depthsig.__file__).parents[1])]
    text = KILLED.format(paths=paths, paper=PAPER, roles=roles(two), out=str(out))
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, check=False, env=os.environ, timeout=500)
    assert run.returncode == -9 and not out.exists() and (tmp_path / "out.partial").exists()
    found = replicate(PAPER, roles=roles(two), only="E16", out=out, resume=True, **FEW)
    assert set(found.runs["network"]) == {"grown", "plain"} and not (tmp_path / "out.partial").exists()
    assert json.loads((out / "replicate.json").read_text(encoding="utf-8"))["criteria_sha256"]
