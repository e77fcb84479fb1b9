"""A judge of OpenMoji scenes that no generator has a part in: labels_of, scene_judge, held_out_accuracy.

It names the emoji (whatever its skin tone), the skin tone, the place (and with it the size) and the ground. It learns
all names from real renderings, also those that a generator never sees, but no scene of the part
"combinations": those are what its own accuracy is measured on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mot_gen.datasets.openmoji import GROUNDS, PLACES, TONES, Scene, Scenes, catalogue, draw_scene, part_of
from mot_gen.eval.images.extraction import default_cache
from mot_gen.eval.images.judge import AttributeJudge, train_attribute_judge
from mot_gen.files.atomic import writing

STEPS, BATCH = 2600, 64  # about five minutes of one CPU core at 32 x 32
PLACED = ("place", "ground")
VERSION = 1  # of what it is trained on; a judge in the cache with another is not used


@cache
def bases() -> list[str]:
    """Emoji without their tones, in the catalogue's order: the values of the head "name"."""
    return list(dict.fromkeys(emoji.base for emoji in catalogue().values()))


@cache
def _numbers() -> dict[str, int]:
    return {base: number for number, base in enumerate(bases())}


def heads() -> dict[str, int]:
    """Attribute -> how many values it has."""
    return {"name": len(bases()), "tone": 1 + len(TONES), "place": 1 + len(PLACES), "ground": len(GROUNDS)}


def labels_of(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Attribute -> (N,) values. tone: 0 without one. place: 0 where the emoji fills the picture."""
    grounds = list(GROUNDS)
    return {
        "name": torch.tensor([_numbers()[scene.about.base] for scene in scenes]),
        "tone": torch.tensor([scene.about.tone for scene in scenes]),
        "place": torch.tensor([1 + PLACES.index(scene.place) if scene.place else 0 for scene in scenes]),
        "ground": torch.tensor([grounds.index(scene.ground) for scene in scenes]),
    }


def pictures_of(scenes: Sequence[Scene], size: int) -> Tensor:
    """(N, 3, size, size) uint8."""
    arrays = np.stack([np.asarray(scene.picture(size)) for scene in scenes])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()


def scene_judge(size: int = 32, steps: int = STEPS, seed: int = 0) -> AttributeJudge:
    """The judge, trained once per size and kept in the user's cache folder."""
    untrained = AttributeJudge(heads(), (size, size), PLACED)

    def train() -> AttributeJudge:
        return train_attribute_judge(lambda step: _lesson(f"{seed} {step}", size), heads(), PLACED, steps, seed)

    return kept(f"openmoji-{VERSION}-{len(bases())}-{size}-{steps}-{seed}", untrained, train)


def kept(name: str, untrained: AttributeJudge, train: Callable[[], AttributeJudge]) -> AttributeJudge:
    """The judge of this name in the user's cache folder; where there is none, it is trained and kept there."""
    path = default_cache().parent / "judges" / f"{name}.safetensors"
    if path.exists():
        untrained.load_state_dict(load_file(path))
        return untrained.eval()
    judge = train()
    with writing(path) as part:
        save_file(judge.state_dict(), part)
    return judge


def _lesson(seed: str, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Scenes of any emoji that are not of the part "combinations"; every base as often as any other."""
    rng, scenes = random.Random(f"judge {seed}"), []
    ids = _ids_by_base()
    while len(scenes) < BATCH:
        scene = draw_scene(rng.choice(ids[rng.choice(bases())]), rng)
        # The generator's scenes are half plain; the judge needs every place and ground alike.
        if rng.random() < 0.7:
            small = rng.random() < 0.6
            scene = replace(scene, small=small, place=rng.choice(PLACES) if small else None)
            scene = replace(scene, ground=rng.choice(list(GROUNDS)))
        if _may_learn(scene):
            scenes.append(scene)
    return pictures_of(scenes, size), labels_of(scenes)


def _may_learn(scene: Scene) -> bool:
    return part_of(scene) != "combinations"


@cache
def _ids_by_base() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for id, emoji in catalogue().items():
        found.setdefault(emoji.base, []).append(id)
    return found


def held_out_accuracy(judge: AttributeJudge, size: int = 32, each: int = 1) -> dict[str, float | int]:
    """By attribute, for all at once, and n: real scenes whose ground, place or tone it never saw with their emoji."""
    scenes = Scenes("combinations", size, each).scenes
    return {**judge.accuracy(pictures_of(scenes, size), labels_of(scenes)), "n": len(scenes)}
