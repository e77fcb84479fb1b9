"""The words of emoji_scenes.py: names of emoji, places, relations and grounds in four languages; Language, catalogue.

Needs the extra `emoji`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mot_gen.datasets.emoji import emoji_pixels
from mot_gen.errors import InputError

TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
PLACES = ("top left", "top right", "bottom left", "bottom right")
RELATIONS = ("left of", "right of", "above", "below")  # of the emoji that is named first to the second
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
    """How a language says a scene. places, relations, grounds: in the order of PLACES, RELATIONS and GROUNDS.

    question: asks what is in a picture.
    """

    question: str
    small: str
    mirrored: str
    places: tuple[str, ...]
    relations: tuple[str, ...]
    grounds: tuple[str, ...]


def _on(preposition: str, colors: str) -> tuple[str, ...]:
    return tuple(f"{preposition} {color}" for color in colors.split())


LANGUAGES = {
    "en": Language("what is this?", "small", "mirrored", PLACES, RELATIONS, _on("on", " ".join(GROUNDS))),
    "de": Language(
        "was ist das?",
        "klein",
        "gespiegelt",
        ("oben links", "oben rechts", "unten links", "unten rechts"),
        ("links von", "rechts von", "über", "unter"),
        _on("auf", "Weiß Rot Orange Gelb Grün Blau Lila Rosa Grau"),
    ),
    "es": Language(
        "¿qué es esto?",
        "en pequeño",
        "reflejado",
        ("arriba a la izquierda", "arriba a la derecha", "abajo a la izquierda", "abajo a la derecha"),
        ("a la izquierda de", "a la derecha de", "encima de", "debajo de"),
        _on("sobre", "blanco rojo naranja amarillo verde azul morado rosa gris"),
    ),
    "fr": Language(
        "qu'est-ce que c'est ?",
        "en petit",
        "en miroir",
        ("en haut à gauche", "en haut à droite", "en bas à gauche", "en bas à droite"),
        ("à gauche de", "à droite de", "au-dessus de", "au-dessous de"),
        _on("sur", "blanc rouge orange jaune vert bleu violet rose gris"),
    ),
}
PHRASINGS = ("plain", "article", "ground first", "de", "es", "fr")  # the first three are English
HELD_OUT_PHRASINGS = ("the", "the, ground first")


def language_of(phrasing: str) -> str:
    """The code of the language that a phrasing is in."""
    return phrasing if phrasing in LANGUAGES else "en"


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """id -> language -> name, in the order of the package `emoji`. Raises InputError without the extra."""
    try:
        import emoji
    except ImportError as error:
        raise InputError("emoji need the extra: pip install 'mot-gen[emoji]'") from error
    emoji.config.load_language(list(LANGUAGES))
    drawn = set(emoji_pixels(16)[0])
    found = {}
    for characters, about in emoji.EMOJI_DATA.items():
        named = about["status"] == emoji.STATUS["fully_qualified"] and about.keys() >= LANGUAGES.keys()
        if not named:
            continue
        names = {language: _plain(about[language]) for language in LANGUAGES}
        points = [f"{ord(point):04X}" for point in characters]
        whole = "-".join(points)
        shown = [id for id in (whole, whole.replace("-FE0F", "")) if id in drawn]
        if shown and not _left_out(points, names["en"]):
            found[shown[0]] = names
    return found


def _plain(name: str) -> str:
    """ ":love_letter:" -> "love letter". Commas part the phrases of a caption, so a name has none."""
    return name.strip(":").replace("_", " ").replace(",", "")


def _left_out(points: list[str], name: str) -> bool:
    """Flags, families and skin tones."""
    is_flag = any(0x1F1E6 <= int(point, 16) <= 0x1F1FF or 0xE0020 <= int(point, 16) <= 0xE007F for point in points)
    return is_flag or name.startswith("family") or not TONES.isdisjoint(points)
