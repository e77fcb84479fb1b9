"""Documents being continued over one cache: Stream, OpenSpan.

One cache, two moves. A discrete token is appended; a continuous span is opened, passed through the model as often as a
sampler asks, and closed, which writes it to the cache clean. All rows move together, and rows that have nothing to do
are masked; so prompts may be of different lengths, and documents may end at different times.

Shapes: R rows of the cache, n tokens of a span, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from mot_gen.packing import pack_prompts, span_positions
from mot_gen.sequence import PADDING, Latents, Layout, PackedBatch, Span

Grid = tuple[int, int]


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
        prompts = [[replace(span, learned=False) for span in prompt] for prompt in prompts]
        batch, lengths = pack_prompts(prompts, model.modalities, opens)
        batch, lengths = batch.to(self.device), lengths.to(self.device)
        for latents in batch.latents.values():
            latents.time = torch.zeros(len(latents.grids), device=self.device)
        if any(m.block or m.timed for m in model.modalities):
            room += 2  # the bounds of a span that is drawn and not kept
        room += max(m.block_size for m in model.modalities)  # the last block may reach beyond what is asked for
        self.cache = model.backbone.init_cache(self.rows, batch.layout.shape[1] + room)
        self.hidden, self.time = self._read(batch, lengths)
        self.spans = batch.layout.shape[1]  # a span number that no prompt has used
        self._prompt = batch

    def _read(self, batch: PackedBatch, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Write the prompts to the cache: hidden (R, D) of each one's last token, and the time (R,) after it.
        A prompt may be empty where the first span brings its own begin token; it has no hidden state then."""
        if batch.layout.shape[1] == 0:
            weight = self.model.embedding.weight
            return weight.new_zeros(self.rows, weight.shape[1]), torch.zeros_like(lengths)
        last = (torch.arange(self.rows, device=self.device), (lengths - 1).clamp_min(0))
        hidden = self._forward(self.model.embed(batch)[0], batch.layout)
        self.cache.advance(lengths)
        time = batch.layout.position[..., 0][last] + 1
        return hidden[last], torch.where(lengths > 0, time, 0)

    def _forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.model.backbone(x, self.model.backbone.plan(layout, self.cache), self.cache)

    def again(self) -> Stream:
        """A stream of the same prompts over a cache of its own, read by the model as it is now."""
        other = copy(self)
        other.cache = self.model.backbone.init_cache(self.rows, self.cache.capacity)
        lengths = (self._prompt.layout.document != PADDING).sum(1)
        other.hidden, other.time = other._read(self._prompt, lengths)
        return other

    def prompt_ids(self, row: int) -> list[int]:
        """The joint ids of a prompt's discrete tokens, special ones included."""
        batch = self._prompt
        discrete = torch.tensor([m.discrete for m in self.model.modalities], device=self.device)
        held = (batch.layout.document[row] != PADDING) & discrete[batch.layout.modality[row]]
        return batch.ids[row][held].tolist()

    def append(self, ids: Tensor, alive: Tensor) -> None:
        """Write one discrete token, (R,) joint ids, in each row that is alive, (R,) bool."""
        zero = torch.zeros_like(self.time)
        layout = Layout(
            self.model.vocabulary.modality_of(ids)[:, None],
            torch.where(alive, 0, PADDING)[:, None],
            torch.full_like(ids, self.spans)[:, None],
            torch.stack([self.time, zero, zero], dim=-1)[:, None],
        )
        hidden = self._forward(self.model.embed_ids(ids)[:, None], layout)[:, 0]
        self.cache.advance(alive.long())
        self.time = self.time + alive
        self.hidden = torch.where(alive[:, None], hidden, self.hidden)
        self.spans += 1

    def stand_as(self, samples: int) -> None:
        """Let what comes next in every row stand where it stands in the first branch's: the prompts of the others are
        read as if they were there and not seen (JanusFlow)."""
        self.time = self.time[:samples].repeat(self.rows // samples)

    def open(self, modality: str, grids: Sequence[Grid], alive: Tensor) -> OpenSpan:
        """Make room for a continuous span in each row that is alive, after its begin token."""
        return OpenSpan(self, modality, grids, alive)

    def snapshot(self) -> tuple:
        """Where every row stands, for `restore`."""
        return self.cache.snapshot(), self.hidden, self.time

    def restore(self, snapshot: tuple, rows: Tensor) -> None:
        """Take back what was written since the snapshot in some rows, (R,) bool."""
        kept, hidden, time = snapshot
        self.cache.restore(kept, rows)
        self.hidden = torch.where(rows[:, None], hidden, self.hidden)
        self.time = torch.where(rows, time, self.time)


class OpenSpan:
    """A continuous span being drawn in the rows of a stream; its slots are overwritten until `close`.

    grids may differ from row to row: shorter spans are padded, and the padding of what is returned is 0. Where the
    span's bounds are part of its block they are written with it: a row is then its begin, its tokens and its end. So is
    a begin token that is the span's time.
    """

    def __init__(self, stream: Stream, modality: str, grids: Sequence[Grid], alive: Tensor):
        self.stream, self.alive, model = stream, alive, stream.model
        self.index = model.index_of[modality]
        self.layers: Any = None
        if modality in model.patch_layers:
            self.layers = model.patch_layers[modality]
        self.modality = model.modalities[self.index]
        steps = [1 if self.modality.position == "grid" else rows * columns for rows, columns in grids]
        self.advance_time = torch.tensor(steps, device=stream.device)
        self.counts = torch.tensor([rows * columns for rows, columns in grids], device=stream.device)
        self.before = int(self.modality.block or self.modality.timed)  # tokens of a row before its own
        self.bounds = self.before + self.modality.block  # and all beside its own
        self.layout = self._layout(grids)
        width = self.layout.shape[1]
        place = torch.arange(width, device=stream.device) - self.before
        held = (place >= 0) & (place < self.counts[:, None])
        self.latents = Latents(
            values=torch.empty(0),
            slots=held.flatten().nonzero().flatten(),
            span=torch.arange(stream.rows, device=stream.device).repeat_interleave(self.counts),
            learned=alive,
            leads=torch.zeros_like(alive),
            grids=list(grids),
        )
        self._plans: dict[int, tuple] = {}

    def _layout(self, grids: Sequence[Grid]) -> Layout:
        """Where the tokens of every row stand, padded to the longest row."""
        stream, device = self.stream, self.stream.device
        totals = self.counts + self.bounds
        position = torch.zeros(stream.rows, int(totals.max()), 3, dtype=torch.long, device=device)
        modality = torch.full_like(position[..., 0], self.index)
        for row, (grid, time) in enumerate(zip(grids, (stream.time + self.modality.margin).tolist())):
            n, first = grid[0] * grid[1], self.before
            position[row, : n + self.bounds, 0] = time
            own = time + self.modality.timed
            position[row, first : first + n] = span_positions(n, grid, own, self.modality.position).to(position)
            if self.before:
                modality[row, 0] = 0
            if self.modality.block:
                modality[row, n + 1] = 0
        held = torch.arange(position.shape[1], device=device) < totals[:, None]
        document = torch.where(held & self.alive[:, None], 0, PADDING)
        span = torch.full_like(document, stream.spans)
        block = span.masked_fill(~held, PADDING) if self.modality.block else None
        return Layout(modality, document, span, position, block)

    def __call__(self, values: Tensor, time: Tensor, step: Tensor | None = None) -> Tensor:
        """values (r, n, C) of the first r rows, at one time in [0, 1] -> the network's output (r, n, C).

        step: the size of the sampler's step, for objectives that take it.
        """
        told = None if step is None else step.expand(len(values))
        return self._pass(values, time.expand(len(values)), told)[0]

    def _plan(self, rows: int):
        """What a pass over the first rows needs: their plan, their share of the cache, where their tokens stand."""
        if rows not in self._plans:
            stream = self.stream
            layout, cache, latents = self.layout, stream.cache, self.latents
            if rows < stream.rows:
                parts = (getattr(layout, f.name) for f in fields(layout))
                narrowed: list[Any] = [None if part is None else part[:rows] for part in parts]
                layout = Layout(*narrowed)
                cache = cache.narrow(rows)
                tokens = int(self.counts[:rows].sum())
                latents = replace(
                    latents, slots=latents.slots[:tokens], span=latents.span[:tokens], grids=latents.grids[:rows]
                )
            self._plans[rows] = (stream.model.backbone.plan(layout, cache), cache, latents)
        return self._plans[rows]

    def _pass(self, values: Tensor, time: Tensor, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The network's output (r, n, C), and its hidden states (r, n + bounds, D)."""
        plan, cache, latents = self._plan(len(values))
        rows, longest, channels = values.shape
        own = (torch.arange(longest, device=values.device) < self.counts[:rows, None]).flatten().nonzero().flatten()
        latents.values, latents.time, latents.step = values.flatten(0, 1)[own], time, step
        tokens, memory = self.layers.encode(latents)
        x = self._frame(rows, tokens, latents).flatten(0, 1).index_copy_(0, latents.slots, tokens)
        x = x.view(rows, self.layout.shape[1], -1)
        hidden = self.stream.model.backbone(x, plan, cache)
        output = self.layers.decode(hidden.flatten(0, 1)[latents.slots], latents, memory)
        flat = values.new_zeros(rows * longest, channels)
        return flat.index_copy_(0, own, output.to(values.dtype)).view(values.shape), hidden

    def _frame(self, rows: int, tokens: Tensor, latents: Latents) -> Tensor:
        """(r, n + bounds, D) zeros, with the embedded bounds of the block, or the time, in their places."""
        frame = tokens.new_zeros(rows, self.layout.shape[1], tokens.shape[-1])
        if self.modality.timed:
            frame[:, 0] = self.layers.time_tokens(latents).to(frame.dtype)
        if self.modality.block:
            model, name = self.stream.model, self.modality.name
            ids = torch.tensor([model.vocabulary.begin[name], model.vocabulary.end[name]], device=tokens.device)
            begin, end = model.embed_ids(ids).to(frame.dtype)
            frame[:, 0] = begin
            frame[torch.arange(rows, device=tokens.device), self.counts[:rows] + 1] = end
        return frame

    def close(self, values: Tensor, keep: Tensor) -> None:
        """Write the clean values (R, n, C) and the end token, in the rows to keep, (R,) bool."""
        stream = self.stream
        keep = keep & self.alive
        _, hidden = self._pass(values, torch.zeros(stream.rows, device=stream.device))
        stream.cache.advance(torch.where(keep, self.counts + self.bounds, 0))
        later = self.advance_time + self.modality.margin + self.modality.timed
        stream.time = stream.time + torch.where(keep, later, 0)
        stream.spans += 1
        if self.modality.block or not self.modality.ends:
            last = hidden[torch.arange(stream.rows, device=stream.device), self.counts + self.bounds - 1]
            stream.hidden = torch.where(keep[:, None], last, stream.hidden)
            return
        end = stream.model.vocabulary.end[self.modality.name]
        stream.append(torch.full((stream.rows,), end, device=stream.device), keep)
