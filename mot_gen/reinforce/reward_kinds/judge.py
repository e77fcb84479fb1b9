"""Reward of pictures: how likely a judge, trained on real pictures, finds the class that was asked for.

Where a text was written before the picture, that text asks; one that names no class is worth nothing. Judges of
different folds saw different pictures, so that one can be rewarded and another watched.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mot_gen.data.records import Pair, Splits, open_all
from mot_gen.datasets.task import Task
from mot_gen.errors import InputError
from mot_gen.eval.images.judge import Judge, train_judge
from mot_gen.files.image_files import image_tensor
from mot_gen.recipes.recipe import Recipe
from mot_gen.reports.judge_run import task_of

VALUES = ("probability", "right")


def reward(
    where: str,
    recipe: Recipe,
    splits: Splits,
    fold: int | None = None,
    folds: int = 2,
    seed: int = 1,
    labels: str | None = None,
    value: str = "probability",
) -> Callable[..., list[float]]:
    """fold: the part of the real pictures, of `folds`, that the judge is trained on; None for all. labels: records of
    your own, each a picture whose caption is its class, in the place of the recipe's data. value: "probability" of the
    class, or "right", 1 where it is the likeliest and else 0."""
    if value not in VALUES:
        raise InputError(f"{where}.value: {value!r} is not known; it is probability or right")
    if fold is not None and not 0 <= fold < folds:
        raise InputError(f"{where}.fold: must be from 0 to {folds - 1}, got {fold}")
    pairs, task = _labelled(where, recipe, splits, labels)
    judged = _Judged(pairs if fold is None else pairs[fold::folds], task, seed, value)
    if recipe.reinforce is not None and "text" in recipe.reinforce.writes:
        return lambda images, texts: judged(images, texts)
    return lambda images, prompts: judged(images, prompts)


@dataclass
class _Judged:
    """Judges of pictures, one for each shape that is met. pairs: real pictures."""

    pairs: Sequence[Pair]
    task: Task
    seed: int
    value: str
    judges: dict[torch.Size, Judge] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, images: Tensor, asked: Sequence[str]) -> list[float]:
        """images (N, C, H, W) in [0, 1], and the text that asked for each."""
        shares = self._judge(images)(images).softmax(-1)
        if self.value == "right":
            shares = (shares == shares.amax(-1, keepdim=True)).float()
        classes = [self.task.class_of(text) for text in asked]
        return [0.0 if k is None else float(share[k]) for share, k in zip(shares, classes)]

    def _judge(self, images: Tensor) -> Judge:
        shape = images.shape[1:]
        if shape not in self.judges:
            channels, height, width = shape
            real = torch.stack([image_tensor(pair.image, (height, width), channels) for pair in self.pairs])
            wanted = torch.tensor([self.task.label(pair) for pair in self.pairs])
            if not int(os.environ.get("RANK", 0)):  # it takes some seconds
                print(f"training a judge on {len(self.pairs):,} pictures", file=sys.stderr, flush=True)
            with torch.enable_grad():
                self.judges[shape] = train_judge(real, wanted, len(self.task.classes), seed=self.seed)
        return self.judges[shape]


def _labelled(where: str, recipe: Recipe, splits: Splits, labels: str | None) -> tuple[list[Pair], Task]:
    """Pictures with their classes: of the file `labels`, else of the recipe's data where they have a task."""
    task = task_of(recipe) if labels is None else None
    samples = splits.train if labels is None else open_all([labels])
    pairs = [sample for sample in samples if isinstance(sample, Pair) and sample.captions]
    if labels is not None:
        task = _task_of_labels(pairs)
    if task is None or not pairs:
        raise InputError(
            f"{where}: these data name no classes; give labels=FILE, records of pictures whose caption is their class"
        )
    return pairs, task


def _task_of_labels(pairs: Sequence[Pair]) -> Task:
    """A prompt asks for the class whose name stands in it, the longest where there are several."""
    classes = sorted({pair.captions[0] for pair in pairs})

    def class_of(text: str) -> int | None:
        named = [name for name in classes if name in text]
        return classes.index(max(named, key=len)) if named else None

    return Task(classes, lambda k: [classes[k]], class_of, "pictures of your own labels")
