"""Scenes of one or two OpenMoji emoji, some 1,600 names in four languages: the source `emoji_scenes` of a recipe.

- `catalogue` (emoji_words.py): id -> names of every emoji that OpenMoji draws, without flags, families and skin tones.
- `Scene`: one emoji, large or small and in a corner, or two beside or above one another, on a ground.
  `.picture(size)` draws it, `.caption(phrasing)` says it.
- `read_caption`, `languages_of` (emoji_captions.py): the scene that a caption says, and the languages it may be in.
- `part_of`: the parts "train", "names", "combinations" and "pairs", fixed by hash.
- `Scenes`, `load`: samples for training. Reading begins with a question, whose language is that of the answer.
- `answers`: the questions, and what a model of these scenes may answer.

Needs the extra `emoji`. All emojis designed by OpenMoji, the open-source emoji and icon project; license: CC BY-SA 4.0.
What a caption does not say is as usual: large, in the middle, on white.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from typing import Any

from PIL import Image

from mot_gen.data.samples import Pair, Samples, Splits
from mot_gen.datasets.emoji import chance, emoji_on, held_out
from mot_gen.datasets.emoji_words import (
    PHRASINGS,
    QUESTIONS,
    RELATION_WORDS,
    RELATIONS,
    MultilingualPair,
    catalogue,
    language_of,
)
from mot_gen.datasets.integer_options import integer_options
from mot_gen.datasets.scene_words import (
    GROUNDS,
    LANGUAGES,
    PLACES,
    Language,
    attributes,
    blank,
    corner,
    indefinite_article,
    plain,
)
from mot_gen.errors import expect

UNSEEN_NAMES = 0.04
COMBINATIONS = 0.12  # of an emoji and a ground or a place, and of two emoji: the share that is held out


@dataclass(frozen=True)
class Scene:
    """What is in a picture. emoji: one id, or two.

    One emoji: place None fills the picture, else it is small and in one of PLACES. Two are half as wide as the picture;
    relation, one of RELATIONS, says where the first is.
    """

    emoji: tuple[str, ...]
    place: str | None = None
    relation: str | None = None
    ground: str = "white"
    mirrored: bool = False

    def picture(self, size: int) -> Image.Image:
        """RGB, size x size; size must be a multiple of 4."""
        ground = GROUNDS[self.ground]
        canvas = Image.new("RGB", (size, size), ground)
        fills_the_picture = self.place is None and self.relation is None
        side = size if fills_the_picture else size // 2
        for id, edges in zip(self.emoji, self._corners(size), strict=True):
            canvas.paste(emoji_on(ground, id, side, self.mirrored), edges)
        return canvas

    def _corners(self, size: int) -> list[tuple[int, int]]:
        """The left and upper edge of each emoji."""
        half, quarter = size // 2, size // 4
        if self.place is not None:
            return [corner(self.place, half)]
        if self.relation is None:
            return [(0, 0)]
        first_is_before = self.relation in ("left of", "above")
        ends = [0, half] if first_is_before else [half, 0]
        if self.relation in ("left of", "right of"):
            return [(x, quarter) for x in ends]
        return [(quarter, y) for y in ends]

    def caption(self, phrasing: str) -> str:
        """The scene in one of PHRASINGS or HELD_OUT_PHRASINGS."""
        code = language_of(phrasing)
        language = LANGUAGES[code]
        said = [self._subject(phrasing), *self._attributes(language, code)]
        if phrasing.endswith("ground first") and self.ground != "white":
            said.insert(0, said.pop())  # the ground, which is last
        return ", ".join(said)

    def _subject(self, phrasing: str) -> str:
        """What is shown: a name, or two with the relation between them."""
        code = language_of(phrasing)
        names = [catalogue()[id][code] for id in self.emoji]
        if code == "en":
            names = [self._in_english(name, phrasing) for name in names]
        if self.relation is None:
            return names[0]
        return f" {RELATION_WORDS[code][RELATIONS.index(self.relation)]} ".join(names)

    def _in_english(self, name: str, phrasing: str) -> str:
        """A name with its size and its article, which only English captions have here."""
        said = f"{LANGUAGES['en'].small} {name}" if self.place else name
        if phrasing in ("the", "the, ground first"):
            return f"the {said}"
        if phrasing == "article":
            return f"{indefinite_article(said)} {said}"
        return said

    def _attributes(self, language: Language, code: str) -> list[str]:
        """Size, mirroring, place and ground, those that are not as usual; the ground is last."""
        said = attributes(self, language)
        if self.place and code != "en":  # in English "small" stands before the name
            said.insert(0, language.small)
        return said


# ---------------------------------------------------------------- what is held out


@cache
def _is_unseen(id: str) -> bool:
    return held_out(id, UNSEEN_NAMES)


def part_of(scene: Scene) -> str:
    """The part a scene belongs to.

    "names": an emoji whose family is never shown. "pairs": two emoji that are never shown together. "combinations": a
    ground or a place that an emoji is never shown with. "train": all others.
    """
    if any(map(_is_unseen, scene.emoji)):
        return "names"
    if scene.relation and _is_rare(" ".join(sorted(scene.emoji))):
        return "pairs"
    with_it: list[str] = []
    if scene.place is not None:
        with_it.append(scene.place)
    if scene.ground != "white":
        with_it.append(scene.ground)
    together = map(" ".join, product(scene.emoji, with_it))
    return "combinations" if any(map(_is_rare, together)) else "train"


def _is_rare(combination: str) -> bool:
    """Whether what stands together in a scene is held out."""
    return chance(combination) < COMBINATIONS


# ---------------------------------------------------------------- what is shown

KINDS = {"plain": 0.2, "ground": 0.15, "small": 0.2, "two": 0.45}


def draw_scene(emoji: str, rng: random.Random, kinds: Mapping[str, float] | None = None) -> Scene:
    """A scene of an emoji. kinds: how often it fills a white picture, or a coloured one, is small, or one of two."""
    shares = kinds or KINDS
    kind = rng.choices(list(shares), list(shares.values()))[0]
    ground = "white" if rng.random() < 0.3 else rng.choice(list(GROUNDS)[1:])
    if kind == "plain":
        return Scene((emoji,))
    if kind == "ground":
        return Scene((emoji,), ground=ground, mirrored=rng.random() < 0.25)
    if kind == "small":
        return Scene((emoji,), place=rng.choice(PLACES), ground=ground)
    other = rng.choice(list(catalogue()))
    both = [emoji, other] if rng.random() < 0.5 else [other, emoji]
    return Scene(tuple(both), relation=rng.choice(RELATIONS), ground=ground)


class Scenes(Samples):
    """`each` scenes of every name of a part, as a sequence of pairs with pictures of `size` pixels."""

    def __init__(
        self, part: str, size: int = 64, each: int = 40, seed: int = 0, kinds: Mapping[str, float] | None = None
    ):
        expect(size >= 4 and size % 4 == 0, "data.options.size: must be a multiple of 4 and at least 4", size)
        self.size = size
        self.scenes: list[Scene] = []
        for id in catalogue():
            rng = random.Random(f"{seed} {part} {id}")
            drawn = (draw_scene(id, rng, kinds) for _ in range(6 * each))
            fitting: Iterable[Scene] = (scene for scene in drawn if part_of(scene) == part)
            if part != "train":
                fitting = dict.fromkeys(fitting)  # each scene once
            self.scenes += islice(fitting, each)

    def __len__(self) -> int:
        return len(self.scenes)

    def sample(self, index: int) -> Pair:
        """The pair of this number, its picture drawn."""
        return self._described(index, self.scenes[index].picture(self.size))

    def outline(self, index: int) -> Pair:
        """The pair without its picture, which need not be drawn for its captions."""
        return self._described(index, None)

    def _described(self, index: int, picture: Image.Image | None) -> MultilingualPair:
        scene = self.scenes[index]
        captions = tuple(scene.caption(phrasing) for phrasing in PHRASINGS)
        return MultilingualPair(f"emoji_scenes/{scene}", picture, captions, tuple(map(language_of, PHRASINGS)))


def load(data) -> Splits:
    """The parts "train" and "combinations"; `data.options`: size (pixels), each (scenes of a name) and seed."""
    options = integer_options("emoji_scenes", data.options, {"size": 64, "each": 40, "seed": 0})
    size, each, seed = options["size"], options["each"], options["seed"]
    return Splits(Scenes("train", size, each, seed), Scenes("combinations", size, 1, seed))


def answers() -> dict[str, dict[str, Any]]:
    """Language -> its question, the names that training shows, and phrases that they fit into. A checkpoint has it as
    `model/answers.json`."""
    shown = [id for id in catalogue() if not _is_unseen(id)]
    first, found = shown[0], {}
    scenes = [Scene((first,), ground=ground, mirrored=turned) for ground, turned in product(GROUNDS, (False, True))]
    scenes += [Scene((first,), place=place, ground=ground) for place, ground in product(PLACES, GROUNDS)]
    scenes += [Scene((first, first), relation=each, ground=ground) for each, ground in product(RELATIONS, GROUNDS)]
    for code in LANGUAGES:
        names = [catalogue()[id][code] for id in shown]
        said = [blank(scene.caption(plain(code)), names[0]) for scene in scenes]
        found[code] = {"question": QUESTIONS[code], "phrases": said, "names": names}
    return found
