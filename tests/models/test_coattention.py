"""Co-attention against the equations of Lu et al. 2016, and its dependence on the question."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stn_experiments.common.errors import UserError
from stn_experiments.models.coattention import Alternating, CoAttentionConfig, Fusion, Parallel
from stn_experiments.runs.experiment import build_experiment

MODES = ["parallel", "alternating"]
WIDTH, PLACES, LENGTH = 8, 6, 5
IS_WORD = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])


def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


def by_the_equations(attention, v, q):
    """The paper's result for one image's places v (d, N) and one question's words q (d, T), as columns."""
    w = {name: value.detach().numpy() for name, value in attention.named_parameters()}
    if isinstance(attention, Parallel):
        c = np.tanh(q.T @ w["affinity.weight"] @ v)
        h_v = np.tanh(w["image.weight"] @ v + w["question.weight"] @ q @ c)
        h_q = np.tanh(w["question.weight"] @ q + w["image.weight"] @ v @ c.T)
        a_v, a_q = softmax(w["score_image.weight"][0] @ h_v), softmax(w["score_question.weight"][0] @ h_q)
        return v @ a_v, q @ a_q, a_v, a_q

    def attend(step, x, g):
        h = np.tanh(w[f"{step}.vectors.weight"] @ x + np.outer(g, np.ones(x.shape[1])))
        a = softmax(w[f"{step}.score.weight"][0] @ h)
        return x @ a, a

    s, _ = attend("summarise", q, np.zeros(WIDTH))
    v_hat, a_v = attend("look", v, w["look.guide.weight"] @ s)
    q_hat, a_q = attend("reread", q, w["reread.guide.weight"] @ v_hat)
    return v_hat, q_hat, a_v, a_q


@pytest.mark.parametrize("kind", [Parallel, Alternating])
def test_each_mode_agrees_with_the_paper(kind):
    torch.manual_seed(0)
    attention = kind(WIDTH)
    for weights in attention.parameters():
        torch.nn.init.normal_(weights)
    image, question = torch.randn(3, PLACES, WIDTH), torch.randn(3, LENGTH, WIDTH) * IS_WORD[..., None]
    attended = attention(image, question, IS_WORD)
    for index, length in enumerate(IS_WORD.sum(1).tolist()):
        expected = by_the_equations(attention, image[index].T.numpy(), question[index, :length].T.numpy())
        for ours, theirs in zip(attended, expected, strict=True):
            ours = ours[index].detach().numpy()
            np.testing.assert_allclose(ours[: len(theirs)], theirs, atol=1e-5)
            assert not ours[len(theirs) :].any(), "padding has no weight"


def build(mode="parallel", blind=None, shape=(6, 3, 4), words=9, layers=1):
    torch.manual_seed(0)
    return CoAttentionConfig(mode, 16, blind, layers).build(shape, 4, words)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_more_padding_changes_nothing(mode, layers):
    model = build(mode, layers=layers).eval()
    features, question = torch.randn(2, 6, 3, 4), torch.tensor([[3, 1, 4, 1], [5, 2, 0, 0]])
    short, long = (model(features, F.pad(question, (0, more)), None) for more in (0, 3))
    torch.testing.assert_close(short.logits, long.logits)
    assert len(long.views) == layers
    for view in long.views:
        assert view.words.shape == (2, 7)
        assert not view.words[:, 4:].any()
        assert not view.words[1, 2:].any()
        torch.testing.assert_close(view.words.sum(1), torch.ones(2))
        torch.testing.assert_close(view.heat.weights.sum((1, 2)), torch.ones(2))
        assert view.output.shape == features.shape
    assert build(mode).train()(features, question).views == [], "training makes no views"


def test_a_layer_passes_on_each_vector_with_what_it_attended_to_on_the_other_side():
    torch.manual_seed(0)
    image, question = torch.randn(3, PLACES, WIDTH), torch.randn(3, LENGTH, WIDTH) * IS_WORD[..., None]
    attended, fusion = Parallel(WIDTH)(image, question, IS_WORD), Fusion(WIDTH)
    sides = ((image, attended.question, fusion.image), (question, attended.image, fusion.question))
    for (vectors, other, linear), fused in zip(sides, fusion(image, question, attended), strict=True):
        weight, bias, s = linear.weight.detach().numpy(), linear.bias.detach().numpy(), other.detach().numpy()
        for index, place in np.ndindex(*vectors.shape[:2]):
            x = vectors[index, place].numpy()
            expected = x + np.maximum(weight @ np.concatenate([x, s[index]]) + bias, 0)
            np.testing.assert_allclose(fused[index, place].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_each_layer_reads_what_the_one_before_attended_to(mode):
    model = build(mode, layers=3).eval()
    features, question = torch.randn(2, 6, 3, 4), torch.tensor([[3, 1, 4, 1], [5, 2, 0, 0]])

    def weights():
        return [(view.heat.weights, view.words) for view in model(features, question, None).views]

    before = weights()
    for parameter in model.attentions[3:6].parameters():
        torch.nn.init.normal_(parameter)
    after = weights()
    changed = [not (a.equal(c) or b.equal(d)) for (a, b), (c, d) in zip(before, after, strict=True)]
    assert changed == [False, True, True]


@pytest.mark.parametrize("mode", MODES)
def test_every_parameter_learns(mode):
    model, question = build(mode, layers=2), torch.tensor([[3, 1, 4, 1], [5, 2, 0, 0]])
    F.cross_entropy(model(torch.randn(2, 6, 3, 4), question, None).logits, torch.tensor([0, 3])).backward()
    still = [name for name, weights in model.named_parameters() if not weights.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("blind", [None, "image", "question"])
def test_a_blind_input_has_no_effect(blind):
    model = build(blind=blind)
    features, question = torch.randn(1, 6, 3, 4), torch.tensor([[3, 1, 4, 1]])
    start = model(features, question, None).logits
    other_image = model(torch.randn(1, 6, 3, 4), question, None).logits
    other_question = model(features, torch.tensor([[5, 2, 0, 0]]), None).logits
    assert start.equal(other_image) == (blind == "image")
    assert start.equal(other_question) == (blind == "question")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attention=coattention"], "must not be coattention for data without questions"),
        (["data=question"], "must be coattention, which reads the questions"),
        (["data=question", "attention=coattention", "backbone=fcn"], "must not be coattention after a"),
    ],
)
def test_data_or_maps_that_it_cannot_read_are_refused(compose, overrides, message):
    with pytest.raises(UserError, match=f"^attention.name {message}"):
        build_experiment(compose(*overrides))
