"""OpenMoji scenes with captions in four languages: pictures of known names, described completely by their captions.

- `Emoji`, `catalogue`: some 590 names in English, German, Spanish and French, with skin tones where the emoji has them.
- `Scene`: an emoji, its tone, size, place, ground and mirroring; `.picture(size)` draws it, `.captions()` say it.
- `read_caption`: the inverse of all captions, which scores a written one.
- `part_of`: which of the parts "train", "names", "combinations" a scene belongs to, fixed by hash; phrasings that are
  never trained on are `HELD_OUT_PHRASINGS`.
- `Scenes`, `load`: a sequence of pairs for training; the source `openmoji` of a recipe.

Needs the extra `emoji`. All emojis designed by OpenMoji, the open-source emoji and icon project; license: CC BY-SA 4.0.
What is not said in a caption has its default, so a plain "red apple" is large, in the middle, on white.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from mot_gen.data.samples import Pair, Samples, Splits
from mot_gen.datasets.emoji import emoji_pixels, held_out, on_color
from mot_gen.errors import InputError

# Blocks of code points: faces, animals, plants and food, sky, feasts, people, hands, vehicles, hearts, things.
BLOCKS = (
    "1F600-1F637 1F641-1F644 1F910-1F917 1F920-1F92F 1F970-1F97A 1F400-1F43E 1F980-1F9AE 1F330-1F37F 1F950-1F96F "
    "1F300-1F320 1F380-1F3C6 1F466-1F475 1F478-1F480 1F442-1F450 270A-270C 261D-261D 1F590-1F595 1F4AA-1F4AA "
    "1F64B-1F64F 1F918-1F91F 1F680-1F6A9 1F6B2-1F6B2 1F493-1F49F 2764-2764 1F90D-1F90F 1F9E1-1F9E1 1F4A1-1F4AF "
    "1F511-1F511 26BD-26BE 2600-2604 26C4-26C5 1F525-1F52E 1F9D0-1F9DF"
)
TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
COMBINATIONS = 0.12  # of an emoji and a ground, a place or a tone: the share that is held out
PLACES = ("top left", "top right", "bottom left", "bottom right")
GROUNDS = {
    "white": (255, 255, 255),
    "red": (226, 70, 70),
    "orange": (240, 150, 60),
    "yellow": (246, 220, 90),
    "green": (110, 185, 105),
    "blue": (95, 160, 225),
    "purple": (150, 110, 200),
    "pink": (245, 165, 195),
    "grey": (160, 160, 160),
}


@dataclass(frozen=True)
class Language:
    """How a language says a scene. small and mirrored: words; places and grounds: in the order of PLACES, GROUNDS."""

    small: str
    mirrored: str
    places: tuple[str, ...]
    grounds: tuple[str, ...]


LANGUAGES = {
    "en": Language("small", "mirrored", PLACES, tuple(f"on {color}" for color in GROUNDS)),
    "de": Language(
        "klein",
        "gespiegelt",
        ("oben links", "oben rechts", "unten links", "unten rechts"),
        tuple(f"auf {c}" for c in ("Weiß", "Rot", "Orange", "Gelb", "Grün", "Blau", "Lila", "Rosa", "Grau")),
    ),
    "es": Language(
        "en pequeño",
        "reflejado",
        ("arriba a la izquierda", "arriba a la derecha", "abajo a la izquierda", "abajo a la derecha"),
        tuple(
            f"sobre {c}" for c in ("blanco", "rojo", "naranja", "amarillo", "verde", "azul", "morado", "rosa", "gris")
        ),
    ),
    "fr": Language(
        "en petit",
        "en miroir",
        ("en haut à gauche", "en haut à droite", "en bas à gauche", "en bas à droite"),
        tuple(f"sur {c}" for c in ("blanc", "rouge", "orange", "jaune", "vert", "bleu", "violet", "rose", "gris")),
    ),
}
PHRASINGS = ("plain", "article", "de", "es", "fr")  # the first two are English
HELD_OUT_PHRASINGS = ("ground first", "the")


@dataclass(frozen=True)
class Emoji:
    """base: its id without a tone. tone: 0 (none) or 1 ... 5, light to dark. names: language -> name, tone included."""

    id: str
    base: str
    tone: int
    names: dict[str, str]


@cache
def catalogue() -> dict[str, Emoji]:
    """id -> emoji, in the order of BLOCKS, each followed by its skin tones. Raises InputError without the extra."""
    drawn, names = set(emoji_pixels(16)[0]), _names()
    found: dict[str, Emoji] = {}
    for block in BLOCKS.split():
        first, last = (int(end, 16) for end in block.split("-"))
        for point in range(first, last + 1):
            base = f"{point:04X}"
            spellings = [(base, f"{base}-FE0F"), *((f"{base}-{tone}",) for tone in TONES)]
            for tone, ids in enumerate(spellings):
                named = [names[id] for id in ids if id in names]
                shown = [id for id in ids if id in drawn]
                if named and shown:
                    found.setdefault(shown[0], Emoji(shown[0], base, tone, named[0]))
    return found


def _names() -> dict[str, dict[str, str]]:
    """id -> language -> name, of the emoji that have one in all languages."""
    try:
        import emoji
    except ImportError as error:
        raise InputError("emoji need the extra: pip install 'mot-gen[emoji]'") from error
    emoji.config.load_language(list(LANGUAGES))
    qualified = emoji.STATUS["fully_qualified"]
    found = {}
    for characters, about in emoji.EMOJI_DATA.items():
        if about["status"] == qualified and LANGUAGES.keys() <= about.keys():
            id = "-".join(f"{ord(point):04X}" for point in characters)
            found[id] = {language: about[language].strip(":").replace("_", " ") for language in LANGUAGES}
    return found


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
        drawn = _pixels(side)[self.emoji]
        if self.mirrored:
            drawn = drawn[:, ::-1]
        image = Image.fromarray(on_color(drawn, GROUNDS[self.ground]))
        if self.place is None:
            return image
        canvas = Image.new("RGB", (size, size), GROUNDS[self.ground])
        canvas.paste(image, (side * self.place.endswith("right"), side * self.place.startswith("bottom")))
        return canvas

    def caption(self, phrasing: str) -> str:
        """The scene in one of PHRASINGS or HELD_OUT_PHRASINGS."""
        code = phrasing if phrasing in LANGUAGES else "en"
        language, name = LANGUAGES[code], self.about.names[code]
        said = self._attributes(language)
        if code != "en":
            small = [language.small] if self.small else []
            return ", ".join([name, *small, *said])
        head = f"{language.small} {name}" if self.small else name
        if phrasing == "plain":
            return ", ".join([head, *said])
        if phrasing == "article":
            article = "an" if head[0] in "aeiouAEIO" else "a"
            return ", ".join([f"{article} {head}", *said])
        if phrasing == "ground first":
            return ", ".join([*reversed(said), f"the {head}"])
        return ", ".join([f"the {head}", *said])

    def _attributes(self, language: Language) -> list[str]:
        """Mirroring, place and ground in a language, those that are not as usual."""
        said = []
        if self.mirrored:
            said.append(language.mirrored)
        if self.place:
            said.append(language.places[PLACES.index(self.place)])
        if self.ground != "white":
            said.append(language.grounds[list(GROUNDS).index(self.ground)])
        return said

    def captions(self) -> tuple[str, ...]:
        """All phrasings that are trained on; the plain one first."""
        return tuple(self.caption(phrasing) for phrasing in PHRASINGS)


@cache
def _pixels(size: int) -> dict[str, np.ndarray]:
    ids, pixels = emoji_pixels(size)
    return {id: picture for id, picture in zip(ids, pixels) if id in catalogue()}


@dataclass(frozen=True)
class Said:
    """What a caption says: the id of the emoji it names, or None, and the rest of the scene as `Scene` has it."""

    emoji: str | None
    small: bool
    place: str | None
    ground: str
    mirrored: bool


@cache
def _phrases() -> dict[str, dict[str, Any]]:
    """Attribute phrase of any language -> the fields of `Said` that it sets."""
    phrases: dict[str, dict[str, Any]] = {}
    for language in LANGUAGES.values():
        phrases[language.small] = {"small": True}
        phrases[language.mirrored] = {"mirrored": True}
        for phrase, place in zip(language.places, PLACES):
            phrases[phrase] = {"place": place}
        for phrase, ground in zip(language.grounds, GROUNDS):
            phrases[phrase] = {"ground": ground}
    return phrases


@cache
def _emoji_by_name() -> dict[str, str]:
    return {name: emoji.id for emoji in catalogue().values() for name in emoji.names.values()}


def read_caption(text: str) -> Said:
    """What a caption of any phrasing and language says."""
    said, phrases, names = Said(None, False, None, "white", False), _phrases(), _emoji_by_name()
    for piece in text.strip().split(", "):
        if piece in phrases:
            said = replace(said, **phrases[piece])
            continue
        if piece not in names:
            piece = piece.removeprefix("the ").removeprefix("an ").removeprefix("a ")
        if piece not in names and piece.startswith("small "):
            said, piece = replace(said, small=True), piece.removeprefix("small ")
        if piece in names:
            said = replace(said, emoji=names[piece])
    return said


# ---------------------------------------------------------------- what is held out


def _share(key: str) -> float:
    """A number in [0, 1) that follows from the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64


