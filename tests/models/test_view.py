"""Theta in pixels, as other libraries take it, on images that are not square."""

import cv2
import kornia
import numpy as np
import pytest
import torch
from PIL import Image

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.models import SpatialTransformer, View
from stn_experiments.models.grids import Affine, Projective, ThinPlateSpline
from tests.models.test_grids import MATRICES, thetas

U, V = (60, 84), (30, 22)  # (height, width)


def warped(family, generator):
    """Smooth images (B, 1, H, W), and their view by random transforms of a family."""
    coarse = torch.rand(3, 1, 8, 10, generator=generator)
    source = torch.nn.functional.interpolate(coarse, size=U, mode="bicubic")
    transformer = SpatialTransformer((1, *U), V, family=family(), antialias=False)
    return source, transformer.warp(source, thetas(transformer.family, 3, generator))


def assert_same_inside(images, view, tolerance=1e-3):
    """Compare images (B, H', W') with V where it reads no pixel outside U."""
    inside = (view.transform.grid.abs() < 0.95).all(-1)
    assert inside.float().mean() > 0.2
    assert (torch.as_tensor(images) - view.output[:, 0])[inside].abs().max() < tolerance


@pytest.mark.parametrize("family", MATRICES)
def test_pil_reads_the_same_pixels(family, generator):
    source, view = warped(family, generator)
    matrices = view.matrix_pixels(U, centre=0.5)
    method = Image.Transform.AFFINE if matrices.shape[1] == 2 else Image.Transform.PERSPECTIVE
    images = [
        Image.fromarray(image[0].numpy()).transform(
            V[::-1], method, matrix.flatten()[:8].tolist(), Image.Resampling.BILINEAR
        )
        for image, matrix in zip(source, matrices, strict=True)
    ]
    assert_same_inside(np.array([np.array(image) for image in images]), view)


@pytest.mark.parametrize("family", MATRICES)
def test_cv2_reads_the_same_pixels(family, generator):
    source, view = warped(family, generator)
    warp = cv2.warpPerspective if family is Projective else cv2.warpAffine
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    images = [
        warp(image[0].numpy(), matrix, V[::-1], flags=flags)
        for image, matrix in zip(source, view.matrix_pixels(U).numpy(), strict=True)
    ]
    assert_same_inside(np.array(images), view, tolerance=0.05)  # cv2 rounds places to 1/32 of a pixel


@pytest.mark.parametrize("family", MATRICES)
def test_kornia_warps_alike_by_the_inverse(family, generator):
    """Kornia's matrices map U to V, which is also what cv2 takes without WARP_INVERSE_MAP."""
    source, view = warped(family, generator)
    matrices = view.inverse_matrix_pixels(U)
    assert matrices.shape == view.matrix_pixels(U).shape == (3, 3 if family is Projective else 2, 3)
    warp = kornia.geometry.warp_perspective if family is Projective else kornia.geometry.warp_affine
    assert_same_inside(warp(source, matrices, dsize=V, align_corners=True)[:, 0], view)


@pytest.mark.parametrize("family", [Affine, Projective, ThinPlateSpline])
@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_the_box_is_where_v_reads_its_own_edge(family, centre, generator):
    _, view = warped(family, generator)
    box = view.box_pixels(U, centre)
    assert box.shape == (3, 32 if family is ThinPlateSpline else 4, 2)
    size = torch.tensor([U[1], U[0]])
    torch.testing.assert_close(box, (view.outline + 1) / 2 * size - 0.5 + centre)
    if family is not ThinPlateSpline:
        height, width = V
        corners = torch.tensor([[0.0, 0], [width, 0], [width, height], [0, height]]) - 0.5 + centre
        matrix = torch.eye(3).repeat(3, 1, 1)
        pixels = view.matrix_pixels(U, centre)
        matrix[:, : pixels.shape[1]] = pixels
        torch.testing.assert_close(geometry.transform(matrix, corners), box, atol=1e-3, rtol=1e-5)


def test_a_given_theta_warps_as_that_of_the_localisation_network(generator):
    source = torch.rand(2, 1, *U, generator=generator)
    transformer = SpatialTransformer((1, *U), V)
    torch.nn.init.normal_(transformer.localisation.theta.weight, std=0.1, generator=generator)
    view = transformer(source)
    assert torch.equal(transformer.warp(source, view.transform.theta).output, view.output)


def test_views_without_a_matrix_or_a_box_say_so(generator):
    spline, heat = warped(ThinPlateSpline, generator)[1], View(torch.rand(1, 1, 4, 4))
    for call, message in [
        (spline.matrix_pixels, "a thin plate spline has no matrix: box_pixels has its box"),
        (spline.inverse_matrix_pixels, "a thin plate spline has no matrix"),
        (heat.matrix_pixels, "this view has no matrix: only spatial transformers transform by one"),
        (heat.box_pixels, "this view has no box: its attention has no outline"),
        (warped(Affine, generator)[1].box_pixels, r"size must be an integer .*, got \(1, 60, 84\)"),
    ]:
        with pytest.raises(UserError, match=f"^{message}"):
            call((1, *U) if "size" in message else U)
