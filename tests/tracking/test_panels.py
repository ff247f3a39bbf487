"""Panels show where the box is, what is right and wrong, and never fail; animations play them all."""

import numpy as np
import pytest
import torch
from PIL import ImageChops

from stn_experiments.common import geometry
from stn_experiments.data.batch import Batch
from stn_experiments.data.distortions import Distortion
from stn_experiments.data.mnist import Digits
from stn_experiments.data.questions import WORDS
from stn_experiments.models.grids import Affine, GridGenerator, ThinPlateSpline
from stn_experiments.models.prediction import Prediction
from stn_experiments.models.sampler import Sampler
from stn_experiments.models.view import Heat, View
from stn_experiments.tracking.drawing import (
    CHANNEL_COLOURS,
    COLOURS,
    FADED,
    HEAT_OPACITY,
    INK,
    OUTSIDE,
    RIGHT,
    WRONG,
)
from stn_experiments.tracking.panels import BORDER, CAPTION_SIZE, GAP, NOTE_SIZE, draw_panel, write_notes

CELL = 120
IDENTITY = [1, 0, 0, 0, 1, 0]
QUESTION = ("which", "digit", "is", "the", "greatest")
OFF_CANVAS = torch.full((1, 1, 4, 2), 50.0)


def make_digits():
    """A grey "7" of 16 rows and 10 columns, so that its ink is neither the paper's white nor symmetric."""
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[:, 6:9, 10:20] = 100
    images[:, 6:22, 17:20] = 150
    return Digits(images, torch.tensor([7, 7]))


def make_batch(canvas=28, count=1, **options):
    index = torch.zeros(count, dtype=torch.long)
    return Distortion(canvas, **options).draw(make_digits(), index, torch.Generator().manual_seed(3))


def make_view(images, theta, output_size=(28, 28)):
    theta = torch.as_tensor(theta, dtype=torch.float).expand(len(images), -1)
    grids = GridGenerator(Affine(), output_size)
    grid = grids(theta)
    return View(Sampler()(images, grid), grids.outline(theta), grids.family.marks(theta))


def make_prediction(batch, theta=IDENTITY, predicted=7):
    logits = torch.zeros(len(batch.images), 10)
    logits[:, predicted] = 3
    return Prediction(logits, [make_view(batch.images, theta)])


def cell_of(panel, column, row=0, rows=1):
    left = BORDER + column * (CELL + GAP)
    top = panel.height - BORDER - CELL - (rows - 1 - row) * (CELL + GAP)
    return panel.crop((left, top, left + CELL, top + CELL))


