"""The words every other part speaks: Modality, Span, Vocabulary, Layout, Latents, Masking, PackedBatch.

A *sample* is a list of `Span`s, each one piece of one `Modality`. Packing puts samples, as *documents*, into the rows
of a `PackedBatch`: B rows of S slots. A slot holds either a discrete token, whose id lives in one joint `Vocabulary`,
or a continuous one, whose value lives in `Latents`. `Layout` is all that a backbone may see of a batch.

Shapes: B rows, S slots a row, N continuous tokens of a modality in the batch, n spans of it, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest

PADDING = -1  # the document and span number of a slot that holds nothing


@dataclass(frozen=True)
class Modality:
    """One kind of token. Exactly one of `vocab_size` (discrete) and `channels` (continuous) is given.

    bidirectional: tokens of one span see all of their span, else only what came before. Continuous spans are denoised
    so. Discrete ones are learned by masking, and the vocabulary has a mask token for them.
    objective: module name under `mot_gen.objectives`, or a dotted path.
    position: "sequence", one position per token; or "grid", one per span, and (row, column) embedded in 2-D (BAGEL).

    The other fields state how a published model lays out its sequences; the defaults are this package's own layout.

    begin, end: ids inside the text vocabulary of the tokens that bound a span; by default new ids after the text's.
    Those of text bound a document, or every text where `wraps` is true (BAGEL); a document then has no bounds.
    unused: [first, past the last] ranges of text ids that no text has. They are in the softmax but never written.
    block: the bounds of a bidirectional span see all of it and stand at its position (BAGEL).
    alone: a learned span is seen by itself alone, and what follows takes its position, as if it were not there (BAGEL).
    input_only: its spans are read and never predicted, so that it has no objective (features of a vision model).
    """

    name: str
    vocab_size: int | None = None
    channels: int | None = None
    bidirectional: bool = False
    objective: str = "next_token"
    position: str = "sequence"
    begin: int | None = None
    end: int | None = None
    wraps: bool = False
    unused: Sequence[Sequence[int]] = ()
    block: bool = False
    alone: bool = False
    input_only: bool = False

    def __post_init__(self):
        where = f"modality {self.name!r}"
        if (self.vocab_size is None) == (self.channels is None):
            raise InputError(f"{where}: give either vocab_size (discrete) or channels (continuous)")
        size_name, size = ("vocab_size", self.vocab_size) if self.discrete else ("channels", self.channels)
        assert size is not None
        if size < 1:
            raise InputError(f"{where}: {size_name} must be at least 1, got {size}")
        if self.position not in ("sequence", "grid"):
            raise InputError(
                f"{where}: position {self.position!r} is not known" + nearest(self.position, ["sequence", "grid"])
            )
        if self.discrete and self.position == "grid":
            raise InputError(f"{where}: discrete tokens have a position each: position 'sequence'")
        # JSON has no tuples; as tuples the fields of two modalities compare, and hash, as their values do.
        object.__setattr__(self, "unused", tuple(tuple(each) for each in self.unused))
        self._check_layout(where)

    def _check_layout(self, where: str) -> None:
        if (self.begin is None) != (self.end is None):
            raise InputError(f"{where}: give both begin and end, or neither")
        if self.wraps and self.begin is None:
            raise InputError(f"{where}: wraps needs the ids begin and end")
        if self.block and not (self.bidirectional and self.position == "grid"):
            raise InputError(f"{where}: block needs bidirectional true and position 'grid'")
        if self.discrete and (self.alone or self.input_only):
            raise InputError(f"{where}: alone and input_only are of continuous modalities")

    @property
    def discrete(self) -> bool:
        return self.vocab_size is not None


@dataclass
class Span:
    """One tokenised piece of one modality.

    values: (n,) integer ids in the modality's own vocabulary, or (n, C) float latents.
    grid: (rows, columns) with rows * columns == n, row-major; None for what has no two dimensions.
    learned: whether it carries loss, or only conditions what follows.
    """

    modality: str
    values: Tensor
    grid: tuple[int, int] | None = None
    learned: bool = True

    def __len__(self) -> int:
        return self.values.shape[0]


class Vocabulary:
    """One id space for everything discrete, in this order: text, special tokens, the other discrete modalities.

    The first modality is the one that special tokens belong to and are routed as (text, in all known models). The
    special tokens are the two document bounds, a begin and an end for every other modality, and a mask for every
    discrete modality that is bidirectional: tokenizers cannot produce them. They lie after the text's ids; the bounds
    may also be the text ids that a modality names as its begin and end.

    wraps: whether document_begin and document_end bound every text, and nothing bounds a document.
    """

    def __init__(self, modalities: Sequence[Modality]):
        if not modalities or not modalities[0].discrete:
            raise InputError("the first modality must be discrete (text): special tokens are routed as it")
        if modalities[0].bidirectional:
            raise InputError(f"modality {modalities[0].name!r} is the first and comes one by one: bidirectional false")
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
        self.offset = {text.name: 0}
        self.mask: dict[str, int] = {}
        for m in others:
            if m.discrete and m.bidirectional:
                self.mask[m.name] = self.size
                self.size += 1
        first_ids = []  # of each further modality; a continuous one has no ids, so its range is empty
        for m in others:
            first_ids.append(self.size)
            if m.vocab_size is not None:
                self.offset[m.name] = self.size
                self.size += m.vocab_size
        self._first_ids = torch.tensor(first_ids, device="cpu")  # also where a model is made on meta
        self._sizes = {m.name: m.vocab_size for m in modalities if m.vocab_size is not None}
        self._input_only = {m.name for m in others if m.input_only}
        bounds = {*self.begin.values(), *self.end.values(), self.document_begin, self.document_end}
        self.special = bounds | {*self.mask.values()}
        unwritten = {id for first, end in text.unused for id in range(first, end)}
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

    def writable(self, modality: str) -> Tensor:
        """(V,) bool on the CPU: the ids that a span of a discrete modality may consist of."""
        allowed = torch.zeros(self.size, dtype=torch.bool, device="cpu")
        first, end = self.range(modality)
        allowed[first:end] = True
        if first == 0:
            allowed[self._unwritten] = False
        return allowed

    def range(self, modality: str) -> tuple[int, int]:
        """First and one-past-last joint id of a discrete modality's own tokens."""
        return self.offset[modality], self.offset[modality] + self._sizes[modality]

    def modality_of(self, ids: Tensor) -> Tensor:
        """Index of the modality of joint ids, any shape; special tokens belong to the first."""
        return torch.bucketize(ids, self._first_ids.to(ids.device), right=True)

    def opened_by(self, token: int) -> str | None:
        """The modality whose span a token begins, or None. What is only read is never opened."""
        return next((name for name, begin in self.opens.items() if begin == token), None)

    @property
    def opens(self) -> dict[str, int]:
        """The begin token of every modality whose spans the model may write."""
        return {name: begin for name, begin in self.begin.items() if name not in self._input_only}


