"""Fine-tuning on another style of emoji: makes the data of docs/finetuning.md, and measures a run on it.

    python -m benchmarks.another_style make SVGS OUT [--names N]   # OUT: a folder of pictures with captions
    python -m benchmarks.another_style measure CHECKPOINT SVGS     # prints JSON

SVGS: a folder of SVG files named by code points, such as `1f34e.svg` of the npm package @twemoji/svg 15.0.0 (graphics:
CC BY 4.0). The captions are the names of OpenMoji's catalogue, "red apple, twemoji". The judges are CNNs trained on
renderings alone: of the new style here, of OpenMoji by benchmarks/scene_judge.py. One seed a picture, none chosen.

new             names asked for in the new style: the name is right, and with it renderings and what the tokenizer keeps
old             names asked for as before
--sheet FILE    forty new names as they are drawn, each above its rendering
"""

from __future__ import annotations

import argparse
import io
import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from resvg_py import svg_to_bytes
from torch import Tensor

from benchmarks.openmoji import Model, alone, share
from benchmarks.scene_judge import labels_of, pictures_of, scene_judge
from mot_gen.datasets.openmoji import Scene
from mot_gen.eval.images.judge import AttributeJudge, train_attribute_judge
from mot_gen.files.image_files import to_pil
from mot_gen.files.pictures import grid

SIZE = 32
STYLE = "twemoji"
JUDGE_STEPS = 1500


def new_names(svgs: Path, count: int | None = None) -> list[Scene]:
    """The names that the model knows and the other style draws, evenly taken."""
    known = [scene for scene in alone("train") if _file(svgs, scene).is_file()]
    return [known[place] for place in _evenly(len(known), count or len(known))]


def _file(svgs: Path, scene: Scene) -> Path:
    return svgs / f"{scene.about.base.lower()}.svg"


def caption(scene: Scene) -> str:
    return f"{scene.caption('plain')}, {STYLE}"


def rendered(svgs: Path, scene: Scene) -> Image.Image:
    """The new style's drawing, RGB on white, with the margin that OpenMoji's drawings have."""
    svg = _file(svgs, scene).read_text("utf-8")
    side = round(SIZE * 0.875)
    drawn = Image.open(io.BytesIO(svg_to_bytes(svg_string=svg, width=side, height=side))).convert("RGBA")
    picture = Image.new("RGBA", (SIZE, SIZE), "white")
    picture.alpha_composite(drawn, ((SIZE - side) // 2, (SIZE - side) // 2))
    return picture.convert("RGB")


def make(svgs: Path, out: Path, count: int | None) -> dict:
    """A folder of pictures, each beside the text file of its caption."""
    scenes = new_names(svgs, count)
    out.mkdir(parents=True)
    for scene in scenes:
        rendered(svgs, scene).save(out / f"{scene.about.base}.png")
        (out / f"{scene.about.base}.txt").write_text(caption(scene), "utf-8")
    return {"folder": str(out), "pictures": len(scenes)}


def _stack(pictures: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()


def style_judge(pictures: Tensor) -> AttributeJudge:
    """Names each of these pictures, (N, 3, 32, 32) uint8; a minute or two of one core."""

    def lesson(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = torch.tensor(random.Random(step).choices(range(len(pictures)), k=64))
        return pictures[chosen], {"name": chosen}

    return train_attribute_judge(lesson, {"name": len(pictures)}, [], JUDGE_STEPS)


def measure(checkpoint: str, svgs: Path, count: int | None, options: dict, sheet: Path | None) -> dict:
    """The figures in this module's first lines; the judge knows all names, `count` of them are drawn."""
    model, scenes = Model(checkpoint, options), new_names(svgs)
    real = _stack([rendered(svgs, scene) for scene in scenes])
    judge = style_judge(real)
    asked = _evenly(len(scenes), count or len(scenes))
    drawn = model.draw([caption(scenes[place]) for place in asked])
    shown = {"generated": drawn, "renderings": real[asked], "tokenizer": model.round_trip(real[asked])}
    wanted = torch.tensor(asked)
    new = {name: share(judge.predict(pictures)["name"] == wanted) for name, pictures in shown.items()}
    if sheet:
        _sheet(drawn, real[asked], sheet)
    return {"checkpoint": checkpoint, "new": new, "old": _old(model)}


def _evenly(length: int, count: int) -> list[int]:
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


def _old(model: Model, count: int = 150) -> dict:
    names = alone("train")
    scenes = [names[place] for place in _evenly(len(names), count)]
    wanted, judge = labels_of(scenes)["name"], scene_judge(SIZE)
    shown = {"generated": model.draw([s.caption("plain") for s in scenes]), "renderings": pictures_of(scenes, SIZE)}
    return {name: share(judge.predict(pictures)["name"] == wanted) for name, pictures in shown.items()}


def _sheet(drawn: Tensor, real: Tensor, file: Path) -> None:
    rows: list[Image.Image] = []
    chosen = torch.linspace(0, len(drawn) - 1, 40).round().long().split(10)
    for part in chosen:
        rows += [to_pil(picture / 255) for picture in (*drawn[part], *real[part])]
    grid(rows, columns=10).save(file)


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make")
    making.add_argument("svgs", type=Path)
    making.add_argument("out", type=Path)
    making.set_defaults(call=lambda args: make(args.svgs, args.out, args.names))
    measuring = commands.add_parser("measure")
    measuring.add_argument("checkpoint")
    measuring.add_argument("svgs", type=Path)
    measuring.add_argument("--guidance-scale", type=float)
    measuring.add_argument("--sheet", type=Path)
    measuring.set_defaults(call=_measured)
    for command in (making, measuring):
        command.add_argument("--names", type=int, help="some of the names, evenly taken")
    args = parser.parse_args()
    torch.set_num_threads(1)
    return args.call(args)


def _measured(args: argparse.Namespace) -> dict:
    options = {} if args.guidance_scale is None else {"guidance_scale": args.guidance_scale}
    return measure(args.checkpoint, args.svgs, args.names, options, args.sheet)


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
