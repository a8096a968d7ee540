"""Which figures are written where, in which form, how often each is drawn, and what is left alone."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_signatures import late, noisy, signature, skip_only, three_arms
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure

import depthsig
from depthsig import report
from depthsig.cli.main import main
from depthsig.errors import InputError
from depthsig.report.drawn_files import FORMATS
from depthsig.report.figures.cells import Cells
from depthsig.report.figures.labels import PowersOfTen, blocks
from depthsig.report.gallery import figures_for
from depthsig.report.page.compared_page import figures_for as figures_of_comparison
from depthsig.report.style import house_style, settle
from depthsig.signature import Signature

TABLES = {
    "signature.json",
    "findings.json",
    "profiles.csv",
    "matrices.csv",
    "scores.csv",
    "prompts.csv",
    "samples.parquet",
    "tokens.parquet",
}
NAMES = {"plan", "lens.kl", "skip.output_l2", "lens.tokens.0", "early_exit"}


def made() -> Signature:
    """A signature with a profile over depth and one over steps, tokens, and a control."""
    curves = {**skip_only(late(6, 0.5)), ("lens.kl", "", "", "depth"): noisy(np.linspace(2, 0, 7), 6)}
    found = signature(curves, 6, span=(0, 2, 3, "grown"))
    rows = [
        {"metric": "lens.tokens", "prompt": 0, "index": d, "position": p, "token": f"t{p}", "rank": 1, "token_id": p,
         "value": 0.5, "input_token": f"$i{p}"}
        for d in range(7) for p in range(1, 4)
    ]  # fmt: skip
    found = replace(found, tokens_table=pd.DataFrame(rows).assign(part="-", scope="-"))
    return replace(found, control=found)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What :func:`made` gives, saved with the figures of its page; tests take a copy."""
    return made().save(tmp_path_factory.mktemp("saved") / "a")


