"""The results of a comparison: folder, page, figures, and the command on the shipped signatures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_signatures import CLAIMS, noisy, signature, three_arms

import depthsig
from depthsig.cli.main import main
from depthsig.errors import InputError
from depthsig.report import build, comparison_plot
from depthsig.report.page.compared_page import save
from depthsig.signature import Comparison, Signature

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "data" / "signatures"


# ---------------------------------------------------------------- results: folder, page, command


def test_a_comparison_survives_its_folder(tmp_path: Path) -> None:
    found = depthsig.compare(three_arms(), out=tmp_path / "c", resamples=50)
    again = Comparison.load(tmp_path / "c")
    for name in ("claims", "distances", "late", "scores", "recurrence", "profiles"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(again, name))
    assert again.info == found.info and again.sentences() == found.sentences()
    assert pd.read_csv(tmp_path / "c" / "claims.csv").columns.tolist() == CLAIMS
    assert list(found.claims["claim"]) == ["late", "late", "recurrence", "recurrence", "convergence"]
    assert "5 rows" not in repr(found) and "<table" in found._repr_html_()
    (tmp_path / "c" / "late.csv").write_text("level\nx\n")
    with pytest.raises(InputError, match=r"late\.csv"):
        Comparison.load(tmp_path / "c")
    (tmp_path / "c" / "compare.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        Comparison.load(tmp_path / "c")


def test_the_page_escapes_every_name(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    found = depthsig.compare(three_arms(looped=evil, baseline="<b>&"), resamples=20)
    page = save(found, tmp_path / "c").read_text()
    assert evil not in page and "&lt;script&gt;" in page and "<b>&" not in page
    assert "data:image/png;base64" in page and "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is fetched
    assert "<script>" not in found._repr_html_()
    names = {p.name for p in (tmp_path / "c" / "figures").iterdir()}
    wanted = {
        "claims",
        "tree",
        "distances",
        "distances.roles",
        "late.models",
        "late.differences",
        "profiles.contribution",
    }
    assert {f"{n}.png" for n in wanted} <= names and not [n for n in names if n.endswith(".svg")]
    before = (tmp_path / "c" / "claims.csv").read_bytes()
    (tmp_path / "c" / "report.html").unlink()
    assert build(tmp_path / "c").read_text() == page and (tmp_path / "c" / "claims.csv").read_bytes() == before


def test_a_page_of_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lens profiles alone, of three prompts: no late layers, no interval, claims that stay open."""
    lens = {("lens.kl", "", "", "depth"): noisy(np.linspace(2, 0, 13), 3)}
    for name, span in (("one", (0, 4, 3, "loop")), ("two", None)):
        signature(lens, 12, name=name, span=span).save(tmp_path / name, figures=False)
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "c")]) == 0
    out = capsys.readouterr().out
    assert "late (looped): undecided" in out and "skip.output_l2 (layer, current) was not measured" in out
    assert "too few for intervals" in out and "reliance on late layers" not in out
    found = Comparison.load(tmp_path / "c")
    assert set(found.claims["verdict"]) == {"undecided"} and found.claims["estimate"].isna().all()
    assert (tmp_path / "c" / "figures" / "tree.png").exists() and found.late.empty and found.scores.empty


def test_one_without_skip_still_gets_its_page(tmp_path: Path) -> None:
    """What only one of two has cannot be subtracted; that draws nothing and ends nothing."""
    both = {("lens.kl", "", "", "depth"): noisy(np.linspace(2, 0, 13), 6)}
    skip = {("skip.output_l2", "layer", "current", "step"): noisy(np.ones(12), 6)}
    signature(both, 12, name="one", span=(0, 4, 3, "loop")).save(tmp_path / "one", figures=False)
    signature(both | skip, 12, name="two").save(tmp_path / "two", figures=False)
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c" / "report.html").exists()
    assert not (tmp_path / "c" / "figures" / "late.differences.png").exists()


