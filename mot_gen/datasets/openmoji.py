"""OpenMoji scenes with captions in four languages: pictures of known names, described completely by their captions.

- `Emoji`, `catalogue` (emoji_catalogue.py): some 590 names in English, German, Spanish and French, with skin tones if
  the emoji has them. LANGUAGES (scene_words.py): how the rest of a scene is said.
- `Scene`: an emoji, its tone, size, place, ground and mirroring; `.picture(size)` draws it, `.captions()` say it.
- `read_caption`: the inverse of all captions, which scores a written one.
- `part_of`: which of the parts "train", "names", "combinations" a scene belongs to, fixed by hash; phrasings that are
  never trained on are `HELD_OUT_PHRASINGS`.
- `Scenes`, `load`, `answers`: a sequence of pairs for training, and what a model of it may say; the source `openmoji`.

Needs the extra `emoji`. All emojis designed by OpenMoji, the open-source emoji and icon project; license: CC BY-SA 4.0.
What is not said in a caption has its default, so a plain "red apple" is large, in the middle, on white.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from PIL import Image

from mot_gen.data.samples import Pair, Samples, Splits
from mot_gen.datasets.emoji import chance, emoji_on, held_out
from mot_gen.datasets.emoji_catalogue import TONES, Emoji, catalogue
from mot_gen.datasets.integer_options import integer_options
from mot_gen.datasets.scene_words import (
    GROUNDS,
    HELD_OUT_PHRASINGS,
    LANGUAGES,
    PHRASINGS,
    PLACES,
    attributes,
    blank,
    corner,
    indefinite_article,
    phrases,
    plain,
)
from mot_gen.errors import expect, require

__all__ = [
    "GROUNDS",
    "HELD_OUT_PHRASINGS",
    "LANGUAGES",
    "PHRASINGS",
    "PLACES",
    "TONES",
    "Emoji",
    "ParsedCaption",
    "Scene",
    "Scenes",
    "answers",
    "catalogue",
    "draw_scene",
    "load",
    "part_of",
    "read_caption",
]

COMBINATIONS = 0.12  # of an emoji and a ground, a place or a tone: the share that is held out


@dataclass(frozen=True)
class Scene:
    """One emoji on a ground. small: half the width, in one of PLACES; else it fills the picture and place is None."""

    emoji: str  # id
    small: bool = False
    place: str | None = None
    ground: str = "white"
    mirrored: bool = False

    @property
    def about(self) -> Emoji:
        return catalogue()[self.emoji]

    def picture(self, size: int) -> Image.Image:
        """RGB, size x size; size must be even."""
        side = size // 2 if self.small else size
        image = emoji_on(GROUNDS[self.ground], self.emoji, side, self.mirrored)
        if self.place is None:
            return image
        canvas = Image.new("RGB", (size, size), GROUNDS[self.ground])
        canvas.paste(image, corner(self.place, side))
        return canvas

    def caption(self, phrasing: str) -> str:
        """The scene in one of PHRASINGS or HELD_OUT_PHRASINGS."""
        if phrasing in LANGUAGES:
            return self._in_language(phrasing)
        language, name = LANGUAGES["en"], self.about.names["en"]
        said = attributes(self, language)
        head = f"{language.small} {name}" if self.small else name
        orders = {
            "plain": [head, *said],
            "article": [f"{indefinite_article(head)} {head}", *said],
            "ground first": [*reversed(said), f"the {head}"],
            "the": [f"the {head}", *said],
        }
        return ", ".join(orders[phrasing])

    def _in_language(self, code: str) -> str:
        """The scene in the one phrasing of a language, the name first."""
        language = LANGUAGES[code]
        said = [self.about.names[code]]
        if self.small:
            said.append(language.small)
        return ", ".join([*said, *attributes(self, language)])

    def captions(self) -> tuple[str, ...]:
        """All phrasings that are trained on; the plain one first."""
        return tuple(self.caption(phrasing) for phrasing in PHRASINGS)


@dataclass(frozen=True)
class ParsedCaption:
    """What a caption says: the id of the emoji it names, or None, and the rest of the scene as `Scene` has it."""

    emoji: str | None
    small: bool
    place: str | None
    ground: str
    mirrored: bool


@cache
def _emoji_by_name() -> dict[str, str]:
    return {name: emoji.id for emoji in catalogue().values() for name in emoji.names.values()}


def read_caption(text: str) -> ParsedCaption:
    """What a caption of any phrasing and language says."""
    said = ParsedCaption(emoji=None, small=False, place=None, ground="white", mirrored=False)
    known = phrases()
    for piece in text.strip().split(", "):
        said = replace(said, **(known.get(piece) or _named(piece)))
    return said


def _named(piece: str) -> dict[str, Any]:
    """The fields of `ParsedCaption` that a name sets, perhaps behind an article and "small"."""
    names = _emoji_by_name()
    bare = piece.removeprefix("the ").removeprefix("an ").removeprefix("a ")
    for name in (piece, bare):
        if name in names:
            return {"emoji": names[name]}
    if not bare.startswith("small "):
        return {}
    name = bare.removeprefix("small ")
    if name in names:
        return {"emoji": names[name], "small": True}
    return {"small": True}


# ---------------------------------------------------------------- what is held out


def part_of(scene: Scene) -> str:
    """ "names": an emoji whose family is never shown. "combinations": a colour of the ground, a place or a skin tone
    that this emoji is never shown with, though both are known. "train": all others."""
    emoji = scene.about
    if held_out(emoji.base):
        return "names"
    with_it: list[str] = []
    if scene.ground != "white":
        with_it.append(scene.ground)
    if scene.place is not None:
        with_it.append(scene.place)
    if emoji.tone:
        with_it.append(TONES[emoji.tone - 1])
    rare = any(chance(f"{emoji.base} {each}") < COMBINATIONS for each in with_it)
    return "combinations" if rare else "train"


def draw_scene(emoji: str, rng: random.Random, small: float = 0.3) -> Scene:
    """A scene of an emoji, small in this share of all; four in seven of the others are as the name alone says them, and
    four in five of the rest stand on a colour."""
    plain = (1 - small) * 4 / 7
    if rng.random() < plain:
        return Scene(emoji)
    is_small = rng.random() < small / (1 - plain)
    ground = rng.choice(list(GROUNDS)[1:]) if rng.random() < 0.8 else "white"
    return Scene(emoji, is_small, rng.choice(PLACES) if is_small else None, ground, rng.random() < 0.15)


class Scenes(Samples):
    """`each` scenes of every emoji of a part, as a sequence of pairs with pictures of `size` pixels.

    Every base is drawn as often as any other, its tones share its scenes; those of a part that is held out are all
    different. small: the percentage of scenes whose emoji is small; these take the longest to learn.
    """

    def __init__(self, part: str, size: int = 32, each: int = 40, seed: int = 0, small: int = 30):
        expect(size >= 2 and size % 2 == 0, "data.options.size: must be even and at least 2", size)
        require(0 <= small <= 100, f"data.options.small: a percentage, 0 to 100, got {small}")
        self.size, self.scenes = size, []
        by_base: dict[str, list[str]] = {}
        for id, emoji in catalogue().items():
            by_base.setdefault(emoji.base, []).append(id)
        for base, ids in by_base.items():
            rng = random.Random(f"{seed} {part} {base}")
            drawn = [draw_scene(rng.choice(ids), rng, small / 100) for _ in range(4 * each)]
            kept = [scene for scene in drawn if part_of(scene) == part]
            if part != "train":
                kept = list(dict.fromkeys(kept))  # each scene once
            self.scenes += kept[:each]

    def __len__(self) -> int:
        return len(self.scenes)

    def sample(self, index: int) -> Pair:
        """The pair of this number, its picture drawn."""
        scene = self.scenes[index]
        return Pair(f"openmoji/{scene}", scene.picture(self.size), scene.captions())

    def outline(self, index: int) -> Pair:
        """The pair without its picture, which need not be drawn for its captions."""
        scene = self.scenes[index]
        return Pair(f"openmoji/{scene}", None, scene.captions())


def load(data) -> Splits:
    """The parts "train" and "combinations"; `data.options`: size (pixels), each (scenes of a name), seed, and small
    (percent of the training scenes)."""
    options = integer_options("openmoji", data.options, {"size": 32, "each": 40, "seed": 0, "small": 30})
    return Splits(Scenes("train", **options), Scenes("combinations", **options | {"each": 1, "small": 30}))


def answers() -> dict[str, dict[str, list[str]]]:
    """Language -> all that may be said in it: names, and phrases that each of them fits into. A checkpoint has it as
    `model/answers.json`."""
    id, emoji = next(iter(catalogue().items()))
    sizes = [(False, None), *((True, place) for place in PLACES)]
    scenes = [Scene(id, *size, ground, turned) for size, ground, turned in product(sizes, GROUNDS, (False, True))]
    found = {}
    for code in LANGUAGES:
        names = list(dict.fromkeys(each.names[code] for each in catalogue().values()))
        said = [blank(scene.caption(plain(code)), emoji.names[code]) for scene in scenes]
        found[code] = {"phrases": said, "names": names}
    return found
