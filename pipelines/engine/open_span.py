"""A continuous span being drawn in the rows of a stream: OpenSpan, Grid.

Shapes: R rows of the stream, r the first of them that a pass is over, n tokens of a span, N of all spans of a pass, C
channels, D width, T times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mot_gen.backbone.batch import Plan
from mot_gen.backbone.cache import Cache, flags
from mot_gen.backbone.modality_layers.patch_layers import PatchLinear, PatchUNet, embed_times
from mot_gen.packing import span_positions
from mot_gen.sequence import PADDING, Latents, Layout
from mot_gen.sequence.moving import upload

Grid = tuple[int, int]


class PassInputs(NamedTuple):
    """What a pass over some rows reads. latents: where their tokens stand; values and times are those of each pass."""

    plan: Plan
    cache: Cache
    latents: Latents


class OpenSpan:
    """A continuous span being drawn in the rows of a `stream.Stream`; its slots are overwritten until `close`.

    grids may differ from row to row: shorter spans are padded, and the padding of what is returned is 0. Where the
    span's bounds are part of its block they are written with it: a row is then its begin, its tokens and its end. So is
    a begin token that is the span's time.
    """

    def __init__(self, stream: Any, modality: str, grids: Sequence[Grid], alive: Sequence[bool] | Tensor):
        model = stream.model
        self.stream, self.alive, self.index = stream, flags(alive), model.index_of[modality]
        self.modality = model.modalities[self.index]
        self.layers: Any = dict(model.patch_layers.items()).get(modality)  # masked tokens have none
        self.grids = list(grids)
        self.sizes = [rows * columns for rows, columns in grids]
        self.counts = upload(self.sizes, stream.device)
        # How much time passes in each row while the span is written.
        self.passing = [1] * len(grids) if self.modality.position == "grid" else self.sizes
        self.before = int(self.modality.block or self.modality.timed)  # tokens of a row before its own
        self.bounds = self.before + self.modality.block  # and all beside its own
        self.layout = self._layout()
        # Whether the rows of a pass hold the tokens of their spans and nothing else.
        self.full = not self.bounds and len(set(self.sizes)) == 1
        self._pass_inputs: dict[int, PassInputs] = {}

    def _layout(self) -> Layout:
        """Where the tokens of every row stand, padded to the longest row."""
        stream, first, width = self.stream, self.before, max(self.sizes) + self.bounds
        timed = int(self.modality.timed)
        position = torch.zeros(stream.rows, width, 3, dtype=torch.long)
        modality = torch.full((stream.rows, width), self.index)
        span = torch.full((stream.rows, width), PADDING)
        for row, (n, grid) in enumerate(zip(self.sizes, self.grids)):
            position[row, first : first + n] = span_positions(n, grid, timed, self.modality.position)
            span[row, : n + self.bounds] = stream.spans
            modality[row, :first] = 0
            modality[row, first + n : n + self.bounds] = 0
        held = torch.tensor(self.alive)[:, None] & (span != PADDING)
        document = torch.full_like(span, PADDING).masked_fill(held, 0)
        block = span if self.modality.block else None
        layout = Layout(modality, document, torch.full_like(span, stream.spans), position, block)
        layout = layout.to(stream.device)
        layout.position[..., 0].add_(stream.time[:, None] + self.modality.margin)
        return layout

    def _latents(self, rows: int) -> Latents:
        """Where the tokens of the first rows stand; their values are those of each pass."""
        width, sizes = self.layout.shape[1], torch.tensor(self.sizes[:rows])
        place = torch.arange(width) - self.before
        held = (place >= 0) & (place < sizes[:, None])
        marks = torch.zeros(rows, dtype=torch.bool)
        latents = Latents(
            values=torch.empty(0),
            slots=held.flatten().nonzero().flatten(),
            span=torch.arange(rows).repeat_interleave(sizes),
            learned=marks,
            leads=marks,
            grids=self.grids[:rows],
        )
        return latents.to(self.stream.device)

    def _plan(self, rows: int) -> PassInputs:
        """What a pass over the first rows reads; made once for each number of rows."""
        if rows not in self._pass_inputs:
            stream, layout, cache = self.stream, self.layout, self.stream.cache
            if rows < stream.rows:
                layout, cache = layout.with_tensors(lambda part: part[:rows]), cache.narrow(rows)
            modality = None if self.bounds else self.index
            plan = stream.model.backbone.plan(layout, cache, modality)
            self._pass_inputs[rows] = PassInputs(plan, cache, self._latents(rows))
        return self._pass_inputs[rows]

    # ---------------------------------------------------------------- passes

    def embed(self, times: Tensor, steps: Tensor | None = None) -> Tensor | None:
        """(T, D) what the network is given for each time and step (T,), for the passes that are to come; None where its
        patch layers take times alone."""
        if not isinstance(self.layers, (PatchLinear, PatchUNet)):
            return None
        return embed_times(self.layers, times, steps)

    def __call__(
        self, values: Tensor, time: Tensor, step: Tensor | None = None, conditioning: Tensor | None = None
    ) -> Tensor:
        """values (r, n, C) of the first r rows, at one time in [0, 1] -> the network's output (r, n, C).

        step: the size of the sampler's step, for objectives that take it. conditioning: (D,) of `embed`, which saves
        time.
        """
        rows = len(values)
        latents = self._plan(rows).latents
        latents.time = time.expand(rows)
        latents.step = None if step is None else step.expand(rows)
        latents.conditioning = None if conditioning is None else conditioning[None]
        return self._pass(values)[0]

    def _pass(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The network's output (r, n, C), and its hidden states (r, n + bounds, D)."""
        plan, cache, latents = self._plan(len(values))
        latents.values = self._tokens_of(values, latents)
        tokens, memory = self.layers.encode(latents)
        hidden = self.stream.model.backbone(self._framed(tokens, latents), plan, cache)
        own = hidden.flatten(0, 1) if self.full else hidden.flatten(0, 1)[latents.slots]
        output = self.layers.decode(own, latents, memory).to(values.dtype)
        return self._padded(output, values, latents), hidden

    def _tokens_of(self, values: Tensor, latents: Latents) -> Tensor:
        """(r, n, C) -> (N, C), without the padding."""
        flat = values.flatten(0, 1)
        return flat if self.full else flat[self._own(latents)]

    def _padded(self, output: Tensor, values: Tensor, latents: Latents) -> Tensor:
        """(N, C) -> as values (r, n, C)."""
        if self.full:
            return output.view(values.shape)
        flat = values.new_zeros(values.shape).flatten(0, 1)
        return flat.index_copy_(0, self._own(latents), output).view(values.shape)

    def _own(self, latents: Latents) -> Tensor:
        """(N,) where the tokens stand among r * n values."""
        width, before, bounds = self.layout.shape[1], self.before, self.bounds
        return latents.once("own", lambda: latents.slots - before - latents.slots // width * bounds)

    def _framed(self, tokens: Tensor, latents: Latents) -> Tensor:
        """Embedded tokens (N, D) -> (r, n + bounds, D), with the bounds of the block, or the time, in their places."""
        rows, width = len(latents.grids), self.layout.shape[1]
        if self.full:
            return tokens.view(rows, width, -1)
        frame = tokens.new_zeros(rows, width, tokens.shape[-1])
        if self.modality.timed:
            frame[:, 0] = self.layers.time_tokens(latents).to(frame.dtype)
        if self.modality.block:
            vocabulary, name = self.stream.model.vocabulary, self.modality.name
            ids = upload([vocabulary.begin[name], vocabulary.end[name]], tokens.device)
            begin, end = self.stream.model.embed_ids(ids).to(frame.dtype)
            frame[:, 0] = begin
            frame[torch.arange(rows, device=tokens.device), self.counts[:rows] + 1] = end
        return frame.flatten(0, 1).index_copy_(0, latents.slots, tokens).view(frame.shape)

    # ---------------------------------------------------------------- the end

    def close(self, values: Tensor, keep: Sequence[bool] | Tensor) -> None:
        """Write the clean values (R, n, C) and the end token, in the rows to keep, (R,) bool."""
        stream = self.stream
        kept = [keeps and lives for keeps, lives in zip(flags(keep), self.alive)]
        hidden = self._clean(values)
        stream.cache.advance([keeps * (size + self.bounds) for size, keeps in zip(self.sizes, kept)])
        later = self.modality.margin + self.modality.timed
        stream.time.add_(upload([keeps * (time + later) for time, keeps in zip(self.passing, kept)], stream.device))
        stream.spans += 1
        stream.written_otherwise()
        if self.modality.block or not self.modality.ends:
            last = hidden[torch.arange(stream.rows, device=stream.device), self.counts + self.bounds - 1]
            stream.hidden = torch.where(upload(kept, stream.device)[:, None], last, stream.hidden)
            return
        end = stream.model.vocabulary.end[self.modality.name]
        stream.append([end] * stream.rows, kept, stream.model.modality_names[0])

    def _clean(self, values: Tensor) -> Tensor:
        """Hidden states (R, n + bounds, D) of a pass over clean values."""
        latents = self._plan(self.stream.rows).latents
        latents.time, latents.step, latents.conditioning = values.new_zeros(self.stream.rows), None, None
        return self._pass(values)[1]
