"""Pictures as files: written whole, the same for the same content, and animations that keep their colours."""

import pytest
from PIL import Image, ImageChops, ImageDraw

from stn_experiments.tracking.pictures import save_animation, save_picture


def make_frames(captions):
    """A frame for each caption, coloured as panels are: grey ramps, and a box in a colour of its own."""
    frames = []
    for text in captions:
        frame = Image.linear_gradient("L").convert("RGB")
        ImageDraw.Draw(frame).rectangle([20, 20, 60 + 10 * len(text), 80], (86, 180, 233), (0, 128, 96), 3)
        frames.append(frame)
    return frames


def durations_of(path):
    with Image.open(path) as animation:
        durations = []
        for frame in range(animation.n_frames):
            animation.seek(frame)
            durations.append(animation.info["duration"])
        return durations


@pytest.mark.parametrize(
    ("captions", "seconds", "durations"),
    [(["a", "bb", "ccc"], 0.3, [300, 300, 2000]), (["a", "bb", "bb"], 0.5, [500, 2500])],
    ids=["the last is held", "equal neighbours are one frame"],
)
def test_an_animation_plays_every_frame_for_ever(tmp_path, captions, seconds, durations):
    save_animation(make_frames(captions), tmp_path / "panel.gif", seconds)

    assert durations_of(tmp_path / "panel.gif") == durations
    with Image.open(tmp_path / "panel.gif") as animation:
        assert animation.info["loop"] == 0


def test_an_animation_keeps_the_colours(tmp_path):
    frames = make_frames(["a", "bb", "ccc", "dddd", "eeeeeee"])
    save_animation(frames, tmp_path / "panel.gif")

    with Image.open(tmp_path / "panel.gif") as animation:
        for number, frame in enumerate(frames):
            animation.seek(number)
            difference = ImageChops.difference(animation.convert("RGB"), frame)
            assert max(high for _, high in difference.getextrema()) <= 24


def test_an_animation_depends_on_its_frames_alone(tmp_path):
    contents = set()
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        save_animation(make_frames(["a", "bb"]), folder / "panel.gif")
        contents.add((folder / "panel.gif").read_bytes())

    assert len(contents) == 1


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "panel.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="mode F"):
        save_picture(Image.new("F", (2, 2)), path)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
