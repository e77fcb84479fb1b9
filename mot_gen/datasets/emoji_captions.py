"""Captions of the source `emoji_scenes` read back: read_caption, the scene that a caption says; languages_of, the
languages that it may be in.

Needs the extra `emoji`.
"""

from __future__ import annotations

from functools import cache

from mot_gen.datasets.emoji_scenes import Scene
from mot_gen.datasets.emoji_words import RELATION_WORDS, RELATIONS, catalogue
from mot_gen.datasets.scene_words import GROUNDS, LANGUAGES, PLACES, without_article


@cache
def _meanings(code: str) -> dict[str, dict[str, str | bool]]:
    """Attribute phrase of a language -> the fields of `Scene` that it sets."""
    language = LANGUAGES[code]
    found: dict[str, dict[str, str | bool]] = {language.small: {}, language.mirrored: {"mirrored": True}}
    for phrase, place in zip(language.places, PLACES):
        found[phrase] = {"place": place}
    for phrase, ground in zip(language.grounds, GROUNDS):
        found[phrase] = {"ground": ground}
    return found


@cache
def _ids_by_name(code: str) -> dict[str, str]:
    """Name in a language -> id."""
    return {names[code]: id for id, names in catalogue().items()}


def read_caption(text: str, code: str = "en") -> Scene | None:
    """The scene that a caption says in a language; None if it names no emoji, or says anything else besides."""
    meanings = _meanings(code)
    # One Spanish name is also a ground: "sobre rojo", a red envelope. Of such pieces the first is the name.
    only_attributes = meanings.keys() - _ids_by_name(code).keys()
    attributes_said, others = [], []
    for piece in text.strip().split(", "):
        if piece in only_attributes:
            attributes_said.append(piece)
        else:
            others.append(piece)
    name, *more = others or [""]
    fields: dict[str, str | bool] = {}
    for piece in (*attributes_said, *more):
        if piece not in meanings:
            return None
        fields |= meanings[piece]
    subject = _read_subject(name, code, small="place" in fields)
    if subject is None:
        return None
    ids, relation = subject
    return Scene(ids, relation=relation, **fields)  # type: ignore[arg-type]


def languages_of(text: str) -> list[str]:
    """The languages in which a caption says a scene."""
    return [code for code in LANGUAGES if read_caption(text, code) is not None]


def _read_subject(text: str, code: str, small: bool) -> tuple[tuple[str, ...], str | None] | None:
    """The ids and the relation of "a red apple left of a blue fish"."""
    for word, relation in zip(RELATION_WORDS[code], RELATIONS):
        first, _, second = text.partition(f" {word} ")
        left, right = _read_name(first, code, small), _read_name(second, code, small)
        if left is not None and right is not None:
            return (left, right), relation
    id = _read_name(text, code, small)
    if id is None:
        return None
    return (id,), None


def _read_name(text: str, code: str, small: bool) -> str | None:
    """The id of a name. In English an article may stand before it, and "small" if it is so."""
    if code == "en":
        text = without_article(text)
        if small:
            text = text.removeprefix("small ")
    return _ids_by_name(code).get(text)
