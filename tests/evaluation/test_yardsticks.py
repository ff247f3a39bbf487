"""Yardsticks against interval arithmetic by NumPy, on canvases that are not square."""

import numpy as np
import pytest
import torch

from stn_experiments.data.distortions import Addition, Distortion
from stn_experiments.evaluation import yardsticks as yardsticks_module
from stn_experiments.evaluation.localisation_scores import area
from stn_experiments.evaluation.yardsticks import (
    SCORES,
    SIDES,
    YARDSTICKS,
    centre_box,
    named,
    random_views,
    yardsticks,
)

CANVASES = [(61, 45), (40, 70)]


def moved_digits(digits, size):
    """Poses of digits that are moved but not turned, so all boxes are parallel to the axes."""
    distortion = Distortion(canvas=size, place="anywhere")
    return distortion.draw(digits, torch.arange(40), torch.Generator().manual_seed(2)).pose


def extents(boxes, size):
    """The pixels (B, 2, 2) of the first and last corner of boxes (B, 4, 2) that are parallel to the axes."""
    return (boxes[:, [0, 2]].double().numpy() + 1) * np.array(size[::-1]) / 2


def iou(first, second):
    """The IoU (B,) of extents (B, 2, 2)."""
    sides = np.minimum(first[:, 1], second[:, 1]) - np.maximum(first[:, 0], second[:, 0])
    common = sides.clip(min=0).prod(1)
    return common / ((first[:, 1] - first[:, 0]).prod(1) + (second[:, 1] - second[:, 0]).prod(1) - common)


def square(side, size, count):
    """The extents (count, 2, 2) of a square in the middle of the canvas."""
    middle = np.array(size[::-1]) / 2
    return np.broadcast_to(np.stack([middle - side / 2, middle + side / 2]), (count, 2, 2))


@pytest.mark.parametrize("size", CANVASES)
def test_yardsticks_agree_with_interval_arithmetic(digits, size):
    pose = moved_digits(digits, size)
    found = yardsticks(pose, size, torch.full((40, 3), 0.3))
    assert set(found) == {named(score, yardstick) for score in SCORES for yardstick in YARDSTICKS}
    assert all(0 <= value <= 1 for value in found.values())

    ink = extents(pose.box[:, 0], size)
    ink_area = (ink[:, 1] - ink[:, 0]).prod(1)
    assert found["iou_mean_of_canvas"] == pytest.approx((ink_area / np.prod(size)).mean(), rel=1e-4)
    assert (found["ink_inside_of_canvas"], found["hit_rate_of_canvas"]) == (1, 1)
    assert (found["found_of_canvas"], found["iou_above_half_of_canvas"]) == (0, 0)

    assert found["found_of_exact_frame"] == 1
    assert found["ink_inside_of_exact_frame"] == pytest.approx(1, abs=0.02)  # the ink's cells are coarse
    assert found["iou_mean_of_exact_frame"] == pytest.approx((ink_area / 28**2).mean(), rel=1e-4)
    assert found["off_target_of_exact_frame"] == pytest.approx(1 - (ink_area / 28**2).mean(), rel=1e-4)

    by_side = [iou(square(min(size) * n / SIDES, size, 40), ink) for n in range(1, SIDES + 1)]
    best = max(by_side, key=np.mean)
    assert found["iou_mean_of_centre_box"] == pytest.approx(best.mean(), rel=1e-4)
    assert found["iou_above_half_of_centre_box"] == pytest.approx((best > 0.5).mean())

    views = [extents(view, size) for view in random_views(torch.full((40, 3), 0.3), size)]
    best_of_views = np.stack([iou(view, ink) for view in views]).max(0)
    assert found["iou_mean_of_random_views"] == pytest.approx(best_of_views.mean(), rel=1e-4)


@pytest.mark.parametrize("size", CANVASES)
def test_random_views_are_squares_of_the_views_own_sizes_anywhere_on_the_canvas(size):
    areas = torch.tensor([0.1, 0.4]) * (0.5 + torch.rand(4001, 2, generator=torch.Generator().manual_seed(0)))
    views = random_views(areas, size)
    for view, own in zip(views, areas.unbind(1), strict=True):
        corners = extents(view, size)
        sides = corners[:, 1] - corners[:, 0]
        assert np.ptp(sides) < 1e-4
        assert area(view).mean().item() == pytest.approx(own.median().item(), rel=1e-4)
        middles = corners.mean(1) / np.array(size[::-1])
        assert (middles.min(0) >= 0).all()
        assert (middles.max(0) <= 1).all()
        assert middles.mean(0) == pytest.approx([0.5, 0.5], abs=0.02)
        assert middles.std(0) == pytest.approx([12**-0.5] * 2, abs=0.02)
    first, second = (view.mean(1) for view in views)
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.05
    assert all(map(torch.equal, views, random_views(areas, size)))


def test_each_of_several_digits_has_its_own_frame(digits):
    task = Addition(canvas=(50, 60), each=Distortion(canvas=(50, 60), angle=40, place="anywhere"))
    pose = task.draw(digits, torch.arange(40), torch.Generator().manual_seed(0)).pose
    found = yardsticks(pose, task.size, torch.full((40, 2), 0.5))
    assert found["found_of_exact_frame"] == 1
    assert found["hit_rate_of_exact_frame"] == 1
    assert found["found_of_canvas"] == 0


def test_the_side_of_the_centre_box_is_searched_on_images_spread_over_the_set(digits, monkeypatch):
    pose = moved_digits(digits, (61, 45))
    whole = centre_box(pose, (61, 45))
    assert whole.shape == (40, 4, 2)
    seen = []
    spied = yardsticks_module.overlap
    monkeypatch.setattr(yardsticks_module, "SEARCH_IMAGES", 15)
    monkeypatch.setattr(yardsticks_module, "overlap", lambda *pairs: seen.append(pairs) or spied(*pairs))
    assert centre_box(pose, (61, 45)).shape == (40, 4, 2)
    ((_, boxes),) = seen
    assert boxes[:14].equal(pose.box[::3, 0])
