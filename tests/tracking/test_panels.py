"""Panels as a whole: their size, rows, captions and notes, and the images in columns a and c."""

import numpy as np
import pytest
import torch

from stn_experiments.data.batch import Batch
from stn_experiments.models.view import View
from stn_experiments.tracking.drawing import CHANNEL_COLOURS, COLOURS, FADED
from stn_experiments.tracking.panels import BORDER, CAPTION_SIZE, GAP, NOTE_SIZE, draw_panel, write_notes
from tests.tracking.harness import CELL, cell_of, draw_cell, has, make_batch, make_prediction, pixels_of


def test_each_row_has_its_own_colour():
    batch = make_batch(count=3)
    panel = draw_panel(batch, make_prediction(batch))
    for row in range(3):
        for column in (1, 2):
            cell = cell_of(panel, column, row, rows=3)
            assert [has(cell, colour) for colour in COLOURS[:3]] == [each == row for each in range(3)]


def test_without_a_transformer_the_panel_keeps_its_shape():
    batch = make_batch(count=2)
    panel, other = (draw_panel(batch, make_prediction(batch, **views)) for views in ({"views": []}, {}))
    assert panel.size == other.size
    for column in range(4):
        assert has(cell_of(panel, column), FADED) == (column in (1, 2))
        assert not has(cell_of(other, column), FADED)


def test_the_size_depends_on_the_rows_alone_and_ten_fit_a_page():
    batches = [make_batch(canvas=canvas, count=10) for canvas in (28, 42, (40, 70))]
    ((width, height),) = {draw_panel(batch, make_prediction(batch), "caption").size for batch in batches}
    assert width <= 700
    assert height <= 1400


def test_a_canvas_that_is_not_square_keeps_its_shape():
    batch = make_batch(canvas=(40, 80))
    batch.images.fill_(0.5)
    assert np.ptp(pixels_of(draw_cell(0, batch), (128,) * 3), 0) + 1 == pytest.approx([112, 56], abs=1)


def test_two_channels_have_two_colours_three_are_rgb_and_more_are_their_mean():
    pair, colours = torch.zeros(1, 2, 28, 28), torch.tensor([0.0, 0.5, 1.0, 0.5]).view(1, 4, 1, 1)
    pair[:, 0, :, :20], pair[:, 1, :, 10:] = 1.0, 1.0
    four = colours.expand(1, 4, 28, 28)
    two, rgb, mean = (draw_cell(0, make_batch()._replace(images=some)) for some in (pair, four[:, :3], four))
    first, second = CHANNEL_COLOURS[2]
    assert [two.getpixel((x, 60)) for x in (20, 60, 100)] == [first, (255, 255, 255), second]
    assert rgb.getpixel((60, 60)) == (0, 128, 255)
    assert mean.getpixel((60, 60)) == (128, 128, 128)


@pytest.mark.parametrize(("channels", "left"), [(1, 128), (3, 43)])
def test_v_is_clamped_with_one_channel_and_scaled_with_several(channels, left):
    output = torch.full((1, channels, 28, 28), 0.5)
    output[..., 14:], output[..., :4, :] = 4.0, -0.2
    cell = draw_cell(2, make_batch(), views=[View(output)])
    assert cell.getpixel((30, 12))[0] == 0
    assert cell.getpixel((30, 60))[0] == pytest.approx(left, abs=1)
    assert cell.getpixel((90, 60))[0] == 255


def test_a_feature_map_is_shown_however_faint_it_is():
    output = torch.full((1, 16, 4, 4), 0.001)
    output[..., 2:] = 0.003
    cell = draw_cell(2, make_batch(), views=[View(output)])
    assert [cell.getpixel((x, 60))[0] for x in (30, 90)] == [0, 255]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 2), (5, 3), (9, 3)])
def test_the_outputs_of_many_views_are_tiles(count, columns):
    views = [View(torch.full((1, 1, 4, 4), 0.5)) for _ in range(count)]
    found = pixels_of(draw_cell(2, make_batch(), views=views), (128,) * 3)
    tiles = {(int(x) * columns // CELL, int(y) * -(-count // columns) // CELL) for x, y in found}
    assert tiles == {(number % columns, number // columns) for number in range(count)}


def test_words_are_legible_where_tensorboard_shows_330_pixels():
    batch = make_batch()
    panel = draw_panel(batch, make_prediction(batch, logits=torch.eye(10)[7:8]), "test error 1.25 %")
    caption = panel.crop((0, 0, panel.width, BORDER + CAPTION_SIZE))
    percent = cell_of(panel, 3).crop((0, 72, CELL, 95))
    for letters in (caption, percent):
        rows = np.nonzero((np.asarray(letters.convert("L")) < 160).any(1))[0]
        assert np.ptp(rows) * 330 / panel.width > 7  # from the top of a tall letter or a digit to its foot


def test_a_caption_adds_a_line_however_long_it_is():
    batch = make_batch()
    plain, short, long = (
        draw_panel(batch, make_prediction(batch), text) for text in ("", "text", "text " * 60)
    )
    assert plain.height < short.height
    assert short.size == long.size
    right_border = long.crop((long.width - BORDER, 0, long.width, long.height))
    assert right_border.getextrema() == ((255, 255),) * 3


def test_notes_are_lines_under_the_rows_which_stay_as_they_are():
    batch = make_batch(count=2)
    panel = draw_panel(batch, make_prediction(batch), "caption")
    noted = write_notes(panel, ["short", "long " * 40])
    pitch, top = CELL + GAP + NOTE_SIZE + GAP, panel.height - BORDER - 2 * CELL - GAP
    assert noted.size == (panel.width, panel.height + 2 * (NOTE_SIZE + GAP))
    assert noted.crop((0, 0, panel.width, top)).tobytes() == panel.crop((0, 0, panel.width, top)).tobytes()
    for row in range(2):
        start = top + row * pitch
        old = panel.crop((0, top + row * (CELL + GAP), panel.width, top + row * (CELL + GAP) + CELL))
        assert noted.crop((0, start, panel.width, start + CELL)).tobytes() == old.tobytes()
        line = noted.crop((0, start + CELL, panel.width, start + pitch))
        dark = np.nonzero((np.asarray(line.convert("L")) < 160).any(0))[0]
        assert BORDER <= dark.min() < BORDER + 10
        assert dark.max() < panel.width - BORDER
        assert (dark.max() > panel.width / 2) == (row == 1)


def test_tensors_in_training_and_in_half_precision_can_be_drawn():
    batch = make_batch()
    images = batch.images.bfloat16().requires_grad_()
    prediction = make_prediction(Batch(batch.images.requires_grad_(), *batch[1:]))
    prediction = prediction._replace(logits=prediction.logits.bfloat16().requires_grad_())
    assert draw_panel(batch._replace(images=images), prediction).mode == "RGB"
