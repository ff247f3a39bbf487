import math

import kornia
import pytest
import torch

from stn_experiments.common import geometry


def test_pixel_centres_are_those_of_affine_grid():
    identity = torch.eye(2, 3)[None]
    expected = torch.nn.functional.affine_grid(identity, [1, 1, 5, 9], align_corners=False)
    torch.testing.assert_close(geometry.pixel_centres(5, 9), expected.view(-1, 2))


def test_a_positive_angle_turns_counter_clockwise_on_the_screen():
    quarter = geometry.similarity(torch.tensor([math.pi / 2]), torch.ones(1), torch.zeros(1, 2))
    right_of_centre = torch.tensor([[1.0, 0.0]])
    above_centre = torch.tensor([[[0.0, -1.0]]])
    torch.testing.assert_close(geometry.transform(quarter, right_of_centre), above_centre)


def test_similarity_agrees_with_kornia():
    angle, scale, shift = (
        torch.tensor([0.3, -1.2]),
        torch.tensor([0.7, 1.4]),
        torch.tensor([[3.0, -2], [0, 5]]),
    )
    expected = kornia.geometry.get_affine_matrix2d(
        shift, torch.zeros(2, 2), scale[:, None].expand(2, 2), -angle.rad2deg()
    )
    torch.testing.assert_close(geometry.similarity(angle, scale, shift), expected)


def test_normalised_converts_pixels_on_non_square_images():
    # Ten pixels right and four down of the centre of a 20×40 image: half and 0.4 of the way to its edges.
    shift = geometry.similarity(torch.zeros(1), torch.ones(1), torch.tensor([[10.0, 4.0]]))
    matrix = geometry.normalised(shift, source=(28, 28), target=(20, 40))
    torch.testing.assert_close(geometry.transform(matrix, torch.zeros(1, 2)), torch.tensor([[[0.5, 0.4]]]))
    corner = geometry.transform(matrix, torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(corner, torch.tensor([[[(10 + 14) / 20, (4 + 14) / 10]]]))


def test_transform_divides_by_the_third_coordinate():
    matrix = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0.5, 0, 1]]])
    point = torch.tensor([[1.0, 0.5]])
    torch.testing.assert_close(geometry.transform(matrix, point), torch.tensor([[[2 / 3, 1 / 3]]]))


@pytest.mark.parametrize("points", [1, 8])
def test_boundary_points_go_clockwise_around_the_square(points):
    boundary = geometry.boundary_points(points)
    assert boundary.shape == (4 * points, 2)
    assert (boundary.abs().amax(1) == 1).all()
    corners = boundary[::points]
    torch.testing.assert_close(corners, torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]))


def test_a_point_at_infinity_is_far_away_and_finite():
    tilted = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 1]]])  # sends x = -1 to infinity
    moved = geometry.transform(tilted, torch.tensor([[-1.0, 0.0], [-1.0, 0.5], [0.0, 0.0]]))
    assert moved.isfinite().all()
    assert moved[0, 0, 0].abs() > 1e5
    assert moved[0, 2].tolist() == [0, 0]
    black = torch.nn.functional.grid_sample(torch.ones(1, 1, 4, 4), moved[:, None, :2], align_corners=False)
    assert black.flatten().tolist() == [0, 0]
