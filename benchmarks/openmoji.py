"""What an OpenMoji model reaches: `python -m benchmarks.openmoji [CHECKPOINT]` prints JSON; may draw two sheets.

CHECKPOINT: a run's folder, or what is shipped (default: openmoji). All pictures by the checkpoint's own defaults of
sampling, a seed each. The judge is benchmarks/scene_judge.py, trained on renderings alone; its own accuracy on
renderings of the same scenes, and on what the tokenizer makes of them, stand beside the model's.

names           every name of the training set asked for alone ("red apple"): the name is right
combinations    scenes whose ground, place or skin tone was never shown with their emoji, though with others: the object
                (its name) is right, and the attribute, also by attribute
phrasings       scenes like those of the training set in wordings that were never trained on
unseen_names    names that were never trained on: they cannot be known, and are shown for that
captions        what is written, greedily, for pictures of the combinations: the name is right, with its skin tone, with
                all else
frechet         distance to the renderings of the combinations: of pictures drawn from their captions, and of the
                renderings after the tokenizer, which no model over it can undercut but by chance
nearest         root-mean-square pixel distance to the nearest of the renderings that training could show, of drawn
                names and of renderings that were held out; 0 is a copy

--sheet FILE: drawn names. --nearest-sheet FILE: drawn names above the training pictures that are nearest to them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.scene_judge import bases, labels_of, pictures_of, scene_judge
from mot_gen.datasets.openmoji import HELD_OUT_PHRASINGS, PHRASINGS, Scene, Scenes, catalogue, part_of, read_caption
from mot_gen.eval.images.extractors import load_extractor
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.images.nearest import nearest_neighbours
from mot_gen.files.image_files import to_pil
from mot_gen.files.pictures import grid
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.loaded import load_pipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline

BATCH = 64
SIZE = 32
ATTRIBUTES = ("tone", "place", "ground")


def in_batches(call: Callable[[Sequence], Sequence], items: Sequence) -> list:
    return [result for start in range(0, len(items), BATCH) for result in call(items[start : start + BATCH])]


class Model:
    """A checkpoint that draws captions and captions pictures."""

    def __init__(self, checkpoint: str, options: dict):
        self.draws, self.options = load_pipeline(TextToImagePipeline, checkpoint), options
        self.writes = ImageToTextPipeline(**self.draws.components)
        self.writes.set_progress_bar_config(disable=True)

    def draw(self, captions: Sequence[str]) -> Tensor:
        """(N, 3, H, W) uint8; picture i of seed i."""
        numbered = list(enumerate(captions))

        def some(part):
            generators = [torch.Generator().manual_seed(seed) for seed, _ in part]
            return self.draws([text for _, text in part], generator=generators, output_type="pt", **self.options).images

        return to_uint8(torch.stack(in_batches(some, numbered)))

    def caption(self, pictures: Tensor) -> list[str]:
        return in_batches(
            lambda part: self.writes(part, max_new_tokens=32, language="any").texts, [to_pil(p / 255) for p in pictures]
        )

    def round_trip(self, pictures: Tensor) -> Tensor:
        """What the image tokenizer keeps of the pictures."""
        tokenizer = self.draws.image_tokenizer
        kept = in_batches(lambda part: tokenizer.decode_batch(tokenizer.encode_batch(list(part / 255))), pictures)
        return to_uint8(torch.stack(kept).clamp(0, 1))


def alone(part: str) -> list[Scene]:
    """Every emoji of a part without a skin tone, as its name alone says it."""
    scenes = [Scene(id) for id in bases_drawn()]
    return [scene for scene in scenes if part_of(scene) == part]


def bases_drawn() -> list[str]:
    """The id of each base that is drawn without a skin tone."""
    first = {emoji.base: id for id, emoji in reversed(catalogue().items()) if emoji.tone == 0}
    return [first[base] for base in bases() if base in first]


def held_out_attributes(scene: Scene) -> list[str]:
    """What of a scene of the combinations was never shown with its emoji."""
    plain = next(e.id for e in catalogue().values() if e.base == scene.about.base and e.tone == 0)
    single = {
        "tone": Scene(scene.emoji),
        "place": Scene(plain, small=scene.small, place=scene.place),
        "ground": Scene(plain, ground=scene.ground),
    }
    return [name for name in ATTRIBUTES if part_of(single[name]) == "combinations"]


def share(right: Tensor) -> dict[str, float]:
    """A share, its 95% interval by Wilson's score, and N."""
    n, p, z = len(right), right.double().mean().item(), 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return {"value": p, "low": (middle - half) / scale, "high": (middle + half) / scale, "n": n}


