"""What may be written in a document, and what each token means there: Rules, DocumentState.

All of this is decided by the host; `writer` brings it and the model together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor

from mot_gen.pipelines.engine.open_span import Grid
from mot_gen.sequence import Span, Vocabulary

Follows = tuple[str | None, tuple[int, ...]]  # a modality whose tokens may come, or None, and special tokens that may


@dataclass(frozen=True)
class Rules:
    """What may be written, and when a document ends.

    may_open: modalities whose spans the model may begin; a document ends where it would begin another one.
    at_most: {modality: how many spans of it}; after them its begin token is never chosen.
    order: the modalities of the spans, the first being that which the prompt left open; the model then chooses only
    their content and how long its texts are, and may_open and at_most say nothing.
    room: slots that each document may fill, `max_new_tokens` when not given; a stream whose rows may stand still while
    others go on needs as many more as the longest span has.
    stop: whether a text of these ids, of text alone, ends the document.
    """

    may_open: Sequence[str] = ()
    at_most: Mapping[str, int] = field(default_factory=dict)
    order: Sequence[str] | None = None
    room: int | None = None
    stop: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class WritingOptions:
    """What is the same for all documents that are written together.

    text: the name of the first modality.
    one_by_one: modalities whose tokens are chosen one by one until their span ends; others are drawn as a whole.
    slots: how many such a span takes, its begin and end not counted.
    most: text tokens that may be written.
    """

    rules: Rules
    vocabulary: Vocabulary
    text: str
    one_by_one: Collection[str]
    slots: Mapping[str, int]
    most: int


class DocumentState:
    """What one document has been given so far.

    inside: the modality that is being written.
    done: whether the document has ended.
    left: text tokens that may still be written.
    room: slots that may still be filled.
    """

    def __init__(self, writing: WritingOptions, opened: str | None):
        self.writing, self.vocabulary = writing, writing.vocabulary
        self.inside, self.left, self.done = opened or writing.text, writing.most, False
        self.room = writing.rules.room or writing.most
        self.spans: list[Span] = []
        self.ids: list[int] = []
        course = _Free if writing.rules.order is None else _Ordered
        self.course: _Free | _Ordered = course(writing, self.inside)

    @property
    def in_text(self) -> bool:
        """Whether the document is in a text now."""
        return self.inside == self.writing.text

    @property
    def waits(self) -> bool:
        """Whether a span is to be drawn here as a whole."""
        return not self.done and self.inside not in self.writing.one_by_one

    @property
    def moves(self) -> bool:
        """Whether the next token is to be chosen here."""
        return not self.done and self.inside in self.writing.one_by_one

    def may_follow(self) -> Follows:
        """What may come next."""
        if self.in_text:
            return self.course.after_text(self)
        return self.inside, (self.vocabulary.end[self.inside],)

    def take(self, token: int) -> int | None:
        """A token, by its joint id, was written here. Returns its id in the modality's own vocabulary, or None where it
        is a special token."""
        self.left, self.room = self.left - 1, self.room - 1
        opened = self.course.opened_by(token) if self.in_text else None
        special = opened is not None or token in (self.vocabulary.document_end, self.vocabulary.end.get(self.inside))
        if opened is not None:
            self._open(opened)
        elif special:
            self._end(token)
        else:
            self._add(token)
        self._settle()
        return None if special else token - self.vocabulary.offset[self.inside]

    def add(self, values: Tensor, grid: Grid, bounds: int) -> None:
        """The span that was waited for was drawn: its values, its size, and how many tokens bound it."""
        self.spans.append(Span(self.inside, values, grid))
        self.room -= grid[0] * grid[1] + bounds
        self._back_to_text()
        self._settle()

    def ended(self) -> list[Span]:
        """All spans; the last ends where it is."""
        self._end_span()
        return self.spans

    # ---------------------------------------------------------------- what a token does

    def _open(self, modality: str) -> None:
        """Begin a span; or end the document, where the model may not begin it or the row has no room for it."""
        self.done = self.room <= self.writing.slots.get(modality, 0) or not self.course.may_open(modality)
        if not self.done:
            self._end_span()
            self.inside = modality
            self.course.begin(modality)

    def _end(self, token: int) -> None:
        """End the document, or the span."""
        self.done = token == self.vocabulary.document_end
        if not self.done:
            self._end_span()
            self._back_to_text()

    def _add(self, token: int) -> None:
        self.ids.append(token)
        stop = self.writing.rules.stop
        self.done = self.in_text and stop is not None and stop(self.ids)

    def _end_span(self) -> None:
        """Make the tokens so far a span."""
        if self.ids:
            self.spans.append(Span(self.inside, torch.tensor(self.ids) - self.vocabulary.offset[self.inside]))
            self.ids = []

    def _back_to_text(self) -> None:
        """After a span's end: a text begins, or the document is as ordered."""
        self.inside = self.writing.text
        self.done = self.course.ends_after_span()

    def _settle(self) -> None:
        """End the document when its tokens or its room are used up, but not before a span that is waited for, nor
        before the last span that was ordered."""
        used_up = self.room <= 0 or (self.left <= 0 and not self.course.owes_spans)
        self.done = self.done or (used_up and not self.waits)


