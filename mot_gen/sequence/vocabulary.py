"""Vocabulary: one range of ids for everything discrete, and which ids a span of each modality may have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.sequence.modality import Modality


class Vocabulary:
    """One id space for everything discrete, in this order: text, special tokens, the other discrete modalities.

    The first modality is the one that special tokens belong to and are routed as (text, in all known models). The
    special tokens are the two document bounds, a begin and an end for every other modality, and a mask for every
    discrete modality that is masked: tokenizers cannot produce them. They lie after the text's ids; the bounds may also
    be the text ids that a modality names as its begin and end, and its own ids may lie there, too.

    shared: how many ids have rows in the embedding and head that all share; those of modalities apart lie above.
    fill: what fills up the last block of a span of such a modality: its end, or the document's.
    wraps: whether document_begin and document_end bound every text, and nothing bounds a document.
    """

    def __init__(self, modalities: Sequence[Modality]):
        if not modalities or not modalities[0].discrete:
            raise InputError("the first modality must be discrete (text): special tokens are routed as it")
        if modalities[0].bidirectional or modalities[0].scales:
            what = "no scales" if modalities[0].scales else "bidirectional false"
            raise InputError(f"modality {modalities[0].name!r} is the first and comes one by one, or in blocks: {what}")
        names = [m.name for m in modalities]
        if len(set(names)) != len(names):
            raise InputError(f"modality names must differ, got {', '.join(names)}")
        text, *others = modalities
        assert text.vocab_size is not None
        self.wraps = text.wraps
        self.size = text.vocab_size
        self.document_begin, self.document_end = self._bounds(text, text)
        self.begin, self.end = {}, {}
        for m in others:
            self.begin[m.name], self.end[m.name] = self._bounds(m, text)
        self._text = text.name
        self.offset = {text.name: 0}
        self.mask: dict[str, int] = {}
        for m in modalities:
            if m.discrete and (m.bidirectional or m.block_size):
                self.mask[m.name] = self.size
                self.size += 1
        ends = {text.name: self.document_end, **self.end}
        self.fill = {m.name: ends[m.name] for m in modalities if m.block_size}
        self._inside = _ranges_inside(modalities)
        first_ids = []  # of each further modality; one without new ids has an empty range
        self.shared = 0
        for m in others:
            first_ids.append(self.size)
            if m.vocab_size is not None:
                self._place(m)
        self.shared = self.shared or self.size
        self._first_ids = torch.tensor(first_ids, device="cpu")  # also where a model is made on meta
        self._sizes = {m.name: m.vocab_size for m in modalities if m.vocab_size is not None}
        self._input_only = {m.name for m in others if m.input_only}
        bounds = {*self.begin.values(), *self.end.values(), self.document_begin, self.document_end}
        framing = {id for m in others if m.frame is not None for id in m.frame.special}
        self.special = bounds | {*self.mask.values()} | framing
        unwritten = {id for first, end in (*text.unused, *self._inside.values()) for id in range(first, end)}
        self._unwritten = sorted(unwritten | {id for id in self.special if id < text.vocab_size})

    def _bounds(self, modality: Modality, text: Modality) -> tuple[int, int]:
        """The begin and end of a modality: its own ids inside the text's, or two new ones."""
        if modality.begin is not None and modality.end is not None:
            assert text.vocab_size is not None
            for id in (modality.begin, modality.end):
                if not 0 <= id < text.vocab_size:
                    raise InputError(
                        f"modality {modality.name!r}: bound {id} is outside the text vocabulary of {text.vocab_size}"
                    )
            return modality.begin, modality.end
        self.size += 2
        return self.size - 2, self.size - 1

    def _place(self, modality: Modality) -> None:
        """Give a further discrete modality its ids: inside the text's, or new ones."""
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
        """(V,) bool on the CPU: the ids that a span of a discrete modality may consist of."""
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
        found = torch.bucketize(ids, self._first_ids.to(ids.device), right=True)
        for number, (first, end) in self._inside.items():
            found = torch.where((ids >= first) & (ids < end), number, found)
        return found

    def opened_by(self, token: int) -> str | None:
        """The modality whose span a token begins, or None. What is only read is never opened."""
        return next((name for name, begin in self.opens.items() if begin == token), None)

    @property
    def opens(self) -> dict[str, int]:
        """The begin token of every modality whose spans the model may write."""
        return {name: begin for name, begin in self.begin.items() if name not in self._input_only}


def _ranges_inside(modalities: Sequence[Modality]) -> dict[int, tuple[int, int]]:
    """Number of a modality -> its range inside the text's; InputError where it does not lie there."""
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
