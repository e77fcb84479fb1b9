"""The metrics of `mot-gen eval` over a model in memory: Evaluator, and Samples, what the model makes of held-out pairs.

Pictures are drawn from held-out captions and set against the held-out pictures; captions are written for held-out
pictures and set against theirs; `bits_per_byte` is of held-out captions given their pictures. Training is handed this
as a hook (callbacks.py), and what it measures has the names, settings and numbers of the command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from mot_gen.data.records import Pair, Sample
from mot_gen.errors import InputError
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import IMAGE_TEXT, LIKELIHOOD, SETS, TEXT, Choices, chosen, results_of, update_text
from mot_gen.eval.images.clip import ClipEncoder
from mot_gen.eval.images.extractors import load_extractor
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.result import MetricResult
from mot_gen.files.image_files import image_tensor
from mot_gen.packing import document_length, pack_rows
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.recipes.sections import Evaluation

SHOWN = {name: IMAGE_TEXT[name] for name in ("clip", "refclip")}  # how well a picture shows its caption
BUILDERS = {**SETS, **SHOWN, **TEXT, **LIKELIHOOD}

Make = Callable[[type[MultimodalPipeline]], MultimodalPipeline]  # a pipeline of the model, by its class


@dataclass
class Samples:
    """What a model makes of N held-out pairs, each kind when it is first asked for. make: gives its pipelines. count:
    how many pairs are taken, evenly spread over a set that may be sorted. batch_size: samples generated together, which
    changes none of them."""

    make: Make
    held_out: Sequence[Sample]
    count: int
    seed: int = 0
    batch_size: int = 100

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pictures with captions; InputError where there are none."""
        count = min(self.count, len(self.held_out))
        places = torch.linspace(0, len(self.held_out) - 1, count).round().long().unique().tolist()
        taken = [self.held_out[place] for place in places]
        pairs = [sample for sample in taken if isinstance(sample, Pair) and sample.captions]
        if not pairs:
            raise InputError("no held-out sample is a picture with captions, so there is nothing to measure by")
        return pairs

    @property
    def captions(self) -> list[str]:
        """One caption a pair, the phrasings in turn."""
        return [pair.captions[number % len(pair.captions)] for number, pair in enumerate(self.pairs)]

    @cached_property
    def drawn(self) -> Tensor:
        """(N, C, H, W) uint8: a picture of each caption."""
        pipe, generator = self.make(TextToImagePipeline), torch.Generator().manual_seed(self.seed)
        drawn = [
            pipe(captions, generator=generator, output_type="pt").images for captions in self._batches(self.captions)
        ]
        return to_uint8(torch.cat(drawn))

    @cached_property
    def real(self) -> Tensor:
        """(N, C, H, W) uint8: the pairs' pictures as the model's tokenizer sees them."""
        tokenizer = self.make(MultimodalPipeline).image_tokenizer
        return to_uint8(
            torch.stack([image_tensor(pair.image, tokenizer.size, tokenizer.color_channels) for pair in self.pairs])
        )

    @cached_property
    def written(self) -> list[str]:
        """A caption of each picture, written greedily."""
        pipe = self.make(ImageToTextPipeline)
        return [text for pairs in self._batches(self.pairs) for text in pipe([pair.image for pair in pairs]).texts]

    @cached_property
    def losses(self) -> Tensor:
        """(N,) nats of each caption given its picture, the end of the text included."""
        pipe = self.make(MultimodalPipeline)
        batches = zip(self._batches(self.pairs), self._batches(self.captions))
        return torch.cat(
            [caption_losses(pipe, [pair.image for pair in pairs], captions) for pairs, captions in batches]
        )

    def _batches(self, items: Sequence) -> list[Sequence]:
        return [items[start : start + self.batch_size] for start in range(0, len(items), self.batch_size)]


@torch.inference_mode()
def caption_losses(pipe: MultimodalPipeline, images: Sequence | None, captions: Sequence[str]) -> Tensor:
    """(N,) nats of each caption, the end of the text included, given its picture, or given nothing (None)."""
    samples = [[span] for span in pipe.text_tokenizer.encode_batch(captions)]
    if images is not None:
        samples = [[*shown, *sample] for shown, sample in zip(pipe.seen(images, drawn=False), samples)]
    model = pipe.model
    length = max(document_length(sample, model.modalities) for sample in samples)
    batch = pack_rows([[sample] for sample in samples], model.modalities, length).to(model.embedding.weight.device)
    batch, targets = model.corrupt(batch)
    losses = model.losses(batch, model(batch), targets)[model.modality_names[0]].cpu()
    rows = (batch.target_slots // batch.layout.shape[1]).cpu()
    return torch.zeros(len(captions), dtype=losses.dtype).index_add_(0, rows, losses)


class Evaluator:
    """The metrics of a recipe's `evaluation`. Networks are loaded and packages looked for when it is made: InputError
    says what is unknown or missing before anything is trained."""

    def __init__(self, section: Evaluation):
        self.names = chosen(section.metrics, BUILDERS, "evaluation.metrics")
        needs_features = any(name in SETS for name in self.names)
        self.choices = Choices(
            extractor=load_extractor(section.extractor, weights=section.weights) if needs_features else None,
            clip=ClipEncoder(section.clip) if section.clip else None,
        )
        self._real: Tensor | None = None  # features of the real pictures, which are the same every time
        for name in self.names:
            BUILDERS[name](self.choices)

    def __call__(self, samples: Samples) -> tuple[dict[str, MetricResult], dict[str, str]]:
        """The results, and why a metric failed by its name: a run of days does not end over one of its measurements."""
        for network in (self.choices.extractor, self.choices.clip):
            if network is not None:
                network.to(samples.make(MultimodalPipeline).model.embedding.weight.device)
        results: dict[str, MetricResult] = {}
        failed: dict[str, str] = {}
        drawn = cache(lambda: self._features(samples.drawn))
        for name in self.names:
            metric = BUILDERS[name](self.choices)
            try:
                if name in SETS:
                    metric.update(self._real_features(samples), real=True)
                    metric.update(drawn(), real=False)
                else:
                    _feed(name, metric, samples)
                results |= results_of({name: metric})
            except InputError as error:
                failed[name] = str(error)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
        return results, failed

    def _real_features(self, samples: Samples) -> Tensor:
        if self._real is None:
            self._real = self._features(samples.real)
        return self._real

    def _features(self, images: Tensor) -> Tensor:
        return torch.cat([self.choices.extractor(part).cpu() for part in images.split(64)])


def _feed(name: str, metric: Accumulator, samples: Samples) -> None:
    """All of the samples into a metric that needs no features."""
    references = [list(pair.captions) for pair in samples.pairs]
    if name in TEXT:
        update_text(metric, samples.written, references)
    elif name in LIKELIHOOD:
        metric.update(samples.losses, samples.captions)
    else:
        for start, images in zip(range(0, len(references), 64), samples.drawn.split(64)):
            own = slice(start, start + 64)
            metric.update(images, samples.captions[own], *([references[own]] if name == "refclip" else []))
