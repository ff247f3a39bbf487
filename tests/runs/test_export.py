"""A run as one file, for programs without this package."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from stn_experiments.runs import export as export_module
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.export import CHUNK, batches
from stn_experiments.runs.load import load_run
from stn_experiments.storage import checkpoints
from stn_experiments.storage.run_folder import RunFolder
from tests.conftest import variation

SHAPE = (1, 42, 48)
RTS = ("data=rts", "data.distortion.canvas=[42,48]")


@pytest.fixture
def untrained(compose, few_digits, tmp_path, generator):
    """Write the folder ``run`` of a run whose transformers depend on the image, but which is not trained."""

    def write(*settings):
        small = few_digits if settings == RTS else few_digits[:2]  # the last two are for one backbone
        config = compose(*small, *(settings or RTS), "trainer.device=cpu")
        model = build_experiment(config).model
        for name, weight in model.named_parameters():
            if name.endswith("localisation.theta.weight"):
                torch.nn.init.normal_(weight, std=0.05, generator=generator)
        run = RunFolder(tmp_path / "run")
        run.create(config)
        checkpoints.save({"model": model.state_dict()}, run.model)
        return run.folder

    return write


@pytest.fixture
def export(command, untrained, tmp_path):
    """Export a run: what the printed code makes of other images, beside the run's own output for them."""

    def run(form, part, *settings):
        folder, file = untrained(*settings), f"run{export_module.FORMATS[form].suffix}"
        code, out, err = command("export.py", "run", "--format", form, "--output", file, "--part", part)
        assert (code, err) == (0, "")
        head, _, usage = out.partition("\n\n")
        (_, name), (label, difference) = (line.split(maxsplit=1) for line in head.splitlines())
        assert (name, label) == (file, "difference")
        assert difference.endswith(" at most from the run, on 40 test images")
        assert all(float(word.split()[1]) <= 1e-3 for word in difference.partition(" at ")[0].split(", "))
        (example,) = [line for line in usage.splitlines() if line.startswith("images = ")]
        images = torch.rand(3, *SHAPE)
        np.save(tmp_path / "images.npy", images.numpy())
        read = 'np.load("images.npy")' if form == "onnx" else 'torch.from_numpy(np.load("images.npy"))'
        code = "import numpy as np\n" + usage.replace(example, f"images = {read}")
        model, _ = load_run(folder)
        with torch.no_grad():
            return in_another_process(code, tmp_path), model(images)

    return run


def in_another_process(code, folder):
    """The outputs of printed code, which runs where this package cannot be imported."""
    code = f"import sys\nsys.modules['stn_experiments'] = None\n{code}\n"
    code += "names = [name for name in ('logits', 'v', 'theta', 'box') if name in globals()]\n"
    code += "np.savez('outputs.npz', **{name: np.asarray(globals()[name]) for name in names})\n"
    subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, check=True)
    with np.load(folder / "outputs.npz") as outputs:
        return {name: torch.from_numpy(outputs[name]) for name in outputs}


def expected_outputs(output):
    view = output.stages["input"].views[0]
    height, width = SHAPE[1:]
    box = (view.outline + 1) / 2 * torch.tensor([width, height]) - 0.5
    return {"logits": output.logits, "v": view.output, "theta": view.transform.theta, "box": box}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize(
    "settings", ["stn=affine", "stn=projective", "stn=rotation", "stn=tps", "stn.at=layer2 stn.share=true"]
)
def test_the_printed_code_gives_what_the_run_gives(export, form, settings):
    found, output = export(form, "both", *RTS, *settings.split())
    assert_same(found, expected_outputs(output))


@pytest.mark.slow
def test_a_transformer_alone_is_a_small_file_without_the_rest(export, tmp_path):
    settings = (*RTS, "backbone=resnet18", "stn.localisation=keypoints")
    found, output = export("torch", "transformer", *settings)
    expected = expected_outputs(output)
    del expected["logits"]
    assert_same(found, expected)
    assert (tmp_path / "run.pt2").stat().st_size < 2e6


@pytest.fixture
def program(untrained, tmp_path):
    """Export a run in this process and load the file: the program, and the run's network."""

    def run(part, *settings):
        folder = untrained(*settings)
        file = tmp_path / "run.pt2"
        export = export_module.export_run(RunFolder(folder), part, "torch", file)
        assert max(export.differences.values()) == 0
        return torch.export.load(file).module(), load_run(folder)[0]

    return run


def test_a_classifier_without_attention(program):
    exported, model = program("classifier", *RTS, "stn=none", "backbone=cnn")
    images = torch.rand(5, *SHAPE)
    assert_same(exported(images), {"logits": model(images).logits})


def test_a_transformer_alone_gives_its_view(program):
    exported, model = program("transformer", "data.distortion.canvas=[42,48]")  # the default localisation
    images = torch.rand(5, *SHAPE)
    expected = expected_outputs(model(images))
    del expected["logits"]
    assert_same(exported(images), expected)


