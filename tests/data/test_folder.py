"""A folder of images is read in both layouts and in every kind of file, or refused in one line."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stn_experiments.common.errors import UserError
from stn_experiments.data import folder as module
from stn_experiments.data.augmentation import Augmentation
from stn_experiments.data.folder import ImageFiles, find_images
from stn_experiments.data.own_images import ImageFolder
from tests.data.signs import NAMES, write_signs

CPU = torch.device("cpu")
FRACTIONS = (0.2, 0.3)


def touch(root, *names):
    """Create empty files; nothing that only lists a folder opens them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(classes, root):
    return {
        name: [Path(path).relative_to(root).as_posix() for path in paths] for name, paths in classes.items()
    }


# Finding


def test_splits_have_folders_with_any_of_their_names(tmp_path):
    files = ("Train/b/1.PNG", "Train/a/more/2.jpeg", "VAL/a/3.ppm", "VAL/b/4.webp", "testing/a/5.bmp")
    ignored = (
        "Train/a/notes.csv",
        "Train/a/.hidden.png",
        "Train/.cache/1.png",
        "Train/stray.png",
        "Meta/a/1.png",
    )
    touch(tmp_path, *files, "testing/b/6.jpg", *ignored)
    splits = find_images(tmp_path, FRACTIONS, 0)
    assert splits.class_names == ["a", "b"]
    assert listed(splits.train, tmp_path) == {"a": ["Train/a/more/2.jpeg"], "b": ["Train/b/1.PNG"]}
    assert listed(splits.valid, tmp_path) == {"a": ["VAL/a/3.ppm"], "b": ["VAL/b/4.webp"]}
    assert listed(splits.test, tmp_path) == {"a": ["testing/a/5.bmp"], "b": ["testing/b/6.jpg"]}


def test_classes_alone_are_split_by_their_fractions_and_a_seed(tmp_path):
    counts = {"rare": 3, "train": 10, "usual": 40}  # a class may be called train
    touch(tmp_path, *(f"{name}/{i:02d}.png" for name, count in counts.items() for i in range(count)))
    splits, again, other = (find_images(tmp_path, FRACTIONS, seed) for seed in (0, 0, 1))
    for split, wanted in zip(splits[:3], ([1, 5, 20], [1, 2, 8], [1, 3, 12]), strict=True):
        assert [len(split[name]) for name in counts] == wanted
    for name, count in counts.items():
        parts = [path for split in splits[:3] for path in split[name]]
        assert len(parts) == len(set(parts)) == count
    assert splits == again
    assert splits.test["usual"] != other.test["usual"]


def test_without_a_validation_set_a_part_of_training_is_held_out(tmp_path):
    touch(
        tmp_path,
        *(f"{split}/{name}/{i}.png" for split in ("train", "test") for name in "ab" for i in range(10)),
    )
    splits = find_images(tmp_path, FRACTIONS, 0)
    assert [[len(paths) for paths in split.values()] for split in splits[:3]] == [[8, 8], [2, 2], [10, 10]]
    assert all("/train/" in path for path in splits.valid["a"])


def test_classes_named_by_numbers_are_in_the_order_of_the_numbers(tmp_path):
    touch(tmp_path, *(f"{name}/{i}.png" for name in (10, 9, 0, "00011") for i in range(3)))
    assert find_images(tmp_path, FRACTIONS, 0).class_names == ["0", "9", "10", "00011"]


