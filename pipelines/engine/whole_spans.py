"""Spans of a given size inside documents that are written together: WholeSpans.

Shapes: N samples, n tokens of a span, C channels; a stream of B * N rows, the samples' own first, then those of the
other branches of guidance.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from mot_gen.pipelines.engine.decoding import TextSampling
from mot_gen.pipelines.engine.drawing import Drawing, draw
from mot_gen.pipelines.engine.masked import OpenTokens, draw_masked
from mot_gen.pipelines.engine.open_span import Grid, OpenSpan
from mot_gen.pipelines.engine.scales import OpenScales, draw_scales
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.engine.token_spans import BegunSpan, Process, draw_tokens


class WholeSpans:
    """Draws spans in some rows of a stream, while the others stand still. The cache keeps them in the samples' own
    rows; the other branches forget them."""

    def __init__(self, stream: Stream, samples: int, sampling: TextSampling):
        self.stream, self.samples, self.sampling = stream, samples, sampling
        self.branches = stream.rows // samples
        self.vocabulary = stream.model.vocabulary
        self.begin = stream.snapshot() if self.branches > 1 else None

    def draw(
        self, modality: str, grid: Grid, samples: Collection[int], drawing: Drawing, process: Process | None
    ) -> tuple[Tensor, int]:
        """Spans of some samples, and how many tokens bound each in the cache: (N, n) or (N, n, C); what stands there
        for other samples means nothing."""
        ready = [number in samples for number in range(self.samples)]
        sampling = drawing.tokens or self.sampling
        if modality in self.vocabulary.mask:
            span = OpenTokens(self.stream, modality, [grid] * self.stream.rows, ready * self.branches)
            return self._close(span, draw_masked(span, drawing, sampling), ready)
        if modality in self.stream.model.scale_inputs:
            scales = OpenScales(self.stream, modality, ready * self.branches)
            return self._close(scales, draw_scales(scales, drawing, sampling), ready)
        if modality in self.vocabulary.offset:
            framed = self.stream.model.modality[modality].framed(grid)
            return self._write(modality, grid, ready, drawing, process), 1 + framed
        opened = self.stream.open(modality, [grid] * self.stream.rows, ready * self.branches)
        return self._close(opened, draw(opened, drawing).float(), ready)

    def _close(self, span: OpenSpan, values: Tensor, ready: list[bool]) -> tuple[Tensor, int]:
        span.close(values.repeat(self.branches, *[1] * (values.dim() - 1)), self._own(ready))
        return values, max(1, span.bounds)

    def _write(self, modality: str, grid: Grid, ready: list[bool], drawing: Drawing, process: Process | None) -> Tensor:
        """Discrete tokens, one by one, and their end token."""
        text = self.stream.model.modality_names[0]
        values = draw_tokens(BegunSpan(self.stream, modality, grid, ready), drawing, self.sampling, process=process)
        if self.begin is not None:
            others = [not own for own in self._own([True] * self.samples)]
            self.stream.restore(self.begin, others)
        self.stream.append([self.vocabulary.end[modality]] * self.stream.rows, self._own(ready), text)
        return values

    def _own(self, flags: list[bool]) -> list[bool]:
        """Flags of the samples -> of the stream's rows, False in the other branches."""
        return flags + [False] * (self.stream.rows - self.samples)
