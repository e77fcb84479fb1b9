"""What a model makes of prompts and pictures, the one source of it for hooks, metrics and reports.

`draw` and `write` generate in batches, and `caption_losses` says how likely captions are. `HeldOut` is the pairs
that a run is measured on. Their pictures are tokenised once, however often the model is asked about them.

Every sample has a generator of its own, seeded by its number, so that batches change none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from mot_gen.data.encoded import Encoded
from mot_gen.data.records import Pair, Sample
from mot_gen.data.samples import captioned_pairs
from mot_gen.errors import InputError
from mot_gen.files.image_files import to_pil
from mot_gen.packing import document_length, pack_rows
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.pipelines.text_writing import are_spans
from mot_gen.sequence import Span

BATCH = 100  # samples generated together
Item = TypeVar("Item")
P = TypeVar("P", bound=MultimodalPipeline)


def in_batches(items: Sequence[Item], size: int = BATCH) -> Iterator[Sequence[Item]]:
    """The items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def draw(
    pipe: TextToImagePipeline, prompts: Sequence[str], seeds: Sequence[int], size: int = BATCH, **options: Any
) -> Iterator[Any]:
    """A picture of each prompt, from the noise of its own seed. options: of the pipeline."""
    for numbers in in_batches(range(len(prompts)), size):
        generators = [torch.Generator().manual_seed(seeds[number]) for number in numbers]
        yield from pipe([prompts[number] for number in numbers], generator=generators, **options).images


def write(pipe: ImageToTextPipeline, images: Sequence[Any], size: int = BATCH, **options: Any) -> Iterator[str]:
    """A caption of each picture, or of the spans that it was read as before, greedily."""
    for batch in in_batches(images, size):
        yield from pipe(list(batch), **options).texts


@torch.inference_mode()
def caption_losses(pipe: MultimodalPipeline, images: Sequence | None, captions: Sequence[str]) -> Tensor:
    """(N,) nats of each caption, the end of the text included, given its picture, or given nothing (None). A picture
    may be the spans that it was read as before."""
    texts = pipe.text_tokenizer.encode_batch(captions)
    if images is None:
        samples = [[text] for text in texts]
    else:
        seen = images if are_spans(images) else pipe.seen(images, drawn=False)
        samples = [[*shown, text] for shown, text in zip(seen, texts)]
    model = pipe.model
    length = max(document_length(sample, model.modalities) for sample in samples)
    batch = pack_rows([[sample] for sample in samples], model.modalities, length).to(model.embedding.weight.device)
    batch, targets = model.corrupt(batch)
    losses = model.losses(batch, model(batch), targets)[model.modality_names[0]].cpu()
    rows = (batch.target_slots // batch.layout.shape[1]).cpu()
    return torch.zeros(len(captions), dtype=losses.dtype).index_add_(0, rows, losses)


def pictures_of(pairs: Sequence[Pair], tokenizer: Any) -> list[Any]:
    """The picture of each pair, as its record gives it. One that was tokenised before is what its tokens decode to.

    tokenizer: of the pictures that the model draws.
    """
    pictures: list[Any] = []
    for pair in pairs:
        if isinstance(pair.image, Encoded):
            pictures.append(to_pil(tokenizer.decode(pair.image.span("image"))))
        else:
            pictures.append(pair.image)
    return pictures


class HeldOut:
    """Pairs that a run is measured on, `count` of them spread evenly over a set that may be sorted."""

    def __init__(self, samples: Sequence[Sample], count: int | None = None):
        """count: all of them where it is None."""
        self._samples, self._count = samples, count
        self._seen: tuple[object, list[list[Span]]] | None = None

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pictures with captions; InputError where there are none."""
        everything = len(self._samples)
        count = everything if self._count is None else min(self._count, everything)
        places = torch.linspace(0, everything - 1, count).round().long().unique().tolist()
        pairs = captioned_pairs(self._samples[place] for place in places)
        if not pairs:
            raise InputError("no held-out sample is a picture with captions, so there is nothing to measure by")
        return pairs

    @cached_property
    def captions(self) -> list[str]:
        """One caption a pair, the phrasings in turn."""
        return [pair.captions[number % len(pair.captions)] for number, pair in enumerate(self.pairs)]

    def seen(self, pipe: MultimodalPipeline) -> list[list[Span]]:
        """The spans that a pipeline reads each picture as; they are kept for the next time its tokenizer is asked."""
        tokenizer = pipe.sight_tokenizer or pipe.image_tokenizer
        if self._seen is None or self._seen[0] is not tokenizer:
            spans: list[list[Span]] = []
            for batch in in_batches(pictures_of(self.pairs, pipe.image_tokenizer)):
                spans += pipe.seen(list(batch), drawn=False)
            self._seen = tokenizer, spans
        return self._seen[1]

    def losses(self, pipe: MultimodalPipeline, given_pictures: bool = True, size: int = BATCH) -> Tensor:
        """(N,) nats of each caption, given its picture or given nothing."""
        found = []
        seen = self.seen(pipe) if given_pictures else None
        for numbers in in_batches(range(len(self.captions)), size):
            shown = None if seen is None else [seen[number] for number in numbers]
            found.append(caption_losses(pipe, shown, [self.captions[number] for number in numbers]))
        return torch.cat(found)


class MakePipeline(Protocol):
    """A pipeline of the model, by its class."""

    def __call__(self, cls: type[P], /) -> P: ...
