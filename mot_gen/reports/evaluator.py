"""The metrics of `mot-gen eval` over a model in memory: Evaluator; GeneratedSamples, what it makes of held-out pairs.

Pictures are drawn from held-out captions and set against the held-out pictures; captions are written for held-out
pictures and set against theirs; `bits_per_byte` is of held-out captions given their pictures. Training is handed this
as a hook (hooks.py), and what it measures has the names, settings and numbers of the command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from mot_gen.data.records import Pair
from mot_gen.errors import InputError
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import EVALUATED, LIKELIHOOD, SETS, TEXT, MetricOptions, chosen_names, results_of, update_text
from mot_gen.eval.images.clip import ClipEncoder
from mot_gen.eval.images.extractors import load_extractor
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.result import MetricResult
from mot_gen.files.image_files import image_tensor
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.recipes.sections import Evaluation
from mot_gen.reports.generated import HeldOut, MakePipeline, draw, pictures_of, write

AT_ONCE = 64  # pictures that a network is given together


@dataclass
class GeneratedSamples:
    """What a model makes of held-out pairs, each kind when it is first asked for.

    make: gives the model's pipelines.
    held_out: the pairs.
    seed: of the first picture's noise; the others count up.
    batch_size: samples generated together, which changes none of them.
    """

    make: MakePipeline
    held_out: HeldOut
    seed: int = 0
    batch_size: int = 100

    @property
    def pairs(self) -> list[Pair]:
        return self.held_out.pairs

    @property
    def captions(self) -> list[str]:
        return self.held_out.captions

    @cached_property
    def drawn(self) -> Tensor:
        """(N, C, H, W) uint8: a picture of each caption."""
        seeds = range(self.seed, self.seed + len(self.captions))
        pictures = draw(self.make(TextToImagePipeline), self.captions, seeds, self.batch_size, output_type="pt")
        return to_uint8(torch.stack(list(pictures)))

    @cached_property
    def real(self) -> Tensor:
        """(N, C, H, W) uint8: the pairs' pictures as the model's tokenizer sees them."""
        tokenizer = self.make(MultimodalPipeline).image_tokenizer
        pictures = pictures_of(self.pairs, tokenizer)
        images = [image_tensor(picture, tokenizer.size, tokenizer.color_channels) for picture in pictures]
        return to_uint8(torch.stack(images))

    @cached_property
    def written(self) -> list[str]:
        """A caption of each picture, written greedily."""
        pipe = self.make(ImageToTextPipeline)
        return list(write(pipe, self.held_out.seen(pipe), self.batch_size))

    @cached_property
    def losses(self) -> Tensor:
        """(N,) nats of each caption given its picture, the end of the text included."""
        return self.held_out.losses(self.make(MultimodalPipeline), size=self.batch_size)


class Evaluator:
    """The metrics of a recipe's `evaluation`. Networks are loaded and packages looked for when it is made: InputError
    says what is unknown or missing before anything is trained."""

    def __init__(self, section: Evaluation):
        self.names = chosen_names(section.metrics, EVALUATED, "evaluation.metrics")
        needs_features = any(name in SETS for name in self.names)
        self.choices = MetricOptions(
            extractor=load_extractor(section.extractor, weights=section.weights) if needs_features else None,
            clip=ClipEncoder(section.clip) if section.clip else None,
        )
        self._real: Tensor | None = None  # features of the real pictures, which are the same every time
        for name in self.names:
            EVALUATED[name](self.choices)

    def __call__(self, samples: GeneratedSamples) -> tuple[dict[str, MetricResult], dict[str, str]]:
        """The results, and why a metric failed by its name: a run of days does not end over one of its measurements."""
        for network in (self.choices.extractor, self.choices.clip):
            if network is not None:
                network.to(samples.make(MultimodalPipeline).model.embedding.weight.device)
        results: dict[str, MetricResult] = {}
        failed: dict[str, str] = {}
        drawn = cache(lambda: self._features(samples.drawn))
        for name in self.names:
            try:
                results |= self._measured(name, samples, drawn)
            except InputError as error:
                failed[name] = str(error)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
        return results, failed

    def _measured(self, name: str, samples: GeneratedSamples, drawn: Callable[[], Tensor]) -> dict[str, MetricResult]:
        """The results of one metric. drawn: gives the features of the pictures that were drawn."""
        metric = EVALUATED[name](self.choices)
        if name in SETS:
            metric.update(self._real_features(samples), real=True)
            metric.update(drawn(), real=False)
        else:
            _feed(name, metric, samples)
        return results_of({name: metric})

    def _real_features(self, samples: GeneratedSamples) -> Tensor:
        if self._real is None:
            self._real = self._features(samples.real)
        return self._real

    def _features(self, images: Tensor) -> Tensor:
        extractor = self.choices.extractor
        assert extractor is not None  # since a metric of sets was asked for
        return torch.cat([extractor(part).cpu() for part in images.split(AT_ONCE)])


def _feed(name: str, metric: Accumulator, samples: GeneratedSamples) -> None:
    """All of the samples into a metric that needs no features."""
    references = [list(pair.captions) for pair in samples.pairs]
    if name in TEXT:
        update_text(metric, samples.written, references)
    elif name in LIKELIHOOD:
        metric.update(samples.losses, samples.captions)
    else:
        for start in range(0, len(references), AT_ONCE):
            own = slice(start, start + AT_ONCE)
            compared = [references[own]] if name == "refclip" else []
            metric.update(samples.drawn[own], samples.captions[own], *compared)
