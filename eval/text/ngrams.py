"""n-grams of a list of words, for every metric that counts them: `ngrams`, `gram_counts`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

ORDERS = 4  # of the n-grams that BLEU and CIDEr count, from words to runs of four


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words, in their order; none where there are fewer words."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def gram_counts(words: Sequence[str]) -> list[Counter]:
    """How often each n-gram occurs, for each order from 1 to ORDERS."""
    return [Counter(ngrams(words, n)) for n in range(1, ORDERS + 1)]
