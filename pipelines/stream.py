"""Documents being continued over one cache: Stream, OpenSpan.

One cache, two moves. A discrete token is appended; a continuous span is opened, passed through the model as often as a
sampler asks, and closed, which writes it to the cache clean. All rows move together, and rows that have nothing to do
are masked; so prompts may be of different lengths, and documents may end at different times.

Shapes: R rows of the cache, n tokens of a span, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mot_gen.packing import pack_prompts, span_positions
from mot_gen.sequence import PADDING, Latents, Layout, Span

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
        batch, lengths = pack_prompts(prompts, model.modalities, opens)
        batch, lengths = batch.to(self.device), lengths.to(self.device)
        for latents in batch.latents.values():
            latents.time = torch.zeros(len(latents.grids), device=self.device)
        last = (torch.arange(self.rows, device=self.device), lengths - 1)
        self.cache = model.backbone.init_cache(self.rows, batch.layout.shape[1] + room)
        hidden = self._forward(model.embed(batch)[0], batch.layout)
        self.cache.advance(lengths)
        self.hidden, self.time = hidden[last], batch.layout.position[..., 0][last] + 1
        self.spans = batch.layout.shape[1]  # a span number that no prompt has used
        self._prompt = batch

    def _forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.model.backbone(x, self.model.backbone.plan(layout, self.cache), self.cache)

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
        hidden = self._forward(self.model.embedding(ids)[:, None], layout)[:, 0]
        self.cache.advance(alive.long())
        self.time = self.time + alive
        self.hidden = torch.where(alive[:, None], hidden, self.hidden)
        self.spans += 1

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

    grids may differ from row to row: shorter spans are padded, and the padding of what is returned is 0.
    """

    def __init__(self, stream: Stream, modality: str, grids: Sequence[Grid], alive: Tensor):
        self.stream, self.alive, model = stream, alive, stream.model
        self.index, self.layers = model.index_of[modality], model.patch_layers[modality]
        kind = model.modalities[self.index].position
        self.advance_time = torch.tensor([1 if kind == "grid" else r * c for r, c in grids], device=stream.device)
        self.counts = torch.tensor([r * c for r, c in grids], device=stream.device)
        longest = int(self.counts.max())
        held = torch.arange(longest, device=stream.device) < self.counts[:, None]
        position = torch.zeros(stream.rows, longest, 3, dtype=torch.long, device=stream.device)
        for row, (grid, time) in enumerate(zip(grids, stream.time.tolist())):
            n = grid[0] * grid[1]
            position[row, :n] = span_positions(n, grid, time, kind).to(position)
        self.layout = Layout(
            torch.full_like(position[..., 0], self.index),
            torch.where(held & alive[:, None], 0, PADDING),
            torch.full_like(position[..., 0], stream.spans),
            position,
        )
        self.latents = Latents(
            values=torch.empty(0),
            slots=held.flatten().nonzero().flatten(),
            span=torch.arange(stream.rows, device=stream.device).repeat_interleave(self.counts),
            learned=alive,
            leads=torch.zeros_like(alive),
            grids=list(grids),
        )
        self._plans: dict[int, tuple] = {}

    def __call__(self, values: Tensor, time: Tensor, step: Tensor | None = None) -> Tensor:
        """values (r, n, C) of the first r rows, at one time in [0, 1] -> the network's output (r, n, C).

        step: the size of the sampler's step, for objectives that take it.
        """
        told = None if step is None else step.expand(len(values))
        return self._pass(values, time.expand(len(values)), told)

    def _plan(self, rows: int):
        """What a pass over the first rows needs: their plan, their share of the cache, where their tokens stand."""
        if rows not in self._plans:
            stream = self.stream
            layout, cache, latents = self.layout, stream.cache, self.latents
            if rows < stream.rows:
                parts = (layout.modality, layout.document, layout.span, layout.position)
                layout, cache = Layout(*(part[:rows] for part in parts)), cache.narrow(rows)
                tokens = int(self.counts[:rows].sum())
                latents = replace(
                    latents, slots=latents.slots[:tokens], span=latents.span[:tokens], grids=latents.grids[:rows]
                )
            self._plans[rows] = (stream.model.backbone.plan(layout, cache), cache, latents)
        return self._plans[rows]

    def _pass(self, values: Tensor, time: Tensor, step: Tensor | None = None) -> Tensor:
        plan, cache, latents = self._plan(len(values))
        latents.values, latents.time, latents.step = values.flatten(0, 1)[latents.slots], time, step
        tokens, memory = self.layers.encode(latents)
        x = tokens.new_zeros(values.shape[0] * values.shape[1], tokens.shape[-1])
        x = x.index_copy_(0, latents.slots, tokens).view(*values.shape[:2], -1)
        hidden = self.stream.model.backbone(x, plan, cache).flatten(0, 1)
        output = self.layers.decode(hidden[latents.slots], latents, memory)
        flat = values.new_zeros(values.shape[0] * values.shape[1], values.shape[2])
        return flat.index_copy_(0, latents.slots, output.to(values.dtype)).view(values.shape)

    def close(self, values: Tensor, keep: Tensor) -> None:
        """Write the clean values (R, n, C) and the end token, in the rows to keep, (R,) bool."""
        stream, vocabulary = self.stream, self.stream.model.vocabulary
        keep = keep & self.alive
        self._pass(values, torch.zeros(stream.rows, device=stream.device))
        stream.cache.advance(torch.where(keep, self.counts, 0))
        stream.time = stream.time + torch.where(keep, self.advance_time, 0)
        stream.spans += 1
        end = vocabulary.end[stream.model.modality_names[self.index]]
        stream.append(torch.full((stream.rows,), end, device=stream.device), keep)
