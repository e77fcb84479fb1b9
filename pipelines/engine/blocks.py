"""How spans of masked tokens are written block by block: write_blocks, passes_of.

The tokens of a block are drawn together, in a few passes; then the cache keeps the block, unmasked, and the next one
follows it (BD3-LM, arXiv 2503.09573). A span ends with the block that holds what fills up the last one.

Shapes: N samples, b tokens of a block, K ids of the modality, R rows of the stream (the branches of N samples).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor

from mot_gen.pipelines.engine.decoding import TextSampling
from mot_gen.pipelines.engine.drawing import Drawing
from mot_gen.pipelines.engine.masked import OpenTokens, draw_masked
from mot_gen.pipelines.engine.samplers import held_still
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.engine.token_spans import MASKED
from mot_gen.sequence import PADDING, Layout
from mot_gen.sequence.moving import upload


class OpenBlock(OpenTokens):
    """One block being drawn. Its ids are those of the modality, and K for what fills it up."""

    def _layout(self) -> Layout:
        layout = super()._layout()
        return replace(layout, block=torch.where(layout.document == PADDING, PADDING, layout.span))

    def _pass(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (r, b, K + 1), and the hidden states (r, b, D)."""
        model, name = self.stream.model, self.modality.name
        vocabulary = model.vocabulary
        first, end = vocabulary.range(name)
        joint = torch.where(ids == end - first, vocabulary.fill[name], ids + first)
        joint = torch.where(ids == MASKED, vocabulary.mask[name], joint)
        plan, cache, _ = self._plan(len(ids))
        hidden = model.backbone(model.embed_ids(joint), plan, cache)
        own, fill = vocabulary.writable(name)[first:end].to(hidden.device), vocabulary.fill[name]
        logits = model.logits(hidden)
        written = logits[..., first:end].masked_fill(~own, float("-inf"))
        return torch.cat([written, logits[..., fill : fill + 1]], -1), hidden

    def keep(self, ids: Tensor) -> None:
        """Let the cache keep the block as it was drawn, (R, b)."""
        stream = self.stream
        self._pass(ids)
        kept = [lives * size for lives, size in zip(self.alive, self.sizes)]
        stream.cache.advance(kept)
        stream.time.add_(upload(kept, stream.device))
        stream.spans += 1
        stream.written_otherwise()


def passes_of(block_size: int) -> int:
    """How many passes a block takes in the pipelines: half as many as it has tokens."""
    return max(1, block_size // 2)


def write_blocks(
    stream: Stream,
    modality: str,
    drawing: Drawing,
    sampling: TextSampling,
    on_token: Callable[[int, str, int], None] = lambda number, modality, id: None,
) -> list[Tensor]:
    """Write a span of blocks in all rows of a stream, which have opened it: (n,) ids a sample.

    The rows are the branches of N samples under guidance, which all are given the same tokens. A span is cut after
    `sampling.max_new_tokens`. A block takes `drawing.num_inference_steps` passes. A row that has ended draws no random
    number. on_token: as of `writer.Writer`.
    """
    model, branches = stream.model, len(drawing.guidance.branches)
    size = model.modality[modality].block_size
    first, end = model.vocabulary.range(modality)
    samples = stream.rows // branches
    written: list[list[int]] = [[] for _ in range(samples)]
    going = [True] * samples
    for _ in range(-(-sampling.max_new_tokens // size)):
        block = OpenBlock(stream, modality, [(1, size)] * stream.rows, going * branches)
        ids = draw_masked(block, replace(drawing, generators=held_still(drawing.generators, going)), sampling)
        block.keep(ids.repeat(branches, 1))
        for number, own in enumerate(written):
            if not going[number]:
                continue
            room = sampling.max_new_tokens - len(own)
            added = list(takewhile(lambda id: id < end - first, ids[number].tolist()))[:room]
            own += added
            going[number] = len(added) == size
            for id in added:
                on_token(number, modality, id)
        if not any(going) or drawing.stopped():
            break
    return [torch.tensor(ids, dtype=torch.long) for ids in written]
