"""Column d tells what is right and wrong, and which words of a question were weighed."""

import numpy as np
import pytest
import torch

from stn_experiments.data.questions import WORDS
from stn_experiments.models.prediction import Prediction
from stn_experiments.tracking.drawing import COLOURS, INK, RIGHT, WRONG
from stn_experiments.tracking.panels import draw_panel
from tests.tracking.harness import (
    CELL,
    IDENTITY,
    cell_of,
    draw_cell,
    has,
    make_batch,
    make_prediction,
    make_view,
    pixels_of,
)

QUESTION = ("which", "digit", "is", "the", "greatest")


@pytest.mark.parametrize(
    ("logits", "right"),
    [(torch.eye(10)[7], True), (torch.eye(10)[2], False), (torch.full((10,), torch.nan), False)],
)
def test_right_is_green_and_wrong_is_red_with_the_truth(logits, right):
    label = int(logits.argmax()) if logits.isnan().all() else 7  # scores that are not finite are never right
    batch = make_batch()._replace(labels=torch.tensor([label]))
    cell = draw_cell(3, batch, logits=logits[None])
    assert [has(cell, colour) for colour in (RIGHT, WRONG, INK)] == [right, not right, not right]


def asked(*words):
    """The prediction's cell of a panel where "which digit is the greatest" has these weights in each view."""
    batch = make_batch()._replace(question=torch.tensor([[WORDS.index(w) for w in QUESTION] + [0]]))
    views = [make_view(batch.images, IDENTITY)._replace(words=weights) for weights in words]
    return draw_cell(3, batch, logits=torch.eye(10)[7:8], views=views)


def test_each_word_of_a_question_is_shaded_by_its_weight():
    plain = asked(None)
    assert has(plain, INK)
    assert not has(plain, COLOURS[0])
    shades = [
        pixels_of(asked(0.5 * torch.eye(len(QUESTION) + 1)[None, place]), COLOURS[0]) for place in range(5)
    ]
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
        cell = draw_cell(3, batch, logits=9.0 * torch.eye(10)[predicted].T[None])
        thirds = [cell.crop((40 * step, 0, 40 * step + 40, 65)) for step in range(3)]
        for third, one, true in zip(thirds, predicted, [3, 8, 5], strict=True):
            assert (has(third, RIGHT), has(third, WRONG)) == (one == true, one != true)
        assert has(cell.crop((0, 95, CELL, CELL)), INK) == (predicted[1] == 1), "the true classes"


def test_classes_are_shown_by_their_names():
    batch = make_batch()

    def last_column(names=None):
        return np.asarray(cell_of(draw_panel(batch, make_prediction(batch), class_names=names), 3))

    numbers = last_column()
    assert np.array_equal(numbers, last_column(list(map(str, range(10)))))
    assert not np.array_equal(numbers, last_column(["stop"] * 10))
    column = last_column([f"{'a_rather_long_name' * 3}_{number}" for number in range(10)])
    assert (column[:, [0, -1]] == 255).all(), "it does not touch the edges"
    ink = (column != 255).any(-1)[:60].any(1).sum()
    assert ink >= 7, "it is still legible"
