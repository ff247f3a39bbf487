import pytest

from stn_experiments.report.published import DATA, published
from stn_experiments.report.report import Report
from tests.report.harness import DISTORTIONS


@pytest.mark.parametrize(
    ("data", "backbone", "stn", "settings", "expected"),
    [
        ("rotated", "fcn", "none", {}, "2.1ᵇ FCN"),
        ("rotated", "compact", "tps", {}, "0.7ᵇ ST-CNN TPS"),
        ("rts", "fcn", "projective", {}, "0.9ᶜ ST-FCN projective"),
        ("projective", "cnn", "projective", {}, "0.8ᵇ ST-CNN projective"),
        ("elastic", "fcn", "affine", {}, "2.7ᶜ ST-FCN affine"),
        ("cluttered", "compact", "none", {}, "3.5ᵃ CNN"),
        ("cluttered", "cnn", "tps", {}, "None"),
        ("rotated", "resnet18", "affine", {}, "None"),
        ("rotated", "cnn", "similarity", {}, "None"),
        ("rotated", "cnn", "affine", {"attention": "cbam"}, "None"),
        ("rotated", "cnn", "affine", {"data.distortion": {"canvas": 42, "angle": 90}}, "None"),
        ("mixed", "cnn", "affine", {}, "None"),
        ("addition", "fcn", "none", {}, "47.7ᵃ FCN"),
        ("addition", "fcn", "affine", {}, "18.5ᵃ one transformer, at best"),
        ("addition", "cnn", "affine", {"stn.count": 2}, "5.8ᵃ two transformers, at best"),
        ("addition", "cnn", "affine", {"stn.count": 3}, "None"),
    ],
)
def test_published_errors(write_run, groups, data, backbone, stn, settings, expected):
    write_run("run", 1.0, data=data, backbone=backbone, stn=stn, **settings)
    figure = published(groups()[0])
    assert (f"{figure} {figure.model}" if figure else "None") == expected


def test_the_published_table_is_that_of_the_paper_on_the_data_of_the_configs(compose):
    models = DATA["models"]
    assert models["ST-CNN affine"]["error"] == [0.7, 0.5, 0.8, 1.2, 1.7]
    assert models["CNN"]["error"] == [1.2, 0.8, 1.5, 1.4, 3.5]
    assert [len(row) for model in models.values() for row in model.values()] == [5] * 16
    for model in models.values():
        for error, sureness in zip(model["error"], model["sureness"], strict=True):
            assert (sureness in DATA["sureness"]) == (error is not None)
    assert list(DATA["addition"]["models"].values()) == [47.7, 14.7, 18.5, 5.8]
    for name, settings in DISTORTIONS.items():
        shipped = compose(f"data={name}")["data"]["distortion"]
        assert settings == {key: value for key, value in shipped.items() if key != "_target_"}


def test_footnotes_say_how_sure_the_shown_figures_are(write_run, root):
    write_run("a", 1.0, backbone="cnn")
    write_run("b", 1.0, data="projective", backbone="fcn")
    first, second = Report([root]).footnotes
    assert "; ᵇ second-hand, ᶜ recalled." in first
    assert "its projective data is known at second hand" in second
    assert "read in the paper" not in first