@pytest.fixture(scope="module")
def tables(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without any figure."""
    folder = tmp_path_factory.mktemp("tables") / "a"
    return Path(shutil.copytree(saved, folder, ignore=shutil.ignore_patterns("figures", "report.html")))


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is drawn: ``files`` that figures are saved in, and how often one is rendered."""
    counted: Counter[str] = Counter()
    save, draw = Figure.savefig, Figure.draw

    def savefig(self: Figure, path: Any, **options: Any) -> None:
        counted["files"] += 1
        save(self, path, **options)

    def drawn(self: Figure, renderer: Any) -> None:
        counted["drawings"] += 1
        draw(self, renderer)

    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setattr(Figure, "draw", drawn)
    return counted


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def shown(forms: tuple[str, ...] = ("png",)) -> set[str]:
    return {f"figures/{name}.{form}" for name in NAMES for form in forms}


CONTROL = {f"control/{name}" for name in TABLES - {"findings.json"}}  # of a control nothing is claimed


def test_a_result_has_what_its_page_shows_each_drawn_once(tmp_path: Path, drawings: Counter[str]) -> None:
    assert made().save(tmp_path / "a") == tmp_path / "a"
    assert files(tmp_path / "a") == TABLES | CONTROL | shown() | {"report.html"}
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    pictures = [base64.b64decode(one) for one in re.findall(r'src="data:image/png;base64,([^"]+)', page)]
    assert sorted(pictures) == sorted((tmp_path / "a" / name).read_bytes() for name in shown())
    assert drawings == {"files": len(NAMES), "drawings": len(NAMES)}
    report.build(tmp_path / "a")
    assert drawings == {"files": 2 * len(NAMES), "drawings": 2 * len(NAMES)}
    assert files(tmp_path / "a") == TABLES | CONTROL | shown() | {"report.html"}


def test_tables_alone_draw_nothing_and_leave_no_old_page(saved: Path, tmp_path: Path, drawings: Counter[str]) -> None:
    shutil.copytree(saved, tmp_path / "a")
    made().save(tmp_path / "a", figures=False)
    assert files(tmp_path / "a") == TABLES | CONTROL and not drawings
    code = (
        "import sys; from depthsig import Signature\n"
        f"Signature.load({str(tmp_path / 'a')!r}).save({str(tmp_path / 'b')!r}, figures=False)\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_report_with_all_has_every_format(saved: Path, tmp_path: Path, drawings: Counter[str]) -> None:
    page = made().report(tmp_path / "a", figures="all")
    assert page == tmp_path / "a" / "report.html"
    assert files(tmp_path / "a") == TABLES | CONTROL | shown(tuple(FORMATS)) | {"report.html"}
    assert drawings["files"] == drawings["drawings"] == len(NAMES) * len(FORMATS)
    assert (saved / "report.html").read_bytes() == page.read_bytes()
    with pytest.raises(InputError, match="no choice; there are 'page' and 'all'"):
        made().report(tmp_path / "c", figures="every")  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("forms", ["png", "svg", "pdf", " PNG , svg,svg"])
def test_the_command_draws_what_is_asked_for(
    forms: str, saved: Path, tmp_path: Path, drawings: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    shutil.copytree(saved, out)
    (out / "notes.txt").write_text("mine")
    before = content(out)
    assert main(["figures", str(out), "--format", forms]) == 0
    wanted = shown(tuple({one.strip().lower() for one in forms.split(",")}))
    assert f"figures: {len(wanted)} files in {out / 'figures'}" in capsys.readouterr().out
    after = content(out)
    assert set(after) == TABLES | CONTROL | wanted | {"report.html", "notes.txt"}
    assert {n: b for n, b in after.items() if not n.startswith("figures")} == {
        n: b for n, b in before.items() if not n.startswith("figures")
    }
    assert drawings["files"] == drawings["drawings"] == len(wanted)
    assert main(["figures", str(out), "--format", forms]) == 0 and content(out) == after
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_command_draws_every_format_by_itself_and_needs_no_torch(tables: Path, tmp_path: Path) -> None:
    shutil.copytree(tables, tmp_path / "a")
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"from depthsig.cli.main import main; sys.exit(main(['figures', {str(tmp_path / 'a')!r}]))"
    )
    drawn = []
    for seed in ("1", "2"):  # the same bytes in every process
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        drawn.append(content(tmp_path / "a" / "figures"))
    assert set(drawn[0]) == {name.removeprefix("figures/") for name in shown(tuple(FORMATS))}
    assert drawn[0] == drawn[1]
    assert "report.html" not in files(tmp_path / "a")


def test_a_control_is_drawn_in_its_place(tables: Path, tmp_path: Path) -> None:
    shutil.copytree(tables, tmp_path / "a")
    assert main(["figures", str(tmp_path / "a" / "control"), "--format", "png"]) == 0
    assert files(tmp_path / "a") == TABLES | CONTROL | {f"control/{name}" for name in shown()}
    assert Signature.load(tmp_path / "a").control is not None
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    made().save(tmp_path / "a", figures=False)
    assert files(tmp_path / "a") == TABLES | CONTROL


def test_what_cannot_be_drawn_is_refused_in_one_line(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tables, tmp_path / "a")
    shutil.copytree(tables, tmp_path / "damaged")
    (tmp_path / "damaged" / "profiles.csv").write_text("metric\nx\n")
    (tmp_path / "lens").mkdir()
    (tmp_path / "lens" / "lens.json").write_text('{"schema": "depthsig-lens/1"}')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "compare.json").write_text("{")
    (tmp_path / "repeat").mkdir()
    (tmp_path / "repeat" / "repeat.json").write_text('{"schema": "depthsig-repeat/1"}')
    cases = [
        (["a", "--format", "gif"], "--format 'gif' is none"), (["a", "--format", ""], "there are png, svg, pdf"),
        (["damaged"], "profiles.csv"), (["lens"], "tuned lens, which has no figures"), (["mine"], "no signature.json"),
        (["nowhere"], "no folder"), (["cut"], "compare.json"), (["repeat"], "repeat.csv"),
    ]  # fmt: skip
    before = content(tmp_path)
    for (name, *options), says in cases:
        assert main(["figures", str(tmp_path / name), *options]) == 2, name
        told = capsys.readouterr()
        assert says in told.err and told.err.count("\n") == 1 and not told.out, (name, told.err)
    assert content(tmp_path) == before and not list(tmp_path.glob("*partial*"))


def test_a_failure_on_the_way_leaves_the_old_figures(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved, tmp_path / "a")
    before = content(tmp_path / "a")

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(RuntimeError):
        report.draw(tmp_path / "a")
    assert content(tmp_path / "a") == before and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_comparison_is_drawn_too(tmp_path: Path) -> None:
    depthsig.compare(three_arms(), out=tmp_path / "c", resamples=20)
    tables = files(tmp_path / "c")
    assert main(["figures", str(tmp_path / "c"), "--format", "svg"]) == 0
    names = {p.stem for p in (tmp_path / "c" / "figures").iterdir()}
    assert names >= {"claims", "tree", "distances", "profiles.contribution"}
    assert files(tmp_path / "c") == tables | {f"figures/{name}.svg" for name in names}


# ---------------------------------------------------------------- repeats


def study(folder: Path, spans: int) -> Path:
    """A study's folder as far as its figures go: some spans of one layer, on one task."""
    runs = [{"task": "sums", "times": 1, "damping": 1.0, "delta_loss": 0.0}]
    runs += [
        {"task": "sums", "start": k, "end": k + 1, "times": 2, "damping": 1.0, "delta_loss": k - 1.0}
        for k in range(spans)
    ]
    frame = pd.DataFrame(runs).astype({"start": "Int64", "end": "Int64"})
    for name in ("loss", "accuracy"):
        frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = 1.0, 0.5, 1.5
    frame = frame.assign(n_prompts=5, delta_accuracy=0.0)
    frame["delta_loss_low"], frame["delta_loss_high"] = frame["delta_loss"] - 0.1, frame["delta_loss"] + 0.1
    folder.mkdir()
    (folder / "repeat.json").write_text('{"schema": "depthsig-repeat/1"}')
    frame.to_csv(folder / "repeat.csv", index=False)
    frame[frame["times"] > 1].drop(columns="task").to_csv(folder / "ranking.csv", index=False)
    return folder


@pytest.mark.parametrize(("spans", "names"), [(1, {"times.loss", "times.accuracy"}), (3, {"map.x2", "map.sums.x2"})])
def test_a_study_of_repeats_is_drawn_from_its_tables(spans: int, names: set[str], tmp_path: Path) -> None:
    folder = study(tmp_path / "r", spans)
    assert main(["figures", str(folder), "--format", "svg,pdf"]) == 0
    assert {p.name for p in (folder / "figures").iterdir()} == {f"{n}.{f}" for n in names for f in ("svg", "pdf")}


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [("end", 10**9, "at most"), ("start", -1, "at most"), ("times", 0, "number of passes"), ("task", "x", "the model"),
     ("damping", "", "damping")],
)  # fmt: skip
def test_a_damaged_study_is_named(column: str, value: Any, says: str, tmp_path: Path) -> None:
    folder = study(tmp_path / "r", 3)
    table = pd.read_csv(folder / "repeat.csv", dtype=str, keep_default_na=False)
    table.loc[2, column] = str(value)
    table.to_csv(folder / "repeat.csv", index=False)
    before = content(tmp_path)
    with pytest.raises(InputError, match=rf"repeat\.csv.*damaged.*{says}"):
        report.draw(folder)
    assert content(tmp_path) == before


