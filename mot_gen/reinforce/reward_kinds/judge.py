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
from mot_gen.data.samples import captioned_pairs
from mot_gen.datasets.task import Task
from mot_gen.errors import InputError, require
from mot_gen.eval.images.judge import Judge, train_judge
from mot_gen.files.image_files import image_tensor
from mot_gen.recipes.recipe import Recipe
from mot_gen.reports.judge_run import task_of

VALUES = ("probability", "right")

ASKS = ("images",)  # what must be written for it


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
    require(value in VALUES, f"{where}.value: {value!r} is not known; it is probability or right")
    if fold is not None and not 0 <= fold < folds:
        raise InputError(f"{where}.fold: must be from 0 to {folds - 1}, got {fold}")
    pairs, task = _labelled(where, recipe, splits, labels)
    if fold is not None:
        pairs = pairs[fold::folds]
    judged = _Judged(pairs, task, seed, value)
    writes_text = recipe.reinforce is not None and "text" in recipe.reinforce.writes
    if writes_text:
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
        return [self._share(own, text) for own, text in zip(shares, asked)]

    def _share(self, shares: Tensor, asked: str) -> float:
        """That of the class that a text asks for, of shares (K,) of the classes; nothing where it asks for none."""
        wanted = self.task.class_of(asked)
        return 0.0 if wanted is None else float(shares[wanted])

    def _judge(self, images: Tensor) -> Judge:
        """The judge of pictures of this shape, trained when the first come."""
        shape = images.shape[1:]
        if shape not in self.judges:
            self.judges[shape] = self._trained(*shape)
        return self.judges[shape]

    @torch.enable_grad()
    def _trained(self, channels: int, height: int, width: int) -> Judge:
        real = torch.stack([image_tensor(pair.image, (height, width), channels) for pair in self.pairs])
        wanted = torch.tensor([self.task.label(pair) for pair in self.pairs])
        first_process = int(os.environ.get("RANK", 0)) == 0
        if first_process:  # it takes some seconds
            print(f"training a judge on {len(self.pairs):,} pictures", file=sys.stderr, flush=True)
        return train_judge(real, wanted, len(self.task.classes), seed=self.seed)


def _labelled(where: str, recipe: Recipe, splits: Splits, labels: str | None) -> tuple[list[Pair], Task]:
    """Pictures with their classes: of the file `labels`, else of the recipe's data where they have a task."""
    task: Task | None
    if labels is None:
        pairs = captioned_pairs(splits.train)
        task = task_of(recipe)
    else:
        pairs = captioned_pairs(open_all([labels]))
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
        named = max((name for name in classes if name in text), key=len, default=None)
        return None if named is None else classes.index(named)

    return Task(classes, lambda k: [classes[k]], class_of, "pictures of your own labels")
