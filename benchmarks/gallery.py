"""The galleries of the docs, drawn by the shipped checkpoints: `python -m benchmarks.gallery`, or `make gallery`.

Every picture is the first one of its prompt, seed 0, by the checkpoint's own defaults: none was chosen. The last row
are combinations that training never showed; of a checkpoint of 64 pixels (source `emoji_scenes`) the last two: grounds
and places, then pairs.

--checkpoint, --out: one other checkpoint, and its picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from mot_gen import checkpoints
from mot_gen.datasets import emoji_scenes, openmoji
from mot_gen.files.pictures import enlarge
from mot_gen.pipelines.loaded import load_pipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline

IMAGES = Path("docs/images")
COLUMNS, SIDE, LABEL, GAP = 10, 84, 30, 6  # pixels
PROMPTS = (
    "red apple", "dog face", "sunflower", "rocket", "pizza", "owl", "shark", "fire", "mushroom", "rainbow",
    "waving hand medium skin tone", "clapping hands dark skin tone", "princess light skin tone", "grinning face",
    "smiling face with sunglasses", "red heart", "soccer ball", "doughnut", "fish", "tulip",
    "small pizza, top left", "small cat face, bottom right", "a strawberry, on blue", "a watermelon, on yellow",
    "roter apfel, auf Blau", "manzana roja, sobre rosa", "pomme rouge, sur jaune", "pinguin, auf Rosa",
    "small owl, top right, on pink", "rocket, mirrored",
)  # fmt: skip

PROMPTS_64 = (
    "red apple", "dog face", "sunflower", "rocket", "pizza", "owl", "shark", "fire", "mushroom", "rainbow",
    "grinning face", "smiling face with sunglasses", "red heart", "soccer ball", "doughnut", "snowman", "guitar",
    "tulip", "bicycle", "ice cream",
    "a strawberry, on blue", "a watermelon, on yellow", "rocket, mirrored", "small pizza, top left",
    "small cat face, bottom right", "small owl, top right, on pink", "roter apfel, auf Blau",
    "manzana roja, sobre rosa", "pomme rouge, sur jaune", "pinguin, klein, unten links",
    "red apple left of tropical fish", "dog face right of cat face", "snowman above sunflower, on purple",
    "fire below rainbow", "guitar left of trumpet, on orange", "eule rechts von pinguin, auf Grau",
    "luna encima de manzana roja", "soleil au-dessus de arc-en-ciel", "owl above mushroom, on green",
    "rocket right of ringed planet",
)  # fmt: skip


def never_shown(count: int) -> list[str]:
    """Captions of combinations that are held out from training, evenly taken."""
    return evenly(openmoji.Scenes("combinations", 32, 1).scenes, count)


def never_shown_64(count: int) -> list[str]:
    """Captions of single emoji in combinations that are held out from training, and of pairs, evenly taken."""
    single = emoji_scenes.Scenes("combinations", 64, 1, kinds={"ground": 0.5, "small": 0.5}).scenes
    pairs = emoji_scenes.Scenes("pairs", 64, 1, kinds={"two": 1.0}).scenes
    return [*evenly(single, count), *evenly(pairs, count)]


def evenly(scenes: Sequence[openmoji.Scene] | Sequence[emoji_scenes.Scene], count: int) -> list[str]:
    """The captions of so many scenes."""
    return [scenes[round(i * (len(scenes) - 1) / (count - 1))].caption("plain") for i in range(count)]


def labelled(pictures: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
    """A grid with each picture's words below it."""
    rows, font = -(-len(pictures) // COLUMNS), ImageFont.load_default(size=10)
    width, height = SIDE + GAP, SIDE + LABEL + GAP
    sheet = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, label) in enumerate(zip(pictures, labels)):
        x, y = GAP + number % COLUMNS * width, GAP + number // COLUMNS * height
        sheet.paste(enlarge(picture, SIDE), (x, y))
        draw.multiline_text((x, y + SIDE + 2), wrapped(label, font), fill=(90, 90, 90), font=font, spacing=1)
    return sheet


def wrapped(text: str, font: ImageFont.ImageFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= SIDE or not lines[-1] else [*lines, word]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="default: those that ship")
    parser.add_argument("--out", type=Path, help="of --checkpoint")
    args = parser.parse_args()
    if args.checkpoint:
        draw_gallery(args.checkpoint, args.out or IMAGES / "gallery.png")
        return
    for name in checkpoints.names():
        draw_gallery(name, IMAGES / f"{name}.png")


def draw_gallery(checkpoint: str, out: Path) -> None:
    pipe = load_pipeline(TextToImagePipeline, checkpoint)
    height, _ = next(iter(pipe.image_tokenizer.grids))
    prompts = [*PROMPTS, *never_shown(COLUMNS)] if height == 32 else [*PROMPTS_64, *never_shown_64(COLUMNS)]
    drawn = pipe(prompts, generator=[torch.Generator().manual_seed(0) for _ in prompts]).images
    out.parent.mkdir(parents=True, exist_ok=True)
    labelled(drawn, prompts).save(out)
    print(out)


if __name__ == "__main__":
    main()
