"""METEOR 1.5 (Denkowski and Lavie 2014): METEOR, and the pure pair meteor_update / meteor_compute.

The F-mean of matched words, by module and by whether they carry content, times a penalty for the number of chunks that
the matches fall into; the corpus score is computed from summed statistics. Numbers are those of the published program
for English with -norm, which coco-caption runs; it is not the METEOR of 2005 that nltk has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from torch import Tensor

from mot_gen.eval.text.cider import caption_words
from mot_gen.eval.text.meteor_alignment import MODULES, Matcher, best_alignment, normalized_words
from mot_gen.eval.text.meteor_lexicon import Lexicon, load_lexicon
from mot_gen.eval.text.mt import checked_references
from mot_gen.eval.text.rouge import text_tokenizer
from mot_gen.eval.text.segments import SegmentMetric, table

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # exact, stem, synonym, paraphrase
# A row: words of both sides, function words of both, (content own, content, function own, function) for each module,
# chunks, matched words of both sides.
COLUMNS = 4 + 4 * len(MODULES) + 3


def meteor_update(prediction: Sequence[str], reference: Sequence[str], matcher: Matcher) -> list[float]:
    """Statistics of one normalised prediction against one reference, see COLUMNS."""
    kept = best_alignment(matcher.matches(prediction, reference))
    functional = matcher.lexicon.function_words
    functions = (
        [word in functional for word in prediction],
        [word in functional for word in reference],
    )
    counts = [[0, 0, 0, 0] for _ in MODULES]
    for match in kept:
        sides = ((match.own_start, match.own_length), (match.start, match.length))
        for side, (start, length) in enumerate(sides):
            function_words = sum(functions[side][start : start + length])
            counts[match.module][side] += length - function_words
            counts[match.module][2 + side] += function_words
    own_matched = sum(count[0] + count[2] for count in counts)
    matched = sum(count[1] + count[3] for count in counts)
    chunks = _chunks(kept)
    if (own_matched, matched, chunks) == (len(prediction), len(reference), 1):
        chunks = 0  # a perfect match is not fragmented, and adds nothing to a corpus's fragments
    lengths = [len(prediction), len(reference), *map(sum, functions)]
    return list(map(float, (*lengths, *chain.from_iterable(counts), chunks, own_matched, matched)))


def _chunks(kept) -> int:
    """Runs of matches that are adjacent, and in the same order, on both sides."""
    ends = [(match.start + match.length, match.own_start + match.own_length) for match in kept]
    return sum((match.start, match.own_start) != end for match, end in zip(kept, [None, *ends]))


def meteor_compute(total: Sequence[float]) -> float:
    """Score in [0, 1] of summed statistics."""
    own_length, length, own_functions, functions, *counts, chunks, own_matched, matched = total
    precision = _weighted(counts[0::2]) / (_by_kind(own_length - own_functions, own_functions) or 1)
    recall = _weighted(counts[1::2]) / (_by_kind(length - functions, functions) or 1)
    if not precision or not recall:
        return 0.0
    mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
    fragmentation = chunks / ((own_matched + matched) / 2)
    return max(mean * (1 - GAMMA * fragmentation**BETA), 0.0)


def _weighted(counts: Sequence[float]) -> float:
    """counts: content words and function words of each module in turn."""
    return sum(weight * _by_kind(*pair) for weight, pair in zip(WEIGHTS, zip(counts[::2], counts[1::2])))


def _by_kind(content: float, function: float) -> float:
    return DELTA * content + (1 - DELTA) * function


def _against_best(words: Sequence[str], references: Sequence[Sequence[str]], matcher: Matcher) -> list[float]:
    """Statistics against the reference that gives the highest score."""
    rows = [meteor_update(words, reference, matcher) for reference in references]
    return max(rows, key=meteor_compute)


class METEOR(SegmentMetric):
    """`update(predictions, references)`: English; in [0, 1]. The best reference of an item counts.

    tokenize: "caption" (words without punctuation, as coco-caption has it), "meteor" (its own rules alone, which keep
    punctuation), or a callable. lexicon: METEOR's own for English, which the extra `meteor` carries, or another.
    """

    name = "meteor"
    unit = "pairs"
    takes = "texts"
    higher_is_better = True

    def __init__(self, *, tokenize: str | Callable = "caption", lexicon: Lexicon | None = None, **kwargs):
        super().__init__(**kwargs)
        self.tokenize_name = tokenize if isinstance(tokenize, str) else getattr(tokenize, "__name__", "custom")
        self.tokenize = text_tokenizer(tokenize, {"caption": caption_words, "meteor": lambda text: [text]})
        self.lexicon = lexicon or load_lexicon()

    def words(self, text: str) -> list[str]:
        """The words of a text that are compared."""
        return normalized_words(" ".join(self.tokenize(text)), self.lexicon.nonbreaking)

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        items: list[tuple[list[str], list[list[str]]]] = []
        for prediction, own in zip(predictions, checked_references(predictions, references)):
            items.append((self.words(prediction), list(map(self.words, own))))
        sentences = chain.from_iterable((words, *theirs) for words, theirs in items)
        matcher = Matcher(self.lexicon, self.lexicon.paraphrases_among(sentences))
        return table([_against_best(words, theirs, matcher) for words, theirs in items], COLUMNS)

    def score(self, total: Tensor) -> float:
        return meteor_compute(total.tolist())

    def provenance(self) -> dict:
        modules = "exact+stem+synonym+paraphrase"
        return {"meteor": "1.5", "modules": modules, "tokenize": self.tokenize_name, "task": "rank-en"}
