"""Documents being continued over one cache: Stream.

One cache, two moves. A discrete token is appended; a continuous span is opened (`open_span`), passed through the model
as often as a sampler asks, and closed, which writes it to the cache clean. All rows move together, and rows that have
nothing to do are masked; so prompts may be of different lengths, and documents may end at different times.

Lengths, and which rows move, are known to the host, which waits for the device nowhere here.

Shapes: R rows of the cache, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from mot_gen.backbone.cache import flags
from mot_gen.backbone.next_token import NextToken
from mot_gen.packing import pack_prompts
from mot_gen.pipelines.engine.open_span import Grid, OpenSpan
from mot_gen.sequence import PADDING, Layout, PackedBatch, Span, only_read
from mot_gen.sequence.moving import upload


class Stream:
    """R documents being continued, over one cache.

    hidden: (R, D) the backbone's output at each document's last token. time: (R,) the position of its next one. opens:
    the modality whose begin token stands last in each prompt, or None.
    """

    def __init__(self, model, prompts: Sequence[Sequence[Span]], room: int, opens: Sequence[str | None] | None = None):
        """Read the prompts, clean, in one pass. room: slots for what will be written; opens: see `pack_prompts`."""
        if hasattr(model, "_hf_hook"):  # of enable_model_cpu_offload, which waits for a call of `forward`
            model._hf_hook.pre_forward(model)
        self.model, self.device = model, model.embedding.weight.device
        self.rows, self.opens = len(prompts), list(opens or [None] * len(prompts))
        prompts = [only_read(prompt) for prompt in prompts]
        packed, lengths = pack_prompts(prompts, model.modalities, opens)
        batch = packed.to(self.device)
        for latents in batch.latents.values():
            latents.time = torch.zeros(len(latents.grids), device=self.device)
        if any(m.block or m.timed for m in model.modalities):
            room += 2  # the bounds of a span that is drawn and not kept
        room += max(m.block_size for m in model.modalities)  # the last block may reach beyond what is asked for
        self.cache = model.backbone.init_cache(self.rows, batch.layout.shape[1] + room)
        self.hidden, self.time = self._read(batch, lengths)
        self.spans = batch.layout.shape[1]  # a span number that no prompt has used
        self._prompt, self._given = packed, batch
        self._next: NextToken | None = None
        self._stale = True  # whether what `_next` knows is not what the cache holds

    def _read(self, batch: PackedBatch, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Write the prompts to the cache, counts (R,) tokens each, on the host: hidden (R, D) of each one's last token,
        and the time (R,) after it.
        A prompt may be empty where the first span brings its own begin token; it has no hidden state then."""
        lengths = upload(counts, self.device)
        if batch.layout.shape[1] == 0:
            weight = self.model.embedding.weight
            return weight.new_zeros(self.rows, weight.shape[1]), torch.zeros_like(lengths)
        last = (torch.arange(self.rows, device=self.device), (lengths - 1).clamp_min(0))
        hidden = self._forward(self.model.embed(batch)[0], batch.layout)
        self.cache.advance(counts.tolist())
        time = batch.layout.position[..., 0][last] + 1
        return hidden[last], torch.where(lengths > 0, time, 0)

    def _forward(self, x: Tensor, layout: Layout, modality: int | None = None) -> Tensor:
        backbone = self.model.backbone
        return backbone(x, backbone.plan(layout, self.cache, modality), self.cache)

    def again(self) -> Stream:
        """A stream of the same prompts over a cache of its own, read by the model as it is now."""
        other = copy(self)
        other.cache = self.model.backbone.init_cache(self.rows, self.cache.capacity)
        lengths = (self._prompt.layout.document != PADDING).sum(1)
        other.hidden, other.time = other._read(self._given, lengths)
        other.written_otherwise()
        return other

    def prompt_ids(self, row: int) -> list[int]:
        """The joint ids of a prompt's discrete tokens, special ones included."""
        batch = self._prompt
        discrete = torch.tensor([m.discrete for m in self.model.modalities])
        held = (batch.layout.document[row] != PADDING) & discrete[batch.layout.modality[row]]
        return batch.ids[row][held].tolist()

    # ---------------------------------------------------------------- discrete tokens

    def append(
        self,
        ids: Tensor | Sequence[int],
        alive: Sequence[bool] | Tensor | None = None,
        modality: str | None = None,
    ) -> None:
        """Write one discrete token, (R,) joint ids, in each row that is alive, (R,) bool; None: in all.

        modality: of all these tokens, special ones counting as text. None: the host looks at each, and waits for those
        that are on a device.
        """
        moving = [True] * self.rows if alive is None else flags(alive)
        hidden = self._pass(upload(ids, self.device), moving, self._modality(ids, modality))
        self.cache.advance(list(map(int, moving)))
        self.spans += 1
        if all(moving):
            self.time.add_(1)
            self.hidden = hidden
            return
        moved = upload(moving, self.device)
        self.time.add_(moved)
        self.hidden = torch.where(moved[:, None], hidden, self.hidden)

    def _modality(self, ids: Tensor | Sequence[int], name: str | None) -> int | None:
        """The number of the modality of all ids; None where they are of several."""
        if name is not None:
            return self.model.index_of[name]
        found = set(self.model.vocabulary.modality_of(torch.as_tensor(ids).cpu()).tolist())
        return found.pop() if len(found) == 1 else None

    def _pass(self, ids: Tensor, moving: Sequence[bool], modality: int | None) -> Tensor:
        """Hidden states (R, D) of the next token of every row."""
        x = self.model.embed_ids(ids)[:, None]
        if self._stale:
            self._next, self._stale = self.model.backbone.next_token(self.cache, self.time), False
        if self._next is not None and modality is not None:
            return self.model.backbone(x, self._next.plan(modality), self.cache)[:, 0]
        self.written_otherwise()
        return self._forward(x, self._layout(ids, moving, modality), modality)[:, 0]

    def _layout(self, ids: Tensor, moving: Sequence[bool], modality: int | None) -> Layout:
        """The layout of one token in every row: all of this modality, or each of its own where that is None."""
        zero = torch.zeros_like(self.time)
        document = upload([0 if moves else PADDING for moves in moving], self.device)
        of_each = self.model.vocabulary.modality_of(ids) if modality is None else torch.full_like(ids, modality)
        return Layout(
            of_each[:, None],
            document[:, None],
            torch.full_like(ids, self.spans)[:, None],
            torch.stack([self.time, zero, zero], dim=-1)[:, None],
        )

    def written_otherwise(self) -> None:
        """Say that the cache was changed by other means than `append`: what it derives for its tokens is made anew."""
        self._stale = True

    def look(self, ids: Tensor, layout: Layout) -> Tensor:
        """Hidden states (R, L, D) of text tokens, (R, L) joint ids, that would follow; nothing is kept of them."""
        hidden = self._forward(self.model.embed_ids(ids), layout, 0)
        self.written_otherwise()
        return hidden

    # ---------------------------------------------------------------- spans, and back

    def open(self, modality: str, grids: Sequence[Grid], alive: Sequence[bool] | Tensor) -> OpenSpan:
        """Make room for a continuous span in each row that is alive, after its begin token."""
        return OpenSpan(self, modality, grids, alive)

    def stand_as(self, samples: int) -> None:
        """Let what comes next in every row stand where it stands in the first branch's: the prompts of the others are
        read as if they were there and not seen (JanusFlow)."""
        self.time.copy_(self.time[:samples].repeat(self.rows // samples))
        self.written_otherwise()

    def snapshot(self) -> tuple:
        """Where every row stands, for `restore`."""
        return self.cache.snapshot(), self.hidden, self.time.clone()

    def restore(self, snapshot: tuple, rows: Sequence[bool] | Tensor) -> None:
        """Take back what was written since the snapshot in some rows, (R,) bool."""
        kept, hidden, time = snapshot
        self.cache.restore(kept, rows)
        back = upload(flags(rows), self.device)
        self.hidden = torch.where(back[:, None], hidden, self.hidden)
        self.time.copy_(torch.where(back, time, self.time))
        self.written_otherwise()