# ---------------------------------------------------------------- what the figures themselves are


def test_every_text_lies_within_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [d.figure for d in figures_for(made())]
    drawn += [d.figure for d in figures_of_comparison(depthsig.compare(three_arms(), resamples=20))]
    plain = replace(made(), tokens_table=pd.DataFrame())
    for scale in (1e-7, 1234.5, 1e7):  # ticks of every width
        profiles = plain.profiles.assign(**{c: plain.profiles[c] * scale for c in ("value", "ci_low", "ci_high")})
        drawn += [d.figure for d in figures_for(replace(plain, profiles=profiles)) if d.name != "plan"]
    boxes: list[tuple[str, float, float, float, float]] = []
    draw = RendererAgg.draw_text

    def draw_text(
        self: RendererAgg, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False,
        mtext: Any = None,
    ) -> None:  # fmt: skip
        width, height, below = self.get_text_width_height_descent(s, prop, ismath)
        upright = (x - height + below, y - width, x + below, y)
        level = (x, y - height + below, x + width, y + below)
        boxes.append((s, *(level if angle == 0 else upright if angle == 90 else (x, y, x, y))))
        draw(self, gc, x, y, s, prop, angle, ismath, mtext)

    monkeypatch.setattr(RendererAgg, "draw_text", draw_text)
    for figure in drawn:
        settle(figure)
        boxes.clear()
        with house_style():
            FigureCanvasAgg(figure).draw()
        right, below = figure.bbox.x1, figure.bbox.y1
        outside = [b for b in boxes if b[1] < -2 or b[2] < -2 or b[3] > right + 2 or b[4] > below + 2]
        assert boxes and not outside, (outside, right, below)


