"""ROUGE-1, ROUGE-2, ROUGE-L F-measures (Lin 2004): ROUGE, and the pure pair rouge_update / rouge_compute.

As rouge-score, Google's reference: mean over pairs of the F-measure, the best reference of several, in [0, 1]; text is
lower-cased and everything but a-z and 0-9 separates words. Other scripts need another `tokenize`, or nothing is left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.eval.extras import require
from mot_gen.eval.result import MetricResult
from mot_gen.eval.text.mt import checked_references
from mot_gen.eval.text.segments import SegmentMetric, table

VARIANTS = ("rouge1", "rouge2", "rougeL")
_WORDS = re.compile(r"[a-z0-9]+")
_ANY_WORDS = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+")


def latin_words(text: str) -> list[str]:
    """rouge-score's own: lower case, a-z and 0-9."""
    return _WORDS.findall(text.lower())


def unicode_words(text: str) -> list[str]:
    """Words of any script, lower case; kana, CJK ideographs and hangul syllables one by one."""
    return _ANY_WORDS.findall(text.lower())


def rouge_update(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """F-measures (rouge1, rouge2, rougeL) of one tokenised prediction, each by its best reference."""
    scores = [
        (_ngram_f(prediction, own, 1), _ngram_f(prediction, own, 2), _lcs_f(prediction, own)) for own in references
    ]
    return [max(column) for column in zip(*scores)]


def rouge_compute(total: Tensor) -> list[float]:
    """Means of the three from summed rows (rouge1, rouge2, rougeL, 1)."""
    return (total[:3] / total[3]).tolist()


def _ngram_f(prediction: Sequence[str], reference: Sequence[str], n: int) -> float:
    mine, theirs = (Counter(tuple(own[i : i + n]) for i in range(len(own) - n + 1)) for own in (prediction, reference))
    return _f_measure((mine & theirs).total(), mine.total(), theirs.total())


def _lcs_f(prediction: Sequence[str], reference: Sequence[str]) -> float:
    return _f_measure(lcs_length(prediction, reference), len(prediction), len(reference))


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


class ROUGE(SegmentMetric):
    """`update(predictions, references)`; `compute()` gives rouge1, rouge2 and rougeL.

    tokenize: "latin" (rouge-score's), "unicode", or a callable. stem: Porter's stemmer on words of more than three
    letters, as rouge-score's use_stemmer (needs nltk).
    """

    name = "rougeL"
    unit = "pairs"
    takes = "texts"
    higher_is_better = True

    def __init__(self, *, tokenize: str | Callable[[str], list[str]] = "latin", stem: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.tokenize_name = tokenize if isinstance(tokenize, str) else getattr(tokenize, "__name__", "custom")
        self.tokenize = text_tokenizer(tokenize, {"latin": latin_words, "unicode": unicode_words})
        self.stem = _stemmer() if stem else None
        self.add_rows("lost")

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        listed = checked_references(predictions, references)
        lost = [[float(any(text.strip() and not self.tokens(text) for text in own))] for own in listed]
        self.append("lost", table(lost, 1))
        rows = [
            [*rouge_update(self.tokens(prediction), [self.tokens(text) for text in own]), 1.0]
            for prediction, own in zip(predictions, listed)
        ]
        return table(rows, 4)

    def tokens(self, text: str) -> list[str]:
        words = self.tokenize(text)
        return words if self.stem is None else [self.stem(word) if len(word) > 3 else word for word in words]

    def score(self, total: Tensor) -> float:
        return rouge_compute(total)[2]

    def compute(self) -> dict[str, MetricResult]:
        def column(i: int) -> Callable[[Tensor], float]:
            return lambda total: rouge_compute(total)[i]

        return {name: self.result(name, column(i)) for i, name in enumerate(VARIANTS)}

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
    return require("nltk.stem.porter", "rouge with stem=True").PorterStemmer().stem
