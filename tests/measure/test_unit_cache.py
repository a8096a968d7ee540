"""Units that are kept: taken for the same weights, prompts, options and versions, to the last bit; for nothing else."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from checkpoint_folders import change_weights, configure
from families import build, byte_tokenizer
from lenses import some_lens

import depthsig
from depthsig import kept
from depthsig.checkpoint.loading import LoadOptions
from depthsig.measure import unit_cache
from depthsig.measure.edited.edited_batch import EditedBatch
from depthsig.measure.request import Request
from depthsig.measure.schedule import EDITED
from depthsig.measure.unit_cache import ground_of
from depthsig.plan.declared import PlanOptions
from depthsig.tables.samples import Samples

pytestmark = pytest.mark.filterwarnings("ignore::depthsig.errors.DepthsigWarning")

PROMPTS: list[Any] = [
    "The first of a few short prompts.", {"text": "Another one, which is 2+2=", "answer": "4"}, "abc",
    "The first of a few short prompts.",
]  # fmt: skip
EVERY = ["skip", "local", "order", "repeat", "truncation.repeat", "erasure", "attribution"]
LOOPED = ["loop.spectral_radius", "maintained"]
"""What needs a loop that runs."""
TABLES = ("profiles", "matrices", "scores", "samples_table", "tokens_table", "prompts")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHSIG_CACHE", str(tmp_path / "kept"))


def analyze(model: Any, prompts: Any = PROMPTS, **options: Any) -> depthsig.Signature:
    return depthsig.analyze(model, prompts, **{"metrics": ["skip", "erasure"], "progress": False, **options})


def units(found: depthsig.Signature) -> tuple[int, int]:
    told = found.info["timings"]["units"]
    assert told["resumed"] == 0
    return told["measured"], told["kept"]


def assert_same(a: depthsig.Signature, b: depthsig.Signature) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(a, name), getattr(b, name), check_exact=True)


@pytest.mark.parametrize(
    "options",
    [
        {"metrics": EVERY, "agg": "both"},
        {"metrics": EVERY, "parts": "layer,attn,mlp", "scopes": "current,future", "batch_size": 1},
        {"metrics": ["skip", "local"], "ablation": "mean", "parts": "attn", "scopes": "future"},
        {"metrics": ["skip", "local"], "ablation": "random", "positions": "answer", "seed": 3},
        {"metrics": [*EVERY, "maintained"], "order": "0:1,1:3x2,3:4", "dtype": "bfloat16"},
    ],
    ids=lambda o: " ".join(map(str, list(o)[1:])),
)
def test_what_is_taken_is_what_was_measured(
    checkpoint: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = analyze(checkpoint, PROMPTS[:3], **options)
    made, there = units(first)
    assert made >= 2 and there == 0
    again = analyze(checkpoint, PROMPTS[:3], **options, recheck=True)
    assert units(again) == (made, 0)
    for job in EDITED:
        monkeypatch.setattr(job, "run", lambda *_: pytest.fail("it was measured already"))
    taken = analyze(checkpoint, PROMPTS[:3], **options)
    assert units(taken) == (0, made)
    assert_same(first, taken)
    assert_same(again, taken)
    assert [k.entries for k in kept.kinds() if k.name == "units"] == [made]


def test_prompts_of_other_numbers_among_others(checkpoint: Path) -> None:
    one = {"metrics": EVERY, "batch_size": 1}
    analyze(checkpoint, PROMPTS, **one)
    other = ["A new one in front.", *PROMPTS[2::-1], "And one more, behind them all."]
    without = [name for name in EVERY if name != "erasure"]  # whose means are of all prompts
    mixed = analyze(checkpoint, other, **{**one, "metrics": without})
    jobs = len(without)
    assert units(mixed) == (2 * jobs, 3 * jobs)
    assert_same(mixed, analyze(checkpoint, other, recheck=True, **{**one, "metrics": without}))


def test_a_prompt_that_stands_twice_is_measured_once(checkpoint: Path) -> None:
    found = analyze(checkpoint, PROMPTS, metrics=["skip"], batch_size=1)
    assert units(found) == (3, 1)  # the first and the last are the same
    assert_same(found, analyze(checkpoint, PROMPTS, metrics=["skip"], batch_size=1, recheck=True))


def test_means_are_of_all_prompts(checkpoint: Path) -> None:
    """Erasure puts the mean over all prompts in the place of a state, so other company makes other numbers."""
    analyze(checkpoint, PROMPTS[:2], metrics=["erasure"], batch_size=1)
    more = analyze(checkpoint, PROMPTS[:3], metrics=["erasure"], batch_size=1)
    assert units(more) == (3, 0)
    analyze(checkpoint, PROMPTS[:2], metrics=["skip"], batch_size=1)
    assert units(analyze(checkpoint, PROMPTS[:3], metrics=["skip"], batch_size=1)) == (1, 2)


def _files() -> list[Path]:
    return sorted((kept.place() / "units").iterdir())


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "another's"])
def test_a_damaged_one_is_measured_again(checkpoint: Path, damage: str) -> None:
    first = analyze(checkpoint)
    before = {path: path.read_bytes() for path in _files()}
    for path, data in before.items():
        if damage == "flipped":
            middle = len(data) // 2
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        elif damage == "another's":
            path.write_bytes(next(d for p, d in before.items() if p != path))
        else:
            path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    again = analyze(checkpoint)
    assert units(again) == units(first) == (len(before), 0)
    assert_same(first, again)
    assert units(analyze(checkpoint)) == (0, len(before))


def _bomb(rows: Any = None, names: str = '[["skip.effect", "layer", "current", 0]]', packed: bool = False) -> bytes:
    """A unit with a right digest around it, written by somebody who shares the folder."""
    into = io.BytesIO()
    arrays = {
        "tokens": np.array("[]"), "names": np.array(names), "0.rows": np.array([0] if rows is None else rows),
        "0.worst": np.zeros((1, 4, 4)), "0.0.sums": np.zeros((1, 4, 4)),
        "0.0.counts": np.zeros((1, 4, 4), dtype=np.int64),
    }  # fmt: skip
    (np.savez_compressed if packed else np.savez)(into, **arrays)
    return into.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"PK", _bomb(rows=[-1]), _bomb(rows=[10**6]), _bomb(rows=[0.5]), _bomb(packed=True),
        _bomb(names='[["lens.kl", "layer", "current", 0]]'), _bomb(names='[["zork", "layer", "current", 0]]'),
        _bomb(names="3"), _bomb(names="[" * 100_000),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_another_wrote_is_not_trusted(checkpoint: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    first = analyze(checkpoint, metrics=["skip"])
    read = kept.read
    monkeypatch.setattr(kept, "read", lambda kind, *a, **k: data if kind == "units" else read(kind, *a, **k))
    again = analyze(checkpoint, metrics=["skip"])
    assert units(again) == units(first)
    assert_same(first, again)


def test_models_and_metrics_that_came_as_objects_are_always_measured(checkpoint: Path) -> None:
    live, model = build("llama"), depthsig.load(checkpoint)
    for given, more in ((live, {"tokenizer": byte_tokenizer()}), (model, {})):
        for _ in range(2):
            assert units(analyze(given, **more))[1] == 0
    depthsig.metric("mine.x", on="skip", axis="step", parts=("layer",), scopes=("current",))(
        lambda logits: logits.sum(-1)
    )
    for _ in range(2):
        assert units(analyze(checkpoint, metrics=["mine.x"]))[1] == 0
    assert "units" not in {kind.name for kind in kept.kinds()}


def test_what_is_done_again_is_measured(checkpoint: Path, tmp_path: Path) -> None:
    first = analyze(checkpoint, out=tmp_path / "out")
    again = depthsig.rerun(tmp_path / "out", progress=False)
    assert again.agrees and units(again.now) == units(first)


def test_all_of_them_take_so_much_room_at_most(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analyze(checkpoint, metrics=EVERY, batch_size=1)
    sizes = {path: path.stat().st_size for path in _files()}
    monkeypatch.setattr(unit_cache, "MOST_BYTES", most := sum(sizes.values()) // 2)
    analyze(checkpoint, [*PROMPTS, "one more"], metrics=["skip"], batch_size=1)
    assert 0 < sum(path.stat().st_size for path in _files()) <= most


def test_several_processes_share_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "depthsig", "analyze", str(checkpoint), "--metrics", "skip,order", "-n", "6"]
    command += ["--prompts", "lookup", "--batch-size", "1", "--max-tokens", "64", "--json", "--no-progress"]
    begun = [
        subprocess.Popen([*command, "--out", str(tmp_path / str(i))], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for i in range(2)
    ]
    for one in begun:
        _, said = one.communicate(timeout=300)
        assert one.returncode == 0, said
    found = [depthsig.Signature.load(tmp_path / str(i)) for i in range(2)]
    assert_same(*found)
    assert all(sum(units(one)) == 12 for one in found) and len(_files()) == 12


# --- what the key holds ---


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """By job, the keys that an analysis asks for; nothing is measured."""
    asked: list[str] = []

    def read(kind: str, key: str, **_: Any) -> None:
        if kind == "units":
            asked.append(key)

    monkeypatch.setattr(kept, "read", read)
    monkeypatch.setattr(kept, "write", lambda *_: None)
    for job in EDITED:
        monkeypatch.setattr(job, "run", lambda *_: None)

    def of(model: Any, prompts: Any = PROMPTS[:3], **options: Any) -> dict[str, list[str]]:
        asked.clear()
        options = {"metrics": EVERY, "order": "0:3,3:4x2", "control": False, **options}
        looped = LOOPED if options["order"] else []
        analyze(model, prompts, **{**options, "metrics": [*options["metrics"], *looped]})
        found: dict[str, list[str]] = {}
        for key in asked:
            found.setdefault(json.loads(key)["job"], []).append(key)
        assert len(found) == len(EDITED) - (0 if looped else len(LOOPED))
        return found

    return of


CASES = {"skip", "local", "maintained"}
ALL = {job.name for job in EDITED}

REQUEST: dict[str, tuple[dict[str, Any], set[str] | str]] = {
    "metrics": ({"metrics": ["skip.kl", *EVERY[1:]]}, {"skip"}),
    "parts": ({"parts": "layer,mlp"}, ALL),  # contributions are then kept apart in the clean run
    "scopes": ({"scopes": "future"}, CASES),
    "cuts": ({"cuts": 2}, CASES),
    "agg": ({"agg": "max"}, "units hold both aggregations"),
    "n": ({"n": 2}, ALL),
    "max_tokens": ({"max_tokens": 9}, ALL),
    "chat_template": ({}, "it decides on the token ids alone"),
    "shots": ({"prompts": "lookup", "shots": 1, "max_tokens": 256}, ALL),
    "positions": ({"positions": "answer"}, ALL),
    "keep_first": ({"keep_first": True}, "position 0 is never measured in an edited run"),
    "ablation": ({"ablation": "random"}, CASES),
    "memory": ({"memory": "1MB"}, ALL),
    "batch_size": ({"batch_size": 1}, ALL),
    "seed": ({"seed": 5}, "nothing is drawn without --ablation random, which the next test looks at"),
    "control": ({"control": True}, "the control is another model, which came as an object"),
    "lens": ({"lens": ...}, "edited runs are read out by the model's own head"),
    "reword": ({"prompts": "lookup", "reword": 3}, ALL),
    "calibration": (
        {"calibration": ["some other prompts", "to fit readouts on"], "metrics": [*EVERY, "truncation.temperature"]},
        "only the clean run is recalibrated",
    ),
    "probes": ({"probes": 2}, {"derivatives"}),
}  # fmt: skip
"""For every option, a change of it and the jobs whose keys it changes, or why it does not matter to any."""


def test_every_option_of_a_request_is_classified() -> None:
    assert {f.name for f in fields(Request) if f.init} == set(REQUEST)


@pytest.mark.parametrize("name", REQUEST)
def test_an_option_changes_the_key_or_does_not_matter(name: str, checkpoint: Path, keys: Any) -> None:
    change, jobs = REQUEST[name]
    change = dict(change)
    if name == "lens":
        change = {"lens": some_lens(depths=5), "metrics": [*EVERY, "tuned"]}
    prompts = change.pop("prompts", PROMPTS[:3])
    before = {"n": 4, "max_tokens": 256} if prompts == "lookup" else {}
    one, other = keys(checkpoint, prompts, **before), keys(checkpoint, prompts, **{**before, **change})
    changed = {job for job in ALL if one[job] != other[job]}
    assert changed == (set() if isinstance(jobs, str) else jobs)


def test_the_seed_counts_where_something_is_drawn(checkpoint: Path, keys: Any) -> None:
    one, other = (keys(checkpoint, ablation="random", seed=seed) for seed in (0, 5))
    assert {job for job in ALL if one[job] != other[job]} == CASES


class _Watched:
    """A request that tells which of its options are looked at."""

    def __init__(self, request: Request, seen: set[str]) -> None:
        self._request, self._seen = request, seen

    def __getattr__(self, name: str) -> Any:
        self._seen.add(name)
        bound = getattr(type(self._request), name, None)
        if isinstance(bound, property):
            return bound.fget(self)  # type: ignore[misc]
        return bound.__get__(self) if callable(bound) else getattr(self._request, name)


@pytest.mark.parametrize("ablation", ["zero", "mean", "random"])
def test_a_job_looks_at_no_option_that_is_not_in_its_key(
    ablation: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    for job in EDITED:
        if "run" not in vars(job):
            continue

        def run(self: Any, batch: EditedBatch, *more: Any, own: Any = job.run) -> None:
            request = batch.work.request
            looked = seen.setdefault(self.name, set())
            object.__setattr__(batch.work, "request", _Watched(request, looked))
            try:
                own(self, batch, *more)
            finally:
                object.__setattr__(batch.work, "request", request)

        monkeypatch.setattr(job, "run", run)
    analyze(
        checkpoint, metrics=[*EVERY, *LOOPED], ablation=ablation, parts="layer,attn", scopes="current,future",
        order="0:1,1:3x2,3:4", control=False,
    )  # fmt: skip
    options = {f.name for f in fields(Request) if f.init}
    assert seen.keys() == ALL and {"scopes", "cuts"} <= seen["skip"]
    for job in EDITED:
        allowed = {*job.options, *(["seed"] if ablation == "random" and "ablation" in job.options else [])}
        assert seen[job.name] & options <= allowed, job.name


LOADING: dict[str, Any] = {
    "dtype": "bfloat16",
    "stream": True,
    "device": "a device is in the key as what every layer's weights lie on; there is one here",
    "device_map": "as device",
    "revision": "other files have another content hash",
    "trust_remote_code": "code that runs has its share in the content hash",
    "allow_pickle": "other files have another content hash",
}
PLANS: dict[str, Any] = {"order": "0:4,0:4", "loop": "1:3", "grown": "0:2/1", "iterations": "counted in the layers"}


def test_every_way_of_loading_and_planning_is_classified() -> None:
    assert {f.name for f in fields(LoadOptions)} == set(LOADING)
    assert {f.name for f in fields(PlanOptions)} == set(PLANS)


@pytest.mark.parametrize(
    "change",
    [{"dtype": "bfloat16"}, *({k: v} for k, v in PLANS.items() if k != "iterations")],
)
def test_other_loading_and_other_plans_are_other_keys(checkpoint: Path, keys: Any, change: dict[str, Any]) -> None:
    one, other = keys(checkpoint), keys(checkpoint, **change)
    assert all(set(one[job]).isdisjoint(other[job]) for job in ALL)


def test_streamed_units_are_their_own(checkpoint: Path) -> None:
    grounds = [ground_of(depthsig.load(checkpoint, stream=stream, progress=False)) for stream in (False, True)]
    assert grounds[0] is not None and grounds[1] is not None
    assert {name for name in grounds[0] if grounds[0][name] != grounds[1][name]} == {"streamed"}


def test_more_iterations_are_another_key(checkpoint: Path, keys: Any) -> None:
    one, other = (keys(checkpoint, order="0:1,1:3xN,3:4".replace("N", n)) for n in "23")
    assert all(set(one[job]).isdisjoint(other[job]) for job in ALL)


@pytest.mark.parametrize("changed", ["weights", "config", "threads", "version", "source", "device", "precision"])
def test_other_weights_places_and_versions_are_other_keys(
    checkpoint: Path, tmp_path: Path, keys: Any, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "llama")
    one = keys(folder)
    assert keys(checkpoint) == one  # wherever it lies
    if changed == "weights":
        change_weights(folder, lambda state: state["model.norm.weight"].mul_(1.001))
    if changed == "config":
        configure(folder, rms_norm_eps=1e-4)
    if changed == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 17)
    if changed == "version":
        monkeypatch.setattr(unit_cache, "versions", lambda: {"torch": "0.1"})
    if changed == "source":
        monkeypatch.setattr(unit_cache, "source_digest", lambda: "edited")
    if changed == "device":
        monkeypatch.setattr(unit_cache, "_places", lambda model: [["cuda:1"]])
    if changed == "precision":
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    other = keys(folder)
    assert all(set(one[job]).isdisjoint(other[job]) for job in ALL)


def test_a_span_by_another_name_counts(checkpoint: Path, keys: Any) -> None:
    """What is left out and exchanged by blocks follows the labels, though the same steps run."""
    one, other = (keys(checkpoint, order=None, grown=f"0:4/{size}") for size in (1, 2))
    assert one["order"] != other["order"]


def test_the_source_digest_tells_an_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from depthsig.signature import provenance

    package = shutil.copytree(Path(provenance.__file__).parents[1], tmp_path / "depthsig")
    monkeypatch.setattr(provenance, "__file__", str(package / "signature" / "provenance.py"))
    own = provenance.source_digest.__wrapped__
    before = own()
    assert before == own()
    (package / "engine" / "kernel.py").open("a").write("# an edit\n")
    assert own() != before


def test_a_unit_is_packed_as_it_lies() -> None:
    """Nothing in a unit is compressed, so that none is larger than its file."""
    piece = Samples(3)
    with zipfile.ZipFile(io.BytesIO(unit_cache._packed([], piece, []))) as packed:
        assert {one.compress_type for one in packed.infolist()} == {zipfile.ZIP_STORED}
