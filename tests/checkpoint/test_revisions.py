"""Training revisions of one repository out of a hub cache, without a network: a branch for each, as Huginn has 46."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from checkpoint_folders import change_weights
from families import PROMPTS
from remote_cases import REMOTE, remote_folder, source_of
from swept_folders import sweep, write

import depthsig
from depthsig.checkpoint.files.hub import cached_revisions
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.open import open_checkpoint
from depthsig.errors import InputError

COMMITS = {
    "main": "a" * 40,
    "step_00001024": "b" * 40,
    "step-00047684-recurrence_full_512_0": "c" * 40,
    "runs/one/step 7": "d" * 40,
}
NAME = "owner/checkpoints"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with a looped repository of which every branch has other weights."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache/models--owner--checkpoints"
    made = remote_folder(tmp_path / "made", REMOTE["retrofitted"].build(), source_of("retrofitted"))
    for number, (name, commit) in enumerate(COMMITS.items()):
        ref = repository / "refs" / name
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        folder = Path(shutil.copytree(made, repository / "snapshots" / commit))
        change_weights(folder, lambda state, number=number: state["lm_head.weight"].mul_(1 + number / 4))
    return repository


def _opened(revision: str | None) -> depthsig.Model:
    return depthsig.load(NAME, revision=revision, trust_remote_code=True)


def test_every_branch_is_opened_without_a_network(cache: Path) -> None:
    heads = {name: _opened(name) for name in COMMITS}
    names = {name: model.checkpoint.name for name, model in heads.items()}
    assert names == {
        "main": "checkpoints",
        "step_00001024": "checkpoints-step_00001024",
        "step-00047684-recurrence_full_512_0": "checkpoints-step-00047684-recurrence_full_512_0",
        "runs/one/step 7": "checkpoints-runs-one-step-7",
    }
    for number, (name, model) in enumerate(heads.items()):
        assert (model.checkpoint.revision, model.checkpoint.repository) == (COMMITS[name], NAME)
        assert model.plan.layers == REMOTE["retrofitted"].order
        first = heads["main"].readout.head.weight
        assert torch.allclose(model.readout.head.weight, first * (1 + number / 4))
    assert len({model.checkpoint.content_hash for model in heads.values()}) == len(COMMITS)
    assert _opened(COMMITS["step_00001024"]).checkpoint.name == "checkpoints-" + "b" * 12


def test_a_revision_that_is_not_there_tells_those_that_are(cache: Path) -> None:
    (cache / "refs/step_00009216").write_text("e" * 40)  # known by name, and not here
    shutil.copytree(cache / "snapshots" / ("b" * 40), cache / "snapshots" / ("f" * 40))
    for wanted in ("step_00002048", "step_00009216", "0" * 40):
        with pytest.raises(InputError) as told:
            open_checkpoint(NAME, options=LoadOptions(revision=wanted, trust_remote_code=True))
        text = str(told.value)
        assert "\n" not in text and f"revision {wanted!r} of 'owner/checkpoints' is not on this machine" in text
        assert text.endswith(f"there are {', '.join(sorted(COMMITS))}, {'f' * 40}")


@pytest.mark.parametrize(
    "wanted", ["../..", "/dev/zero", "a/../b", "x" * 300, "\n", "\0", "a\x1b[31m", "main~1", "/", "a//b"]
)
def test_what_can_be_no_revision_is_not_looked_for(cache: Path, wanted: str) -> None:
    """A revision is a path within the cache: what led out of it would be read there."""
    with pytest.raises(InputError, match="it is a branch, a tag or a commit") as told:
        open_checkpoint(NAME, options=LoadOptions(revision=wanted, trust_remote_code=True))
    assert "\n" not in str(told.value) and len(str(told.value)) < 250


def test_of_a_ref_only_its_beginning_is_read(cache: Path) -> None:
    with (cache / "refs/large").open("wb") as file:
        file.write(COMMITS["main"].encode() + b"\n")
        file.truncate(1 << 32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "large" in cached_revisions(NAME)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB; read whole it would be more


def test_results_tell_the_revision_and_its_commit(cache: Path) -> None:
    found = [
        depthsig.analyze(
            NAME, PROMPTS[:2], metrics=["lens.kl"], revision=name, trust_remote_code=True, control=False, progress=False
        )
        for name in ("step_00001024", "runs/one/step 7")
    ]
    assert [one.info["checkpoint"]["revision"] for one in found] == ["b" * 40, "d" * 40]
    assert [one.info["given"]["loading"]["revision"] for one in found] == ["step_00001024", "runs/one/step 7"]
    names = [one.info["checkpoint"]["name"] for one in found]  # and with them the folders that nobody chose
    assert names == ["checkpoints-step_00001024", "checkpoints-runs-one-step-7"]
    assert len({one.info["checkpoint"]["content_hash"] for one in found}) == 2


def test_a_sweep_over_revisions(cache: Path, tmp_path: Path) -> None:
    text = f"""
checkpoints: [{NAME}]
revisions: [step_00001024, step-00047684-recurrence_full_512_0, runs/one/step 7, step_00002048]
metrics: [lens.kl]
n: 2
max_tokens: 16
control: false
"""
    swept = sweep(write(tmp_path, text), tmp_path / "out", trust_remote_code=True)
    told = swept.units.set_index("revision")["state"].to_dict()
    assert [told[name] for name in list(COMMITS)[1:]] == ["done"] * 3 and told["step_00002048"] != "done"
    for unit in swept.units.to_dict("records"):
        if unit["state"] == "done":
            saved = depthsig.Signature.load(tmp_path / "out" / unit["folder"])
            assert saved.info["checkpoint"]["revision"] == COMMITS[unit["revision"]]
