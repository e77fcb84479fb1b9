"""The languages in which a checkpoint captions pictures: Languages, read from `model/answers.json`; keep, write.

    {"en": {"question": "what is this?", "phrases": ["{}", "small {}", ...], "names": ["red apple", ...]}, "de": ...}

A checkpoint that was taught captions of a few forms in several languages may list them there: every name in every
phrase, and in every blank of it. It then answers with the likeliest of these captions in the language that was asked
for, in the first one where none was. A checkpoint without this file writes what it likes.

question: what stands before a picture that is answered in this language, where the checkpoint was taught so. Who gives
one of these questions as a prompt asks in its language.

They also tell what a checkpoint was never taught to draw (`taught.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mot_gen.checkpoints.folders import ANSWERS
from mot_gen.errors import InputError, nearest, require
from mot_gen.files import json_files
from mot_gen.files.atomic import write_text
from mot_gen.pipelines.captions.phrase_tree import BLANK
from mot_gen.pipelines.captions.taught import TaughtNames, untaught
from mot_gen.pipelines.captions.text_choices import Choices
from mot_gen.pipelines.settings import is_list_of_texts, listed_texts

ANY = "any"  # asks for whatever language the model finds likeliest


class Languages:
    """The languages of a checkpoint. stated: the content of `model/answers.json`, empty where there is none."""

    def __init__(self, stated: Mapping[str, Any]):
        self._stated = dict(stated)
        self._choices: dict[str, Choices] = {}
        self._taught: dict[str, TaughtNames] | None = None

    @classmethod
    def of_file(cls, path: Path | None) -> Languages:
        """The languages that a file lists; none without a file. InputError for a file of another form."""
        return cls({} if path is None else _read(path))

    @property
    def names(self) -> list[str]:
        """The languages, by their codes. Answers are in the first one unless another is asked for."""
        return list(self._stated)

    def names_in(self, language: str) -> list[str]:
        """The names that the checkpoint knows in a language."""
        return list(self._stated[language]["names"])

    def phrases_in(self, language: str) -> list[str]:
        """The phrases that names fit into in a language."""
        return list(self._stated[language]["phrases"])

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

    def untaught(self, prompts: Iterable[str]) -> str | None:
        """A warning about prompts that name what was never taught; None where all are known, or nothing is listed."""
        if self._taught is None:
            self._taught = {each: TaughtNames(self.names_in(each), self.phrases_in(each)) for each in self._stated}
        return untaught(prompts, self._taught)

    def asked_by(self, prompt: str | Sequence[str] | None) -> str | None:
        """The language of a prompt that is one of the listed questions, or of a list of such prompts; None for any
        other prompt. InputError for different questions."""
        asked = set() if prompt is None else set(listed_texts(prompt))
        asking = [language for language in self._stated if self.question(language) is not None]
        by_question = {self.question(language): language for language in asking}
        if not asked & by_question.keys():
            return None
        (first, *others) = asked
        require(not others, "prompt: ask one and the same question of all pictures, or give them one by one")
        return by_question[first]

    def question(self, language: str | None) -> str | None:
        """The question before a picture that is to be answered in this language; None where there is none."""
        if language is None:
            return None
        return self._stated[language].get("question")

    def choices(self, language: str, tokenizer, end: int) -> Choices:
        """The captions of a language. end: the id of the token that ends a text."""
        if language not in self._choices:
            phrases, names = self.phrases_in(language), self.names_in(language)
            self._choices[language] = Choices.of_phrases(phrases, names, tokenizer, end)
        return self._choices[language]


def _read(path: Path) -> dict[str, Any]:
    stated = json_files.read(path)
    whole = isinstance(stated, Mapping) and all(_is_language(each) for each in stated.values())
    require(whole, f"{path}: lists no phrases and names of languages; fetch the checkpoint again, or remove this file")
    return dict(stated)


def _is_language(stated: Any) -> bool:
    if not isinstance(stated, Mapping):
        return False
    phrases, names, question = stated.get("phrases", ()), stated.get("names", ()), stated.get("question", "?")
    lists = all(map(is_list_of_texts, [phrases, names, [question]]))
    return lists and all(BLANK in phrase for phrase in phrases)


def keep(path: Path | None, folder: Path) -> None:
    """Copy the file into the folder where a model is saved."""
    if path is not None and path.parent.resolve() != folder.resolve():
        shutil.copyfile(path, folder / ANSWERS)


def write(stated: Mapping[str, Any], path: Path) -> None:
    """Write what may be asked and answered, a name or a phrase a line."""
    write_text(path, json.dumps(stated, ensure_ascii=False, indent=0) + "\n")