class _Free:
    """The model decides what comes. begun: how many spans of each modality have."""

    owes_spans = False

    def __init__(self, writing: WritingOptions, inside: str):
        self.writing, self.rules, self.vocabulary = writing, writing.rules, writing.vocabulary
        self.begun = Counter([inside])

    def after_text(self, row: DocumentState) -> Follows:
        end = self.vocabulary.document_end
        if self.vocabulary.wraps:  # a text's own end comes before another span
            return row.inside, (end,)
        begins = [token for name, token in self.vocabulary.opens.items() if self._may_begin(name)]
        return row.inside, (end, *begins)

    def _may_begin(self, modality: str) -> bool:
        """Whether fewer spans of it have begun than there may be."""
        return self.begun[modality] < self.rules.at_most.get(modality, inf)

    def opened_by(self, token: int) -> str | None:
        if self.vocabulary.wraps:
            return None
        return self.vocabulary.opened_by(token)

    def may_open(self, modality: str) -> bool:
        return modality in self.rules.may_open

    def begin(self, modality: str) -> None:
        self.begun[modality] += 1

    def ends_after_span(self) -> bool:
        return False


class _Ordered:
    """Spans come as they were ordered. place: of the one that is being written; -1 before the first."""

    def __init__(self, writing: WritingOptions, inside: str):
        self.text, self.vocabulary, self.order = writing.text, writing.vocabulary, list(writing.rules.order or ())
        self.place = 0 if self.order[0] == inside else -1

    @property
    def _later(self) -> list[str]:
        return self.order[self.place + 1 :]

    @property
    def owes_spans(self) -> bool:
        """Whether a span that is no text is still to come."""
        return any(name != self.text for name in self._later)

    def after_text(self, row: DocumentState) -> Follows:
        end = self.vocabulary.document_end
        if self._later and not self.vocabulary.wraps:
            end = self.vocabulary.begin[self._later[0]]
        writes = self.place >= 0 and self.order[self.place] == self.text and row.left > 0
        if not writes:
            return None, (end,)
        return self.text, (end,) if row.ids else ()

    def opened_by(self, token: int) -> str | None:
        """Where texts are wrapped, their end leads on to the next span."""
        if not self.vocabulary.wraps:
            return self.vocabulary.opened_by(token)
        if self._later and token == self.vocabulary.document_end:
            return self._later[0]
        return None

    def may_open(self, modality: str) -> bool:
        return modality in self.order

    def begin(self, modality: str) -> None:
        self.place += 1

    def ends_after_span(self) -> bool:
        """Whether nothing was ordered after the span that has ended; a text that was begins at once."""
        later = self._later
        if not later:
            return True
        if later[0] == self.text:
            self.place += 1
        return False