class _Movable:
    """`.to(device)` for a dataclass: moves every tensor, and what is itself movable, in it."""

    def to(self, device, non_blocking: bool = False):
        def move(value):
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=non_blocking)
            if isinstance(value, dict):
                return {key: move(item) for key, item in value.items()}
            return value.to(device, non_blocking) if isinstance(value, _Movable) else value

        whole: Any = self  # a dataclass, as each of its children is
        return replace(whole, **{f.name: move(getattr(self, f.name)) for f in fields(whole) if f.init})


@dataclass
class Layout(_Movable):
    """All that a backbone may see of a batch; int64 tensors.

    modality: (B, S) index into the model's modalities; padding counts as the first.
    document: (B, S) number of the document in its row, PADDING where there is none.
    span: (B, S) number of the span in its row, a special token being a span of its own; PADDING likewise.
    position: (B, S, 3) time within the document, row and column within the span's grid.
    block: (B, S) number of the span whose tokens all see each other, PADDING where a token sees only what came before;
    None: the span itself where its modality is bidirectional.
    alone: (B, S) bool, tokens that only their own block sees; None: no token is.
    """

    modality: Tensor
    document: Tensor
    span: Tensor
    position: Tensor
    block: Tensor | None = None
    alone: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.modality.shape


@dataclass
class Latents(_Movable):
    """The continuous tokens of one modality in a batch, in the order of their slots.

    values: (N, C). slots: (N,) index into the B * S slots. span: (N,) which of the n spans a token belongs to.
    learned: (n,) whether a span carries loss. leads: (n,) whether learned text follows it in its document, for which
    Transfusion caps the noise. time: (n,) in [0, 1], 0 = clean, or None before an objective has corrupted the batch.
    grids: n pairs (rows, columns). step: (n,) the size of the sampler's step, for objectives that are told of it; None
    means 0.
    """

    values: Tensor
    slots: Tensor
    span: Tensor
    learned: Tensor
    leads: Tensor
    grids: list[tuple[int, int]] = field(default_factory=list)
    time: Tensor | None = None
    step: Tensor | None = None

    def per_token(self, per_span: Tensor) -> Tensor:
        """(n, ...) -> (N, ...): a span's value for each of its tokens."""
        return per_span[self.span]

    def select(self, kept: Tensor, slots: Tensor) -> Latents:
        """The spans in `kept`, (n,) bool, alone. slots: (N',) where their tokens stand now."""
        tokens = self.per_token(kept)
        renumbered = kept.long().cumsum(0) - 1
        return Latents(
            values=self.values[tokens],
            slots=slots,
            span=renumbered[self.span[tokens]],
            learned=self.learned[kept],
            leads=self.leads[kept],
            grids=[grid for grid, held in zip(self.grids, kept.tolist()) if held],
            time=None if self.time is None else self.time[kept],
            step=None if self.step is None else self.step[kept],
        )


