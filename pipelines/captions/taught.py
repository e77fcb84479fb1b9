"""What a checkpoint was taught to draw, and which parts of a prompt it was not: TaughtNames, untaught.

It is read from the names and phrases of `model/answers.json`, a language each (`languages.py`). A prompt consists of
pieces with commas between them. A piece is known if it is one of a phrase's, with known names in its blanks; the order
of pieces, and an article before a name, make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from mot_gen.pipelines.captions.phrase_tree import BLANK

COMMA = ", "
ARTICLES = ("a", "an", "the", "ein", "eine", "der", "die", "das", "un", "una", "el", "la", "une", "le", "l'")
NEAREST = 3  # names that a message gives
LONGEST = 80  # characters of a prompt that a message repeats
_ARTICLE = re.compile(rf"^(?:(?:{'|'.join(ARTICLES)}) |l')(?=.)")


@dataclass(frozen=True)
class TaughtNames:
    """Names and phrases of one language."""

    names: Sequence[str]
    phrases: Sequence[str]

    def missing(self, prompt: str) -> list[str]:
        """The parts of a prompt that were never taught: names, or whole pieces."""
        return list(chain.from_iterable(map(self._unknown, self._pieces(prompt))))

    def nearest(self, text: str, count: int = NEAREST) -> list[str]:
        """The names and phrases that are nearest to a text: first those that stand in it, then those spelled alike."""
        import difflib

        spaced = _spaced(text)
        inside = [known for lower, known in self._by_lower.items() if _spaced(lower) in spaced]
        inside.sort(key=len, reverse=True)
        close = difflib.get_close_matches(text.lower(), self._by_lower, count)
        alike = [self._by_lower[lower] for lower in close]
        return list(dict.fromkeys([*inside, *alike]))[:count]

    def words_in(self, text: str) -> int:
        """How many words of a text are of this language, as far as it was taught."""
        return sum(word in self._words for word in _words(text))

    def _unknown(self, piece: str) -> list[str]:
        """The names in a piece that were never taught, by the phrase that leaves the least unknown."""
        if piece in self._attributes or self._is_name(piece):
            return []
        readings = [[piece]]
        for subject in self._subjects:
            found = subject.fullmatch(_without_article(piece))
            if found is not None:
                readings.append([_without_article(text) for text in found.groups() if not self._is_name(text)])
        return min(readings, key=lambda unknown: sum(map(len, unknown)))

    def _is_name(self, text: str) -> bool:
        """Whether a text is a name, with or without an article."""
        return text in self._named or _without_article(text) in self._named

    def _pieces(self, prompt: str) -> list[str]:
        """The pieces between commas. Commas within a name do not count: they are hidden while the prompt is split."""
        hidden = prompt.strip()
        for name in self._with_commas:
            hidden = hidden.replace(name, name.replace(COMMA, "\0"))
        return [piece.replace("\0", COMMA) for piece in hidden.split(COMMA)]

    @cached_property
    def _named(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def _with_commas(self) -> list[str]:
        return [name for name in self.names if COMMA in name]

    @cached_property
    def _phrase_pieces(self) -> dict[str, None]:
        """Each once, in their order."""
        return dict.fromkeys(chain.from_iterable(phrase.split(COMMA) for phrase in self.phrases))

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
        return frozenset(_words(" ".join([*self.names, *self._phrase_pieces])))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _spaced(text: str) -> str:
    """The words of a text, with spaces around each, so that whole words can be found in it."""
    return f" {' '.join(_words(text))} "


def _without_article(text: str) -> str:
    return _ARTICLE.sub("", text)


def untaught(prompts: Iterable[str], languages: Mapping[str, TaughtNames]) -> str | None:
    """A warning about the first prompt that names what was taught in no language, and how many others do. None where
    all are known, or the checkpoint lists no languages."""
    if not languages:
        return None
    by_prompt = [_missing(prompt, languages) for prompt in dict.fromkeys(prompts)]
    found = list(filter(None, by_prompt))
    if not found:
        return None
    part, language = found[0]
    more = f" (so it is with {len(found) - 1} more)" if len(found) > 1 else ""
    known = _known_instead(part, languages[language])
    return (
        f"prompt: {part[:LONGEST]!r} was never taught to this checkpoint, which will draw something else{more}; {known}"
    )


def _known_instead(part: str, taught: TaughtNames) -> str:
    """What a message gives in the place of an unknown part."""
    nearest = taught.nearest(part)
    if nearest:
        return f"the nearest that it knows: {COMMA.join(nearest)}"
    return f"it knows {COMMA.join(taught.names[:NEAREST])}, ..."


def _missing(prompt: str, languages: Mapping[str, TaughtNames]) -> tuple[str, str] | None:
    """The first part that is unknown and the language that knows most of the prompt; None where one knows all."""
    unknown = {language: taught.missing(prompt) for language, taught in languages.items()}
    if not all(unknown.values()):
        return None
    fewest = min(map(len, unknown.values()))
    candidates = [language for language, parts in unknown.items() if len(parts) == fewest]
    language = max(candidates, key=lambda each: languages[each].words_in(prompt))
    return unknown[language][0], language
