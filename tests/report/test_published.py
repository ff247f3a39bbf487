import pytest

from stn_experiments.report.published import DATA, is_of, lowest_published, published
from stn_experiments.report.tables import footnotes
from tests.report.harness import SETTINGS

SIM2MNIST, SIM2MNIST10K, ROTATED12K = (
    {f"data.{key}": value for key, value in SETTINGS[name].items() if key != "distortion"}
    for name in ("sim2mnist", "sim2mnist10k", "rotated12k")
)
RAM = {"attention": "ram", "attention.glimpses": 8}


@pytest.mark.parametrize(
    ("data", "backbone", "stn", "settings", "expected"),
    [
        ("rotated", "fcn", "none", {}, "2.1ᵇ FCN"),
        ("rotated", "compact", "tps", {}, "0.7ᵇ ST-CNN TPS"),
        ("rts", "fcn", "projective", {}, "0.9ᶜ ST-FCN projective"),
        ("elastic", "fcn", "affine", {}, "2.7ᶜ ST-FCN affine"),
        ("cluttered", "compact", "none", {}, "3.5ᵃ CNN"),
        ("cluttered", "cnn", "tps", {}, "None"),
        ("rotated", "resnet18", "affine", {}, "None"),
        ("rotated", "cnn", "similarity", {}, "None"),
        ("rotated", "cnn", "affine", {"attention": "cbam"}, "None"),
        ("rotated", "cnn", "affine", {"stn.count": 2}, "None"),
        ("rotated", "cnn", "affine", {"data.distortion": {"canvas": 42, "angle": 90}}, "None"),
        ("rotated", "cnn", "affine", {"data.distortion": {"angle": 90}}, "0.7ᵇ ST-CNN affine"),
        ("mixed", "cnn", "affine", {}, "None"),
        ("projective", "fcn", "projective", {}, "None"),  # what the published ones are of is not known
        ("addition", "fcn", "none", {}, "47.7ᵃ FCN"),
        ("addition", "fcn", "affine", {}, "18.5ᵃ one transformer, at best"),
        ("addition", "cnn", "affine", {"stn.count": 2}, "5.8ᵃ two transformers, at best"),
        ("addition", "cnn", "affine", {"stn.count": 3}, "None"),
        ("addition", "fcn", "none", {"data.distortion": {"canvas": 42, "each": {"angle": 45}}}, "None"),
        ("sequence", "compact", "none", {}, "2.9ᵃ CNN"),
        ("sequence", "compact", "affine", {}, "2.0ᵃ STN"),
        ("sequence", "compact", "affine", {"stn.recurrent": True}, "1.5ᵃ recurrent STN"),
        ("sequence", "compact", "affine", {"data.distortion": {"canvas": 100}}, "None"),
        ("sim2mnist", "compact", "none", SIM2MNIST, "11.73ᵃ CNN"),
        ("sim2mnist", "cnn", "similarity", SIM2MNIST, "12.35ᵃ STN"),
        ("sim2mnist", "fcn", "affine", SIM2MNIST, "None"),
        ("sim2mnist", "cnn", "affine", SIM2MNIST | {"data.online": True}, "None"),
        ("sim2mnist", "cnn", "affine", SIM2MNIST | {"data.train_digits": None}, "None"),
        ("sim2mnist", "cnn", "affine", SIM2MNIST | {"data.training.angle": 180}, "None"),
        ("sim2mnist10k", "cnn", "affine", SIM2MNIST10K, "12.35ᵃ STN"),
        ("sim2mnist10k", "polar", "none", SIM2MNIST10K, "5.03ᵃ PTN"),
        ("sim2mnist10k", "cnn", "affine", SIM2MNIST10K | {"data.test_draws": 1}, "None"),
        ("rotated12k", "compact", "none", ROTATED12K, "5.76ᵃ CNN"),
        ("rotated12k", "compact", "affine", ROTATED12K, "7.87ᵃ STN"),
        ("rotated12k", "polar", "none", ROTATED12K, "1.83ᵃ PTN"),
        ("rotated12k", "gcnn", "none", ROTATED12K, "2.28ᵃ P4CNN"),
        ("rotated12k", "compact", "affine", ROTATED12K | {"data.online": True}, "None"),
        ("rotated12k_files", "compact", "affine", {"data.valid_size": 2000}, "7.87ᵃ STN"),
        ("rotated12k_files", "compact", "affine", {"data.valid_size": 1}, "None"),
        ("cluttered_ram", "none", "none", RAM, "4.04ᵇ RAM, 8 glimpses"),
        ("cluttered_ram", "none", "none", RAM | {"attention.glimpses": 6}, "3.75ᵃ RAM, 6 glimpses"),
        ("cluttered_ram", "none", "none", RAM | {"attention.glimpses": 7}, "None"),
        ("cluttered_ram", "cnn", "none", RAM, "None"),
        ("cluttered_ram", "cnn", "affine", {}, "None"),
        ("cluttered_ram100", "none", "none", RAM, "2.68ᵃ RAM"),
        ("cluttered", "none", "none", RAM, "None"),
    ],
)
def test_published_errors(write_run, groups, data, backbone, stn, settings, expected):
    write_run("run", 1.0, data=data, backbone=backbone, stn=stn, **settings)
    figure = published(groups()[0])
    assert (f"{figure} {figure.model}" if figure else "None") == expected


