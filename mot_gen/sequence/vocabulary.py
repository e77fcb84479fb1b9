"""Vocabulary: one range of ids for everything discrete, and which ids a span of each modality may have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.sequence.modality import Modality
from mot_gen.sequence.moving import upload


class Vocabulary:
    """One id space for everything discrete, in this order: text, special tokens, the other discrete modalities.

    Special tokens are the two bounds of a document, a begin and an end for every modality but text, and a mask for
    every discrete modality that is masked. No tokenizer produces them. They belong to the first modality, text, and are
    routed as it. By default they are new ids after the text's; a modality may name text ids for its bounds instead, and
    its own ids may be text ids too.

    shared: how many ids the common embedding and head have; the ids of modalities apart lie above.
    fill: modality that is made of blocks -> the token that fills up its last block: its end, or the document's.
    wraps: whether document_begin and document_end bound every text instead of every document.
    """

    def __init__(self, modalities: Sequence[Modality]):
        _check_order(modalities)
        text, *others = modalities
        assert text.vocab_size is not None
        self.wraps = text.wraps
        self.size = text.vocab_size
        self._text = text.name
        # Ids are given out in this order, which stored tokens and weights rely on.
        self.document_begin, self.document_end = self._bounds(text, text)
        self._add_bounds(text, others)
        self._add_masks(modalities)
        self._inside = _ranges_inside(modalities)
        self._add_codes(text, others)

        self.fill = self._fill_tokens(modalities)
        self._sizes = {m.name: m.vocab_size for m in modalities if m.vocab_size is not None}
        self._input_only = {m.name for m in others if m.input_only}
        self.special = self._special_tokens(others)
        self._unwritten = self._never_written(text)

    def _add_bounds(self, text: Modality, others: Sequence[Modality]) -> None:
        """Set `begin` and `end`: modality name -> the token before and after its spans."""
        self.begin: dict[str, int] = {}
        self.end: dict[str, int] = {}
        for modality in others:
            self.begin[modality.name], self.end[modality.name] = self._bounds(modality, text)

    def _add_masks(self, modalities: Sequence[Modality]) -> None:
        """Set `mask`: name of a modality that is masked -> its mask token."""
        self.mask: dict[str, int] = {}
        for modality in modalities:
            if modality.masks:
                self.mask[modality.name] = self.size
                self.size += 1

    def _add_codes(self, text: Modality, others: Sequence[Modality]) -> None:
        """Set `offset`, discrete modality name -> the first of its ids, and `shared`."""
        self.offset = {text.name: 0}
        self.shared = 0
        first_ids = []  # a modality without new ids has an empty range
        for modality in others:
            first_ids.append(self.size)
            if modality.discrete:
                self._place(modality)
        if not self.shared:
            self.shared = self.size
        self._first_ids = torch.tensor(first_ids, device="cpu")  # also where a model is made on meta

    def _fill_tokens(self, modalities: Sequence[Modality]) -> dict[str, int]:
        """Name of a modality in blocks -> the token that fills up its last block: its end, or the document's."""
        ends = {self._text: self.document_end, **self.end}
        return {m.name: ends[m.name] for m in modalities if m.block_size}

    def _special_tokens(self, others: Sequence[Modality]) -> set[int]:
        """All tokens that no tokenizer produces."""
        special = {self.document_begin, self.document_end}
        special.update(self.begin.values(), self.end.values(), self.mask.values())
        for modality in others:
            if modality.frame is not None:
                special |= modality.frame.special
        return special

    def _never_written(self, text: Modality) -> list[int]:
        """The text ids that no text contains, ascending."""
        assert text.vocab_size is not None
        found = {id for id in self.special if id < text.vocab_size}
        for first, end in (*text.unused, *self._inside.values()):
            found.update(range(first, end))
        return sorted(found)

    def _bounds(self, modality: Modality, text: Modality) -> tuple[int, int]:
        """The begin and end of a modality: its own ids inside the text's, or two new ones."""
        if modality.begin is None or modality.end is None:
            self.size += 2
            return self.size - 2, self.size - 1
        assert text.vocab_size is not None
        for id in (modality.begin, modality.end):
            if not 0 <= id < text.vocab_size:
                raise InputError(
                    f"modality {modality.name!r}: bound {id} is outside the text vocabulary of {text.vocab_size}"
                )
        return modality.begin, modality.end

    def _place(self, modality: Modality) -> None:
        """Give a discrete modality other than text its ids: text ids, or new ones."""
        assert modality.vocab_size is not None
        if modality.first is not None:
            self.offset[modality.name] = modality.first
            return
        if self.shared and not modality.apart:
            raise InputError(f"modality {modality.name!r}: must come before those that are apart")
        if modality.apart and not self.shared:
            self.shared = self.size
        self.offset[modality.name] = self.size
        self.size += modality.vocab_size

    def writable(self, modality: str) -> Tensor:
        """(V,) bool on the CPU: the ids that a span of a discrete modality may contain."""
        allowed = torch.zeros(self.size, dtype=torch.bool, device="cpu")
        first, end = self.range(modality)
        allowed[first:end] = True
        if modality == self._text:
            allowed[self._unwritten] = False
        return allowed

    def range(self, modality: str) -> tuple[int, int]:
        """First and one-past-last joint id of a discrete modality's own tokens."""
        return self.offset[modality], self.offset[modality] + self._sizes[modality]

    def modality_of(self, ids: Tensor) -> Tensor:
        """Index of the modality of joint ids, any shape; special tokens belong to the first."""
        found = torch.bucketize(ids, upload(self._first_ids, ids.device), right=True)
        for number, (first, end) in self._inside.items():
            found = torch.where((ids >= first) & (ids < end), number, found)
        return found

    def opened_by(self, token: int) -> str | None:
        """The modality whose span a token begins; None for other tokens, and for modalities that are only read."""
        for name, begin in self.opens.items():
            if begin == token:
                return name
        return None

    @property
    def opens(self) -> dict[str, int]:
        """The begin token of every modality whose spans the model may write."""
        return {name: begin for name, begin in self.begin.items() if name not in self._input_only}


def _check_order(modalities: Sequence[Modality]) -> None:
    """InputError unless the first modality can be the text, and all names differ."""
    if not modalities or not modalities[0].discrete:
        raise InputError("the first modality must be discrete (text): special tokens are routed as it")
    text = modalities[0]
    refused = f"modality {text.name!r} is the first and comes one by one, or in blocks"
    require(not text.scales, f"{refused}: no scales")
    require(not text.bidirectional, f"{refused}: bidirectional false")
    names = [m.name for m in modalities]
    require(len(set(names)) == len(names), f"modality names must differ, got {', '.join(names)}")


def _ranges_inside(modalities: Sequence[Modality]) -> dict[int, tuple[int, int]]:
    """Number of a modality whose ids are text ids -> their range. InputError where that is outside of the text's."""
    found, size = {}, modalities[0].vocab_size
    assert size is not None
    for number, modality in enumerate(modalities):
        if modality.first is None or modality.vocab_size is None:
            continue
        first, end = modality.first, modality.first + modality.vocab_size
        if first < 0 or end > size:
            raise InputError(
                f"modality {modality.name!r}: ids {first} to {end - 1} are outside the text vocabulary of {size}"
            )
        found[number] = first, end
    return found
