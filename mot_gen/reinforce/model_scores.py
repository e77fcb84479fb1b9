"""What a model is worth by the scores of a run, as users sample from it: ModelScores, measure.

Shapes: N samples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mot_gen.data.records import Pair
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.text.segments import bootstrap, mean_rows, mean_score
from mot_gen.files.image_files import image_tensor
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.reinforce.learner import Learner
from mot_gen.reinforce.prompts import Prompt
from mot_gen.reinforce.rewards import NamedReward, RewardInputs
from mot_gen.reports.generated import HeldOut, draw, in_batches, pictures_of, write
from mot_gen.reports.hooks import pipeline_of
from mot_gen.training.runs import Run

CONFIDENCE = 0.95


class MeanScore(NamedTuple):
    """The mean of a score, and the bounds of its interval of confidence."""

    value: float
    low: float
    high: float


@dataclass
class ModelScores:
    """What a model is worth.

    scores: of each reward the mean. spread: how different the samples are, None where no prompt has two of them.
    frechet: of pictures, in pixels, to real ones. samples: what was measured.
    """

    scores: dict[str, MeanScore]
    spread: float | None
    frechet: float | None
    samples: RewardInputs = field(repr=False)

    def figures(self) -> dict[str, Any]:
        """What a report holds."""
        scores = {}
        for name, mean in self.scores.items():
            scores[name] = {"value": mean.value, "interval": [mean.low, mean.high]}
        return {
            "scores": scores,
            "spread": self.spread,
            "frechet": self.frechet,
            "n": len(self.samples.names),
        }


def measure(learner: Learner, run: Run, scores: Sequence[NamedReward], guidance: float = 1.0) -> ModelScores:
    """`evaluation.samples` samples of a run's averaged model, by every score. Prompts are held out; the noise is the
    same for every model. guidance: of pictures; 1 is none."""
    writes = learner.section.writes
    if writes == ["image"]:
        samples = _pictures(run, guidance)
    elif writes == ["text"]:
        samples = _texts(run)
    else:
        samples = _documents(learner, run)
    means = {score.name: _mean(score(samples, lambda name, why: None)) for score in scores}
    frechet = None
    if samples.images is not None:
        frechet = _frechet(run, samples.images)
    return ModelScores(means, _spread(samples), frechet, samples)


def _pictures(run: Run, guidance: float) -> RewardInputs:
    held_out, count = HeldOut(run.splits.held_out), run.recipe.evaluation.samples
    captions = list(islice(cycle(held_out.captions), count))
    pipe = pipeline_of(run, TextToImagePipeline)
    seeds, size = range(count), run.recipe.evaluation.batch_size
    images = torch.stack(list(draw(pipe, captions, seeds, size, output_type="pt", guidance_scale=guidance)))
    references = list(islice(cycle([pair.captions for pair in held_out.pairs]), count))
    return RewardInputs(captions, [""] * count, images, references, list(map(str, seeds)))


def _texts(run: Run) -> RewardInputs:
    held_out = HeldOut(run.splits.held_out, run.recipe.evaluation.samples)
    pipe = pipeline_of(run, ImageToTextPipeline)
    texts = list(write(pipe, held_out.seen(pipe), max_new_tokens=run.recipe.sampling.max_new_tokens))
    pairs = held_out.pairs
    return RewardInputs([""] * len(pairs), texts, None, [pair.captions for pair in pairs], [pair.id for pair in pairs])


def _documents(learner: Learner, run: Run) -> RewardInputs:
    """A text and its picture, sampled as in training."""
    pipe: MultimodalPipeline = pipeline_of(run)
    rollouts = []
    for numbers in in_batches(range(run.recipe.evaluation.samples), run.recipe.evaluation.batch_size):
        prompts = _nothing(numbers) if learner.prompts.given == "nothing" else learner.prompts.take(pipe, numbers)
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        rollouts += learner.sampler(pipe, prompts, generators)
    return RewardInputs.of(rollouts)


def _nothing(numbers: Sequence[int]) -> list[Prompt]:
    return [Prompt(f"sample {number}", []) for number in numbers]


def _mean(scores: Tensor) -> MeanScore:
    """The mean over the samples that have a score, with its bootstrap interval."""
    known = scores[scores.isfinite()].double()
    mean = float(known.mean())
    interval = None
    if len(known) > 1:
        interval = bootstrap(mean_rows(known), mean_score, CONFIDENCE)
    low, high = interval or (mean, mean)
    return MeanScore(mean, low, high)


def _spread(samples: RewardInputs) -> float | None:
    """Pictures: the mean root-mean-square distance between two samples of one prompt, None where none has two. Texts
    alone: the share of them that differ."""
    if samples.images is None:
        return len(set(samples.texts)) / len(samples.texts)
    groups: defaultdict[str, list[Tensor]] = defaultdict(list)
    for prompt, image in zip(samples.prompts, samples.images):
        groups[prompt].append(image.flatten())
    several = [torch.stack(own) for own in groups.values() if len(own) > 1]
    if not several:
        return None
    distances = [torch.pdist(pixels) / pixels.shape[1] ** 0.5 for pixels in several]
    return float(torch.cat(distances).mean())


def commonest(samples: RewardInputs) -> tuple[str, float]:
    """The text that was written most often, and its share."""
    ((text, count),) = Counter(samples.texts).most_common(1)
    return text, count / len(samples.texts)


def _frechet(run: Run, images: Tensor) -> float:
    """The Frechet distance of pixels to the training pictures."""
    pairs = [sample for sample in run.splits.train if isinstance(sample, Pair)]
    tokenizer = run.tokenizers["image"]
    channels, height, width = images.shape[1:]
    real = [image_tensor(picture, (height, width), channels) for picture in pictures_of(pairs, tokenizer)]
    metric = FrechetDistance()
    metric.update(torch.stack(real).flatten(1), real=True)
    metric.update(images.flatten(1), real=False)
    return float(metric.compute())