def test_published_figures_are_those_of_the_sources_on_the_data_of_the_configs(compose):
    figures = {}
    for source in DATA["sources"]:
        for data, column in source["columns"].items():
            assert is_of(column["settings"], compose(f"data={data}")["data"]), data
            for sureness, errors in column["errors"].items():
                assert sureness in DATA["sureness"]
                figures |= {(data, model): error for model, error in errors.items() if "RAM" not in model}
    clean = compose("data=clean")["data"]["distortion"]
    assert DATA["undistorted"] == {key: value for key, value in clean.items() if key != "_target_"}
    for model, errors in {
        "CNN": [1.2, 0.8, 1.4, 3.5],
        "FCN": [2.1, 5.2, 3.2, 13.2],
        "ST-CNN affine": [0.7, 0.5, 1.2, 1.7],
        "ST-FCN affine": [1.2, 0.8, 2.7, 2.0],
    }.items():
        assert [figures[data, model] for data in ("rotated", "rts", "elastic", "cluttered")] == errors
    assert [error for (data, _), error in figures.items() if data == "addition"] == [47.7, 14.7, 18.5, 5.8]


def test_footnotes_name_the_sources_of_the_shown_figures_and_how_sure_they_are(write_run, groups):
    write_run("a", 1.0, backbone="cnn")
    write_run("b", 1.0, data="elastic", backbone="fcn")
    notes = footnotes(groups())
    assert notes[-2:] == [
        "Published: Jaderberg et al. 2015, arXiv 1506.02025; ᵇ second-hand, ᶜ recalled.",
        "The networks of Jaderberg et al. saw 38 million images.",
    ]
    write_run("c", 1.0, data="cluttered_ram", backbone="none", stn="none", **RAM)
    *_, sources, version, _ = footnotes(groups())
    assert "Published: Mnih et al. 2014, arXiv 1406.6247; Jaderberg et al." in sources
    assert "4.04 for RAM" in version


@pytest.mark.parametrize(("settings", "error"), [(ROTATED12K, "1.83ᵃ PTN"), ({"data.online": True}, "None")])
def test_the_lowest_published_error_is_of_any_model_on_the_same_data(write_run, groups, settings, error):
    write_run("run", 1.0, data="rotated12k", backbone="gcnn", stn="similarity", **settings)
    figure = lowest_published(groups()[0])
    assert (f"{figure} {figure.model}" if figure else "None") == error
