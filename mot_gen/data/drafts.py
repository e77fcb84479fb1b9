"""Samples on their way to rows: Draft, pending_of, fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mot_gen.data.mixture import SampleDraw
from mot_gen.data.spans import Pending
from mot_gen.sequence import Span


@dataclass
class Draft:
    """A sample as it is shown, of which not all spans are made yet."""

    showing: SampleDraw
    id: str
    spans: list[Span | Pending]


def pending_of(drafts: Iterable[Draft]) -> list[Pending]:
    """All spans that are not made yet."""
    found = []
    for draft in drafts:
        found += [span for span in draft.spans if isinstance(span, Pending)]
    return found


def fill(span: Span | Pending, made: Mapping[Any, Span | Exception]) -> Span | Pending:
    """The span that was made in the place of a pending one. Raises the error that says why there is none."""
    if isinstance(span, Span) or span.key not in made:
        return span
    found = made[span.key]
    if isinstance(found, Exception):
        raise found
    return replace(found, learned=span.learned)