def pixels_of(picture, colour):
    """The (x, y) of the pixels of exactly one colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(-1))
    return np.stack([columns, rows], -1)


def has(picture, colour):
    return len(pixels_of(picture, colour)) > 0


def test_the_identity_box_is_the_canvas():
    batch = make_batch()
    box = cell_of(draw_panel(batch, make_prediction(batch)), 1)

    # The canvas is the middle 84 pixels, from 18 to 102, and the line two whole pixels wide about its edge.
    for near in (17, 18, 101, 102):
        assert box.getpixel((near, 60)) == COLOURS[0]
        assert box.getpixel((60, near)) == COLOURS[0]
    for off in (14, 22, 97, 106):
        assert box.getpixel((off, 60)) != COLOURS[0]


def test_a_box_on_a_canvas_that_is_not_square():
    batch = make_batch(canvas=(40, 70))
    theta = [0.5, 0, 0.2, 0, 0.5, -0.1]
    found = pixels_of(cell_of(draw_panel(batch, make_prediction(batch, theta)), 1), COLOURS[0])

    # 84 by 48 pixels from (18, 36); the box is from -0.3 to 0.7 and from -0.6 to 0.4, the dot 4 pixels more.
    left, right = 18 + 84 * 0.35, 18 + 84 * 0.85
    top, bottom = 36 + 48 * 0.2, 36 + 48 * 0.7
    assert found.min(0) == pytest.approx([left - 4, top - 4], abs=1.5)
    assert found.max(0) == pytest.approx([right, bottom], abs=1.5)


def test_the_dot_is_where_the_top_left_of_v_reads():
    batch = make_batch()
    quarter_turn = [0, 0.5, 0, -0.5, 0, 0]
    found = pixels_of(cell_of(draw_panel(batch, make_prediction(batch, quarter_turn)), 1), COLOURS[0])

    corners = {(x, y): (abs(found - (x, y)).max(-1) <= 5).sum() for x in (39, 81) for y in (39, 81)}
    assert max(corners, key=corners.get) == (39, 81), (
        "turned counter-clockwise, V's top left is at bottom left"
    )


def test_the_perfect_theta_frames_the_digit_and_gives_it_back():
    batch = make_batch(canvas=42, place="anywhere")
    theta = batch.pose.matrix[:, 0, :2].reshape(-1, 6)
    panel = draw_panel(batch, make_prediction(batch, theta))

    found = pixels_of(cell_of(panel, 1), COLOURS[0])
    assert np.ptp(found, 0) == pytest.approx(28 * 2 + 4, abs=2), "2 pixels for 1, and the dot"

    # V's 28 pixels are 4 each; the frame hides a part of the outermost.
    shown = np.asarray(cell_of(panel, 2).convert("L").crop((4, 4, 116, 116)).reduce(4)).astype(int)
    wanted = make_digits().images[0].numpy().astype(int)
    assert abs(shown - wanted)[2:-2, 2:-2].max() <= 2


@pytest.mark.parametrize("options", [{}, {"canvas": (40, 70), "place": "anywhere"}, {"angle": 90.0}])
def test_the_true_box_lies_on_the_ink(options):
    batch = make_batch(**options)
    prediction = make_prediction(batch, [9, 0, 0, 0, 9, 0])
    hidden = batch._replace(pose=batch.pose._replace(box=OFF_CANVAS))
    panels = [draw_panel(each, prediction) for each in (batch, hidden)]
    drawn = ImageChops.difference(*(cell_of(panel, 1) for panel in panels)).convert("L")

    # The extent of the ink itself, found in the image; interpolation smears a turned digit by up to a pixel.
    height, width = batch.images.shape[-2:]
    scale = 84 / max(height, width)
    rows, columns = np.nonzero(batch.images[0, 0].numpy() > 0.15)
    left, top = 60 - width * scale / 2, 60 - height * scale / 2
    wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    wanted = np.add(np.multiply(wanted, scale), [left, top, left, top])
    tolerance = 4 if "angle" in options else 1.5
    assert drawn.getbbox() == pytest.approx(wanted, abs=tolerance)


def test_each_row_has_its_own_colour():
    batch = make_batch(count=3)
    panel = draw_panel(batch, make_prediction(batch))

    for row in range(3):
        for column in (1, 2):
            cell = cell_of(panel, column, row, rows=3)
            assert [has(cell, colour) for colour in COLOURS[:3]] == [each == row for each in range(3)]


@pytest.mark.parametrize(
    ("logits", "right"),
    [(torch.eye(10)[7], True), (torch.eye(10)[2], False), (torch.full((10,), torch.nan), False)],
)
def test_right_is_green_and_wrong_is_red_with_the_truth(logits, right):
    batch = make_batch()
    label = int(logits.argmax()) if logits.isnan().all() else 7  # scores that are not finite are never right
    batch = batch._replace(labels=torch.tensor([label]))
    cell = cell_of(draw_panel(batch, make_prediction(batch)._replace(logits=logits[None])), 3)

    assert [has(cell, colour) for colour in (RIGHT, WRONG, INK)] == [right, not right, not right]


def test_without_a_transformer_the_panel_keeps_its_shape():
    batch = make_batch(count=2)
    prediction = make_prediction(batch)
    panel = draw_panel(batch, Prediction(prediction.logits, []))
    other = draw_panel(batch, prediction)

    assert panel.size == other.size
    for column in range(4):
        assert has(cell_of(panel, column), FADED) == (column in (1, 2))
        assert not has(cell_of(other, column), FADED)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e3, -1e3, 1e30])
@pytest.mark.parametrize("parameter", range(6))
def test_any_theta_can_be_drawn(value, parameter):
    batch = make_batch()
    theta = torch.tensor(IDENTITY, dtype=torch.float)
    theta[parameter] = value

    assert (
        draw_panel(batch, make_prediction(batch, theta)).size
        == draw_panel(batch, make_prediction(batch)).size
    )


@pytest.mark.parametrize("theta", [[9, 0, 0, 0, 9, 0], [1, 0, 9, 0, 1, 0], [torch.nan] * 6])
def test_a_box_that_cannot_be_seen_is_owned_up_to(theta):
    batch = make_batch()
    found = pixels_of(cell_of(draw_panel(batch, make_prediction(batch, theta)), 1), COLOURS[0])

    assert len(found)
    assert found[:, 1].min() > 102, "a note below the canvas"


def test_a_box_without_extent_is_a_dot_and_an_endless_one_is_drawn_where_it_is_in_view():
    batch = make_batch()
    dot, endless = (
        cell_of(draw_panel(batch, make_prediction(batch, theta)), 1)
        for theta in ([0] * 6, [1e30, 0, 0, 0, 0.5, 0])
    )

    assert pixels_of(dot, COLOURS[0]).mean(0) == pytest.approx([60, 60], abs=1)
    assert [endless.getpixel((60, y)) == COLOURS[0] for y in (39, 60, 81)] == [True, False, True]


def test_the_size_depends_on_the_rows_alone_and_ten_fit_a_page():
    sizes = set()
    for canvas in (28, 42, (40, 70)):
        batch = make_batch(canvas=canvas, count=10)
        sizes.add(draw_panel(batch, make_prediction(batch), "caption").size)

    ((width, height),) = sizes
    assert width <= 700
    assert height <= 1400


def test_a_canvas_that_is_not_square_keeps_its_shape():
    batch = make_batch(canvas=(40, 80))
    batch.images.fill_(0.5)
    found = pixels_of(cell_of(draw_panel(batch, make_prediction(batch)), 0), (128, 128, 128))

    assert np.ptp(found, 0) + 1 == pytest.approx([112, 56], abs=1)


def test_two_channels_have_two_colours_three_are_rgb_and_more_are_their_mean():
    pair, colours = torch.zeros(1, 2, 28, 28), torch.tensor([0.0, 0.5, 1.0, 0.5]).view(1, 4, 1, 1)
    pair[:, 0, :, :20], pair[:, 1, :, 10:] = 1.0, 1.0
    four = colours.expand(1, 4, 28, 28)
    batches = [make_batch()._replace(images=images) for images in (pair, four[:, :3], four)]
    two, rgb, mean = (cell_of(draw_panel(batch, make_prediction(batch)), 0) for batch in batches)
    first, second = CHANNEL_COLOURS[2]

    assert [two.getpixel((x, 60)) for x in (20, 60, 100)] == [first, (255, 255, 255), second]
    assert rgb.getpixel((60, 60)) == (0, 128, 255)
    assert mean.getpixel((60, 60)) == (128, 128, 128)


@pytest.mark.parametrize(("channels", "left"), [(1, 128), (3, 43)])
def test_v_is_clamped_with_one_channel_and_scaled_with_several(channels, left):
    batch = make_batch()
    prediction = make_prediction(batch)
    output = torch.full((1, channels, 28, 28), 0.5)
    output[..., 14:], output[..., :4, :] = 4.0, -0.2
    view = prediction.views[0]._replace(output=output)
    cell = cell_of(draw_panel(batch, prediction._replace(views=[view])), 2)

    assert cell.getpixel((30, 12))[0] == 0
    assert cell.getpixel((30, 60))[0] == pytest.approx(left, abs=1)
    assert cell.getpixel((90, 60))[0] == 255


def test_several_views_are_told_apart():
    batch = make_batch(count=2)
    views = [make_view(batch.images, [0.5, 0, shift, 0, 0.5, 0]) for shift in (-0.5, 0.5)]
    panel = draw_panel(batch, make_prediction(batch)._replace(views=views))

    for row, column in [(0, 1), (0, 2), (1, 1), (1, 2)]:
        cell = cell_of(panel, column, row, rows=2)
        first, second = (pixels_of(cell, colour) for colour in COLOURS[:2])
        assert first[:, 0].max() < second[:, 0].max()
        assert not has(cell, COLOURS[2])


def test_more_views_than_colours_are_numbered_and_keep_their_order():
    batch = make_batch()
    shifts = [number / 4 - 0.875 for number in range(8)]
    views = [make_view(batch.images, [0.3, 0, shift, 0, 0.3, 0]) for shift in shifts]
    cell = cell_of(draw_panel(batch, make_prediction(batch)._replace(views=views)), 1)
    edges = [pixels_of(cell, colour)[:, 0].max() for colour in (COLOURS[0], COLOURS[3])]
    assert edges[0] < 60 < edges[1]

    same = [view._replace(output=torch.zeros_like(view.output)) for view in views]
    seen = cell_of(draw_panel(batch, make_prediction(batch)._replace(views=same)), 2)
    numbers = {(np.asarray(seen.crop((x + 4, 4, x + 16, 18))).max(-1) > 100).tobytes() for x in (0, 40, 80)}
    assert len(numbers) == 3


def test_words_are_legible_where_tensorboard_shows_330_pixels():
    batch = make_batch()
    panel = draw_panel(batch, make_prediction(batch)._replace(logits=torch.eye(10)[7:8]), "test error 1.25 %")
    shrunk = 330 / panel.width
    caption = panel.crop((0, 0, panel.width, BORDER + CAPTION_SIZE))
    percent = cell_of(panel, 3).crop((0, 72, CELL, 95))
    for letters in (caption, percent):
        rows = np.nonzero((np.asarray(letters.convert("L")) < 160).any(1))[0]
        assert np.ptp(rows) * shrunk > 7  # pixels from the top of a tall letter or a digit to its foot


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


def test_the_control_points_of_a_spline_are_marked():
    batch, family = make_batch(), ThinPlateSpline(4)
    theta = torch.tensor(family.identity).expand(len(batch.images), -1)
    grids = GridGenerator(family, (28, 28))
    view = View(batch.images, grids.outline(theta), family.marks(theta))
    prediction = make_prediction(batch)._replace(views=[view])
    box = cell_of(draw_panel(batch, prediction), 1)
    plain = cell_of(draw_panel(batch, prediction._replace(views=[view._replace(marks=view.marks[:, :0])])), 1)
    for x in (1 / 3, -1 / 3):  # the four inner control points
        at = (round(60 + x * 42), round(60 + x * 42))
        assert box.getpixel(at) == COLOURS[0]
        assert plain.getpixel(at) != COLOURS[0]


# Heat, gates, and many views


def heat_of(weights, corner=(-1.0, -1.0), side=(2.0, 2.0)):
    """A heat (1, h, w) over the rectangle from ``corner`` of the input, by default all of it."""
    height, width = weights.shape[1:]
    share = (geometry.pixel_centres(height, width).view(1, height, width, 2) + 1) / 2
    return Heat(weights, share * torch.tensor(side) + torch.tensor(corner))


def draw_heat(batch, heat):
    """Column b of a black batch with nothing but this heat, as array; and without it."""
    batch = batch._replace(images=torch.zeros_like(batch.images), pose=batch.pose._replace(box=OFF_CANVAS))
    view = View(batch.images, outline=torch.full((1, 4, 2), 40.0), heat=heat)
    views = [[view], [view._replace(heat=None)]]
    logits = torch.zeros(1, 10)
    panels = [draw_panel(batch, Prediction(logits, some)) for some in views]
    with_heat, without = (np.asarray(cell_of(panel, 1)).astype(int)[:106] for panel in panels)
    return with_heat, without


@pytest.mark.parametrize("grid", [(2, 3), (14, 14), (30, 30)])
def test_an_even_heat_tints_the_whole_canvas_and_nothing_else(grid):
    """On one that is not square: 84 by 48 pixels from (18, 36)."""
    tinted, plain = draw_heat(make_batch(canvas=(40, 70)), heat_of(torch.full((1, *grid), 0.3)))
    rows, columns = np.nonzero((tinted != plain).any(-1))
    ends = [columns.min(), rows.min(), columns.max(), rows.max()]
    assert ends == pytest.approx([18, 36, 101, 83], abs=1)
    tint = np.multiply(COLOURS[0], HEAT_OPACITY)
    assert tinted[38:82, 20:100] == pytest.approx(np.tile(tint, (44, 80, 1)), abs=1), "without holes"


@pytest.mark.parametrize("cell", [(0, 0), (1, 4), (3, 5)])
def test_a_heat_is_drawn_where_it_is(cell):
    """One cell of 4×6, each 14 by 12 pixels of the canvas."""
    weights = torch.zeros(1, 4, 6)
    weights[0][cell] = 0.01
    tinted, plain = draw_heat(make_batch(canvas=(40, 70)), heat_of(weights))
    rows, columns = np.nonzero((tinted != plain).any(-1))
    left, top = 18 + 14 * cell[1], 36 + 12 * cell[0]
    assert [columns.min(), rows.min()] == pytest.approx([left, top], abs=1)
    assert [columns.max(), rows.max()] == pytest.approx([left + 14, top + 12], abs=1)


def test_a_heat_goes_from_nothing_to_its_peak():
    tinted, _ = draw_heat(make_batch(), heat_of(torch.tensor([[[0.0, 0.2, 0.4]]]).expand(1, 3, 3)))
    found = [tinted[60, x, 2] / COLOURS[0][2] for x in (32, 60, 88)]  # a canvas of 84 pixels from 18
    assert found == pytest.approx([0, HEAT_OPACITY / 2, HEAT_OPACITY], abs=0.01)


def test_a_heat_on_a_warped_map_has_no_holes_and_tints_beyond_the_canvas():
    """V is twice as large as the canvas, and lies askew on it."""
    heat = heat_of(torch.ones(1, 5, 5))
    matrix = torch.tensor([[[2.0, 0.3, 0.0], [-0.3, 2.0, 0.0], [0.0, 0.0, 1.0]]])
    places = geometry.transform(matrix, heat.places.flatten(1, 2)).view_as(heat.places)
    tinted, _ = draw_heat(make_batch(), heat._replace(places=places))
    for part, below in ((tinted[20:100, 20:100], np.zeros(3)), (tinted[2:15, 2:118], np.array(OUTSIDE))):
        expected = below + (np.array(COLOURS[0]) - below) * HEAT_OPACITY
        assert part == pytest.approx(np.broadcast_to(expected, part.shape), abs=1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30, 0.0])
@pytest.mark.parametrize("part", ["weights", "places"])
def test_any_heat_can_be_drawn(value, part):
    heat = heat_of(torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)))
    broken = getattr(heat, part).clone()
    broken[0, 1, 2] = value
    tinted, plain = draw_heat(make_batch(), heat._replace(**{part: broken}))
    assert tinted.shape == plain.shape


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (3, 1)])
def test_a_heat_of_one_row_can_be_drawn(grid):
    tinted, plain = draw_heat(make_batch(), heat_of(torch.ones(1, *grid)))
    assert (tinted != plain).any()


@pytest.mark.parametrize("split", [4, 2], ids=["one view", "two views side by side"])
def test_channels_without_a_place_are_bars(split):
    batch = make_batch()
    gates = torch.tensor([[1.0, 0.5, 0.0, 0.25]]).split(split, 1)
    views = [View(torch.rand(1, 8, 4, 4), gates=part) for part in gates]
    panel = draw_panel(batch, make_prediction(batch)._replace(views=views))
    cell = cell_of(panel, 1)
    bars = [(pixels_of(cell, COLOURS[0])[:, 0] == x).sum() for x in (22, 47, 73, 98)]
    assert bars == pytest.approx([82, 41, 0, 20], abs=2)
    assert has(cell, FADED)
    assert not has(cell_of(panel, 2), FADED)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 2), (5, 3), (9, 3)])
def test_the_outputs_of_many_views_are_tiles(count, columns):
    batch = make_batch()
    views = [View(torch.full((1, 1, 4, 4), 0.5)) for _ in range(count)]
    found = pixels_of(cell_of(draw_panel(batch, make_prediction(batch)._replace(views=views)), 2), (128,) * 3)
    tiles = {(int(x) * columns // CELL, int(y) * -(-count // columns) // CELL) for x, y in found}
    assert tiles == {(number % columns, number // columns) for number in range(count)}


def test_a_feature_map_is_shown_however_faint_it_is():
    batch = make_batch()
    output = torch.full((1, 16, 4, 4), 0.001)
    output[..., 2:] = 0.003
    panel = draw_panel(batch, make_prediction(batch)._replace(views=[View(output)]))
    cell = cell_of(panel, 2)
    assert [cell.getpixel((x, 60))[0] for x in (30, 90)] == [0, 255]


def asked(*words):
    """The prediction's cell of a panel where "which digit is the greatest" has these weights in each view."""
    batch = make_batch()._replace(question=torch.tensor([[WORDS.index(w) for w in QUESTION] + [0]]))
    views = [make_view(batch.images, IDENTITY)._replace(words=weights) for weights in words]
    return cell_of(draw_panel(batch, Prediction(torch.eye(10)[7:8], views)), 3)


