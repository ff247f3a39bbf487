"""Exports by ``torch.export`` and to ONNX, for any number of images."""

import pytest
import torch
from torch import nn

from stn_experiments.models import SpatialTransformer
from tests.models.test_grids import FAMILIES

SHAPE = (1, 30, 40)


class Output(nn.Sequential):
    """Exporters want tensors: the warped images."""

    def forward(self, images):
        return super().forward(images).output


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_both_exporters_keep_the_number_of_images_open(family, tmp_path, generator):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = Output(SpatialTransformer(SHAPE, 28, family=family())).eval()
    nn.init.normal_(model[0].localisation.theta.weight, std=0.05, generator=generator)
    example = (torch.rand(4, *SHAPE, generator=generator),)
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
