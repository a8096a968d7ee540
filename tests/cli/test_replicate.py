"""``depthsig replicate`` from the command line: folders of signatures alone, and an interrupted run gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from families import build, byte_tokenizer
from sources import ROOT

import depthsig.commands.replicate
from depthsig.cli.main import INTERRUPTED, main
from depthsig.signature.replications.replication import Replication

SHIPPED = ROOT / "data" / "signatures"
SEEDS = {
    role: "+".join(str(SHIPPED / f"{role}-seed{n}-lookup") for n in (1, 2)) for role in ("midas", "lidas", "baseline")
}
ROLES = ",".join(f"{role}={who}" for role, who in SEEDS.items())
ASKED = ["replicate", "2512.08819", "--only", "E7", "--roles", ROLES]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_are_enough(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ASKED) == 0
    out = here / "depthsig-results" / "replicate-2512.08819"
    said = capsys.readouterr().out
    lines = said.splitlines()
    found = Replication.load(out)
    assert [line.split()[:2] for line in lines[:3]] == [
        ["E7.midas", "midas"],
        ["E7.lidas", "lidas"],
        ["E7.order", "lidas"],
    ]
    assert all(row["verdict"] in line for row, line in zip(found.replication.to_dict("records"), lines, strict=False))
    assert "3 judgements by 6 networks: " in said and f"report: {out.relative_to(here)}" in said
    names = {p.name for p in out.iterdir()}
    assert {"replication.csv", "networks.csv", "curves.csv", "replicate.json", "replication.tex", "report.html",
            "figures", "run.toml"} <= names  # fmt: skip
    # Known: the mean over two seeds of what each network's own row says.
    own = pd.read_csv(out / "networks.csv")
    own = own[own["claim"] == "E7.midas"].groupby("arm")["value"].mean()
    assert found.replication["estimate"].iloc[0] == pytest.approx(own["midas"] - own["baseline"])
    assert own["midas"] > 0.05 > abs(own["baseline"])


def test_each_keeps_its_own_folder_and_run_toml_makes_it_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED[:-1], f"midas={SEEDS['midas']},baseline={SEEDS['baseline']}"]) == 0
    assert main(ASKED) == 0
    folders = sorted(p.name for p in Path("depthsig-results").iterdir())
    assert folders == ["replicate-2512.08819", "replicate-2512.08819-2"]
    capsys.readouterr()
    assert main(["replicate", "--config", f"depthsig-results/{folders[1]}/run.toml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == f"depthsig-results/{folders[1]}" and told["report"].endswith("report.html")
    assert [row["claim"] for row in told["replication"]] == ["E7.midas", "E7.lidas", "E7.order"]
    assert sorted(p.name for p in Path("depthsig-results").iterdir()) == folders


def test_run_toml_finds_what_is_declared_in_brackets(here: Path, checkpoint: Path) -> None:
    from depthsig.cli.options.run_files import run_file

    (here / "net").mkdir()
    text = run_file(
        "replicate", {"roles": "looped=net[order=0:2,2:4x2]+family-looped,midas-after=net", "paper": "2602.16490"}
    )
    assert f'roles = "looped={here}/net[order=0:2,2:4x2]+family-looped,midas-after={here}/net"' in text


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small models."""
    folder = tmp_path_factory.mktemp("two")
    for seed, name in enumerate(("grown", "baseline")):
        _saved(folder / name, seed)
    return folder


def _saved(folder: Path, seed: int) -> None:
    import torch

    module = build("llama")
    torch.manual_seed(seed)
    with torch.no_grad():
        for one in module.parameters():
            one.add_(0.01 * torch.randn_like(one))
    module.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def test_an_interrupted_run_is_gone_on_with(
    two: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    roles = f"midas={two}/grown[grown=0:4/2],baseline={two}/baseline"
    asked = ["replicate", "2512.08819", "--only", "E7", "--quick", "--roles", roles, "--no-progress"]
    judge, analyze = depthsig.commands.replicate.judge, depthsig.commands.replicate.analyze

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    def never(*given: Any, **more: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(depthsig.commands.replicate, "judge", interrupted)
    assert main(asked) == INTERRUPTED
    partial = here / "depthsig-results" / "replicate-2512.08819.partial"
    said = capsys.readouterr().err
    assert str(partial) in said and "--resume" in said and [p.name for p in partial.parent.iterdir()] == [partial.name]
    monkeypatch.setattr(depthsig.commands.replicate, "judge", judge)
    monkeypatch.setattr(depthsig.commands.replicate, "analyze", never)
    assert main([*asked, "--resume"]) == 0
    assert [p.name for p in partial.parent.iterdir()] == ["replicate-2512.08819"]
    resumed = Replication.load(partial.with_suffix("")).replication
    monkeypatch.setattr(depthsig.commands.replicate, "analyze", analyze)
    assert main([*asked, "--out", "whole"]) == 0
    pd.testing.assert_frame_equal(resumed, Replication.load("whole").replication)


def test_a_refusal_leaves_nothing_behind(two: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = f"midas={two}/grown+{two}/grown,baseline={two}/baseline"
    assert main(["replicate", "2512.08819", "--only", "E7", "--quick", "--roles", twice, "--out", "r"]) == 2
    assert "name it once" in capsys.readouterr().err and list(here.iterdir()) == []
