"""Reward of a text's length: 1 up to so many words, and less by a share for each one more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mot_gen.data.records import Splits
from mot_gen.errors import require
from mot_gen.recipes.recipe import Recipe

ASKS = ("texts",)  # what must be written for it


def reward(where: str, recipe: Recipe, splits: Splits, most: int = 20) -> Callable:
    """most: the words that are free; twice as many are worth nothing."""
    require(most >= 1, f"{where}.most: must be at least 1, got {most}")

    def length(texts: Sequence[str]) -> list[float]:
        beyond = [max(0, len(text.split()) - most) for text in texts]
        return [max(0.0, 1 - words / most) for words in beyond]

    return length
