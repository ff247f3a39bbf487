import math

import kornia
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.config.build import build
from stn_experiments.data.canvas import Clutter, add_clutter, blur, ink_boxes, render
from stn_experiments.data.distortions import Addition, Distortion, Mixed
from stn_experiments.data.mnist import Digits
from stn_experiments.data.warp import Warp

EVERYTHING = Distortion(
    canvas=(50, 70), angle=60, scale=(0.6, 1.3), place="anywhere", clutter=3, noise=0.1, clutter_size=7
)
ALL = torch.arange(40)
CROPS_OF_29_PIXELS = {"_target_": "stn_experiments.data.distortions.Distortion", "clutter_size": 29}


def pixels(points, size):
    height, width = size
    return (points + 1) / 2 * torch.tensor([width, height])


def drawn(originals, matrix, size):
    """Digits on canvases, by a matrix of pixels."""
    warp = Warp(geometry.normalised(matrix, (28, 28), size), None)
    return render(originals, warp.to_digit(geometry.pixel_centres(*size)), size)


@pytest.mark.parametrize("size", [(28, 28), (50, 70), (61, 33)])
def test_render_agrees_with_kornias_warp(digits, generator, size):
    count = 40
    angle = (torch.rand(count, generator=generator) * 2 - 1) * math.pi
    scale = 0.6 + torch.rand(count, generator=generator)
    shift = (torch.rand(count, 2, generator=generator) - 0.5) * 20
    originals = digits.images.float() / 255
    ours = drawn(originals, geometry.similarity(angle, scale, shift), size)
    # kornia works on pixel indices: turn and scale about the digit's centre 13.5, then move to the canvas's.
    centre = torch.full((count, 2), 13.5)
    to_canvas = torch.tensor([(size[1] - 28) / 2, (size[0] - 28) / 2])
    matrix = kornia.geometry.get_affine_matrix2d(
        shift + to_canvas, centre, scale[:, None].expand(count, 2), -angle.rad2deg()
    )[:, :2]
    theirs = kornia.geometry.warp_affine(originals[:, None], matrix, dsize=size, align_corners=False)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("canvas", [28, 42, (50, 70), (31, 28)])
def test_no_distortion_puts_the_digit_in_the_middle_as_it_is(digits, generator, canvas):
    batch = Distortion(canvas=canvas).draw(digits, ALL, generator)
    height, width = batch.images.shape[-2:]
    if (height - 28) % 2 == (width - 28) % 2 == 0:
        top, left = (height - 28) // 2, (width - 28) // 2
        inside = batch.images[:, 0, top : top + 28, left : left + 28]
        torch.testing.assert_close(inside, digits.images / 255, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        batch.images.sum((1, 2, 3)), (digits.images / 255).sum((1, 2)), rtol=1e-4, atol=0
    )


def test_a_positive_angle_turns_the_ink_counter_clockwise(generator):
    image = torch.zeros(1, 28, 28)
    image[0, 13:15, 20:24] = 1  # right of the centre
    quarter = geometry.similarity(torch.tensor([math.pi / 2]), torch.ones(1), torch.zeros(1, 2))
    turned = drawn(image, quarter, (28, 28))
    torch.testing.assert_close(turned[0, 0, 4:8, 13:15], torch.ones(4, 2), atol=1e-4, rtol=0)  # above it


@pytest.mark.parametrize("canvas", [28, (50, 70), (70, 40)])
@pytest.mark.parametrize("place", ["centre", "anywhere"])
def test_poses_carry_the_digits_corners_to_where_the_ink_is(digits, generator, canvas, place):
    batch = Distortion(canvas=canvas, scale=(0.6, 0.9), place=place).draw(digits, ALL, generator)
    size = batch.images.shape[-2:]
    corners = pixels(batch.pose.box[:, 0], size)
    for image, box in zip(batch.images[:, 0], corners, strict=True):
        rows, columns = ((image > 0.01).any(dim).nonzero() for dim in (1, 0))
        ink = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        expected = torch.cat([box.amin(0), box.amax(0)])
        assert (ink - expected).abs().max() <= 1.01  # the ink is known to the pixel


