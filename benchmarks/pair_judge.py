"""A judge of pictures of one or two emoji (source `emoji_scenes`) that no generator has a part in:
PairJudge, Reading.

It is told nothing of what was asked for. First it sees the whole picture, and says how many emoji there are and where
(their layout), and the ground. Then it looks closely at each place that this layout has, and names the emoji there. One
network does both: every view has half the picture's width, the whole picture made smaller, or a part of it cut out.

It learns all names from renderings alone, also those that a generator never sees, but no scene of the parts
"combinations" and "pairs": its own accuracy is measured on those.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scene_judge import kept, pictures_of
from mot_gen.datasets.emoji import emoji_pixels
from mot_gen.datasets.emoji_scenes import Scene, catalogue, draw_scene, part_of
from mot_gen.datasets.scene_words import GROUNDS, PLACES
from mot_gen.eval.images.judge import AttributeJudge, train_attribute_judge

STEPS, BATCH = 2800, 64  # about ten minutes of one CPU core at 64 x 64
VERSION = 1  # of what it is trained on; a judge in the cache with another is not used
KINDS = {"plain": 0.15, "ground": 0.3, "small": 0.25, "two": 0.3}  # of the scenes that it learns from
UNKNOWN = -100  # of an attribute that a view does not show; cross-entropy passes over it

# Layout -> the left and upper edge of each emoji, in quarters of the picture; None where it fills all of it.
LAYOUTS: dict[str, list[tuple[int, int] | None]] = {
    "whole": [None],
    **{place: [(2 * place.endswith("right"), 2 * place.startswith("bottom"))] for place in PLACES},
    "beside": [(0, 1), (2, 1)],
    "above": [(1, 0), (1, 2)],
}
HEADS = ("name", "layout", "ground")  # each is read where it is in the view


@dataclass(frozen=True)
class Reading:
    """What a picture shows. emoji: ids as `shown` has them, from left to right or from top to bottom."""

    layout: str
    emoji: tuple[str, ...]
    ground: str

    @classmethod
    def of(cls, scene: Scene) -> Reading:
        """That of a scene, were it drawn without fault."""
        ids = tuple(map(shown, scene.emoji))
        backwards = scene.relation in ("right of", "below")
        return cls(layout_of(scene), ids[::-1] if backwards else ids, scene.ground)


@cache
def _shown() -> dict[str, str]:
    """id -> the first id with the very same picture."""
    first: dict[bytes, str] = {}
    ids, pixels = emoji_pixels(64)
    drawn = dict(zip(ids, pixels))
    return {id: first.setdefault(drawn[id].tobytes(), id) for id in _ids()}


def shown(id: str) -> str:
    """The id that stands for an emoji's picture: 25 of 1,622 are drawn as another is, such as "cook" as "man cook"."""
    return _shown()[id]


def layout_of(scene: Scene) -> str:
    """One of LAYOUTS."""
    if scene.relation is None:
        return scene.place or "whole"
    return "beside" if scene.relation in ("left of", "right of") else "above"


def smaller(pictures: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3, S/2, S/2), the mean of every four pixels."""
    return F.avg_pool2d(pictures.float(), 2).round().to(torch.uint8)


def views(picture: Tensor, layout: str) -> list[Tensor]:
    """(3, S, S) uint8 -> (3, S/2, S/2) of each emoji that a layout has."""
    quarter = picture.shape[-1] // 4
    found = []
    for edges in LAYOUTS[layout]:
        if edges is None:
            found.append(smaller(picture[None])[0])
        else:
            x, y = (quarter * edge for edge in edges)
            found.append(picture[:, y : y + 2 * quarter, x : x + 2 * quarter])
    return found


@cache
def _ids() -> list[str]:
    """The values of the head "name"."""
    return list(catalogue())


@cache
def _numbers() -> dict[str, int]:
    return {id: number for number, id in enumerate(_ids())}


def heads() -> dict[str, int]:
    """Attribute -> how many values it has."""
    return {"name": len(_ids()), "layout": len(LAYOUTS), "ground": len(GROUNDS)}


class PairJudge:
    """Reads pictures of `size` pixels, a multiple of 32. Its network is trained once and kept in the user's cache."""

    def __init__(self, size: int = 64, steps: int = STEPS, seed: int = 0):
        side = size // 2

        def train() -> AttributeJudge:
            return train_attribute_judge(lambda step: lesson(f"{seed} {step}", size), heads(), HEADS, steps, seed)

        name = f"emoji-pairs-{VERSION}-{len(_ids())}-{size}-{steps}-{seed}"
        self.network = kept(name, AttributeJudge(heads(), (side, side), HEADS), train)

    def read(self, pictures: Tensor) -> list[Reading]:
        """What each of (N, 3, size, size) uint8 pictures shows."""
        whole = self.network.predict(smaller(pictures))
        layouts = [list(LAYOUTS)[number] for number in whole["layout"].tolist()]
        grounds = [list(GROUNDS)[number] for number in whole["ground"].tolist()]
        each = [views(picture, layout) for picture, layout in zip(pictures, layouts)]
        names = iter(self.network.predict(torch.stack([view for some in each for view in some]))["name"].tolist())
        emoji = [tuple(shown(_ids()[next(names)]) for _ in some) for some in each]
        return [Reading(*about) for about in zip(layouts, emoji, grounds)]


# ---------------------------------------------------------------- what it learns from


def lesson(seed: str, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """One view of each of BATCH scenes, with what it shows."""
    rng, seen, labels = random.Random(f"judge of pairs {seed}"), [], []
    while len(seen) < BATCH:
        scene = draw_scene(rng.choice(_ids()), rng, KINDS)
        if may_learn(scene):
            view, about = _view(scene, size, rng)
            seen.append(view)
            labels.append(about)
    return torch.stack(seen), {name: torch.tensor([about[name] for about in labels]) for name in HEADS}


def may_learn(scene: Scene) -> bool:
    return part_of(scene) not in ("combinations", "pairs")


def _view(scene: Scene, size: int, rng: random.Random) -> tuple[Tensor, dict[str, int]]:
    """The whole of a picture, whose layout is learned; of three pictures with small emoji in four, a place of one."""
    layout, (picture,) = layout_of(scene), pictures_of([scene], size)
    about = {"name": UNKNOWN, "layout": list(LAYOUTS).index(layout), "ground": list(GROUNDS).index(scene.ground)}
    is_small = layout != "whole"
    if is_small and rng.random() < 0.25:
        return smaller(picture[None])[0], about
    place = rng.randrange(len(scene.emoji))
    about["name"] = _numbers()[Reading.of(scene).emoji[place]]
    if is_small:
        about["layout"] = UNKNOWN
    return views(picture, layout)[place], about
