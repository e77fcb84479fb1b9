"""ROUGE F-measures (Lin 2004): ROUGE, and the pure pair rouge_update / rouge_compute.

    rouge1, rouge2  n-grams of one and two words
    rougeL          longest common subsequence of the whole text
    rougeLsum       the same, sentence by sentence (a line each), its union over the prediction's sentences

As rouge-score, Google's reference: mean over pairs of the F-measure, the best reference of several, in [0, 1]; text is
lower-cased and everything but a-z and 0-9 separates words. Other scripts need another `tokenize`, or nothing is left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.eval.extras import extra_module
from mot_gen.eval.result import MetricResult
from mot_gen.eval.text.mt import checked_references
from mot_gen.eval.text.ngrams import ngrams
from mot_gen.eval.text.segments import SegmentTable, table

_WORDS = re.compile(r"[a-z0-9]+")
_ANY_WORDS = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+")


class Words(NamedTuple):
    """A tokenised text: all its words, and those of each line that is not empty."""

    all: list[str]
    lines: list[list[str]]


def latin_words(text: str) -> list[str]:
    """rouge-score's own: lower case, a-z and 0-9."""
    return _WORDS.findall(text.lower())


def unicode_words(text: str) -> list[str]:
    """Words of any script, lower case; kana, CJK ideographs and hangul syllables one by one."""
    return _ANY_WORDS.findall(text.lower())


def rouge_update(prediction: Words, references: Sequence[Words], variants: Sequence[str]) -> list[float]:
    """F-measures of one prediction by each variant, each by its best reference."""
    measures = [MEASURES[variant] for variant in variants]
    return [max(measure(prediction, own) for own in references) for measure in measures]


def rouge_compute(total: Tensor) -> list[float]:
    """Means from summed rows (a value a variant, 1)."""
    return (total[:-1] / total[-1]).tolist()


def _ngram_f(prediction: Sequence[str], reference: Sequence[str], n: int) -> float:
    mine, theirs = Counter(ngrams(prediction, n)), Counter(ngrams(reference, n))
    return _f_measure((mine & theirs).total(), mine.total(), theirs.total())


def _lcs_f(prediction: Sequence[str], reference: Sequence[str]) -> float:
    return _f_measure(lcs_length(prediction, reference), len(prediction), len(reference))


def _summary_f(prediction: Words, reference: Words) -> float:
    """rougeLsum: a word counts once for each time that it occurs on both sides."""
    left, own_left = Counter(reference.all), Counter(prediction.all)
    hits = 0
    for sentence in reference.lines:
        places: set[int] = set()
        for own in prediction.lines:
            places |= lcs_places(sentence, own)
        for place in sorted(places):
            word = sentence[place]
            if left[word] > 0 and own_left[word] > 0:
                hits += 1
                left[word] -= 1
                own_left[word] -= 1
    return _f_measure(hits, len(prediction.all), len(reference.all))


MEASURES: dict[str, Callable[[Words, Words], float]] = {
    "rouge1": lambda prediction, reference: _ngram_f(prediction.all, reference.all, 1),
    "rouge2": lambda prediction, reference: _ngram_f(prediction.all, reference.all, 2),
    "rougeL": lambda prediction, reference: _lcs_f(prediction.all, reference.all),
    "rougeLsum": _summary_f,
}
VARIANTS = ("rouge1", "rouge2", "rougeL")  # what `ROUGE()` gives


def _f_measure(matched: int, predicted: int, wanted: int) -> float:
    """2 P R / (P + R), which is 2 matched / (predicted + wanted)."""
    return 2 * matched / (predicted + wanted) if matched else 0.0


def lcs_length(one: Sequence, two: Sequence) -> int:
    """Length of the longest common subsequence, a machine word of rows at a time (Hyyro 2004)."""
    places: dict = {}
    for i, item in enumerate(one):
        places[item] = places.get(item, 0) | 1 << i
    everything = (1 << len(one)) - 1
    row = everything
    for item in two:
        matched = row & places.get(item, 0)
        row = (row + matched | row - matched) & everything
    return len(one) - row.bit_count()


