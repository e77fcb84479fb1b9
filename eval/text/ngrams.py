"""n-grams of a list of words, for every metric that counts them: `ngrams`."""

from __future__ import annotations

from collections.abc import Sequence


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words, in their order; none where there are fewer words."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
