"""How scenes of emoji are said in four languages: Language, LANGUAGES, attributes, phrases, plain, blank; PLACES, with
the corner of each, and GROUNDS; and the English articles: indefinite_article, without_article."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

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


class SceneFields(Protocol):
    """What a scene of either source has besides its emoji."""

    @property
    def mirrored(self) -> bool: ...

    @property
    def place(self) -> str | None: ...

    @property
    def ground(self) -> str: ...


def attributes(scene: SceneFields, language: Language) -> list[str]:
    """Mirroring, place and ground in a language, those that are not as usual; the ground is last."""
    said = []
    if scene.mirrored:
        said.append(language.mirrored)
    if scene.place:
        said.append(language.places[PLACES.index(scene.place)])
    if scene.ground != "white":
        said.append(language.grounds[list(GROUNDS).index(scene.ground)])
    return said


@cache
def phrases() -> dict[str, dict[str, Any]]:
    """Phrase of any language -> the fields of a scene that it sets."""
    found: dict[str, dict[str, Any]] = {}
    for language in LANGUAGES.values():
        found[language.small] = {"small": True}
        found[language.mirrored] = {"mirrored": True}
        for phrase, place in zip(language.places, PLACES):
            found[phrase] = {"place": place}
        for phrase, ground in zip(language.grounds, GROUNDS):
            found[phrase] = {"ground": ground}
    return found


def corner(place: str, side: int) -> tuple[int, int]:
    """The left and upper edge of what is half as wide as its picture and stands at one of PLACES. side: its width."""
    left = side if place.endswith("right") else 0
    top = side if place.startswith("bottom") else 0
    return left, top


def plain(code: str) -> str:
    """The phrasing in which a language is written: English without articles."""
    return "plain" if code == "en" else code


def indefinite_article(name: str) -> str:
    """ "a" or "an", as the English name asks for."""
    return "an" if name[0] in "aeiouAEIO" else "a"


def without_article(text: str) -> str:
    """An English name without an article before it."""
    for article in ("the ", "an ", "a "):
        if text.startswith(article):
            return text.removeprefix(article)
    return text


def blank(caption: str, name: str) -> str:
    """A caption with {} in place of a name, as the phrases of `model/answers.json` have it."""
    return caption.replace(name, "{}")