MISTAKES = {
    "missing": ((), "there is no such folder"),
    "empty": ((".keep",), "{root} must have a folder of images for each class, got none"),
    "no folders": (("1.png", "2.png"), "{root} must have a folder of images for each class, got none"),
    "one class": (("a/1.png", "a/2.png"), "{root} must have a folder of images for each class, got ['a']"),
    "an empty class": (
        ("a/1.png", "a/2.png", "b/notes.txt"),
        "{root}/b has no images, which end in .png, .jpg",
    ),
    "an empty class of the test": (
        ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/notes.txt"),
        "{root}/test/b has no images",
    ),
    "another class in the test": (
        ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "test/c/1.png"),
        "{root}/test and {root}/train must have the same classes, but only one of them has c",
    ),
    "a class that the test has not": (
        ("train/a/1.png", "train/b/1.png", "test/a/1.png"),
        "{root}/test and {root}/train must have the same classes, but only one of them has b",
    ),
    "a test without classes": (
        ("train/a/1.png", "train/b/1.png", "test/1.png"),
        "{root}/test and {root}/train must have the same classes, but only one of them has a",
    ),
    "no test": (
        ("train/a/1.png", "train/b/1.png", "valid/a/1.png"),
        "has no folder test: give {root}/train alone, which is split, or add one",
    ),
    "a split twice": (("train/a/1.png", "Training/a/1.png"), "{root}/Training and {root}/train are the same"),
    "too few": (("a/1.png", "b/1.png", "b/2.png"), "class a has too few images to be split"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_that_names_the_place(tmp_path, mistake):
    names, says = MISTAKES[mistake]
    root = touch(tmp_path / "own", *names)
    with pytest.raises(UserError) as caught:
        ImageFolder(str(root))
    line = str(caught.value)
    assert line.startswith(f"folder {root}: {says.format(root=root)}")
    assert len(line.splitlines()) == 1


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.raises(UserError, match=rf"^folder {tmp_path}: .*Permission denied"):
        ImageFolder(str(tmp_path))


# Decoding


def save(root, image, name="1.png", **options):
    touch(root, f"a/{name}")
    image.save(root / "a" / name, **options)
    return {"a": [str(root / "a" / name)]}


def grid(height, width):
    """An RGB image whose red grows to the right, green downwards, and with some blue."""
    values = np.zeros((height, width, 3), np.uint8)
    values[..., 0], values[..., 1] = np.linspace(0, 250, width), np.linspace(0, 250, height)[:, None]
    values[..., 2] = 90
    return Image.fromarray(values)


def test_an_image_of_the_right_size_is_read_as_it_is(tmp_path):
    image = grid(5, 8)
    for fit in module.FITS:
        images, labels = ImageFiles(save(tmp_path, image), (3, 5, 8), fit).read_all()
        assert images[0].movedim(0, 2).numpy().tolist() == np.asarray(image).tolist()
        assert labels.tolist() == [0]
    grey, _ = ImageFiles(save(tmp_path, image), (1, 5, 8), "resize").read_all()
    assert grey[0, 0].numpy().tolist() == np.asarray(image.convert("L")).tolist()


@pytest.mark.parametrize(("fit", "left", "top"), [("resize", 8, 8), ("crop", 66, 8), ("pad", 0, 0)])
def test_another_size_is_resized_cropped_or_padded(tmp_path, fit, left, top):
    (image,), _ = ImageFiles(save(tmp_path, grid(100, 200)), (3, 16, 16), fit).read_all()
    red, green, blue = image.int()
    assert int(red[8, 0]) == pytest.approx(left, abs=8)
    assert int(green[0, 8]) == pytest.approx(top, abs=8)
    bars = (blue == 0).all(1)
    assert bars.tolist() == [fit == "pad" and not 4 <= row < 12 for row in range(16)]
    assert int(red[8, 15]) == pytest.approx(250 - left, abs=12)


KINDS = {
    "grey": (lambda image: image.convert("L"), "png"),
    "palette": (lambda image: image.quantize(), "png"),
    "transparent": (lambda image: image.convert("RGBA"), "png"),
    "black and white": (lambda image: image.convert("1"), "png"),
    "16 bits": (lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "png"),
    "16 bits of a PPM": (
        lambda image: Image.fromarray(np.asarray(image.convert("L"), np.int32) * 257),
        "ppm",
    ),
    "JPEG": (lambda image: image, "jpg"),
    "CMYK": (lambda image: image.convert("CMYK"), "jpg"),
    "PPM": (lambda image: image, "ppm"),
    "WebP": (lambda image: image, "webp"),
}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_transparent_image_lies_on_white(tmp_path, mode):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 2:6, 3] = 255  # a black square on a transparent ground
    image = Image.fromarray(pixels, "RGBA").convert(mode)
    (read,), _ = ImageFiles(save(tmp_path, image), (3, 8, 8), "resize").read_all()
    expected = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    expected[:, 2:6, 2:6] = 0
    assert read.equal(expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_read(tmp_path, kind, channels):
    change, suffix = KINDS[kind]
    (image,), _ = ImageFiles(
        save(tmp_path, change(grid(40, 40)), f"1.{suffix}"), (channels, 40, 40), "resize"
    ).read_all()
    expected = np.asarray(grid(40, 40).convert("RGB" if channels == 3 else "L"), int).reshape(
        40, 40, channels
    )
    if kind in ("grey", "16 bits", "16 bits of a PPM", "black and white"):
        expected = np.asarray(grid(40, 40).convert("L"), int)[..., None].repeat(channels, 2)
    assert abs(image.movedim(0, 2).numpy() - expected).mean() < (130 if kind == "black and white" else 12)


def test_a_photograph_is_upright_and_a_large_one_is_read_as_well_as_a_small_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    photo = save(tmp_path, grid(400, 800).rotate(90, expand=True), "1.jpg", exif=exif)
    (turned,), _ = ImageFiles(photo, (3, 20, 40), "resize").read_all()
    assert (turned.movedim(0, 2).numpy() - np.asarray(grid(20, 40), int)).__abs__().max() < 16


def test_labels_are_in_the_order_of_the_classes(tmp_path):
    classes = {**save(tmp_path / "x", grid(4, 4)), "b": [save(tmp_path / "y", grid(4, 4))["a"][0]] * 3}
    assert ImageFiles(classes, (3, 4, 4), "resize").read_all().labels.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "gone", "a folder"])
