"""Texts as callers give them: listed_texts, is_list_of_texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard


def listed_texts(given: Any) -> Any:
    """One text as a list of one; anything else as it is."""
    if isinstance(given, str):
        return [given]
    return given


def is_list_of_texts(given: Any) -> TypeGuard[Sequence[str]]:
    """Whether this is a list of at least one text, none of them empty. One text alone is no list."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        return False
    return all(isinstance(text, str) and text for text in given)
