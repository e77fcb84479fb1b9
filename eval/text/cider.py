"""CIDEr and CIDEr-D for captions (Vedantam et al. 2015): CIDEr, and its pure document_frequency and cider_scores.

Both compare tf-idf vectors of n-grams, n = 1..4, where idf counts in how many images' references an n-gram occurs.
CIDEr-D clips the prediction's counts to the reference's and punishes a difference in length; it is what coco-caption
computes and calls CIDEr, and so the default. Scores are about 0 to 10.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from mot_gen.errors import InputError, nearest
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.result import MetricResult
from mot_gen.eval.text.mt import checked_references
from mot_gen.eval.text.ngrams import ORDERS, gram_counts
from mot_gen.eval.text.rouge import text_tokenizer

SIGMA = 6.0  # of the Gaussian length penalty, in bigrams
VARIANTS = ("cider-d", "cider")
_CAPTION = re.compile(r"\w+(?:'\w+)?")

Grams = list[Counter]  # for each order, how often each n-gram occurs


def caption_words(text: str) -> list[str]:
    """Lower case words without punctuation, near to what coco-caption's Java tokenizer leaves."""
    return _CAPTION.findall(text.lower())


def document_frequency(references: Sequence[Sequence[Grams]]) -> Counter:
    """n-gram -> in how many items any reference holds it."""
    frequency: Counter = Counter()
    for own in references:
        occurring: set = set()
        for reference in own:
            occurring.update(*reference)
        frequency.update(occurring)
    return frequency


def cider_scores(predictions: Sequence[Grams], references: Sequence[Sequence[Grams]], clipped: bool) -> list[float]:
    """The score of every item; the corpus's own references give the idf. `clipped` is CIDEr-D."""
    frequency, log_items = document_frequency(references), math.log(len(references))

    def inverse(gram: tuple) -> float:
        return log_items - math.log(max(1, frequency[gram]))

    def weighted(grams: Grams) -> list[dict]:
        return [{gram: count * inverse(gram) for gram, count in order.items()} for order in grams]

    def score(prediction: Grams, own: Sequence[Grams]) -> float:
        vectors = weighted(prediction)
        return sum(_similarity(prediction, vectors, one, weighted(one), clipped) for one in own) / len(own)

    return [10 * score(prediction, own) for prediction, own in zip(predictions, references)]


def _similarity(mine: Grams, my_vectors: list[dict], theirs: Grams, their_vectors: list[dict], clipped: bool) -> float:
    """Mean over the orders of the cosine, clipped and punished for length where that is wanted."""
    # coco-caption measures length in bigrams.
    apart = mine[1].total() - theirs[1].total()
    penalty = math.exp(-(apart**2) / (2 * SIGMA**2)) if clipped else 1.0
    return penalty * sum(_cosine(a, b, clipped) for a, b in zip(my_vectors, their_vectors)) / ORDERS


def _cosine(mine: dict, theirs: dict, clipped: bool) -> float:
    shared = mine.keys() & theirs.keys()
    dot = 0.0
    for gram in sorted(shared):
        own = min(mine[gram], theirs[gram]) if clipped else mine[gram]
        dot += own * theirs[gram]
    lengths = _length(mine) * _length(theirs)
    return dot / lengths if lengths else 0.0


def _length(vector: dict) -> float:
    return math.sqrt(sum(value * value for value in vector.values()))


class CIDEr(Accumulator):
    """`update(predictions, references)`: captions, and a list of captions for each; mean over the items.

    variant: "cider-d" or "cider". tokenize: "whitespace" (as pycocoevalcap takes text that is already tokenised),
    "caption" (lower case, no punctuation), or a callable. A corpus of one item is an error: all its idf are log 1 = 0.
    """

    higher_is_better = True
    takes = "texts"

    def __init__(self, *, variant: str = "cider-d", tokenize: str | Callable = "whitespace", **kwargs):
        super().__init__(**kwargs)
        if variant not in VARIANTS:
            raise InputError(f"CIDEr variant {variant!r} is not known" + nearest(variant, VARIANTS))
        self.variant = variant
        self.tokenize_name = tokenize if isinstance(tokenize, str) else getattr(tokenize, "__name__", "custom")
        self.tokenize = text_tokenizer(tokenize, {"whitespace": str.split, "caption": caption_words})
        self.add_items("captions")

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]):
        self.append_items("captions", list(zip(predictions, checked_references(predictions, references))))

    def segment_scores(self) -> list[float]:
        """The score of every item."""
        captions = self.kept_items("captions")
        if len(captions) < 2:
            raise InputError(f"CIDEr: {len(captions)} items give no idf (log 1 = 0); score at least 2 images together")
        predictions = [self._counts(prediction) for prediction, _ in captions]
        references = [list(map(self._counts, own)) for _, own in captions]
        return cider_scores(predictions, references, self.variant == "cider-d")

    def _counts(self, text: str) -> Grams:
        return gram_counts(self.tokenize(text))

    def compute(self) -> MetricResult:
        scores = self.segment_scores()
        warnings = []
        if len(scores) < 100:
            warnings.append(f"N = {len(scores)}: idf comes from few images")
        return MetricResult(
            name=self.variant,
            value=math.fsum(scores) / len(scores),
            n={"items": len(scores)},
            provenance={"tokenize": self.tokenize_name, "idf": "corpus"},
            warnings=warnings,
        )
