"""METEOR 1.5's alignment of two sentences: normalized_words, Match, Matcher, and best_alignment by beam search.

Words and phrases match exactly, by stem, by synonym or by paraphrase; the alignment kept is the one that covers most
words, in fewest chunks, with least crossing (Denkowski and Lavie 2014). The rules are those of the published program
also where they are peculiar, since a score of another alignment is another score; such places say so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from mot_gen.eval.text.meteor_lexicon import Lexicon, Phrase

EXACT, STEM, SYNONYM, PARAPHRASE = MODULES = range(4)
SEARCH_WEIGHTS = (1.0, 0.5, 0.5, 0.5)  # of a match's words by module, while searching
BEAM = 40

ALPHA = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
# Patterns, and what takes the place of what they match.
_RULES = (
    (rf"([^0-9{ALPHA}\s.'`,\-‘’])", r" \1 "),
    (r"\.(\.+)", r" DOTMULTI\1"),
)
_AFTER_DOTS = (
    (r"([^0-9]),([^0-9])", r"\1 , \2"),
    (r"([0-9]),([^0-9])", r"\1 , \2"),
    (r"([^0-9]),([0-9])", r"\1 , \2"),
    (r"[`‘’]", "'"),
    (r"[“”]|''", ' " '),
    (r"–", "-"),
    (r"--", "-"),
    (rf"([0-9{ALPHA}.])-([0-9{ALPHA}])", r"\1 \2"),
    (rf"([^{ALPHA}])'([^{ALPHA}])", r"\1 ' \2"),
    (rf"([^{ALPHA}0-9])'([{ALPHA}])", r"\1 ' \2"),
    (rf"([{ALPHA}])'([^{ALPHA}])", r"\1 ' \2"),
    (rf"([{ALPHA}])'([{ALPHA}])", r"\1 '\2"),
    (r"([0-9])'(s)", r"\1 '\2"),
)
_DOTS = re.compile(r"DOTMULTI\.([^.])")


def normalized_words(text: str, nonbreaking: dict[str, bool]) -> list[str]:
    """Lower-case words and punctuation marks of an English text. nonbreaking: as `Lexicon.nonbreaking`."""
    line = _substituted(f" {text} ", _RULES)
    while "DOTMULTI." in line:
        line = _DOTS.sub(r"DOTDOTMULTI \1", line).replace("DOTMULTI.", "DOTDOTMULTI")
    words = _java_words(_substituted(line, _AFTER_DOTS))
    line = " ".join(_dot_apart(word, following, nonbreaking) for word, following in zip(words, [*words[1:], ""]))
    while "DOTDOTMULTI" in line:
        line = line.replace("DOTDOTMULTI", "DOTMULTI.")
    line = line.replace("DOTMULTI", ".")
    return _java_words(re.sub("[\u2000-\u200a\u202f\u205f\u3000\u00a0]", " ", line).lower())


def _substituted(line: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        line = re.sub(pattern, replacement, line, flags=re.ASCII)  # re keeps what it compiled
    return line


def _java_words(line: str) -> list[str]:
    """Split at ASCII blanks alone, as Java's tokenizer does."""
    return re.findall(r"[^ \t\n\r\f]+", line)


def _dot_apart(word: str, following: str, nonbreaking: dict[str, bool]) -> str:
    """A dot that ends a sentence becomes a word; one of an abbreviation stays or, within "U.S.", is dropped."""
    stem = word[:-1]
    if len(word) < 2 or not word.endswith("."):
        return word
    if "." in stem and re.search(f"[{ALPHA}]", stem):
        return word.replace(".", "")
    before_numbers_alone = nonbreaking.get(stem)  # None where the word is no abbreviation
    if before_numbers_alone is False or re.match("[a-z]", following):
        return word
    if before_numbers_alone and re.match("[0-9]", following):
        return word
    return f"{stem} ."


class Match(NamedTuple):
    """`length` words of the reference from `start` with `own_length` words of the prediction from `own_start`."""

    module: int
    start: int
    length: int
    own_start: int
    own_length: int


def _same(one: str, two: str) -> bool:
    return one == two