def test_a_broken_file_is_one_line_that_names_it(tmp_path, damage):
    root = write_signs(tmp_path / "own", {"train": 3, "test": 1}, classes=2)
    data = ImageFolder(str(root), size=16)
    broken = Path(data._files.train[NAMES[0]][0])
    content = broken.read_bytes()
    broken.unlink()
    if damage == "a folder":
        broken.mkdir()
    elif damage != "gone":
        broken.write_bytes({"empty": b"", "text": b"no image\n", "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(UserError) as caught:
        data.load(CPU)
    line = str(caught.value)
    assert line.startswith(f"data.folder: {broken} cannot be read as an image (")
    assert len(line.splitlines()) == 1


# The data set


def test_a_data_set_of_a_folder(tmp_path, generator):
    root = write_signs(tmp_path / "own", {"train": 4, "valid": 1, "test": 2}, classes=3)
    data = ImageFolder(str(root), size=(20, 24), training=Augmentation(angle=20))
    assert (data.shape, data.classes, data.train_size, data.vocab_size) == ((3, 20, 24), 3, 12, 0)
    assert data.class_names == sorted(NAMES[:3])
    train, valid, test, draw_pairs, _ = data.load(CPU)
    assert draw_pairs is None
    assert (valid.labels.tolist(), test.labels.tolist()) == ([0, 1, 2], [0, 0, 1, 1, 2, 2])
    assert test.images.shape == (6, 3, 20, 24)
    assert 0.3 < test.images.max() <= 1
    index = torch.tensor([11, 0])
    first, other = (train.draw(index, generator) for _ in range(2))
    assert first.labels.tolist() == [2, 0]
    assert not first.images.equal(other.images)
    plain = ImageFolder(str(root), size=(20, 24), colour=False)
    assert plain.shape == (1, 20, 24)
    drawn = [plain.load(CPU).train.draw(index, generator).images for _ in range(2)]
    assert drawn[0].equal(drawn[1])


def test_training_images_that_do_not_fit_in_memory_are_read_for_every_batch(tmp_path, monkeypatch, caplog):
    data = ImageFolder(str(write_signs(tmp_path, 6, classes=3)), size=16, training=Augmentation(angle=20))
    whole = data.load(CPU)
    monkeypatch.setattr(module, "MAX_GB", 24 * 16 * 16 * 3 * 1e-9)  # six images for validation and test
    assert not caplog.records
    data = ImageFolder(str(tmp_path), size=16, training=Augmentation(angle=20))
    read = data.load(CPU)
    assert "each batch is read anew" in caplog.text
    assert read.train.size == whole.train.size == 12
    assert (read.train.is_capturable, whole.train.is_capturable) == (False, True)
    index = torch.tensor([11, 0, 5, 5])
    one, other = (splits.train.draw(index, torch.Generator().manual_seed(0)) for splits in (whole, read))
    assert one.images.equal(other.images)
    assert one.labels.equal(other.labels)
    Path(data._files.train[NAMES[0]][0]).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"00000.png cannot be read as an image"):
        read.train.draw(torch.arange(12), torch.Generator())


def test_many_images_are_decoded_by_processes(tmp_path, monkeypatch):
    write_signs(tmp_path, 10, classes=2)
    files = ImageFiles(find_images(tmp_path, FRACTIONS, 0).train, (3, 8, 8), "resize")
    alone = files.read_all()
    monkeypatch.setattr(module, "PER_PROCESS", 3)
    monkeypatch.setattr(module, "PER_TASK", 3)
    monkeypatch.setattr(module, "_ignore_interrupts", partial(_mark, tmp_path / "started"))
    state = torch.get_rng_state()
    together = files.read_all()
    assert (tmp_path / "started").exists()
    assert together.images.equal(alone.images)
    assert together.labels.equal(files.labels)
    assert torch.get_rng_state().equal(state)
    Path(files.paths[-1]).write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"^data.folder: {files.paths[-1]} cannot be read as an image .*\)$"):
        files.read_all()


@pytest.mark.slow
def test_processes_of_a_sweep_decode_by_processes(tmp_path):
    joblib = pytest.importorskip("joblib")
    write_signs(tmp_path, 10, classes=2)
    with joblib.parallel_backend("loky", n_jobs=2):
        first, other = joblib.Parallel()(joblib.delayed(_read_by_processes)(tmp_path) for _ in range(2))
    assert first.images.shape == (10, 3, 8, 8)
    assert first.images.equal(other.images)


def _read_by_processes(root):
    module.PER_PROCESS = 3
    return ImageFiles(find_images(root, FRACTIONS, 0).train, (3, 8, 8), "resize").read_all()


def _mark(path, worker):
    path.touch()


def test_images_of_which_those_for_validation_and_test_do_not_fit_are_refused(tmp_path, monkeypatch):
    root = touch(tmp_path, *(f"{name}/{i}.png" for name in "ab" for i in range(10)))
    monkeypatch.setattr(module, "MAX_GB", 8 * 4 * 32 * 32 * 3 * 1e-9)
    ImageFolder(str(root), size=32)
    with pytest.raises(UserError, match=r"^size or fractions .* the 8 images .* need 0.0 GB .* 33×32 pixels"):
        ImageFolder(str(root), size=(33, 32))
