"""How a span of several scales is drawn, one pass a scale: draw_scales, OpenScales.

All tokens of a scale are chosen at once, from what the scales before have built (VAR, Tian et al. 2024, arXiv
2404.02905). The cache holds what each scale was predicted from while the next ones are drawn. When the span is closed
it is read once more, as the tokens that it ended with, and the cache keeps that.

Shapes: N samples, n tokens of a span, of which n_k are of scale k, K ids of the modality, R rows of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.pipelines.engine.decoding import TextSampling, choose_each
from mot_gen.pipelines.engine.drawing import Drawing
from mot_gen.pipelines.engine.open_span import OpenSpan
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.scales import as_scales, bounds, scale_positions
from mot_gen.sequence import PADDING, Layout


@dataclass(frozen=True)
class Scale:
    """One scale as it is shown: its number, and ids (N, n), 0 in the scales that are still to come."""

    number: int
    ids: Tensor


class OpenScales(OpenSpan):
    """A span of several scales being drawn in the rows of a stream."""

    def __init__(self, stream: Stream, modality: str, alive: Sequence[bool] | Tensor):
        """alive: (R,) bool, the rows that draw it."""
        self.scales = as_scales(stream.model.modality[modality].scales)
        self.bounds_of = bounds(self.scales)
        self.inputs = stream.model.scale_inputs[modality]
        self.begun = stream.snapshot()
        super().__init__(stream, modality, [(1, self.inputs.count)] * stream.rows, alive)
        self.passing = [len(self.scales)] * stream.rows

    def _layout(self) -> Layout:
        """Where the tokens of every row stand: a time and a block for each scale."""
        stream, places = self.stream, scale_positions(self.scales)
        position = places.repeat(stream.rows, 1, 1)
        span = torch.full(position.shape[:2], stream.spans)
        document = torch.full_like(span, PADDING).masked_fill(torch.tensor(self.alive)[:, None], 0)
        block = torch.where(document == PADDING, PADDING, stream.spans + places[:, 0])
        layout = Layout(torch.full_like(span, self.index), document, span, position, block).to(stream.device)
        layout.position[..., 0].add_(stream.time[:, None])
        return layout

    def predict(self, scale: int, ids: Tensor) -> Tensor:
        """ids (R, n), of which those of earlier scales count -> logits (R, n_k, K). Scales are asked for in order."""
        model, stream, (first, end) = self.stream.model, self.stream, self.bounds_of[scale]
        layout = self.layout.with_tensors(lambda part: part[:, first:end])
        x = self._embedded(ids, predicted=True)[:, first:end]
        hidden = model.backbone(x, model.backbone.plan(layout, stream.cache, self.index), stream.cache)
        stream.cache.advance([(end - first) * lives for lives in self.alive])
        start, stop = model.vocabulary.range(self.modality.name)
        return model.logits(hidden)[..., start:stop]

    def _embedded(self, ids: Tensor, predicted: bool) -> Tensor:
        """(R, n) ids of the modality -> (R, n, D)."""
        model = self.stream.model
        x = model.embed_ids(ids + model.vocabulary.offset[self.modality.name])
        return self.inputs(x, torch.full((len(ids),), predicted, device=ids.device))

    def _pass(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Read all scales, (R, n), as they are: the ids, and the hidden states (R, n, D)."""
        plan, cache, _ = self._plan(len(ids))
        return ids, self.stream.model.backbone(self._embedded(ids, predicted=False), plan, cache)

    def close(self, values: Tensor, keep: Sequence[bool] | Tensor) -> None:
        """Forget what was predicted from, write the ids (R, n) and the end token, in the rows to keep, (R,) bool."""
        self.stream.restore(self.begun, [True] * self.stream.rows)
        super().close(values, keep)
        self.stream.spans += len(self.scales)


def draw_scales(
    span: OpenScales,
    drawing: Drawing,
    sampling: TextSampling,
    on_scale: Callable[[Scale], None] | None = None,
) -> Tensor:
    """Draw an open span, whose rows are the branches of N samples: ids (N, n).

    sampling: temperature, top_k and top_p of the tokens. Guidance bears on the logits. Where `drawing.stopped` says so,
    the scales that are left have the id 0.
    """
    guidance = drawing.guidance
    branches = len(guidance.branches)
    ids = torch.zeros(span.stream.rows // branches, span.inputs.count, dtype=torch.long, device=span.stream.device)
    for scale, (first, end) in enumerate(span.bounds_of):
        logits = guidance.combine(span.predict(scale, ids.repeat(branches, 1)).float())
        ids[:, first:end] = choose_each(logits, sampling, drawing.generators)
        if on_scale is not None:
            on_scale(Scale(scale, ids.clone()))
        if drawing.stopped():
            break
    return ids
