"""Questions are answered as a person would who reads the words and looks at the picture."""

import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data.mnist import Digits
from stn_experiments.data.questions import NUMBERS, TEMPLATES, TWO_STEP_TEMPLATES, Questions, decode_question

TASKS = [
    Questions(),
    Questions(canvas=(45, 90), digits=6),
    Questions(canvas=28, digits=2, side=14),
    Questions(canvas=84, digits=5, side=28, clutter=1, clutter_size=1),
    Questions(canvas=(45, 90), digits=6, two_steps=True),
    Questions(canvas=28, digits=2, side=14, two_steps=True),
]


@pytest.fixture
def squares():
    """Twenty squares of 14 pixels, whose grey tells their class: 0.1 for 0, 1.0 for 9."""
    labels = torch.arange(20) % 10
    images = torch.zeros(20, 28, 28, dtype=torch.uint8)
    images[:, 7:21, 7:21] = (25.5 * (labels + 1)).byte()[:, None, None]
    return Digits(images, labels)


def seen(image, boxes):
    """The value of each digit, and where its middle is in pixels, as (x, y)."""
    height, width = image.shape
    middles = [((x + 1) / 2 * width, (y + 1) / 2 * height) for x, y in boxes.mean(1).tolist()]
    return [(round(10 * float(image[int(y), int(x)])) - 1, x, y) for x, y in middles]


def answer(words, digits, side):
    """What a person says who is asked so about digits, each (value, x, y)."""
    values = [value for value, _, _ in digits]
    match words:
        case ["which", "digit", "is", "the", "greatest"]:
            return max(values)
        case ["which", "digit", "is", "the", "least"]:
            return min(values)
        case ["how", "many", "digits", "are", "greater", "than", number]:
            return sum(value > NUMBERS.index(number) for value in values)
        case ["how", "many", "digits", "are", "less", "than", number]:
            return sum(value < NUMBERS.index(number) for value in values)
        case ["which", *rest, number]:
            limits = {"greatest": max(values), "least": min(values)}
            named = limits[number] if number in limits else NUMBERS.index(number)
            ((_, x, y),) = [digit for digit in digits if digit[0] == named]
            turned = {
                "left": lambda x, y: (-x, y),
                "right": lambda x, y: (x, y),
                "above": lambda x, y: (-y, x),
                "below": lambda x, y: (y, x),
            }[rest[rest.index("just") + 1]]
            ahead = [(*turned(to_x - x, to_y - y), value) for value, to_x, to_y in digits]
            return min((far, value) for far, aside, value in ahead if far > 0 and abs(aside) < side / 2)[1]
    raise AssertionError(words)


@pytest.mark.parametrize("task", TASKS)
def test_a_person_gives_the_same_answers(squares, generator, task):
    batch = task.draw(squares, torch.zeros(400, dtype=torch.long), generator)
    asked = set()
    for image, boxes, label, question in zip(
        batch.images[:, 0], batch.pose.box, batch.labels, batch.question, strict=True
    ):
        words = decode_question(question)
        asked.add(" ".join("zero" if word in NUMBERS else word for word in words))
        assert answer(words, seen(image, boxes), task.side) == label
    assert asked == set(TWO_STEP_TEMPLATES if task.two_steps else TEMPLATES)


def test_poses_boxes_and_ink_say_where_the_digits_are(digits, generator):
    task = Questions(canvas=(60, 80))
    batch = task.draw(digits, torch.arange(20), generator)
    assert batch.images.shape == (20, 1, 60, 80)
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert batch.pose.matrix.shape == (20, 4, 3, 3)
    torch.testing.assert_close(batch.pose.matrix[..., 0, 0], torch.full((20, 4), 20 / 80))
    torch.testing.assert_close(batch.pose.matrix[..., 1, 1], torch.full((20, 4), 20 / 60))
    seen_ink = torch.nn.functional.adaptive_avg_pool2d(batch.images, batch.pose.ink.shape[-2:])[:, 0]
    torch.testing.assert_close(batch.pose.ink.sum(1).clamp(max=1), seen_ink, atol=0.02, rtol=0)
    for ink, box in zip(batch.pose.ink.flatten(0, 1), batch.pose.box.flatten(0, 1), strict=True):
        y, x = (ink > 0).nonzero().float().add(0.5).mean(0) / torch.tensor(ink.shape) * 2 - 1
        assert box.mean(0).tolist() == pytest.approx([float(x), float(y)], abs=0.1)


@pytest.mark.parametrize("templates", [TEMPLATES, TWO_STEP_TEMPLATES])
def test_no_answer_of_a_kind_is_likelier_than_another(squares, generator, templates):
    task = Questions(canvas=40, two_steps=templates == TWO_STEP_TEMPLATES)
    batch = task.draw(squares, torch.zeros(20_000, dtype=torch.long), generator, posed=False)
    lines = [" ".join(decode_question(question)) for question in batch.question]
    for kind in templates:
        start = kind.removesuffix(" zero")
        answers = batch.labels[torch.tensor([line.startswith(start) for line in lines])]
        assert len(answers) == pytest.approx(20_000 / len(templates), rel=0.06)
        shares = answers.bincount()[kind.startswith("which is") and kind.endswith("least") :] / len(answers)
        assert len(shares) == (5 if "many" in kind else 9 if kind.startswith("which is") else 10)
        assert shares.tolist() == pytest.approx([1 / len(shares)] * len(shares), abs=0.03)


def test_the_generator_decides_everything_and_poses_change_nothing(digits):
    task, index = Questions(clutter=4), torch.arange(10)
    one, two, other = (
        task.draw(digits, index, torch.Generator().manual_seed(seed), posed)
        for seed, posed in ((3, True), (3, False), (4, True))
    )
    for field in ("images", "labels", "question"):
        assert getattr(one, field).equal(getattr(two, field))
        assert not getattr(one, field).equal(getattr(other, field))
    plain = Questions().draw(digits, index, torch.Generator().manual_seed(3))
    assert plain.labels.equal(one.labels)
    assert (one.images.sum((1, 2, 3)) > plain.images.sum((1, 2, 3))).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"canvas": 39},
        {"canvas": (20, 80)},
        {"digits": 9, "canvas": (40, 70)},
        {"canvas": 20, "side": 9, "clutter": 1, "clutter_size": 21},
    ],
)
def test_what_does_not_fit_on_the_canvas_is_refused(settings):
    with pytest.raises(
        UserError, match=r"^(canvas must have room|clutter_size must be at most the canvas's 20)"
    ):
        Questions(**settings)


def test_a_class_without_digits_is_named(digits, generator):
    some = Digits(digits.images[:7], digits.labels[:7])
    with pytest.raises(UserError, match=r"no 7: data\.valid_size"):
        Questions().draw(some, torch.arange(3), generator)
