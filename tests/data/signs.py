"""A folder of small pictures of traffic signs, drawn at random: coloured shapes with a letter on them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 96
SHAPES = {  # corners as fractions of the side; none: a disc
    "disc": [],
    "up": [(0.5, 0.05), (0.97, 0.9), (0.03, 0.9)],
    "down": [(0.5, 0.95), (0.97, 0.1), (0.03, 0.1)],
    "square": [(0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92)],
    "diamond": [(0.5, 0.02), (0.98, 0.5), (0.5, 0.98), (0.02, 0.5)],
}
COLOURS = {"red": (200, 25, 35), "blue": (25, 75, 190), "yellow": (235, 190, 30)}
LETTERS = "AXT"
NAMES = [f"{colour}_{shape}_{letter}" for letter in LETTERS for shape in SHAPES for colour in COLOURS][:43]


def write_signs(folder, counts, classes=43, seed=0, size=(30, 70)):
    """Write ``counts`` images of each class, a number or one for each split; returns the folder."""
    rng = np.random.default_rng(seed)
    splits = counts.items() if isinstance(counts, dict) else [("", counts)]
    for split, count in splits:
        for name in NAMES[:classes]:
            place = Path(folder) / split / name
            place.mkdir(parents=True)
            for number in range(count):
                suffix = ("png", "jpg")[number % 2]
                picture(name, rng, rng.integers(*size, endpoint=True)).save(place / f"{number:05d}.{suffix}")
    return Path(folder)


def picture(name, rng, side):
    """A square picture of a sign at a random place, in a random size, turned a little, in random light."""
    sky = Image.fromarray(rng.integers(40, 200, (4, 4, 3), np.uint8)).resize((SIDE, SIDE), Image.BICUBIC)
    scale = rng.uniform(0.45, 0.95)
    sign = draw_sign(name).rotate(rng.uniform(-15, 15), Image.BICUBIC, expand=True)
    sign = sign.resize((round(SIDE * scale), round(SIDE * scale)), Image.BILINEAR)
    at = tuple(int(rng.integers(0, SIDE - sign.width + 1)) for _ in range(2))
    sky.paste(sign, at, sign)
    light = np.asarray(sky.resize((side, side), Image.BILINEAR)) * rng.uniform(0.25, 1.1)
    noisy = light + rng.normal(0, 6, light.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw_sign(name):
    """A sign (SIDE × SIDE), transparent around it."""
    colour, shape, letter = name.split("_")
    image = Image.new("RGBA", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    corners = [(x * SIDE, y * SIDE) for x, y in SHAPES[shape]]
    if corners:
        draw.polygon(corners, COLOURS[colour])
    else:
        draw.ellipse([2, 2, SIDE - 2, SIDE - 2], COLOURS[colour])
    draw.text((SIDE / 2, SIDE * 0.52), letter, "white", ImageFont.load_default(SIDE * 0.5), anchor="mm")
    return image
