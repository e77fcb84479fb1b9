"""What emoji_scenes.py needs beyond scene_words.py: the names of all emoji (catalogue), words for how two emoji stand
to one another (RELATIONS), and a question in each language with its answer (QUESTIONS, MultilingualPair).

Needs the extra `emoji`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from mot_gen.data.samples import Arranging, Pair, Part
from mot_gen.datasets.emoji import emoji_pixels
from mot_gen.datasets.emoji_catalogue import TONES, qualified_names
from mot_gen.datasets.scene_words import LANGUAGES

RELATIONS = ("left of", "right of", "above", "below")  # of the emoji that is named first to the second
RELATION_WORDS = {  # language -> in the order of RELATIONS
    "en": RELATIONS,
    "de": ("links von", "rechts von", "über", "unter"),
    "es": ("a la izquierda de", "a la derecha de", "encima de", "debajo de"),
    "fr": ("à gauche de", "à droite de", "au-dessus de", "au-dessous de"),
}
QUESTIONS = {
    "en": "what is this?",
    "de": "was ist das?",
    "es": "¿qué es esto?",
    "fr": "qu'est-ce que c'est ?",
}
PHRASINGS = ("plain", "article", "ground first", "de", "es", "fr")  # the first three are English
HELD_OUT_PHRASINGS = ("the", "the, ground first")


def language_of(phrasing: str) -> str:
    """The code of the language that a phrasing is in."""
    return phrasing if phrasing in LANGUAGES else "en"


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """id -> language -> name, of what OpenMoji draws, without flags, families and skin tones. Raises InputError without
    the extra. A name has no comma, since commas part the phrases of a caption."""
    drawn = set(emoji_pixels(16)[0])
    found = {}
    for whole, names in qualified_names().items():
        shown = [id for id in (whole, whole.replace("-FE0F", "")) if id in drawn]
        if shown and not _left_out(whole.split("-"), names["en"]):
            found[shown[0]] = {language: name.replace(",", "") for language, name in names.items()}
    return found


def _is_of_flags(point: str) -> bool:
    """Whether a code point is a regional letter, or one of the tags that name a region."""
    number = int(point, 16)
    return 0x1F1E6 <= number <= 0x1F1FF or 0xE0020 <= number <= 0xE007F


def _left_out(points: list[str], name: str) -> bool:
    """Flags, families and skin tones."""
    is_flag = any(map(_is_of_flags, points))
    return is_flag or name.startswith("family") or not set(TONES).isdisjoint(points)


@dataclass(frozen=True)
class MultilingualPair(Pair):
    """A picture with captions in several languages. spoken: the language of each caption."""

    spoken: tuple[str, ...] = ()

    def arrange(self, rng: random.Random, options: Arranging) -> list[Part]:
        """A caption and its picture; or a question, the picture and the answer in the question's language. Without a
        question the answer is English."""
        image = Part("image", self.image)
        if rng.random() < options.caption_dropout:
            return [image]
        if rng.random() < options.caption_first:
            return [Part("text", self._said(rng)), image]
        code = rng.choice(["", *LANGUAGES])
        answer = Part("text", self.captions[self.spoken.index(code or "en")])
        if not code:
            return [image, answer]
        return [Part("text", QUESTIONS[code], loss=False), image, answer]

    def _said(self, rng: random.Random) -> str:
        """A caption. Each language is as likely as the others, however many captions it has, since names take as much
        practice in each."""
        code = rng.choice(list(dict.fromkeys(self.spoken)))
        return rng.choice([caption for caption, spoken in zip(self.captions, self.spoken) if spoken == code])