def lcs_places(one: Sequence[str], two: Sequence[str]) -> set[int]:
    """The places in `one` of a longest common subsequence; of several, the one that rouge-score takes."""
    lengths = [[0] * (len(two) + 1)]
    for word in one:
        above, row = lengths[-1], [0]
        for j, other in enumerate(two):
            if word == other:
                row.append(above[j] + 1)
            else:
                row.append(max(above[j + 1], row[j]))
        lengths.append(row)
    places: set[int] = set()
    i, j = len(one), len(two)
    while i and j:
        if one[i - 1] == two[j - 1]:
            i, j = i - 1, j - 1
            places.add(i)
        elif lengths[i][j - 1] > lengths[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places


class ROUGE(SegmentTable):
    """`update(predictions, references)`; `compute()` gives a result for each of `variants`, by its name.

    variants: of rouge1, rouge2, rougeL and rougeLsum. tokenize: "latin" (rouge-score's), "unicode", or a callable.
    stem: Porter's stemmer on words of more than three letters, as rouge-score's use_stemmer (needs nltk).
    """

    name = "rouge"
    unit = "pairs"
    takes = "texts"
    higher_is_better = True

    def __init__(
        self,
        *,
        variants: Sequence[str] = VARIANTS,
        tokenize: str | Callable[[str], list[str]] = "latin",
        stem: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        variants = [variants] if isinstance(variants, str) else variants
        for variant in variants:
            if variant not in MEASURES:
                raise InputError(f"ROUGE variant {variant!r} is not known" + nearest(variant, MEASURES))
        self.variants = tuple(variants)
        self.tokenize_name = tokenize if isinstance(tokenize, str) else getattr(tokenize, "__name__", "custom")
        self.tokenize = text_tokenizer(tokenize, {"latin": latin_words, "unicode": unicode_words})
        self.stem = _stemmer() if stem else None
        self.add_rows("lost")

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        rows, lost = [], []
        for prediction, own in zip(predictions, checked_references(predictions, references)):
            wanted = [self.words(text) for text in own]
            rows.append([*rouge_update(self.words(prediction), wanted, self.variants), 1.0])
            empty = [text for text, words in zip(own, wanted) if text.strip() and not words.all]
            lost.append([float(len(empty) > 0)])
        self.append("lost", table(lost, 1))
        return table(rows, len(self.variants) + 1)

    def words(self, text: str) -> Words:
        """The words of a text that are compared, of all of it and line by line."""
        lines = [self._stemmed(self.tokenize(line)) for line in text.split("\n") if line]
        return Words(self._stemmed(self.tokenize(text)), lines)

    def _stemmed(self, words: list[str]) -> list[str]:
        if self.stem is None:
            return words
        return [self.stem(word) if len(word) > 3 else word for word in words]

    def score(self, total: Tensor) -> float:
        """The score of the last variant, which is rougeL by default."""
        return rouge_compute(total)[-1]

    def compute(self) -> dict[str, MetricResult]:
        def column(i: int) -> Callable[[Tensor], float]:
            return lambda total: rouge_compute(total)[i]

        return {name: self.result(name, column(i)) for i, name in enumerate(self.variants)}

    def provenance(self) -> dict:
        return {"tokenize": self.tokenize_name, "stem": self.stem is not None}

    def cautions(self, rows: Tensor) -> list[str]:
        lost = int(self.rows("lost").sum())
        return [f"{lost} items have a reference without any token under {self.tokenize_name!r}"] if lost else []


def text_tokenizer(tokenize: str | Callable, known: dict[str, Callable]) -> Callable[[str], list[str]]:
    """A tokenizer by name, or the callable itself; InputError for a name that is not known."""
    if callable(tokenize):
        return tokenize
    if tokenize not in known:
        raise InputError(f"tokenize {tokenize!r} is not known" + nearest(tokenize, known))
    return known[tokenize]


def _stemmer() -> Callable[[str], str]:
    return extra_module("nltk.stem.porter", "rouge with stem=True").PorterStemmer().stem
