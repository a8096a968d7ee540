"""A sweep is its units, each as analyze makes it by itself; what fails, stops or was there before changes none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from checkpoint_folders import change_weights
from swept_folders import grown, sweep, write

import depthsig
from depthsig.cli.main import main
from depthsig.commands.sweeps.onsets import _rows
from depthsig.commands.sweeps.sweep_file import read_sweep
from depthsig.errors import InputError
from depthsig.signature.schema import TABLES
from depthsig.signature.sweeps.onset import onset_of
from depthsig.signature.sweeps.swept import Swept, numbered

LITTLE = "prompts: [lookup]\nn: 5\nmax_tokens: 24\nmetrics: [lens.kl, residual, skip]\ncontrol: false\n"
ORDER = "0:2,1:3,2:4"
pytestmark = pytest.mark.filterwarnings("ignore::depthsig.errors.DepthsigWarning")  # prompts are cut


def test_every_unit_is_as_analyze_makes_it(checkpoint: Path, tmp_path: Path) -> None:
    text = f"checkpoints: ['{checkpoint}']\norders: [native, '{ORDER}']\npresets: [kapl-2512.08819]\n{LITTLE}"
    found = sweep(write(tmp_path, text), tmp_path / "out")
    assert [*found.scores.columns] == [
        "folder", "checkpoint", "revision", "order", "prompts", "preset", *TABLES["scores"]
    ]  # fmt: skip
    assert found.units["state"].tolist() == ["done", "done"] and found.units["order"].tolist() == ["native", ORDER]
    assert found.units["steps"].tolist() == [4, 6] and found.swept == ["order"] and found.axes() == ["order", "depth"]
    for row, order in zip(found.units.to_dict("records"), (None, ORDER), strict=True):
        alone = depthsig.analyze(
            str(checkpoint), "lookup", n=5, max_tokens=24, metrics=["lens.kl", "residual", "skip"], control=False,
            order=order, preset="kapl-2512.08819", progress=False,
        )  # fmt: skip
        kept = depthsig.Signature.load(tmp_path / "out" / row["folder"])
        for table in ("profiles", "matrices", "scores", "samples_table", "tokens_table"):
            pd.testing.assert_frame_equal(getattr(kept, table), getattr(alone, table), check_exact=True)
        rows = found.scores[found.scores["folder"] == row["folder"]]
        pd.testing.assert_frame_equal(rows[[*TABLES["scores"]]].reset_index(drop=True), alone.scores, check_exact=True)
        assert not (tmp_path / "out" / row["folder"] / "report.html").exists()
    read = Swept.load(tmp_path / "out")
    pd.testing.assert_frame_equal(read.scores, found.scores)
    assert repr(read) == "Sweep few: 2 units, over order: 2 done" and "few" in read._repr_html_()
    table = pd.read_csv(tmp_path / "out" / "sweep.csv")  # by plain pandas no cell is lost
    assert not table[["checkpoint", "revision", "order", "prompts", "preset", "score", "metric"]].isna().any(axis=None)
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    assert sorted(p.name for p in (tmp_path / "out" / "figures").iterdir()) == ["sweep.depth.png", "sweep.order.png"]


def test_what_fails_stops_no_other(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    text = f"checkpoints: ['{tmp_path}/nowhere', '{checkpoint}']\norders: ['0:9', native]\n{LITTLE}"
    file, out = write(tmp_path, text), tmp_path / "out"
    assert main(["sweep", str(file), "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert "4 units, over checkpoint, order: 1 done, 3 failed" in told.out and "the model has layers 0..3" in told.out
    assert "4 of 4: llama_native_lookup" in told.err and "done in" in told.err
    units = Swept.load(out).units
    assert units["state"].tolist() == ["failed", "failed", "failed", "done"]
    assert all("nowhere" in why for why in units["why"][:2]) and "\n" not in "".join(units["why"])
    assert not (out / units["folder"][0]).exists()
    capsys.readouterr()
    assert main(["sweep", str(file), "--out", str(out), "--resume", "--json"]) == 1
    assert [one["state"] for one in json.loads(capsys.readouterr().out)["units"]].count("done") == 1
    assert (out / "run.toml").exists() and not (out / units["folder"][3] / "run.toml").exists()


def test_resume_keeps_what_is_still_true(checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(checkpoint, own)
    file, out = write(tmp_path, f"checkpoints: ['{own}']\norders: [native, '{ORDER}']\n{LITTLE}"), tmp_path / "out"
    before = sweep(file, out)
    first, second = (out / name for name in before.units["folder"])

    def made() -> list[int]:
        return [(one / "signature.json").stat().st_mtime_ns for one in (first, second)]

    told = made()
    sweep(file, out, resume=True)
    assert made() == told
    (second / "profiles.csv").write_text("damaged")
    pd.testing.assert_frame_equal(sweep(file, out, resume=True).scores, before.scores, check_exact=True)
    assert made()[0] == told[0] and made()[1] != told[1]
    record = json.loads((first / "signature.json").read_text())
    record["versions"]["depthsig"] = "0.0.1"
    (first / "signature.json").write_text(json.dumps(record))
    told = made()
    sweep(file, out, resume=True)
    assert made()[0] != told[0] and made()[1] == told[1]
    change_weights(own, lambda state: state["model.norm.weight"].mul_(1.5))
    other = sweep(file, out, resume=True)
    told = made()
    config = own / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    sweep(file, out, resume=True)
    assert made()[0] != told[0]
    assert (other.scores["value"] != before.scores["value"]).any()
    file.write_text(file.read_text().replace("n: 5", "n: 3"))
    with pytest.raises(InputError, match="holds another sweep, 'few'"):
        sweep(file, out)
    fewer = sweep(file, out, resume=True)  # other units, in folders of their own
    assert set(fewer.scores["n_prompts"]) == {3} and first.exists() and not set(fewer.units["folder"]) & {first.name}


def test_resume_looks_at_every_file_that_is_named(checkpoint: Path, tmp_path: Path) -> None:
    prompts, plugin, out = tmp_path / "p.txt", tmp_path / "mine.py", tmp_path / "out"
    prompts.write_text("one two three four\nfive six\n")
    plugin.write_text("pass\n")
    file = write(
        tmp_path, f"checkpoints: ['{checkpoint}']\nprompts: ['{prompts}']\nmetrics: [lens.kl]\ncontrol: false\n"
    )
    made = out / sweep(file, out, plugin=plugin).units["folder"][0] / "signature.json"
    for change in (prompts, plugin):
        before = made.stat().st_mtime_ns
        sweep(file, out, plugin=plugin, resume=True)
        assert made.stat().st_mtime_ns == before
        change.write_text(change.read_text() + "\n" * (change == plugin) + "seven = 8\n")
        sweep(file, out, plugin=plugin, resume=True)
        assert made.stat().st_mtime_ns > before
    assert len(depthsig.Signature.load(made.parent).prompts) == 3


def test_roles_are_compared_and_claims_set_in(checkpoint: Path, tmp_path: Path) -> None:
    for step, by in ((10, 1.0), (9, 3.0), (200, 6.0)):
        grown(tmp_path / f"a-step{step}", checkpoint, by)
        grown(tmp_path / f"b-step{step}", checkpoint, 1 / by + 0.01)
    text = f"""
