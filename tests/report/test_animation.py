"""How runs learned, side by side, by one command."""

import pytest
from PIL import Image

from stn_experiments.common.errors import UserError
from stn_experiments.report.animation import animate
from stn_experiments.tracking.learning import CHART_WIDTH


def test_the_command(command, write_run, tmp_path):
    runs = [write_run("one", 1.0), write_run("two")]  # the second is not finished
    code, out, err = command("report.py", *runs, "--animation", tmp_path / "two.gif")
    assert (code, err) == (0, "")
    assert out.split() == ["animation", str(tmp_path / "two.gif")]
    with Image.open(tmp_path / "two.gif") as animation:
        assert animation.size == (532 + CHART_WIDTH, 672)
    assert not (runs[0] / "report").exists()


def test_mistakes_are_one_line(write_run, tmp_path):
    run, file = write_run("one", 1.0), tmp_path / "some.gif"
    with pytest.raises(UserError, match=r"^--animation must end in \.gif, got .*some\.png$"):
        animate([run], tmp_path / "some.png")
    with pytest.raises(UserError, match="1 to 4 runs, got 0"):
        animate([run / "panels"], file)
    with pytest.raises(UserError, match=r"--animation: .*No such file or directory: .*missing"):
        animate([run], tmp_path / "missing" / "some.gif")
    panel = run / "panels" / "panel-0002.png"
    panel.write_bytes(panel.read_bytes()[:-40])
    with pytest.raises(UserError, match="--animation: "):
        animate([run], file)
    panel.unlink()
    with pytest.raises(UserError, match="one has no panel"):
        animate([run], file)
    for name in ("two", "three", "four", "five"):
        write_run(name)
    with pytest.raises(UserError, match="1 to 4 runs, got 5"):
        animate([run.parent], file)
    assert not file.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--animation", "a.gif", "--output", "folder"], "--output is the folder of a report, which"),
        (["--animation", "a.gif", "--watch"], "not allowed with argument"),
        (["--animation", "a.gif", "--tensorboard", "folder"], "not allowed with argument"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(refused, tmp_path, words, message):
    assert message in refused("report.py", tmp_path, *words)