class Measurement:
    """All figures of a checkpoint; each set of pictures is drawn once."""

    def __init__(self, model: Model, limit: int | None, each: int):
        self.model, self.judge = model, scene_judge(SIZE)
        self.names = alone("train")[:limit]
        self.combinations = Scenes("combinations", SIZE, each).scenes[:limit]

    @cached_property
    def drawn_names(self) -> Tensor:
        return self.model.draw([scene.caption("plain") for scene in self.names])

    @cached_property
    def drawn_combinations(self) -> Tensor:
        return self.model.draw([s.caption(PHRASINGS[i % len(PHRASINGS)]) for i, s in enumerate(self.combinations)])

    @cached_property
    def real_combinations(self) -> Tensor:
        return pictures_of(self.combinations, SIZE)

    def beside(self, scenes: Sequence[Scene], drawn: Tensor, measure: Callable[[Tensor], dict]) -> dict:
        """A measure of drawn pictures, of renderings of the same scenes, and of these after the tokenizer."""
        real = pictures_of(scenes, SIZE)
        of = {"generated": drawn, "renderings": real, "tokenizer": self.model.round_trip(real)}
        return {name: measure(pictures) for name, pictures in of.items()}

    def named(self, scenes: Sequence[Scene], drawn: Tensor) -> dict:
        wanted = labels_of(scenes)["name"]
        return self.beside(scenes, drawn, lambda p: share(self.judge.predict(p)["name"] == wanted))

    def attributes(self) -> dict:
        """Of the combinations: the name, the attributes that were held out (all that a scene has), and each of them."""
        wanted = labels_of(self.combinations)
        new = [held_out_attributes(scene) for scene in self.combinations]

        def measure(pictures: Tensor) -> dict:
            found = self.judge.predict(pictures)
            right = {name: found[name] == wanted[name] for name in wanted}
            asked = [(name, torch.tensor([name in own for own in new])) for name in ATTRIBUTES]
            all_new = torch.stack([right[name] | ~mask for name, mask in asked]).all(0)
            by_attribute = {name: share(right[name][mask]) for name, mask in asked if mask.any()}
            return {"object": share(right["name"]), "attribute": share(all_new), **by_attribute}

        return self.beside(self.combinations, self.drawn_combinations, measure)

    def phrasings(self) -> dict:
        scenes = Scenes("train", SIZE, 1, seed=1).scenes[: len(self.names)]
        said = [scene.caption(HELD_OUT_PHRASINGS[i % 2]) for i, scene in enumerate(scenes)]
        found, wanted = self.judge.predict(self.model.draw(said)), labels_of(scenes)
        return {name: share(found[name] == wanted[name]) for name in wanted}

    def captions(self) -> dict:
        written = [read_caption(text) for text in self.model.caption(self.real_combinations)]
        ids = [catalogue()[said.emoji].base if said.emoji else None for said in written]
        names = [base == scene.about.base for base, scene in zip(ids, self.combinations)]
        toned = [said.emoji == scene.emoji for said, scene in zip(written, self.combinations)]
        whole = [Scene(**vars(said)) == scene for said, scene in zip(written, self.combinations)]
        lists = {"name": names, "name_and_tone": toned, "whole_scene": whole}
        return {name: share(torch.tensor(right)) for name, right in lists.items()}

    def frechet(self) -> dict:
        extractor = load_extractor("efficientnet-lite0")
        pairs = {
            "generated": self.drawn_combinations,
            "tokenizer": self.model.round_trip(self.real_combinations),
        }
        found = {}
        for name, pictures in pairs.items():
            metric = FrechetDistance(extractor, confidence=0.95)
            for real, images in ((True, self.real_combinations), (False, pictures)):
                for part in images.split(BATCH):
                    metric.update(part, real=real)
            result = metric.compute()
            found[name] = {"value": result.value, "interval": result.interval, "n": len(pictures)}
            found["signature"] = result.signature
        return found

    @cached_property
    def training_pictures(self) -> tuple[list[Scene], Tensor]:
        """What training could show of each emoji: plain, and in every scene of the recipe's data."""
        scenes = list(dict.fromkeys(Scenes("train", SIZE, 40).scenes))
        return scenes, pictures_of(scenes, SIZE)

    def nearest(self, pictures: Tensor) -> tuple[list[int], Tensor]:
        """The numbers of the nearest training pictures, and the root-mean-square distances, in [0, 1]."""
        training = self.training_pictures[1].flatten(1).float() / 255
        places, distances = nearest_neighbours(pictures.flatten(1).float() / 255, training, 1)
        return places[:, 0].tolist(), distances[:, 0] / training.shape[1] ** 0.5

    def memorised(self) -> dict:
        drawn, held_out = self.nearest(self.drawn_names)[1], self.nearest(self.real_combinations)[1]
        return {
            "generated": drawn.mean().item(),
            "generated_median": drawn.median().item(),
            "held_out_renderings": held_out.mean().item(),
            "training_pictures": len(self.training_pictures[0]),
        }

    def unseen_names(self) -> dict:
        scenes = alone("names")
        return self.named(scenes, self.model.draw([scene.caption("plain") for scene in scenes]))

    def figures(self) -> dict[str, Callable[[], dict]]:
        """By the names in this module's first lines."""
        return {
            "names": lambda: self.named(self.names, self.drawn_names),
            "combinations": self.attributes,
            "phrasings": self.phrasings,
            "unseen_names": self.unseen_names,
            "captions": self.captions,
            "frechet": self.frechet,
            "nearest": self.memorised,
        }


def sheets(found: Measurement, names: Path | None, nearest: Path | None, count: int = 40) -> None:
    """Drawn names, evenly taken; and the same above their nearest training pictures."""
    chosen = torch.linspace(0, len(found.names) - 1, count).round().long()
    drawn = [to_pil(picture / 255) for picture in found.drawn_names[chosen]]
    if names:
        grid(drawn, columns=10).save(names)
    if nearest:
        places = found.nearest(found.drawn_names[chosen])[0]
        copies = [to_pil(found.training_pictures[1][place] / 255) for place in places]
        rows = [row for start in range(0, count, 10) for part in (drawn, copies) for row in part[start : start + 10]]
        grid(rows, columns=10).save(nearest)


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", default="openmoji")
    parser.add_argument("--limit", type=int, help="scenes of each kind; for a first look")
    parser.add_argument("--each", type=int, default=3, help="combinations of each name")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the figures")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--nearest-sheet", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = {name: getattr(args, name) for name in ("guidance_scale", "num_inference_steps")}
    options = {name: value for name, value in options.items() if value is not None}
    found = Measurement(Model(args.checkpoint, options), args.limit, args.each)
    figures = {name: measure() for name, measure in found.figures().items() if name in (args.only or found.figures())}
    sheets(found, args.sheet, args.nearest_sheet)
    return {"checkpoint": args.checkpoint, **options, **figures}


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
