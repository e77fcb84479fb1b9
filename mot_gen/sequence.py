"""The words every other part speaks: Modality, Span, Vocabulary, Layout, Latents, PackedBatch.

A *sample* is a list of `Span`s, each one piece of one `Modality`. Packing puts samples, as *documents*, into the rows
of a `PackedBatch`: B rows of S slots. A slot holds either a discrete token, whose id lives in one joint `Vocabulary`,
or a continuous one, whose value lives in `Latents`. `Layout` is all that a backbone may see of a batch.

Shapes: B rows, S slots a row, N continuous tokens of a modality in the batch, n spans of it, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest

PADDING = -1  # the document and span number of a slot that holds nothing


@dataclass(frozen=True)
class Modality:
    """One kind of token. Exactly one of `vocab_size` (discrete) and `channels` (continuous) is given.

    bidirectional: tokens of one span see all of their span (images under diffusion), else only what came before.
    objective: module name under `mot_gen.objectives`, or a dotted path.
    position: "sequence", one position per token; or "grid", one per span, and (row, column) embedded in 2-D (BAGEL).
    """

    name: str
    vocab_size: int | None = None
    channels: int | None = None
    bidirectional: bool = False
    objective: str = "next_token"
    position: str = "sequence"

    def __post_init__(self):
        where = f"modality {self.name!r}"
        if (self.vocab_size is None) == (self.channels is None):
            raise InputError(f"{where}: give either vocab_size (discrete) or channels (continuous)")
        size_name, size = ("vocab_size", self.vocab_size) if self.discrete else ("channels", self.channels)
        if size < 1:
            raise InputError(f"{where}: {size_name} must be at least 1, got {size}")
        if self.position not in ("sequence", "grid"):
            raise InputError(
                f"{where}: position {self.position!r} is not known" + nearest(self.position, ["sequence", "grid"])
            )
        if self.discrete and (self.bidirectional or self.position == "grid"):
            raise InputError(f"{where}: discrete tokens come one by one: bidirectional false, position 'sequence'")

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
    special tokens are the two document bounds, and a begin and an end for every other modality: tokenizers cannot
    produce them, because they lie outside every modality's own range.
    """

    def __init__(self, modalities: Sequence[Modality]):
        if not modalities or not modalities[0].discrete:
            raise InputError("the first modality must be discrete (text): special tokens are routed as it")
        names = [m.name for m in modalities]
        if len(set(names)) != len(names):
            raise InputError(f"modality names must differ, got {', '.join(names)}")
        text, *others = modalities
        base = text.vocab_size
        self.document_begin, self.document_end = base, base + 1
        self.begin = {m.name: base + 2 + 2 * i for i, m in enumerate(others)}
        self.end = {m.name: base + 3 + 2 * i for i, m in enumerate(others)}
        self.offset = {text.name: 0}
        self.size = base + 2 + 2 * len(others)
        first_ids = []  # of each further modality; a continuous one has no ids, so its range is empty
        for m in others:
            first_ids.append(self.size)
            if m.discrete:
                self.offset[m.name] = self.size
                self.size += m.vocab_size
        self._first_ids = torch.tensor(first_ids, device="cpu")  # also where a model is made on meta
        self._sizes = {m.name: m.vocab_size for m in modalities if m.discrete}

    def range(self, modality: str) -> tuple[int, int]:
        """First and one-past-last joint id of a discrete modality's own tokens."""
        return self.offset[modality], self.offset[modality] + self._sizes[modality]

    def modality_of(self, ids: Tensor) -> Tensor:
        """Index of the modality of joint ids, any shape; special tokens belong to the first."""
        return torch.bucketize(ids, self._first_ids.to(ids.device), right=True)

    def opened_by(self, token: int) -> str | None:
        """The modality whose span a token begins, or None."""
        return next((name for name, begin in self.begin.items() if begin == token), None)


class _Movable:
    """`.to(device)` for a dataclass: moves every tensor, and what is itself movable, in it."""

    def to(self, device, non_blocking: bool = False):
        def move(value):
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=non_blocking)
            if isinstance(value, dict):
                return {key: move(item) for key, item in value.items()}
            return value.to(device, non_blocking) if isinstance(value, _Movable) else value

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self) if f.init})


@dataclass
class Layout(_Movable):
    """All that a backbone may see of a batch; int64 tensors.

    modality: (B, S) index into the model's modalities; padding counts as the first.
    document: (B, S) number of the document in its row, PADDING where there is none.
    span: (B, S) number of the span in its row, a special token being a span of its own; PADDING likewise.
    position: (B, S, 3) time within the document, row and column within the span's grid.
    """

    modality: Tensor
    document: Tensor
    span: Tensor
    position: Tensor

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
class PackedBatch(_Movable):
    """A packed batch: where everything is, what it is, what carries loss.

    ids: (B, S) joint ids, 0 in the slots of continuous tokens and of padding. learned: (B, S) bool, whether the token
    *in* a slot is to be learned. latents: modality name -> `Latents`, present (perhaps with N = 0) for every
    continuous modality, so that every tower is called on every rank. target_slots, target_ids: (M,) the slots, of
    B * S, whose output predicts the next slot's token, and that token.
    """

    layout: Layout
    ids: Tensor
    learned: Tensor
    latents: dict[str, Latents]
    target_slots: Tensor
    target_ids: Tensor

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
        layout = Layout(*(getattr(self.layout, f.name)[rows] for f in fields(Layout)))
        none = self.target_slots[:0]
        return PackedBatch(layout, self.ids[rows], self.learned[rows], latents, none, none)
