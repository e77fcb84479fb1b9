"""Diversity of generated text: DistinctN (Li et al. 2016), SelfBLEU (Zhu et al. 2018), over one set of predictions."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain

from mot_gen.errors import require
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.extras import extra_module
from mot_gen.eval.result import MetricResult
from mot_gen.eval.text.mt import checked_texts
from mot_gen.eval.text.ngrams import gram_counts, ngrams


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams, words by whitespace; InputError where no text has n words."""
    grams = list(chain.from_iterable(ngrams(text.split(), n) for text in texts))
    require(grams, f"distinct-{n}: no text has {n} words; choose a smaller n")
    return len(set(grams)) / len(grams)


def self_bleu_scores(texts: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-4 of each tokenised text against all the others as its references, 0 to 100, "exp" smoothing.

    The clipped count of an n-gram is its greatest count in any other text, which the greatest and the second greatest
    over all texts give for every text at once: linear in the corpus, where asking pair by pair is quadratic.
    """
    bleu = extra_module("sacrebleu.metrics", "self-BLEU").BLEU
    counts = [gram_counts(words) for words in texts]
    tops = [_two_greatest(of_one_order) for of_one_order in zip(*counts)]
    lengths = Counter(map(len, texts))
    scores = []
    for words, own in zip(texts, counts):
        correct = [_clipped(order, top) for order, top in zip(own, tops)]
        total = [order.total() for order in own]
        closest = _closest_length(len(words), lengths)
        found = bleu.compute_bleu(correct, total, len(words), closest, smooth_method="exp", effective_order=True)
        scores.append(found.score)
    return scores


def _two_greatest(counts: Sequence[Counter]) -> dict:
    """n-gram -> (greatest count in any text, second greatest), equal ones counted twice."""
    top: dict = defaultdict(lambda: (0, 0))
    for own in counts:
        for gram, count in own.items():
            first, second = top[gram]
            top[gram] = (count, first) if count > first else (first, max(second, count))
    return top


def _clipped(own: Counter, top: dict) -> int:
    total = 0
    for gram, count in own.items():
        first, second = top[gram]
        # A text's own count is the greatest only where no other reaches it; then the others' greatest is the second.
        others = second if count == first else first
        total += min(count, others)
    return total


def _closest_length(length: int, lengths: Counter) -> int:
    others = [other for other, times in lengths.items() if times > (other == length)]
    return min(others, key=lambda other: (abs(other - length), other))


class PredictionMetric(Accumulator):
    """`update(predictions)`: strings, kept until `compute`."""

    takes = "predictions"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_items("predictions")

    def update(self, predictions: Sequence[str]):
        self.append_items("predictions", checked_texts(predictions))


class DistinctN(PredictionMetric):
    """Share of n-grams that are distinct, over the whole set; it falls with N, so compare sets of one size."""

    higher_is_better = True

    def __init__(self, n: int = 2, **kwargs):
        super().__init__(**kwargs)
        require(isinstance(n, int) and n >= 1, f"n: must be a positive integer, got {n!r}")
        self.n = n

    def compute(self) -> MetricResult:
        texts = self.kept_items("predictions")
        value = distinct_n(texts, self.n)
        return MetricResult(f"distinct_{self.n}", value, {"texts": len(texts)}, provenance={"tokenize": "whitespace"})


class SelfBLEU(PredictionMetric):
    """Mean BLEU of each prediction against all the others, 0 to 100; high where a model repeats itself.
    tokenize: sacrebleu's tokenizers, as for BLEU."""

    higher_is_better = False

    def __init__(self, *, tokenize: str = "13a", **kwargs):
        super().__init__(**kwargs)
        self.tokenize = tokenize
        self.tokenizer = extra_module("sacrebleu.metrics", "self-BLEU").BLEU(tokenize=tokenize).tokenizer

    def compute(self) -> MetricResult:
        texts = [self.tokenizer(text.rstrip()).split() for text in self.kept_items("predictions")]
        require(len(texts) >= 2, f"self-BLEU: {len(texts)} predictions; at least 2 are needed to compare")
        scores = self_bleu_scores(texts)
        facts = {"tokenize": self.tokenize, "smooth": "exp"}
        return MetricResult("self_bleu", math.fsum(scores) / len(scores), {"texts": len(texts)}, provenance=facts)