def test_each_word_of_a_question_is_shaded_by_its_weight():
    plain = asked(None)
    assert has(plain, INK)
    assert not has(plain, COLOURS[0])
    shades = []
    for place in range(len(QUESTION)):
        weights = torch.full((1, len(QUESTION) + 1), 0.0)
        weights[0, place] = 0.5
        shades.append(pixels_of(asked(weights), COLOURS[0]))
    starts = [(found[:, 1].min(), found[:, 0].min()) for found in shades]
    assert starts == sorted(starts), "in the order of reading"
    assert len(set(starts)) == len(QUESTION)
    half = asked(torch.tensor([[0.2, 0.4, 0, 0, 0, 0.4]]))
    between = tuple(round((a + b) / 2) for a, b in zip((255, 255, 255), COLOURS[0], strict=True))
    assert len(pixels_of(half, between)) == pytest.approx(len(shades[0]), rel=0.1)


def test_the_weights_of_several_layers_are_bands_of_each_word():
    cell = asked(torch.tensor([[1.0, 0, 0, 0, 0, 0]]), torch.tensor([[1.0, 0, 0, 0, 1.0, 0]]))
    first, second = (pixels_of(cell, colour)[:, 1] for colour in COLOURS[:2])
    assert first.max() < second.min(), "of the first word"
    assert np.ptp(second) > 2 * np.ptp(first), (
        "and the last word, in a lower line, has the second colour alone"
    )


