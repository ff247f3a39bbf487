import pytest
import torch

from stn_experiments.common import geometry, pixels

SOURCE, TARGET = (20, 28), (30, 50)


def test_pixel_centres_are_whole_numbers_or_lie_half_a_pixel_from_the_edge():
    centres = geometry.pixel_centres(3, 5)[None]
    indices = torch.tensor([[float(column), row] for row in range(3) for column in range(5)])[None]
    torch.testing.assert_close(pixels.points_in_pixels(centres, (3, 5)), indices)
    torch.testing.assert_close(pixels.points_in_pixels(centres, (3, 5), centre=0.5), indices + 0.5)
    edges = pixels.points_in_pixels(torch.tensor([[-1.0, -1], [1, 1]]), (3, 5), centre=0.5)
    assert edges.tolist() == [[0, 0], [5, 3]]


@pytest.fixture(params=[2, 3], ids=["affine", "projective"])
def matrices(request, generator):
    matrix = torch.eye(3) + 0.2 * torch.randn(4, 3, 3, generator=generator)
    return matrix[:, :2] if request.param == 2 else matrix / matrix[:, 2:, 2:]


def test_the_inverse_is_that_of_torch_and_a_singular_matrix_spoils_no_other(matrices):
    expected = torch.linalg.inv(pixels.homogeneous(matrices))[:, : matrices.shape[1]]
    torch.testing.assert_close(pixels.inverse(matrices), expected, atol=1e-5, rtol=1e-4)
    matrices[1, :, :2] = 0
    found = pixels.inverse(matrices)
    assert not found[1].isfinite().all()
    torch.testing.assert_close(found[2:], expected[2:], atol=1e-5, rtol=1e-4)