@pytest.mark.slow
def test_transformers_side_by_side_are_numbered(program):
    exported, model = program("transformer", *RTS, "stn.count=2")
    images = torch.rand(5, *SHAPE)
    found, views = exported(images), model(images).stages["input"].views
    assert list(found) == ["v1", "theta1", "box1", "v2", "theta2", "box2"]
    for number, view in enumerate(views, 1):
        torch.testing.assert_close(found[f"theta{number}"], view.transform.theta)


@pytest.mark.slow
def test_the_views_of_a_recurrent_transformer_are_numbered(program):
    images = torch.rand(3, 1, 100, 100)
    exported, model = program("classifier", "experiment=sequence")
    assert_same(exported(images), {"logits": model(images).logits})
    exported, _ = program("transformer", "experiment=sequence")
    assert {"v1", "v3", "theta2"} <= set(exported(images))


@pytest.mark.slow
def test_questions_are_a_second_input(program):
    exported, model = program("classifier", "experiment=question_answering")
    images, question = torch.rand(3, 1, 60, 60), torch.randint(0, 5, (3, 7))
    assert_same(exported(images, question), {"logits": model(images, question).logits})


def test_an_export_is_checked_with_batches_of_one_and_of_other_sizes():
    for count, sizes in [(1, [1]), (2, [1, 1]), (CHUNK + 5, [1, CHUNK, 4])]:
        images = torch.rand(count, 1, 2, 2)
        found = list(batches({"images": images}))
        assert [len(batch["images"]) for batch in found] == sizes
        assert torch.equal(torch.cat([batch["images"] for batch in found]), images)


@pytest.fixture
def fails(refused, tmp_path):
    """Export ``run`` with other options: the line on stderr. Nothing is written."""

    def run(*words, file="run.pt2", form="torch", folder="run"):
        before = set(tmp_path.rglob("*"))
        line = refused("export.py", folder, "--format", form, "--output", file, *words)
        assert set(tmp_path.rglob("*")) == before
        return line

    return run


@pytest.mark.parametrize("error", [2e-4, variation(float("nan"))])
def test_an_export_that_differs_is_not_written(untrained, fails, monkeypatch, error):
    untrained(*RTS, "stn=none")
    formats = export_module.FORMATS
    exact = formats["torch"]

    def wrong(network, inputs):
        content, program, outputs = exact.export(network, inputs)
        return content, lambda batch: {name: value + error for name, value in program(batch).items()}, outputs

    monkeypatch.setitem(formats, "torch", exact._replace(export=wrong))
    line = fails()
    assert line.startswith("run cannot be exported with --format torch: logits differs by ")


def test_a_difference_is_relative_to_large_outputs():
    inputs = {"images": torch.full((3, 1, 2, 2), 50.0)}
    network = torch.nn.Module()
    network.forward = lambda images: {"box": images, "v": images / 100}
    compared = export_module.compare(network, lambda batch: {"box": batch["images"] + 0.5, "v": 0.25}, inputs)
    assert compared == {"box": (0.5, 50), "v": (0.25, 0.5)}


def test_a_network_that_cannot_be_exported_is_one_line(untrained, fails, monkeypatch):
    untrained(*RTS, "stn=none")

    def broken(network, inputs):
        raise RuntimeError("no such operator\nand a long text")

    formats = export_module.FORMATS
    monkeypatch.setitem(formats, "torch", formats["torch"]._replace(export=broken))
    assert fails() == "run cannot be exported with --format torch: RuntimeError: no such operator"


def test_a_part_that_a_run_does_not_have_is_one_line(untrained, fails):
    untrained(*RTS, "stn=none")
    for part in ("transformer", "both"):
        assert fails("--part", part) == "--part must be classifier: run has no transformer"
    untrained(*RTS, "stn.at=layer2")
    line = "--part must be classifier: run has transformers only at layer2, not at the input"
    assert fails("--part", "transformer") == line


def test_mistakes_on_the_command_line_are_one_line(untrained, fails, tmp_path, monkeypatch):
    untrained()
    for name in ("empty", "folder.pt2"):
        (tmp_path / name).mkdir()
    assert fails(folder="nowhere") == "nowhere is not a run: there is no such folder"
    assert fails(folder="empty").startswith("empty is not a run: it has no config.yaml")
    assert fails(file="no/run.pt2") == "--output must be in a folder that exists, got no/run.pt2"
    assert fails(file="folder.pt2") == "--output must be a file, got the folder folder.pt2"
    assert fails(file="run.onnx") == "--output must end in .pt2 for --format torch, got run.onnx"
    assert fails(file="x" * 300 + ".pt2").startswith("--output cannot be written to: ")
    line = "--output must be in a folder that exists, got run/config.yaml/x.pt2"
    assert fails(file="run/config.yaml/x.pt2") == line
    assert "invalid choice: 'caffe'" in fails(form="caffe")
    find_spec = export_module.find_spec
    monkeypatch.setattr(
        export_module, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    assert (
        fails(form="onnx", file="run.onnx") == "--format onnx needs onnxruntime: pip install -e '.[export]'"
    )


def test_a_run_without_its_checkpoint_is_one_line(untrained, fails):
    RunFolder(untrained()).model.unlink()
    assert "model.pt" in fails()