def part_of(scene: Scene) -> str:
    """ "names": an emoji whose family is never shown. "combinations": a colour of the ground, a place or a skin tone
    that this emoji is never shown with, though both are known. "train": all others."""
    emoji = scene.about
    if held_out(emoji.base):
        return "names"
    with_it = []
    if scene.ground != "white":
        with_it.append(scene.ground)
    if scene.place:
        with_it.append(scene.place)
    if emoji.tone:
        with_it.append(TONES[emoji.tone - 1])
    rare = any(_share(f"{emoji.base} {each}") < COMBINATIONS for each in with_it)
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
        if size < 2 or size % 2:
            raise InputError(f"data.options.size: must be even and at least 2, got {size}")
        if not 0 <= small <= 100:
            raise InputError(f"data.options.small: a percentage, 0 to 100, got {small}")
        self.size, self.scenes = size, []
        by_base: dict[str, list[str]] = {}
        for id, emoji in catalogue().items():
            by_base.setdefault(emoji.base, []).append(id)
        for base, ids in by_base.items():
            rng = random.Random(f"{seed} {part} {base}")
            drawn = [draw_scene(rng.choice(ids), rng, small / 100) for _ in range(4 * each)]
            drawn = [scene for scene in drawn if part_of(scene) == part]
            self.scenes += (drawn if part == "train" else list(dict.fromkeys(drawn)))[:each]

    def __len__(self) -> int:
        return len(self.scenes)

    def sample(self, index: int) -> Pair:
        scene = self.scenes[index]
        return Pair(f"openmoji/{scene}", scene.picture(self.size), scene.captions())

    def outline(self, index: int) -> Pair:
        """The pair without its picture, which need not be drawn for its captions."""
        scene = self.scenes[index]
        return Pair(f"openmoji/{scene}", None, scene.captions())


def load(data) -> Splits:
    """The parts "train" and "combinations"; `data.options`: size (pixels), each (scenes of a name), seed, and small
    (percent of the training scenes)."""
    options = {"size": 32, "each": 40, "seed": 0, "small": 30}
    for name, value in data.options.items():
        if name not in options or type(value) is not int:
            raise InputError(f"data.options.{name}: openmoji takes integers ({', '.join(options)}), got {value!r}")
        options[name] = value
    return Splits(Scenes("train", **options), Scenes("combinations", **options | {"each": 1, "small": 30}))
