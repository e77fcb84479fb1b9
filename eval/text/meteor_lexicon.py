"""What METEOR 1.5 knows of English: Lexicon, with stems, synonyms, paraphrases and function words; and load_lexicon.

The data is METEOR's own and WordNet's, which the package pycocoevalcap carries: a jar, opened here as the zip file that
it is (no Java runs), and a table of five million paraphrases, kept as Arrow arrays and filtered by the texts at hand.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mot_gen.errors import InputError
from mot_gen.eval.extras import extra_module

# WordNet's rules of detachment, in its order: nouns, verbs, adjectives.
ENDINGS = (
    *(
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    *(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    *(("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
)
LONGEST = 7  # words of a phrase in the table
Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """What METEOR knows of a language.

    function_words: those that count less.
    nonbreaking: abbreviations that keep their dot -> whether before numbers only.
    synsets: word -> numbers of its WordNet synsets.
    bases: irregular form -> its base forms.
    phrases, paraphrases: the two columns of the table.
    stem: Porter's second stemmer.
    """

    function_words: frozenset[str]
    nonbreaking: dict[str, bool]
    synsets: dict[str, frozenset[int]]
    bases: dict[str, list[str]]
    phrases: pa.Array
    paraphrases: pa.Array
    stem: Callable[[str], str]

    def synsets_of(self, word: str) -> frozenset[int]:
        """The synsets of a word and of its base forms."""
        bases = self.bases.get(word) or [self._detached(word)]
        return frozenset().union(*(self.synsets.get(form, ()) for form in (word, *bases)))

    def _detached(self, word: str) -> str:
        """The first form without an ending that WordNet has, or "". As METEOR has it, to the letter of its score: words
        in -ful are not cut before they are looked up, but found ones get their "ful" back."""
        if word.endswith("ss") or len(word) <= 2:
            return word
        for ending, replaced in ENDINGS:
            form = word[: len(word) - len(ending)] + replaced
            if word.endswith(ending) and form in self.synsets:
                return f"{form}ful" if word.endswith("ful") else form
        return ""

    def paraphrases_among(self, sentences: Iterable[Sequence[str]]) -> dict[Phrase, list[Phrase]]:
        """Phrase -> its paraphrases, in the table's order, of those alone that occur in the sentences."""
        spans: set[str] = set()
        for words in map(list, sentences):
            for start in range(len(words)):
                last = min(start + LONGEST, len(words))
                spans.update(" ".join(words[start:end]) for end in range(start + 1, last + 1))
        occurring = pa.array(sorted(spans), pa.string())
        both = pc.and_(pc.is_in(self.phrases, occurring), pc.is_in(self.paraphrases, occurring))
        found: dict[Phrase, list[Phrase]] = {}
        for phrase, other in zip(self.phrases.filter(both).to_pylist(), self.paraphrases.filter(both).to_pylist()):
            found.setdefault(tuple(phrase.split()), []).append(tuple(other.split()))
        return found


@cache
def load_lexicon() -> Lexicon:
    """METEOR's data for English; InputError where the package that carries it is not installed. Some seconds, once."""
    stemmer = extra_module("nltk.stem.snowball", "METEOR").EnglishStemmer()
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise InputError("METEOR: its synonyms and paraphrases are not installed; pip install 'mot-gen[meteor]'")
    folder = Path(found.submodule_search_locations[0]) / "meteor"
    with zipfile.ZipFile(folder / "meteor-1.5.jar") as jar:
        lines = {
            name: jar.read(name).decode("utf-8").splitlines()
            for name in (
                "function/english.words",
                "nonbreaking/english.prefixes",
                "synonym/english.synsets",
                "synonym/english.exceptions",
            )
        }
    phrases, paraphrases = _paraphrase_table(folder / "data" / "paraphrase-en.gz")
    return Lexicon(
        frozenset(lines["function/english.words"]),
        _nonbreaking(lines["nonbreaking/english.prefixes"]),
        {word: frozenset(map(int, sets.split())) for word, sets in _pairs(lines["synonym/english.synsets"])},
        _bases(lines["synonym/english.exceptions"]),
        phrases,
        paraphrases,
        cache(stemmer.stem),
    )


def _pairs(lines: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Every line with the one after it."""
    return zip(lines[::2], lines[1::2])


def _nonbreaking(lines: Sequence[str]) -> dict[str, bool]:
    entries = (line.split() for line in lines if line.strip() and not line.startswith("#"))
    return {prefix: "#NUMERIC_ONLY#" in more for prefix, *more in entries}


def _bases(lines: Sequence[str]) -> dict[str, list[str]]:
    bases: dict[str, list[str]] = {}
    for base, forms in _pairs(lines):
        for form in forms.split():
            bases.setdefault(form, []).append(base)
    return bases


def _paraphrase_table(file: Path) -> tuple[pa.Array, pa.Array]:
    """The second and the third of every three lines (probability, phrase, paraphrase)."""
    with pa.input_stream(str(file), compression="gzip") as lines:
        table = pa.csv.read_csv(
            lines,
            pa.csv.ReadOptions(column_names=["line"], block_size=1 << 26),
            pa.csv.ParseOptions(delimiter="\x01", quote_char=False, ignore_empty_lines=False),
            pa.csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False),
        )
    column = table["line"].combine_chunks()
    return column[1::3], column[2::3]