def test_a_panel_of_questions_never_fails():
    assert has(asked(torch.full((1, 6), torch.nan)), INK)
    assert has(asked(*[torch.ones(1, 6)] * 16), INK)
    batch = make_batch()._replace(question=torch.zeros(1, 5, dtype=torch.long))
    draw_panel(batch, Prediction(torch.zeros(1, 10), []), cell=24)


def test_the_classes_of_a_sequence_are_side_by_side():
    batch = make_batch()._replace(labels=torch.tensor([[3, 8, 5]]))
    for predicted in ([3, 8, 5], [3, 1, 5]):
        logits = 9.0 * torch.eye(10)[predicted].T[None]
        cell = cell_of(draw_panel(batch, Prediction(logits, make_prediction(batch).views)), 3)
        thirds = [cell.crop((40 * step, 0, 40 * step + 40, 65)) for step in range(3)]
        for third, one, true in zip(thirds, predicted, [3, 8, 5], strict=True):
            assert (has(third, RIGHT), has(third, WRONG)) == (one == true, one != true)
        assert has(cell.crop((0, 95, CELL, CELL)), INK) == (predicted[1] == 1), "the true classes"


def test_classes_are_shown_by_their_names():
    batch = make_batch()
    prediction = make_prediction(batch)

    def last_column(*names):
        panel = draw_panel(batch, prediction, class_names=names or None)
        return cell_of(panel, 3)

    count = prediction.logits.shape[1]
    numbers = last_column()
    assert np.array_equal(numbers, last_column(*map(str, range(count))))
    named = last_column(*["stop"] * count)
    assert not np.array_equal(numbers, named)
    long = [f"{'a_rather_long_name' * 3}_{number}" for number in range(count)]
    column = np.asarray(last_column(*long))
    assert (column[:, [0, -1]] == 255).all(), "it does not touch the edges"
    ink = (column != 255).any(-1)[:60].any(1).sum()
    assert ink >= 7, "it is still legible"