@given(
    angle=st.floats(0, 180), scale=st.floats(0.5, 1.5), height=st.integers(45, 80), width=st.integers(45, 80)
)
@settings(max_examples=40, deadline=None)
def test_the_pose_gives_the_upright_digit_back(angle, scale, height, width):
    """Sampling the canvas by the pose is what a perfect transformer would do."""
    generator = torch.Generator().manual_seed(3)
    blob = torch.nn.functional.interpolate(
        torch.rand(4, 1, 3, 3, generator=generator), (16, 16), mode="bicubic"
    )
    images = torch.nn.functional.pad(blob.clamp(0, 1)[:, 0], (6, 6, 6, 6))
    digits = Digits((images * 255).byte(), torch.zeros(4, dtype=torch.long))
    distortion = Distortion(canvas=(height, width), angle=angle, scale=(scale, scale), place="anywhere")
    batch = distortion.draw(digits, torch.arange(4), generator)
    grid = geometry.transform(batch.pose.matrix[:, 0], geometry.pixel_centres(28, 28)).view(-1, 28, 28, 2)
    back = torch.nn.functional.grid_sample(batch.images, grid, align_corners=False)[:, 0]
    inner = (slice(None), slice(9, 19), slice(9, 19))  # away from the blob's edge, which any resampling blurs
    assert (back[inner] - digits.images[inner] / 255).abs().mean() < 0.06


def test_the_ink_box_is_tight(digits):
    image = torch.zeros(1, 28, 28)
    image[0, 4:20, 9:12] = 1
    left, right, top, bottom = 9 / 14 - 1, 12 / 14 - 1, 4 / 14 - 1, 20 / 14 - 1
    expected = torch.tensor([[[left, top], [right, top], [right, bottom], [left, bottom]]])
    torch.testing.assert_close(ink_boxes(image), expected)


def test_settings_reach_their_ranges(generator):
    images = torch.zeros(4000, 28, 28, dtype=torch.uint8)
    images[:, 4:24, 4:24] = 255
    many = Digits(images, torch.zeros(4000, dtype=torch.long))
    distortion = Distortion(canvas=(40, 60), angle=45, scale=(0.7, 1.2), place="anywhere")
    matrix = distortion.draw(many, torch.arange(4000), generator).pose.matrix[:, 0]
    to_pixels = geometry.normalised(matrix, (2 / 28 * 2, 2 / 28 * 2), (4 / 40, 4 / 60))  # undo normalised()
    angle = torch.atan2(to_pixels[:, 0, 1], to_pixels[:, 0, 0]).rad2deg()
    scale = to_pixels[:, :2, :2].det().sqrt()
    for value, low, high in ((angle, -45, 45), (scale, 0.7, 1.2)):
        margin = (high - low) / 100
        assert low - 1e-3 <= value.min() < low + margin
        assert high - margin < value.max() <= high + 1e-3
        assert abs(value.mean() - (low + high) / 2) < 2 * margin
    shift = to_pixels[:, :2, 2]
    small = scale < 0.75
    assert shift[small, 0].abs().max() > (60 - 28 * 0.75) / 2 - 2
    assert shift[small, 1].abs().max() > (40 - 28 * 0.75) / 2 - 2
    frame = geometry.transform(matrix, geometry.boundary_points(1))
    upright = angle.abs() < 1
    assert frame[upright].abs().max() < 1.06  # the digit's frame lies on the canvas


def test_whole_pixel_places_keep_an_unscaled_digit_crisp(digits, generator):
    batch = Distortion(canvas=(45, 61), place="anywhere").draw(digits, ALL, generator)
    values = (batch.images * 255).round()
    torch.testing.assert_close(batch.images * 255, values, atol=2e-2, rtol=0)
    assert len(batch.pose.matrix[:, 0][:, :2, 2].unique(dim=0)) > 30