checkpoints: ['{tmp_path}/a-{{revision}}', '{tmp_path}/b-{{revision}}']
revisions: [step10, step9, step200]
roles: {{grown: ['{tmp_path}/a-{{revision}}'], baseline: ['{tmp_path}/b-{{revision}}']}}
{LITTLE}"""
    found = sweep(write(tmp_path, text), tmp_path / "out")
    assert found.info["comparisons"] == ["compare-1-step10", "compare-2-step9", "compare-3-step200"]
    folders = {
        (u["checkpoint"][-12], u["revision"]): tmp_path / "out" / u["folder"] for u in found.units.to_dict("records")
    }
    roles = {"grown": [str(folders["a", "step9"])], "baseline": [str(folders["b", "step9"])]}
    direct = depthsig.compare([folders["a", "step9"], folders["b", "step9"]], roles=roles, progress=False)
    kept = depthsig.Comparison.load(tmp_path / "out" / "compare-2-step9")
    pd.testing.assert_frame_equal(kept.claims, direct.claims)
    assert (tmp_path / "out" / "compare-2-step9" / "report.html").exists()
    # Revisions are in the order of their steps, whatever the file's.
    about = {"score": "late_share", "metric": "-", "part": "layer", "scope": "current", "agg": "mean"}
    line = found.against("revision", about)
    assert line["x"].tolist() == [9, 10, 200] * 2 and line["label"].tolist() == ["step9", "step10", "step200"] * 2
    onset = found.onset
    assert set(onset["role"]) == {"-", "grown"} and {"late"} <= set(onset["claim"])
    for row in onset.to_dict("records"):
        verdicts = row["note"].split(" → ")
        assert len(verdicts) == 3 and (row["latest"] == "step9") == (set(verdicts) == {"holds"})
    page = (tmp_path / "out" / "report.html").read_text()
    assert "compare-2-step9/report.html" in page and "Onset" in page


@pytest.mark.parametrize(
    ("verdicts", "beyond", "expected"),
    [
        ("HHH", "111", ("0", "0", "0")),
        ("AOH", "011", ("1", "1", "2")),
        ("AOOH", "0010", ("2", "1", "3")),
        ("HAO", "101", ("2", "2", "-")),
        ("AAA", "000", ("-", "-", "-")),
        ("HOA", "110", ("-", "-", "-")),
        ("OOO", "000", ("-", "0", "-")),
        ("OOO", "011", ("1", "0", "-")),
    ],
)
def test_the_onset_of_a_claim(verdicts: str, beyond: str, expected: tuple[str, str, str]) -> None:
    words = {"H": "holds", "A": "does not hold", "O": "open"}
    revisions = [str(number) for number in range(len(verdicts))]
    found = onset_of(revisions, [words[v] for v in verdicts], [b == "1" for b in beyond])
    assert (found["onset"], found["earliest"], found["latest"]) == expected


def test_claims_of_a_number_below_and_revisions_without_a_verdict() -> None:
    above, below = ("open", True), ("open", False)
    found = {
        "step1": {("least_damaging", "-"): above, ("late", "-"): ("does not hold", False)},
        "step2": {("least_damaging", "-"): below},  # late could not be judged
        "step3": {},  # no result
        "step4": {("least_damaging", "-"): below, ("late", "-"): ("holds", True)},
    }
    rows = {row["claim"]: row for row in _rows(["a", None, None, None], found)}
    late, least = rows["late"], rows["least_damaging"]
    assert (late["onset"], late["earliest"], late["latest"]) == ("step4", "step2", "step4")
    assert late["note"] == "does not hold → not judged → not judged → holds"
    assert (least["onset"], least["earliest"], least["latest"]) == ("step4", "step1", "-")


def test_steps_are_numbers_where_each_revision_has_its_own() -> None:
    olmo = ["stage1-step928646-tokens3896B", "stage2-ingredient1-step1000-tokens5B"]
    assert numbered(olmo) is None and numbered(["step1000-tokens4B", "step2000-tokens8B"]) == {
        "step1000-tokens4B": 1000, "step2000-tokens8B": 2000,
    }  # fmt: skip
    assert numbered(["checkpoint-5", "checkpoint-10"]) == {"checkpoint-5": 5, "checkpoint-10": 10}
    assert numbered(["seed3-step5", "seed4-step5"]) is None and numbered(["main", "step5"]) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("checkpoints: []", "names no checkpoints"),
        ("- a", "holds no keys"),
        ("checkpoints: [a", "is no YAML"),
        ("checkpoints: [a]\norder: x", "gives 'order' .did you mean 'orders'"),
        ("checkpoints: [a]\ntrust_remote_code: true", "no file lets code run; give it on the command line"),
        ("checkpoints: [a]\nplugin: x.py", "no file lets code run"),
        ("checkpoints: &x [a]\nprompts: *x", r"refers to another place by \*"),
        ("checkpoints: [a, a]", "names 'a' twice"),
        ("checkpoints: [a]\ncheckpoints: [b]", "gives 'checkpoints' twice"),
        ("checkpoints: [a]\nn: 1:1", "n is '1:1'"),
        ("checkpoints: [[a]]", "it is a list of text"),
        ("checkpoints: ['a-{revision}']", "stands for a revision; give `revisions`"),
        ("checkpoints: [a]\nroles: {midas: [a]}", "roles has 'midas'"),
        ("checkpoints: [a]\nroles: {grown: [b]}", "roles name 'b', which is not swept"),
        ("checkpoints: [a]\nroles: {grown: [a], baseline: [a]}", "more than once; a checkpoint has one role"),
        ("checkpoints: [a]\nroles: [a]", "roles is list"),
        ("checkpoints: [a]\nmetrics: [lens.nothing]", "lens.nothing"),
        ("checkpoints: [a]\nn: many", "n is 'many'; it is a whole number"),
        ("checkpoints: [a]\nmemory: lots", "is no amount of memory"),
        ("checkpoints: [a]\npresets: [nobody-1]", "nobody-1"),
        ("checkpoints: [a]\ndtype: float8", "--dtype 'float8' is unknown"),
        ("!!python/object/apply:os.system [echo]", "is no YAML"),
        ("\n".join([f"{name}: {list(range(20))}" for name in ("checkpoints", "revisions", "orders", "prompts")]),
         "comes to 160,000 analyses"),
    ],
)  # fmt: skip
def test_files_are_held_to_their_form(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as told:
        sweep(write(tmp_path, text), tmp_path / "out")
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="cannot be read"):
        sweep(tmp_path / "no.yaml", tmp_path / "out")


def test_what_is_written_stays_as_it_is(tmp_path: Path) -> None:
    text = "checkpoints: [1.10]\nrevisions: [010, 1_000, yes, 2024-01-01]\norders: ['0:4']\nloop: 4:8\nmax_tokens: 64\n"
    units = read_sweep(write(tmp_path, text + "keep_first: true\ncuts: null\n")).units
    assert {one.checkpoint for one in units} == {"1.10"} and {one.order for one in units} == {"0:4"}
    assert [one.revision for one in units] == ["010", "1_000", "yes", "2024-01-01"]
    assert units[0].options == {"loop": "4:8", "max_tokens": 64, "keep_first": True, "cuts": None}
    long = read_sweep(write(tmp_path, f"checkpoints: [{'名' * 90}]\nprompts: [{'字' * 90}]\n")).units[0]
    assert len(long.folder.encode()) < 100


def test_two_at_once_in_a_folder_are_one_too_many(checkpoint: Path, tmp_path: Path) -> None:
    file, out = write(tmp_path, f"checkpoints: ['{checkpoint}']\n{LITTLE}"), tmp_path / "out"
    program = (
        "import sys, time; from pathlib import Path; from depthsig.signature.folders.locks import alone_in\n"
        f"with alone_in(Path({str(out)!r})):\n    print('here', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "here\n"
        with pytest.raises(InputError, match="is being written by another process"):
            sweep(file, out)
        other.kill()
    assert len(sweep(file, out).failed) == 0  # a lock goes with its process
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.yaml", "out"]


def test_an_interrupted_start_leaves_the_tables_that_were_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = write(tmp_path, f"checkpoints: ['{checkpoint}']\n{LITTLE}"), tmp_path / "out"
    before = sweep(file, out)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("depthsig.commands.sweep.run_here", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(file, out)
    pd.testing.assert_frame_equal(Swept.load(out).scores, before.scores)
    assert (out / "report.html").exists()


def test_a_comparison_without_a_network_says_so(checkpoint: Path, tmp_path: Path) -> None:
    grown(tmp_path / "other", checkpoint, 2.0)
    text = f"checkpoints: ['{checkpoint}', '{tmp_path}/other', '{tmp_path}/none']\n{LITTLE}"
    text += f"roles: {{grown: ['{tmp_path}/other', '{tmp_path}/none'], baseline: ['{checkpoint}']}}\n"
    found = sweep(write(tmp_path, text), tmp_path / "out")
    assert found.info["comparisons"] == ["compare"]
    assert found.info["warnings"] == [f"compare lacks {tmp_path}/none, of which there is no result"]


@pytest.mark.parametrize("name", ["../victim", "javascript:alert(1)//", "a/b", "..", "", "a\\b"])
def test_a_record_of_a_sweep_names_folders_within_it(name: str, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    unit = {"folder": "a", "state": "done"} | dict.fromkeys(
        ("checkpoint", "revision", "order", "prompts", "preset"), "-"
    )
    told = {
        "schema": "depthsig-sweep/1", "created": "", "versions": {}, "name": "x", "units": [unit],
        "comparisons": [name],
    }  # fmt: skip
    Swept({**told, "comparisons": []}).write(out)
    assert Swept.load(out).info["units"][0]["folder"] == "a"
    (out / "sweep.json").write_text(json.dumps(told))
    with pytest.raises(InputError):
        Swept.load(out)
    (out / "sweep.json").write_text(json.dumps({**told, "comparisons": [], "units": [{**unit, "folder": name}]}))
    with pytest.raises(InputError):
        Swept.load(out)


def test_a_damaged_sweep_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep(write(tmp_path, f"checkpoints: ['{checkpoint}']\n{LITTLE}"), out)
    table = pd.read_csv(out / "sweep.csv")
    table.assign(folder="elsewhere").to_csv(out / "sweep.csv", index=False)
    with pytest.raises(InputError, match="its record knows no unit 'elsewhere'"):
        Swept.load(out)
    (out / "sweep.json").write_text('{"schema": "depthsig-sweep/1", "units": 3}')
    with pytest.raises(InputError):
        Swept.load(out)


@pytest.mark.slow
def test_killed_sweeps_are_gone_on_with(checkpoint: Path, tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("killed_sweeps.py")), str(checkpoint), str(tmp_path), "20"]
    run = subprocess.run(program, capture_output=True, text=True, check=False, timeout=1500)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.startswith("20 kills among ")
