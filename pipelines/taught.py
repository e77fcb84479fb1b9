"""What a checkpoint was taught to draw, and what of a prompt it was not: Taught, untaught.

It is read from the names and phrases of `model/answers.json`, a language each (`languages.py`). A prompt consists of
pieces with commas between them. A piece is known if it is one of a phrase's, with known names in its blanks; the order
of pieces, and an article before a name, make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mot_gen.pipelines.phrase_tree import BLANK

COMMA = ", "
ARTICLES = ("a", "an", "the", "ein", "eine", "der", "die", "das", "un", "una", "el", "la", "une", "le", "l'")
NEAREST = 3  # names that a message gives
_ARTICLE = re.compile(rf"^(?:(?:{'|'.join(ARTICLES)}) |l')(?=.)")


@dataclass(frozen=True)
class Taught:
    """Names and phrases of one language."""

    names: Sequence[str]
    phrases: Sequence[str]

    def missing(self, prompt: str) -> list[str]:
        """The parts of a prompt that were never taught: names, or whole pieces."""
        unknown = [self._unknown(piece) for piece in self._pieces(prompt)]
        return [part for parts in unknown for part in parts]

    def nearest(self, text: str, count: int = NEAREST) -> list[str]:
        """The names and phrases that are nearest to a text: first those that stand in it, then those spelled alike."""
        import difflib

        within = f" {' '.join(_words(text))} "
        inside = [known for lower, known in self._by_lower.items() if f" {' '.join(_words(lower))} " in within]
        alike = difflib.get_close_matches(text.lower(), self._by_lower, count)
        found = [*sorted(inside, key=len, reverse=True), *map(self._by_lower.__getitem__, alike)]
        return list(dict.fromkeys(found))[:count]

    def words_in(self, text: str) -> int:
        """How many words of a text are of this language, as far as it was taught."""
        return sum(word in self._words for word in _words(text))

    def _unknown(self, piece: str) -> list[str]:
        """The names in a piece that were never taught, by the phrase that leaves the least unknown."""
        if piece in self._attributes:
            return []
        readings = [[piece]] if self._name(piece) is None else [[]]
        for subject in self._subjects:
            found = subject.fullmatch(_ARTICLE.sub("", piece))
            if found is not None:
                unknown = [text for text in found.groups() if self._name(text) is None]
                readings.append([_ARTICLE.sub("", text) for text in unknown])
        return min(readings, key=lambda unknown: sum(map(len, unknown)))

    def _name(self, text: str) -> str | None:
        """The name that a text is, with or without an article."""
        candidates = (text, _ARTICLE.sub("", text))
        return next((each for each in candidates if each in self._named), None)

    def _pieces(self, prompt: str) -> list[str]:
        """The pieces between commas; those within a name part nothing."""
        kept = prompt.strip()
        for name in self._with_commas:
            kept = kept.replace(name, name.replace(COMMA, "\0"))
        return [piece.replace("\0", COMMA) for piece in kept.split(COMMA)]

    @cached_property
    def _named(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def _with_commas(self) -> list[str]:
        return [name for name in self.names if COMMA in name]

    @cached_property
    def _phrase_pieces(self) -> dict[str, None]:
        """Each once, in their order."""
        return dict.fromkeys(piece for phrase in self.phrases for piece in phrase.split(COMMA))

    @cached_property
    def _attributes(self) -> list[str]:
        return [piece for piece in self._phrase_pieces if BLANK not in piece]

    @cached_property
    def _subjects(self) -> list[re.Pattern[str]]:
        """Pieces with blanks, as patterns whose groups are the names."""
        pieces = [piece for piece in self._phrase_pieces if BLANK in piece]
        return [re.compile("(.+)".join(map(re.escape, piece.split(BLANK)))) for piece in pieces]

    @cached_property
    def _by_lower(self) -> dict[str, str]:
        return {known.lower(): known for known in (*self.names, *self._attributes)}

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(word for text in (*self.names, *self._phrase_pieces) for word in _words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def untaught(prompts: Iterable[str], languages: Mapping[str, Taught]) -> str | None:
    """What to say of the first prompt that names what no language taught, and how many others do; None where all are
    known, or nothing is said of languages."""
    if not languages:
        return None
    found = [missing for prompt in dict.fromkeys(prompts) if (missing := _missing(prompt, languages))]
    if not found:
        return None
    part, language = found[0]
    taught = languages[language]
    nearest = taught.nearest(part)
    known = f"the nearest that it knows: {COMMA.join(nearest)}"
    if not nearest:
        known = f"it knows {COMMA.join(taught.names[:NEAREST])}, ..."
    more = f" (so it is with {len(found) - 1} more)" if len(found) > 1 else ""
    return f"prompt: {part!r} was never taught to this checkpoint, which will draw something else{more}; {known}"


def _missing(prompt: str, languages: Mapping[str, Taught]) -> tuple[str, str] | None:
    """The first part that is unknown and the language that knows most of the prompt; None where one knows all."""
    unknown = {language: taught.missing(prompt) for language, taught in languages.items()}
    if not all(unknown.values()):
        return None
    fewest = min(map(len, unknown.values()))
    candidates = [language for language, parts in unknown.items() if len(parts) == fewest]
    language = max(candidates, key=lambda each: languages[each].words_in(prompt))
    return unknown[language][0], language