def test_ticks_of_plain_figures_are_those_of_matplotlib() -> None:
    """The same places, labels and pixels (but for where the margins are) as with its own axis."""
    found = replace(made(), tokens_table=pd.DataFrame())
    found = replace(found, profiles=found.profiles.assign(value=found.profiles["value"] + 1234567.0))
    for drawn in figures_for(found):
        if not drawn.figure.plain:  # type: ignore[attr-defined]
            continue
        settle(drawn.figure)
        ax = drawn.figure.axes[0]
        with house_style():
            canvas = FigureCanvasAgg(drawn.figure)
            canvas.draw()
            ours = np.asarray(canvas.buffer_rgba()).astype(float)
            marks = [line for line in ax.lines if line.get_linestyle() == "None" and not line.get_clip_on()]
            places = [
                (axis, p)
                for axis in (ax.xaxis, ax.yaxis)
                for p in (*axis.get_majorticklocs(), *axis.get_minorticklocs())
            ]
            inside = [p for axis, p in places if min(axis.get_view_interval()) <= p <= max(axis.get_view_interval())]
            assert sum(len(np.ravel(line.get_xdata())) for line in marks) == len(inside) > 6, drawn.name
            for artist in (*marks, *(one for one in ax.findobj(Cells) if one is not ax)):
                artist.remove()
            for text in list(ax.texts):
                if text.get_text() in (ax.get_xlabel(), ax.get_ylabel()):
                    text.remove()
            ax.xaxis.set_visible(True)
            ax.yaxis.set_visible(True)
            canvas.draw()
            theirs = np.asarray(canvas.buffer_rgba()).astype(float)
        # Labels may lie a pixel elsewhere: compared over squares of 16 pixels, which a missing label would change.
        height, width = (n // 16 * 16 for n in ours.shape[:2])
        squares = [
            a[:height, :width, :3].reshape(height // 16, 16, width // 16, 16, 3).mean((1, 3, 4)) for a in (ours, theirs)
        ]
        assert np.abs(squares[0] - squares[1]).max() < 60, drawn.name
        assert abs(squares[0].mean() - squares[1].mean()) < 0.5, drawn.name


def test_labels_of_svg_and_pdf_are_text(tmp_path: Path) -> None:
    made().save(tmp_path / "a", figures=False)
    report.draw(tmp_path / "a")
    svg = (tmp_path / "a" / "figures" / "lens.tokens.0.svg").read_text(encoding="utf-8")
    assert svg.count(">t1</text>") == 7 and ">$i1</text>" in svg
    assert b"/FontFile2" in (tmp_path / "a" / "figures" / "lens.kl.pdf").read_bytes()


def test_texts_in_cells_are_drawn_where_they_belong() -> None:
    """Against matplotlib's own texts, one each: the same pixels but for rounding of a baseline."""
    pictures = []
    for whole in (True, False):
        figure = Figure(figsize=(3, 2), dpi=200)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, 3), ylim=(0, 2))
        ax.set_axis_off()
        cells = [(0.5, 0.5, "agp", "black"), (1.5, 0.5, "$x$", "red"), (2.5, 1.5, "ÄQ", "black")]
        if whole:
            drawn = Cells(cells, fontsize=14)
            drawn.set_transform(ax.transData)
            ax.add_artist(drawn)
        else:
            for x, y, text, colour in cells:
                ax.text(x, y, text, ha="center", va="center", color=colour, fontsize=14, parse_math=False)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        ink = 255.0 - np.asarray(canvas.buffer_rgba())[..., :3]
        pictures.append(ink)
    for column in range(3):
        a, b = (picture[:, column * 200 : (column + 1) * 200].sum(axis=2) for picture in pictures)
        assert a.sum() > 0 and a.sum() == pytest.approx(b.sum(), rel=0.02)
        for axis in (0, 1):
            middle = [np.average(np.arange(len(ink.sum(axis=axis))), weights=ink.sum(axis=axis)) for ink in (a, b)]
            assert middle[0] == pytest.approx(middle[1], abs=2)


def test_powers_of_ten_are_plain_characters() -> None:
    said = PowersOfTen()
    said.create_dummy_axis()
    said.axis.set_view_interval(1e-3, 1e3)
    assert [said(x) for x in (1e-12, 0.001, 1, 100, 0)] == ["10⁻¹²", "10⁻³", "10⁰", "10²", "0"]
    near = PowersOfTen(labelOnlyBase=False)
    near.create_dummy_axis()
    near.axis.set_view_interval(10, 90)
    near.set_locs([10, 20, 30])
    assert near(20) == "2×10¹"


def test_blocks_begin_where_span_number_or_step_changes() -> None:
    plan = pd.DataFrame({
        "step": range(9), "block": [None, 0, 0, 1, 1, None, 1, 0, 0], "span": [None, *"aaaa", None, *"abb"],
    }).astype({"block": "Int64"})  # fmt: skip
    assert blocks(plan) == [(1, 3, 0, "a"), (3, 5, 1, "a"), (6, 7, 1, "a"), (7, 9, 0, "b")]
    assert blocks(pd.DataFrame({"step": [0, 1]})) == blocks(pd.DataFrame()) == []