def test_images_labels_and_shapes(digits, generator):
    index = torch.tensor([5, 3, 39])
    batch = EVERYTHING.draw(digits, index, generator)
    assert batch.images.shape == (3, 1, 50, 70)
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert batch.labels.tolist() == [5, 3, 9]
    assert batch.pose.matrix.shape == (3, 1, 3, 3)
    assert batch.pose.box.shape == (3, 1, 4, 2)
    assert batch.pose.ink.shape == (3, 1, 24, 24)


def test_a_generator_decides_all(digits):
    one, same, other = (
        EVERYTHING.draw(digits, ALL, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one.images.equal(same.images)
    assert one.pose.matrix[:, 0].equal(same.pose.matrix[:, 0])
    assert not one.images.equal(other.images)
    assert not one.pose.matrix[:, 0].equal(other.pose.matrix[:, 0])


def test_noise_has_its_deviation_and_is_clipped(generator):
    grey = Digits(torch.full((200, 28, 28), 128, dtype=torch.uint8), torch.zeros(200, dtype=torch.long))
    images = Distortion(noise=0.1).draw(grey, torch.arange(200), generator).images
    assert abs(images.std() - 0.1) < 1e-3
    assert Distortion(noise=5).draw(grey, torch.arange(200), generator).images.aminmax() == (0, 1)


def test_clutter_is_crops_of_other_digits(generator):
    """Each digit of the pool has one grey of its own, so what lies where can be told."""
    count, side, crops = 30, 5, 4
    greys = torch.arange(1, count + 1, dtype=torch.uint8) * 8
    pool = greys[:, None, None].expand(count, 28, 28).contiguous()
    images = torch.zeros(count, 1, 300, 400)
    index = torch.arange(count)
    add_clutter(images, pool, index, Clutter(crops, side), generator)
    seen = set()
    for image, own in zip(images[:, 0], greys.tolist(), strict=True):
        values = (image * 255).round()
        present = set(values[values > 0].int().tolist())
        assert own not in present
        seen |= present
        assert crops * side * side >= (values > 0).sum() > (crops - 2) * side * side
    assert len(seen) > count / 2


def test_clutter_lands_everywhere_and_is_clipped(generator):
    pool = torch.full((10, 28, 28), 255, dtype=torch.uint8)
    images = torch.zeros(10, 1, 40, 60)
    add_clutter(images, pool, torch.arange(10), Clutter(200, 6), generator)
    assert images.max() == 1
    reached = images.amax((0, 1))
    assert reached[0].any()
    assert reached[-1].any()
    assert reached[:, 0].any()
    assert reached[:, -1].any()


def test_mixed_holds_equally_many_of_each_kind_in_random_order(digits, generator):
    kinds = {
        "clean": Distortion(canvas=40),
        "rotated": Distortion(canvas=40, angle=90),
        "noisy": Distortion(canvas=40, noise=0.3),
        "placed": Distortion(canvas=40, place="anywhere"),
    }
    mixed = Mixed(canvas=40, kinds=kinds)
    orders = []
    for _ in range(2):
        batch = mixed.draw(digits, ALL, generator)
        assert batch.labels.equal(digits.labels)
        turned = batch.pose.matrix[:, 0][:, 0, 1] != 0
        noisy = (batch.images > 0).float().mean((1, 2, 3)) > 0.4
        placed = batch.pose.matrix[:, 0][:, 0, 2].abs() > 0
        assert turned.sum() == 10
        assert noisy.sum() == 10
        assert 5 <= placed.sum() <= 10
        orders.append(turned)
        corners = pixels(batch.pose.box[:, 0], (40, 40))[placed]
        for image, box in zip(batch.images[placed, 0], corners, strict=True):
            left, top = box[0].round().int().tolist()
            assert image[:top].sum() + image[:, :left].sum() < 1e-3
    assert not orders[0].equal(orders[1])


def test_corners_move_by_their_deviation_and_never_fold(digits, generator):
    many = Digits(digits.images.repeat(50, 1, 1), digits.labels.repeat(50))
    still = geometry.boundary_points(1) * 14
    for scale in (1.0, 0.75):
        batch = Distortion(canvas=(40, 50), corners=5.0, scale=(scale, scale)).draw(
            many, torch.arange(2000), generator
        )
        frame = geometry.transform(batch.pose.matrix[:, 0], geometry.boundary_points(1)) * torch.tensor(
            [25.0, 20.0]
        )
        assert abs((frame - scale * still).std() - 5) < 0.5  # some had to be halved
        assert geometry.is_convex(frame).float().mean() == 1


def test_a_bent_digit_agrees_with_scipys_spline(digits, generator):
    batch_size, size = 3, (34, 46)
    matrix = Distortion(canvas=size, angle=30, scale=(0.7, 1.1))._draw_matrices(
        torch.zeros(3, 4, 2), generator
    )
    bend = torch.randn(batch_size, 16, 2, generator=generator) * 0.2
    warp = Warp(matrix, bend)
    points = geometry.pixel_centres(*size)
    control = geometry.control_points(4)
    values = Warp(matrix, None).to_digit(control) + bend
    for ours, moved in zip(warp.to_digit(points), values, strict=True):
        spline = RBFInterpolator(control.double(), moved.double(), kernel="thin_plate_spline", degree=1)
        assert np.abs(ours.numpy() - spline(points.double())).max() < 1e-4
    there = warp.to_canvas(geometry.boundary_points(4).expand(3, -1, -1))
    back = torch.stack(
        [w.to_digit(p)[0] for w, p in zip(map(Warp, matrix[:, None], bend[:, None]), there, strict=True)]
    )
    torch.testing.assert_close(back, geometry.boundary_points(4).expand(3, -1, -1), atol=1e-4, rtol=0)


def test_bends_have_their_deviation_in_pixels_of_the_digit(generator):
    bends = Distortion(bend=1.5)._draw_bends(2000, generator)
    assert abs(bends.std() * 14 - 1.5) < 0.02
    assert Distortion()._draw_bends(5, generator) is None


@pytest.mark.parametrize("settings", [{"bend": 1.5}, {"corners": 4.0}, {"shear": 0.4}])
def test_boxes_stay_on_the_ink_under_every_warp(digits, generator, settings):
    batch = Distortion(canvas=(60, 70), angle=20, **settings).draw(digits, ALL, generator)
    for image, box in zip(batch.images[:, 0], pixels(batch.pose.box[:, 0], (60, 70)), strict=True):
        rows, columns = ((image > 0.02).any(dim).nonzero() for dim in (1, 0))
        ink = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (
            ink - torch.cat([box.amin(0), box.amax(0)])
        ).abs().max() <= 2.6  # a bent side is no straight line


def test_inside_keeps_all_ink_on_the_canvas_and_uses_all_of_it(digits, generator):
    many = Digits(digits.images.repeat(10, 1, 1), digits.labels.repeat(10))
    batch = Distortion(canvas=(40, 44), angle=20, shear=0.2, place="inside").draw(
        many, torch.arange(400), generator
    )
    boxes = batch.pose.box[:, 0]
    assert boxes.abs().max() <= 1 + 1e-5
    assert boxes.abs().amax((1, 2)).max() > 0.98
    assert batch.images.sum((1, 2, 3)).min() > 0.9 * many.images.float().sum((1, 2)).min() / 255


def test_shear_moves_x_by_y(generator):
    matrix = Distortion(shear=0.5)._draw_matrices(torch.zeros(500, 4, 2), generator)
    assert matrix[:, 0, 1].abs().max() <= 0.5
    assert matrix[:, 0, 1].std() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    torch.testing.assert_close(matrix[:, 1], torch.tensor([[0.0, 1, 0]]).expand(500, -1))


def test_blur_is_a_line_of_its_length_and_angle():
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0, 10, 10] = 1
    across = blur(image, 5, 0)[0, 0]
    torch.testing.assert_close(across[10, 8:13], torch.full((5,), 0.2))
    assert across.sum() == pytest.approx(1)
    upright = blur(image, 5, 90)[0, 0]
    torch.testing.assert_close(upright, across.T, atol=1e-6, rtol=0)
    slanted = blur(image, 9, 45)[0, 0]
    assert slanted[8, 12] > 0.05  # counter-clockwise: up on the right
    assert slanted[12, 12] == 0


def test_contrast_fades_before_the_noise(digits, generator):
    plain, faded = (
        Distortion(contrast=contrast).draw(digits, ALL, generator).images for contrast in (1.0, 0.5)
    )
    torch.testing.assert_close(faded, plain / 2)


def test_the_ink_of_the_pose_is_the_digit_without_its_clutter_and_noise(digits, generator):
    batch = EVERYTHING.draw(digits, ALL, generator)
    per_cell = 50 * 70 / (24 * 24)
    expected = Distortion(canvas=(50, 70), angle=60, scale=(0.6, 1.3), place="anywhere")
    alone = expected.draw(digits, ALL, torch.Generator().manual_seed(0)).images.sum((1, 2, 3))
    ink = batch.pose.ink[:, 0].sum((1, 2)) * per_cell
    assert (ink / alone - 1).abs().max() < 0.2


def test_addition_is_two_digits_and_their_sum(digits, generator):
    each = Distortion(canvas=42, angle=45, scale=(0.7, 1.2), place="anywhere")
    addition = Addition(canvas=42, each=each)
    batch = addition.draw(digits, ALL, generator)
    assert (addition.channels, addition.classes, addition.size) == (2, 19, (42, 42))
    assert batch.images.shape == (40, 2, 42, 42)
    second = batch.labels - digits.labels
    assert set(second.tolist()) <= set(range(10))
    assert len(second.unique()) > 5
    assert batch.pose.box.shape == (40, 2, 4, 2)
    for channel in range(2):
        for image, box in zip(
            batch.images[:, channel], pixels(batch.pose.box[:, channel], (42, 42)), strict=True
        ):
            left, top = box.amin(0).floor().int().clamp(min=0).tolist()
            assert image[:top].sum() + image[:, :left].sum() < 1
    with pytest.raises(UserError, match=r"each\.canvas must be the same as canvas, 50, got 42"):
        Addition(canvas=50, each=each)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: Distortion(canvas=20), "canvas must be at least the digit's own 28 pixels, got 20"),
        (lambda: Distortion(canvas=(28, 27)), "canvas must be at least"),
        (lambda: Distortion(scale=(1.2, 0.7)), "scale must be given as smallest, largest"),
        (
            lambda: build(CROPS_OF_29_PIXELS, "data"),
            "data.clutter_size must be an integer from 1 to 28, got 29",
        ),
        (lambda: Mixed(canvas=40, kinds={}), "kinds must name at least one distortion"),
        (lambda: Mixed(canvas=40, kinds={"a": Distortion(canvas=30)}), "kinds.a.canvas must be the same"),
    ],
)
def test_what_cannot_work_is_refused(mistake, words):
    with pytest.raises(UserError, match=words):
        mistake()


@pytest.mark.parametrize(
    "task",
    [
        Distortion(angle=30),
        Distortion(canvas=(40, 50), corners=5.0, bend=1.0, clutter=3, noise=0.1),
        Distortion(canvas=(40, 44), shear=0.2, place="inside"),
        Mixed(28, {"turned": Distortion(angle=90), "noisy": Distortion(noise=0.3)}),
        Addition(40, Distortion(canvas=40, place="anywhere")),
    ],
)
def test_without_poses_the_images_are_the_same(digits, task):
    posed, unposed = (
        task.draw(digits, ALL, torch.Generator().manual_seed(0), posed) for posed in (True, False)
    )
    assert torch.equal(posed.images, unposed.images)
    assert torch.equal(posed.labels, unposed.labels)
    assert posed.pose.box.shape[1] > 0
    assert [field.shape[:2] for field in unposed.pose] == [(len(ALL), 0)] * 3
