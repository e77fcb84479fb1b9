"""Drafts by the first layers (early exit), on captions by the shipped model: tokens a pass, and time over plain greedy
decoding.

The pictures are renderings of OpenMoji scenes that training never showed. Each is captioned alone, greedily; the texts
must be those of plain decoding, or the benchmark fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.scene_judge import pictures_of
from mot_gen.datasets.openmoji import Scenes
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.engine.drafted import DraftedText, EarlyLayers, write_drafted
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.loaded import load_pipeline
from mot_gen.sequence import Span

SIZE, PICTURES, MOST = 32, 24, 32


@torch.inference_mode()
def run() -> Iterator[dict]:
    pipe = load_pipeline(ImageToTextPipeline, "openmoji")
    scenes = Scenes("combinations", SIZE, 1).scenes
    shown = pictures_of(scenes[:: len(scenes) // PICTURES][:PICTURES], SIZE) / 255
    writing = Captions(pipe.model, pipe.image_tokenizer.encode_batch(list(shown)))
    writing.timed(writing.plain)  # the first passes are slower
    plain, before = writing.timed(writing.plain)
    for layers in (2, 3, 4, 5):
        found, seconds = writing.timed(partial(writing.drafted, layers=layers))
        assert [each.ids for each in found] == [each.ids for each in plain]
        tokens, passes = sum(len(each.ids[0]) for each in found), sum(each.passes for each in found)
        yield {"layers": layers, "tokens_a_pass": tokens / passes, "time_over_plain": seconds / before}


class Captions:
    """Greedy captions of pictures, one after the other."""

    def __init__(self, model: MultimodalModel, pictures: list[Span]):
        self.model, self.pictures = model, pictures
        vocabulary = model.vocabulary
        self.end = vocabulary.document_end
        self.allowed = vocabulary.writable("text")
        self.allowed[self.end] = True

    def timed(self, write: Callable[[Stream], DraftedText]) -> tuple[list[DraftedText], float]:
        """What is written of each picture, and the CPU seconds of it without reading the pictures."""
        found, seconds = [], 0.0
        for picture in self.pictures:
            stream = Stream(self.model, [[picture]], room=MOST + 6)
            started = time.process_time()
            found.append(write(stream))
            seconds += time.process_time() - started
        return found, seconds

    def plain(self, stream: Stream) -> DraftedText:
        """A token a pass."""
        ids: list[int] = []
        while len(ids) < MOST and self.end not in ids:
            logits = self.model.logits(stream.hidden).masked_fill(~self.allowed, float("-inf"))
            token = logits.argmax(-1)
            ids.append(int(token))
            stream.append(token, modality="text")
        return DraftedText([ids], len(ids))

    def drafted(self, stream: Stream, layers: int) -> DraftedText:
        return write_drafted(stream, EarlyLayers(stream, layers), MOST, {self.end}, self.allowed)