@dataclass
class Masking(_Movable):
    """What a masked objective has made of a batch's discrete tokens.

    weight: (B, S) float, what the loss of the token in a slot is multiplied by; 0 where it is not masked.
    counted: (B, S) bool, the tokens over which the weighted losses are averaged.
    """

    weight: Tensor
    counted: Tensor


@dataclass
class PackedBatch(_Movable):
    """A packed batch: where everything is, what it is, what carries loss.

    ids: (B, S) joint ids, 0 in the slots of continuous tokens and of padding. learned: (B, S) bool, whether the token
    *in* a slot is to be learned. latents: modality name -> `Latents`, present (perhaps with N = 0) for every
    continuous modality, so that every tower is called on every rank. target_slots, target_ids: (M,) the slots, of
    B * S, whose output predicts a token, and that token: the next slot's, or in bidirectional spans the slot's own.
    masking: set by objectives that mask tokens; then their ids stand in target_ids alone.
    """

    layout: Layout
    ids: Tensor
    learned: Tensor
    latents: dict[str, Latents]
    target_slots: Tensor
    target_ids: Tensor
    masking: Masking | None = None

    @property
    def fill(self) -> float:
        """Share of the slots that hold a token."""
        return (self.layout.document != PADDING).double().mean().item()

    def select_rows(self, rows: Tensor) -> PackedBatch:
        """Some rows alone, (R,) ascending, to be read again; they predict no tokens, so target_slots are empty."""
        length = self.layout.shape[1]
        new_row = torch.full((self.layout.shape[0],), PADDING, device=rows.device)
        new_row[rows] = torch.arange(len(rows), device=rows.device)
        latents = {}
        for name, each in self.latents.items():
            row = new_row[each.slots // length]
            kept = torch.zeros_like(each.learned).index_put_((each.span,), row != PADDING)
            slots = (row * length + each.slots % length)[row != PADDING]
            latents[name] = each.select(kept, slots)
        parts: list[Any] = [getattr(self.layout, f.name) for f in fields(Layout)]
        kept_parts: list[Any] = [None if part is None else part[rows] for part in parts]
        layout = Layout(*kept_parts)
        none = self.target_slots[:0]
        return PackedBatch(layout, self.ids[rows], self.learned[rows], latents, none, none)