class Matcher:
    """All matches of a prediction with a reference, by the reference word that they begin at. paraphrases: those of
    the lexicon that occur in the sentences at hand."""

    def __init__(self, lexicon: Lexicon, paraphrases: dict[Phrase, list[Phrase]]):
        self.lexicon, self.paraphrases = lexicon, paraphrases
        self.longest = max(map(len, paraphrases), default=0)

    def matches(self, own: Sequence[str], reference: Sequence[str]) -> list[list[Match]]:
        """One list a reference word. Equal sentences have exact matches alone, which spares the search its errors."""
        modules = [self._words(own, reference, EXACT, _same)]
        if list(own) != list(reference):
            modules.append(self._words(own, reference, STEM, self._same_stem))
            modules.append(self._words(own, reference, SYNONYM, self._synonyms))
            modules.append(self._phrases(own, reference))
        found: list[list[Match]] = [[] for _ in reference]
        for match in chain.from_iterable(modules):
            found[match.start].append(match)
        return found

    def _same_stem(self, one: str, two: str) -> bool:
        return one != two and self.lexicon.stem(one) == self.lexicon.stem(two)

    def _synonyms(self, one: str, two: str) -> bool:
        return one != two and not self.lexicon.synsets_of(one).isdisjoint(self.lexicon.synsets_of(two))

    @staticmethod
    def _words(
        own: Sequence[str], reference: Sequence[str], module: int, alike: Callable[[str, str], bool]
    ) -> Iterator[Match]:
        for j, wanted in enumerate(reference):
            for i, word in enumerate(own):
                if alike(word, wanted):
                    yield Match(module, j, 1, i, 1)

    def _phrases(self, own: Sequence[str], reference: Sequence[str]) -> Iterator[Match]:
        """Both ways: a paraphrase of the reference's words in the prediction, and the reverse."""
        for j, length, i, own_length in self._paraphrased(reference, own):
            yield Match(PARAPHRASE, j, length, i, own_length)
        for i, own_length, j, length in self._paraphrased(own, reference):
            yield Match(PARAPHRASE, j, length, i, own_length)

    def _paraphrased(self, one: Sequence[str], other: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
        """(place, length) of a phrase of `one` and of a paraphrase of it in `other`."""
        for start in range(len(one)):
            for length in range(1, min(self.longest, len(one) - start) + 1):
                for phrase in self.paraphrases.get(tuple(one[start : start + length]), ()):
                    for place in range(len(other) - len(phrase) + 1):
                        if tuple(other[place : place + len(phrase)]) == phrase:
                            yield start, length, place, len(phrase)


@dataclass(eq=False)
class _Path:
    """A partial alignment, left to right over the reference. `covered` is cut to whole words after every match, as in
    the program, whose counter is an integer: single words that match by stem count for nothing in the search."""

    chosen: dict[int, Match]
    own_used: set[int]
    used: set[int]
    own_covered: int = 0
    covered: int = 0
    chunks: int = 0
    next_start: int = 0
    own_end: int = -1  # where the prediction's side of the last match ended; -1 after a gap
    distance: int = 0

    def order(self) -> tuple[int, int, int]:
        return -(self.own_covered + self.covered), self.chunks, self.distance

    def free(self, match: Match) -> bool:
        return self.own_used.isdisjoint(_own_words(match)) and self.used.isdisjoint(_words(match))

    def take(self, match: Match):
        weight = SEARCH_WEIGHTS[match.module]
        self.own_covered = int(self.own_covered + match.own_length * weight)
        self.covered = int(self.covered + match.length * weight)
        self.chunks += self.own_end not in (-1, match.own_start)
        self.next_start = match.start + match.length
        self.own_end = match.own_start + match.own_length

    def extended(self, match: Match) -> _Path:
        path = replace(
            self,
            chosen=self.chosen | {match.start: match},
            own_used=self.own_used | set(_own_words(match)),
            used=self.used | set(_words(match)),
        )
        path.take(match)
        return path

    def skip(self):
        self.chunks += self.own_end != -1
        self.own_end = -1
        self.next_start += 1


def _own_words(match: Match) -> range:
    return range(match.own_start, match.own_start + match.own_length)


def _words(match: Match) -> range:
    return range(match.start, match.start + match.length)


def best_alignment(matches: Sequence[Sequence[Match]]) -> list[Match]:
    """The matches kept, in the reference's order, out of all that are possible."""
    paths = [_with_the_certain(matches)]
    for current, possible in enumerate(matches):
        paths, before = [], sorted(paths, key=_Path.order)[:BEAM]
        for path in before:
            paths += _steps(path, current, possible)
        # Every path may have stopped where certain and chosen matches meet; the best one goes on as it is.
        paths = paths or before[:1]
    for path in paths:
        path.skip()
    return sorted(min(paths, key=_Path.order).chosen.values(), key=lambda match: match.start)


def _with_the_certain(matches: Sequence[Sequence[Match]]) -> _Path:
    """The start: words with one possible match, which no other match touches."""
    own_coverage: Counter[int] = Counter()
    coverage: Counter[int] = Counter()
    for match in chain.from_iterable(matches):
        own_coverage.update(_own_words(match))
        coverage.update(_words(match))
    path = _Path({}, set(), set())
    for possible in matches:
        if len(possible) == 1 and _touched_once(possible[0], own_coverage, coverage):
            path.chosen[possible[0].start] = possible[0]
            path.own_used.update(_own_words(possible[0]))
            path.used.update(_words(possible[0]))
    return path


def _touched_once(match: Match, own_coverage: Counter[int], coverage: Counter[int]) -> bool:
    once = all(coverage[j] == 1 for j in _words(match))
    return once and all(own_coverage[i] == 1 for i in _own_words(match))


def _steps(path: _Path, current: int, possible: Sequence[Match]) -> Iterator[_Path]:
    """The steps that a path may take at one word of the reference."""
    if current in path.used:
        certain = path.chosen.get(path.next_start)
        if current < path.next_start:
            yield path
        elif certain is not None:
            path.take(certain)
            path.distance += abs(certain.start - certain.own_start)
            yield path
        return
    for match in possible:
        if path.free(match):
            yield path.extended(match)
            # The program counts the distance of a match on the path that goes on without it.
            path.distance += abs(match.start - match.own_start)
    path.skip()
    yield path
