"""What a finished run is judged by: measure_images, measure_captions, measure_text; judge_of, prompts_of.

A `Task`'s captions name one of a few classes, so a judge can say whether a picture is what was asked for, and a caption
can be compared word for word with all phrasings of the right class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from mot_gen.data.records import Pair
from mot_gen.datasets.task import Task
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.images.judge import Judge, reliability, train_judge
from mot_gen.eval.text.likelihood import BitsPerByte
from mot_gen.files.image_files import image_tensor, to_pil
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.reports.generated import HeldOut, draw, write
from mot_gen.reports.hooks import pipeline_of
from mot_gen.training.loop import Run


@dataclass(frozen=True)
class MeasuredRun:
    """What was measured of a run, and what is shown of it.

    figures: what goes into the report. pictures and labels: those that are shown, `shown` of each class.
    """

    figures: dict
    pictures: list[Image.Image]
    labels: list[int]


def real_images(run: Run, pairs: Sequence[Pair], task: Task) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) in [0, 1] as the tokenizer sees them, and labels (N,)."""
    tokenizer = run.tokenizers["image"]
    images = [image_tensor(pair.image, tokenizer.size, tokenizer.color_channels) for pair in pairs]
    return torch.stack(images), torch.tensor([task.label(pair) for pair in pairs])


def judge_of(run: Run, task: Task) -> Judge:
    """A judge of the task's classes, trained on the run's training pictures."""
    images, labels = real_images(run, cast("Sequence[Pair]", run.splits.train), task)
    return train_judge(images, labels, classes=len(task.classes))


def prompts_of(task: Task, count: int) -> tuple[list[str], Tensor]:
    """`count` captions, all classes and phrasings in turn, and (count,) the classes that they name."""
    classes = len(task.classes)
    labels = [number % classes for number in range(count)]
    prompts = [_in_turn(task.captions_of(label), number // classes) for number, label in enumerate(labels)]
    return prompts, torch.tensor(labels)


def measure_images(run: Run, task: Task, count: int, seed: int = 0, judge: Judge | None = None) -> MeasuredRun:
    """Draw `count` pictures, all classes and phrasings in turn, and let a judge trained on the real ones name them.

    judge: of `judge_of`, where it has been trained already.
    """
    train_set, held_out = (
        real_images(run, cast("Sequence[Pair]", pairs), task) for pairs in (run.splits.train, run.splits.held_out)
    )
    judge = judge or train_judge(*train_set, classes=len(task.classes))
    prompts, wanted = prompts_of(task, count)
    pipe = pipeline_of(run, TextToImagePipeline)
    images = torch.stack(list(draw(pipe, prompts, range(seed, seed + count), output_type="pt")))
    right = judge.predict(images) == wanted
    return MeasuredRun(
        figures={
            "class_accuracy": judge.agreement(images, wanted),
            "class_accuracy_by_class": {
                n: right[wanted == k].double().mean().item() for k, n in enumerate(task.classes)
            },
            "frechet": float(_frechet(train_set[0], images)),
            "frechet_of_held_out": float(_frechet(train_set[0], held_out[0])),
            "frechet_of_judge_features": float(_frechet(judge.embed(train_set[0]), judge.embed(images))),
            "nearest_training_distance": _nearest(images, train_set[0]),
            "nearest_training_distance_of_held_out": _nearest(held_out[0], train_set[0]),
            "n": count,
            "measured_on": f"{count} generated {task.what}, {len(task.classes)} classes in turn; judge: a CNN trained "
            f"on the {len(train_set[0])} training images; frechet: pixels as features, against the training images",
            "judge": asdict(reliability(judge, *held_out)),
            "judge_of_round_trip": judge.agreement(_round_trip(run, held_out[0]), held_out[1]),
            "signature": _frechet(train_set[0], images).signature,
            "sampling": run.recipe.sampling.model_dump() | {"seed": seed},
        },
        pictures=[to_pil(image) for image in images],
        labels=wanted.tolist(),
    )


def _round_trip(run: Run, images: Tensor) -> Tensor:
    """(N, C, H, W) encoded and decoded: the best that a model of these tokens can be expected to draw."""
    tokenizer = run.tokenizers["image"]
    return torch.stack(tokenizer.decode_batch(tokenizer.encode_batch(list(images)))).cpu()


def _in_turn(items: Sequence[str], number: int) -> str:
    return items[number % len(items)]


def _frechet(real: Tensor, fake: Tensor):
    metric = FrechetDistance()
    metric.update(real.flatten(1), real=True)
    metric.update(fake.flatten(1), real=False)
    return metric.compute()


def _nearest(images: Tensor, training: Tensor) -> float:
    """Mean over images of the root-mean-square pixel distance to the nearest training picture; 0 would be a copy."""
    distances = torch.cdist(images.flatten(1), training.flatten(1)).amin(1)
    return (distances / images[0].numel() ** 0.5).mean().item()


def measure_captions(run: Run, task: Task, held_out: HeldOut) -> tuple[dict, list[tuple[Pair, str, bool]]]:
    """Caption every held-out picture greedily: figures, and (pair, caption, whether right) of each. Right is a caption
    that is, word for word, one of the picture's own."""
    pairs, pipe = held_out.pairs, pipeline_of(run, ImageToTextPipeline)
    spans = held_out.seen(pipe)
    texts = write(pipe, spans, max_new_tokens=run.recipe.sampling.max_new_tokens)
    judged = [(pair, text, text.strip() in pair.captions) for pair, text in zip(pairs, texts)]
    figures = {
        "accuracy": sum(right for *_, right in judged) / len(judged),
        "n": len(judged),
        "measured_on": f"{len(judged)} held-out {task.what}; right: one of the phrasings of the picture, word for word",
    }
    return figures, judged


def measure_text(run: Run, held_out: HeldOut) -> dict:
    """Bits per byte of held-out captions, given their picture and given nothing."""
    return {
        "bits_per_byte": (given := _bits_per_byte(run, held_out, with_image=True)).value,
        "bits_per_byte_without_image": _bits_per_byte(run, held_out, with_image=False).value,
        **given.n,
        "measured_on": "held-out captions, one phrasing each, given their picture; the end of the text included",
        "signature": given.signature,
    }


def _bits_per_byte(run: Run, held_out: HeldOut, with_image: bool):
    metric = BitsPerByte()
    metric.update(held_out.losses(pipeline_of(run), with_image), held_out.captions)
    return metric.compute()