def test_a_failed_write_leaves_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = depthsig.compare(three_arms(), resamples=20)
    out = tmp_path / "c"
    found.save(out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def broken(*args: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("depthsig.report.page.compared_page.draw", broken)
    with pytest.raises(RuntimeError):
        save(found, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    with pytest.raises(RuntimeError):
        save(found, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def _dirs(*names: str) -> list[str]:
    return [str(SHIPPED / name) for name in names]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Looped, MIDAS and baseline at both seeds, compared by the command."""
    out = tmp_path_factory.mktemp("compare") / "family"
    looped, midas, base = (
        _dirs(f"{arm}-seed2-lookup", f"{arm}-seed1-lookup") for arm in ("looped", "midas", "baseline")
    )
    roles = f"looped={'+'.join(looped)},grown={'+'.join(midas)},baseline={'+'.join(base)}"
    assert main(["compare", *_dirs("lidas-seed2-lookup"), "--roles", roles, "--out", str(out), "--no-progress"]) == 0
    return out


def test_the_family_gets_a_verdict_on_each_claim(family: Path) -> None:
    claims = pd.read_csv(family / "claims.csv", keep_default_na=False)
    assert list(claims.columns) == CLAIMS
    assert list(zip(claims["claim"], claims["a"], strict=True)) == [
        ("late", "looped"), ("late", "grown"), ("recurrence", "looped"), ("recurrence", "grown"),
        ("convergence", "looped"),
    ]  # fmt: skip
    assert set(claims["verdict"]) <= {"supported", "contradicted", "undecided"}
    assert (claims["ci_low"].astype(float) <= claims["estimate"].astype(float)).all()
    assert claims["note"].str.contains("about these checkpoints, 2 an arm").all()
    info = json.loads((family / "compare.json").read_text())
    assert info["prompts"] == {"n": 20, "same_tokens": True} and len(info["profiles"]["compared"]) == 29
    assert [m["role"] for m in info["models"]] == ["", *["looped"] * 2, *["grown"] * 2, *["baseline"] * 2]
    assert all(len(m["content"]) == 64 for m in info["models"]) and info["versions"]["depthsig"]


def test_scores_are_those_of_the_signatures(family: Path) -> None:
    scores = pd.read_csv(family / "scores.csv", keep_default_na=False)
    saved = Signature.load(SHIPPED / "looped-seed2-lookup").scores
    for name in ("late_share", "depth_score.output", "depth_score.effect.relative"):
        own = scores.query("model == 'looped-seed2-lookup' and score == @name and scope == 'current'").iloc[0]
        theirs = saved.query("score == @name and part == 'layer' and scope == 'current' and agg == 'mean'").iloc[0]
        for column in ("value", "ci_low", "ci_high"):
            assert float(own[column]) == pytest.approx(theirs[column], rel=1e-4), (name, column)
    strengths = pd.read_csv(family / "recurrence.csv").query("a == 'looped' and c == 'baseline'")
    assert (strengths["p_a"].iloc[1:] <= 1).all() and strengths["strength_a"].iloc[0] > 0.3


def test_different_depths_along_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = _dirs("midas-seed2-step1000-lookup", "midas-seed2-step2500-lookup", "baseline-seed2-step1000-lookup")
    assert main(["compare", *folders, "--out", str(tmp_path / "c"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [m["steps"] for m in told["models"]] == [8, 16, 24] and told["claims"] == []
    assert told["distances"][0]["metric"] == "mean" and Path(told["report"]).exists()


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for one in three_arms():
        one.save(tmp_path / one.info["checkpoint"]["name"], figures=False)
    folders = [str(tmp_path / name) for name in ("looped", "grown", "baseline")]
    assert main(["compare", *folders, "--out", str(tmp_path / "c"), "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "guessed from what the signatures declare" in out and "convergence (looped):" in out
    assert "late_share(looped) − late_share(baseline) = " in out and "reliance on late layers" in out
    assert "--seed 3" in (tmp_path / "c" / "report.html").read_text()
    assert main(["compare", "--roles", f"looped={folders[0]},baseline={folders[2]}", "--out", str(tmp_path / "c")]) == 0
    assert Comparison.load(tmp_path / "c").models == ["looped", "baseline"]


def test_a_strict_comparison_says_what_a_claim_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command: supported on its own prompts, not on others; the page shows it, and the command that made it."""
    share = {"looped": 0.6, "baseline": 0.3}
    for texts in ("own", "other"):
        for role, value in share.items():
            for i in range(3):
                late = np.r_[np.ones(8), np.full(4, 2 * value if texts == "own" else 0.6)]
                values = {("skip.output_l2", "layer", "current", "step"): noisy(late, 12, 10 * len(role) + i)}
                one = signature(values, 12, name=f"{role}{i}", texts=[f"{texts} {p}" for p in range(12)])
                one.save(tmp_path / texts / f"{role}{i}", figures=False)

    def roles(texts: str) -> str:
        folders = {r: "+".join(str(tmp_path / texts / f"{r}{i}") for i in range(3)) for r in share}
        return ",".join(f"{r}={text}" for r, text in folders.items())

    out = str(tmp_path / "c")
    asked = ["compare", "--roles", roles("own"), "--strict", "--reworded", roles("other"), "--out", out]
    assert main([*asked, "--no-progress"]) == 0
    told = capsys.readouterr().out
    assert "late (looped): supported, but fails: reworded (" in told and "strict: falls; passes halves" in told
    page = (tmp_path / "c" / "report.html").read_text()
    assert 'data-name="unit_tests"' in page and "supported, but fails: reworded" in page and "strict: falls" in page
    assert "--strict --reworded" in page.replace("\n", " ")
    table = pd.read_csv(tmp_path / "c" / "unit_tests.csv")
    assert dict(zip(table["test"], table["passed"], strict=True)) == {
        "halves": "yes", "reworded": "no", "permuted labels": "yes", "re-initialised": "not tested",
        "random ablation": "not tested", "cheap baseline": "not tested",
    }  # fmt: skip
    assert main([*asked, "--no-progress", "--json"]) == 0
    assert [row["strict"] for row in json.loads(capsys.readouterr().out)["unit_tests"]] == ["falls"] * 6
    overlap = [*asked[:-1], str(tmp_path / "other" / "looped0"), "--no-progress"]
    assert main(overlap) == 2 and "overlap" in capsys.readouterr().err
    assert main(["compare", "--roles", roles("own"), "--reworded", roles("other"), "--out", out]) == 2
    assert "--reworded goes with --strict" in capsys.readouterr().err


def test_user_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for one in three_arms():
        one.save(tmp_path / one.info["checkpoint"]["name"], figures=False)
    looped, grown = str(tmp_path / "looped"), str(tmp_path / "grown")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    damaged = tmp_path / "damaged"
    depthsig.Signature.load(looped).save(damaged, figures=False)
    (damaged / "samples.parquet").write_bytes(b"no parquet")
    new = str(tmp_path / "new")
    cases: list[tuple[list[str], str]] = [
        ([looped, "--out", new], "two signatures or more"), ([looped, looped, "--out", new], "given twice"),
        ([looped, str(tmp_path / "none"), "--out", new], "no folder"),
        ([looped, str(damaged), "--out", new], "samples.parquet"),
        ([looped, grown, "--roles", "looped", "--out", new], "cannot be read"),
        ([looped, grown, "--out", str(tmp_path / "mine")], "no depthsig result"),
        ([looped, grown, "--out", looped], "overlap"), ([looped, grown, "--out", str(tmp_path)], "overlap"),
        ([looped, grown, "--out", str(tmp_path / "baseline")], "of another kind"),
        ([*_dirs("looped-seed2-lookup", "looped-seed2-gsm8k"), "--out", new], "no prompt in common"),
    ]  # fmt: skip
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    for arguments, says in cases:
        assert main(["compare", *arguments]) == 2, arguments
        captured = capsys.readouterr()
        assert says in captured.err and captured.err.count("\n") == 1 and not captured.out, arguments
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


def test_comparing_imports_no_torch(tmp_path: Path) -> None:
    for one in three_arms():
        one.save(tmp_path / one.info["checkpoint"]["name"], figures=False)
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "from depthsig.cli.main import main\n"
        f"t = {str(tmp_path)!r}\n"
        "sys.exit(main(['compare', t + '/looped', t + '/grown', t + '/baseline', '--out', t + '/c']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c" / "report.html").exists()


def test_computing_draws_nothing() -> None:
    folders = _dirs("midas-seed2-step1000-lookup", "lidas-seed2-step2500-lookup")
    code = (
        f"import sys, depthsig; depthsig.compare({folders!r})\n"
        "assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_show_what_the_tables_say() -> None:
    from depthsig.report.page.compared_page import figures_for

    found = depthsig.compare(three_arms(), resamples=50)
    drawn = {d.name: d.figure for d in figures_for(found)}
    axes = drawn["claims"].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "late: looped − baseline" and len(labels) == len(found.claims)
    assert [t.get_text() for t in axes.texts] == list(found.claims["verdict"])
    numbers = [float(t.get_text()) for t in drawn["distances"].axes[0].texts]
    assert np.allclose(numbers, found.distance_matrix().to_numpy().ravel(), atol=0.0051)
    panel = drawn["profiles.contribution"].axes[0]
    assert " ".join(panel.get_title().split()) == "Relative contribution ‖u‖/‖r‖, layer"
    assert found.plot("contribution.relative.layer").get_title() == "Relative contribution ‖u‖/‖r‖, layer"
    captions = {one.name: one.caption for one in (*figures_for(found), *comparison_plot._profiles(found))}
    for name in ("profiles.contribution", "contribution.relative.layer"):
        assert "contribution.relative" in captions[name]  # where the id is found
    lines = panel.get_lines()
    curve = found.profiles.query("model == 'looped' and metric == 'contribution.relative' and part == 'layer'")
    assert np.allclose(lines[0].get_ydata(), curve["value"])
