"""The page, its plots and the command."""

import itertools
import math
import re

import pytest

from stn_experiments.report import plots
from stn_experiments.report.collect import collect
from stn_experiments.report.report import Report


def test_runs_are_found_at_any_depth_and_once(write_run, root):
    folder = write_run("a/b/run", 1.0)
    write_run(".hidden/run", 1.0)
    write_run("a/b/run/evaluations/other", 1.0)
    records, _ = collect([root, folder, root / "a" / ".." / "a"])
    assert [record.folder for record in records] == [folder]


def test_the_page_needs_nothing_but_itself_and_is_reproducible(write_run, root, tmp_path):
    for seed in range(2):
        write_run(f"a{seed}", 1.0 + seed, seed=seed, evaluations={"clean-11": 2.0})
    write_run("b", 2.0, data="<i>&$x_$", stn="none")
    write_run("c", stn="tps")

    def written(folder):
        Report([root]).write(folder)
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}

    one = written(tmp_path / "one")
    assert one == written(tmp_path / "two")
    drawn = ("curves-rotated", "curves--i-x_-", "iou", "time")
    assert set(one) == {"index.html", "table.md", "table.csv", *(f"plots/{name}.svg" for name in drawn)}
    html = one["index.html"].decode()
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]{1,30})""", html)
    assert len(sources) >= 8
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|<script|<link|@import|<i>", html)
    assert "&lt;i&gt;&amp;$x_$" in html
    assert re.search(r'<td [^>]*style="background: hsl[^>]*>\n?<b>1.50</b></td>', html)
    for text in ("All models", "by epoch", "attention and time", "Robustness", "Panels", "1.50 ± 0.71"):
        assert text in html
    assert "<li>c: 2 of 2 epochs, stopped</li>" in html
    assert "Those without a result are listed" in html
    assert "- c: 2 of 2 epochs, stopped\n" in one["table.md"].decode()


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize(
    ("commits", "note"),
    [
        (["abc", "abc"], ""),
        (["abc", "def", "abc"], "The code may have changed between runs: abc (2), def (1)."),
        (["abc-dirty"], "The code may have changed between runs: abc-dirty (1)."),
    ],
)
def test_runs_of_different_code_are_told(write_run, root, tmp_path, commits, note):
    for seed, commit in enumerate(commits):
        write_run(f"run{seed}", 1.0, seed=seed, result={"commit": commit})
    report = Report([root])
    report.write(tmp_path / "out")
    assert report.code_note == note
    for file in ("table.md", "index.html"):
        assert ("The code may have changed" in (tmp_path / "out" / file).read_text()) == bool(note)


def test_many_models_are_drawn_in_several_plots(write_run, root):
    for width in range(9):
        write_run(f"r{width}", 1.0 + width, **{"stn.width": width})
    svg = Report([root]).plots["curves-rotated"]
    assert len(re.findall(r'id="axes_\d+"', svg)) == 2
    assert len(re.findall(r'id="legend_\d+"', svg)) == 2


def test_a_plot_of_one_epoch_has_one_tick_and_each_point_a_number(write_run, root, figures):
    for width in range(3):  # at one place
        write_run(f"r{width}", 1.0, history=(2.0,), **{"stn.width": width, "trainer.epochs": 1})
    Report([root])
    curves, by_iou, _ = (figure.axes[0] for figure in figures)
    low, high = curves.get_xlim()
    assert [tick for tick in curves.get_xticks() if low <= tick <= high] == [1]
    assert [text.get_text() for text in by_iou.texts] == ["1", "2", "3"]
    legend = [text.get_text() for text in by_iou.get_legend().get_texts()]
    assert legend == [f"{n + 1} rotated: compact + affine stn.width={n}" for n in range(3)]
    offsets = [text.get_position() for text in by_iou.texts]
    assert all(math.dist(a, b) >= plots.NUMBER_SIZE for a, b in itertools.combinations(offsets, 2))


def test_the_points_of_models_in_bold_are_larger(write_run, root, figures):
    write_run("none", 1.0, stn="none", result={"iou_mean": None})
    write_run("affine", 2.0)
    write_run("tps", 3.0, stn="tps")
    Report([root])
    _, by_iou, by_time = ([line.get_markersize() for line in figure.axes[0].lines] for figure in figures)
    assert by_iou == [6, 6]
    assert by_time == [10, 6, 6]


def test_the_command(write_run, root, command):
    write_run("a", 1.0)
    write_run("b", stn="none")
    (write_run("c", stn="tps") / "config.yaml").write_text("{")
    code, stdout, stderr = command("report.py", root)
    assert (code, stderr) == (0, "")
    assert "c: skipped, config.yaml cannot be read" in stdout
    assert "1 finished, 1 stopped" in stdout
    assert "unfinished  b: 2 of 2 epochs, stopped" in stdout
    assert (root / "report" / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["runs", "nowhere"], "there is no folder nowhere"),
        (["--watch", "nowhere"], "there is no folder nowhere"),
        (["empty"], "there is no run in empty"),
        (["damaged"], "there is no run in damaged that can be read: damaged/a: skipped, config.yaml cannot"),
        (["runs", "--output", "runs/a/config.yaml"], "--output cannot be written to: "),
        ([], "the following arguments are required: FOLDER"),
    ],
)
def test_a_mistake_is_one_line(write_run, tmp_path, refused, arguments, error):
    write_run("a", 1.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged" / "a").mkdir(parents=True)
    (tmp_path / "damaged" / "a" / "config.yaml").write_text("{")
    assert refused("report.py", *arguments).startswith(error)
