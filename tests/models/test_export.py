"""Exports by ``torch.export`` and to ONNX, for any number of images."""

import pytest
import torch
from torch import nn

from stn_experiments.models import SpatialTransformer
from stn_experiments.models.backbones import Compact
from stn_experiments.models.classifier import Classifier
from tests.models.test_grids import FAMILIES

SHAPE = (1, 30, 40)


class Output(nn.Sequential):
    """Exporters want tensors: the warped images of a transformer, the logits of a classifier."""

    def forward(self, images):
        (model,) = self
        output = model(images)
        return output.logits if isinstance(model, Classifier) else output.output


def models():
    for family in FAMILIES:
        yield pytest.param(
            lambda family=family: SpatialTransformer(SHAPE, 28, family=family()),
            id=family.__name__,
            marks=pytest.mark.slow,
        )
    yield pytest.param(
        lambda: Classifier(Compact((1, 28, 28), 10), {"input": [SpatialTransformer(SHAPE, 28)]}),
        id="classifier",
    )


@pytest.mark.parametrize("build", list(models()))
def test_both_exporters_keep_the_number_of_images_open(build, tmp_path, generator):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build()
    for name, weight in model.named_parameters():
        if name.endswith("localisation.theta.weight"):
            nn.init.normal_(weight, std=0.05, generator=generator)
    model, example = Output(model).eval(), (torch.rand(4, *SHAPE, generator=generator),)
    program = torch.export.export(model, example, dynamic_shapes=[{0: torch.export.Dim("batch")}]).module()
    file = str(tmp_path / "model.onnx")
    torch.onnx.export(model, example, file, dynamo=True, dynamic_shapes=[{0: "batch"}], verbose=False)
    session = onnxruntime.InferenceSession(file)
    for batch in (1, 3, 7):
        images = torch.rand(batch, *SHAPE, generator=generator)
        expected = model(images)
        torch.testing.assert_close(program(images), expected)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)
