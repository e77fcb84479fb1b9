"""The languages in which a checkpoint captions pictures: Languages, read from `model/answers.json`; keep.

    {"en": {"phrases": ["{}", "small {}, top left", ...], "names": ["red apple", ...]}, "de": ...}

A checkpoint that was taught captions of a few forms in several languages may list them there: every name in every
phrase. It then answers with the likeliest of these captions in the language that was asked for, in the first one where
none was. A checkpoint without this file writes what it likes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mot_gen.checkpoints.folders import ANSWERS
from mot_gen.errors import InputError, nearest, require
from mot_gen.files import json_files
from mot_gen.pipelines.text_choices import BLANK, Choices
from mot_gen.pipelines.text_lists import is_list_of_texts

ANY = "any"  # asks for whatever language the model finds likeliest


class Languages:
    """stated: what the file says; nothing where there is none."""

    def __init__(self, stated: Mapping[str, Any]):
        self._stated = dict(stated)
        self._choices: dict[str, Choices] = {}

    @classmethod
    def of_file(cls, path: Path | None) -> Languages:
        """InputError for a file that does not say what it should."""
        return cls({} if path is None else _read(path))

    @property
    def names(self) -> list[str]:
        """The languages; the first is what is answered in where none is asked for."""
        return list(self._stated)

    def wanted(self, language: str | None) -> str | None:
        """The language of an answer; None for any. InputError for one that the checkpoint does not have."""
        if language is None:
            return next(iter(self._stated), None)
        if language == ANY:
            return None
        require(bool(self._stated), f"language: this checkpoint lists no languages, got {language!r}; leave it out")
        if language not in self._stated:
            raise InputError(f"language: {language!r} is not known here{nearest(str(language), [*self._stated, ANY])}")
        return language

    def choices(self, language: str, tokenizer, end: int) -> Choices:
        """The captions of a language. end: the id of the token that ends a text."""
        if language not in self._choices:
            stated = self._stated[language]
            self._choices[language] = Choices.of_phrases(stated["phrases"], stated["names"], tokenizer, end)
        return self._choices[language]


def _read(path: Path) -> dict[str, Any]:
    stated = json_files.read(path)
    whole = isinstance(stated, Mapping) and all(_is_language(each) for each in stated.values())
    require(whole, f"{path}: lists no phrases and names of languages; fetch the checkpoint again, or remove this file")
    return dict(stated)


def _is_language(stated: Any) -> bool:
    if not isinstance(stated, Mapping):
        return False
    phrases, names = stated.get("phrases"), stated.get("names")
    if not (is_list_of_texts(phrases) and is_list_of_texts(names)):
        return False
    return all(phrase.count(BLANK) == 1 for phrase in phrases)


def keep(path: Path | None, folder: Path) -> None:
    """Copy the file into the folder where a model is saved."""
    if path is not None and path.parent.resolve() != folder.resolve():
        shutil.copyfile(path, folder / ANSWERS)
