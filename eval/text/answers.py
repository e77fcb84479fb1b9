"""Short answers against references, as SQuAD scores them (Rajpurkar et al. 2016): ExactMatch, TokenF1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mot_gen.eval.text.mt import checked_references
from mot_gen.eval.text.segments import SegmentMetric, mean_rows, mean_score

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """SQuAD's: lower case, without ASCII punctuation and articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 where the normalised prediction equals a normalised reference."""
    return float(any(normalised(prediction) == normalised(own) for own in references))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the bags of normalised words, the best reference; two empty answers agree."""
    return max(_f1(normalised(prediction).split(), normalised(own).split()) for own in references)


def _f1(mine: list[str], theirs: list[str]) -> float:
    if not mine or not theirs:
        return float(mine == theirs)
    return 2 * (Counter(mine) & Counter(theirs)).total() / (len(mine) + len(theirs))


class AnswerMetric(SegmentMetric):
    """`update(predictions, references)`; a subclass states `measure(prediction, references) -> float`."""

    unit = "answers"
    measure: Callable[[str, list[str]], float]
    takes = "texts"
    higher_is_better = True

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        pairs = zip(predictions, checked_references(predictions, references))
        return mean_rows(torch.tensor([self.measure(*pair) for pair in pairs], dtype=torch.float64))

    def score(self, total: Tensor) -> float:
        return mean_score(total)


class ExactMatch(AnswerMetric):
    """Share of predictions that equal a reference after SQuAD's normalisation."""

    name = "exact_match"
    measure = staticmethod(exact_match)


class TokenF1(AnswerMetric):
    """Mean word F1 against the best reference after SQuAD's normalisation."""

    name = "token_f1"
    measure = staticmethod(token_f1)
