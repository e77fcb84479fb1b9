"""What the trainings of tokenizers share: TrainingSettings, and run_steps, the loop over the steps of a Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from mot_gen.errors import InputError, Interrupted


@dataclass(frozen=True)
class TrainingSettings:
    """steps of batch_size examples; the learning rate rises over warmup_steps and falls to zero as a cosine.

    clip: the largest norm of all gradients together. log_every and checkpoint_every: in steps.
    """

    steps: int = 1000
    batch_size: int = 16
    lr: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500

    def __post_init__(self):
        check_positive(self, ("steps", "batch_size", "lr", "checkpoint_every", "log_every"))

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def check_positive(settings: Any, fields: Sequence[str]) -> None:
    """InputError unless all these fields are above zero; NaN is not."""
    for field in fields:
        value = getattr(settings, field)
        if not value > 0:
            raise InputError(f"{field} must be positive, got {value}")


class Trainer(Protocol):
    """What `run_steps` runs. step: how many steps were taken."""

    tokenizer: Any
    options: Any
    step: int

    def one_step(self) -> dict[str, Tensor]:
        """The step after those that were taken; its losses by name, () each."""
        ...


def run_steps(
    trainer: Trainer, report: Callable[[dict], None], save: Callable[[], None], stop: Callable[[], bool]
) -> None:
    """All steps that are left.

    report: is given a row of `step` and the losses every log_every steps. save: is called every checkpoint_every steps
    and after the last. stop: is asked after each step; where it says so, `save` is called and Interrupted raised.
    """
    options = trainer.options
    while trainer.step < options.steps:
        losses = trainer.one_step()
        trainer.step += 1
        last = trainer.step == options.steps
        if trainer.step % options.log_every == 0:
            report({"step": trainer.step} | {name: loss.item() for name, loss in losses.items()})
        if last or trainer.step % options.checkpoint_every == 0:
            save()
        if not last and stop():
            save()
            name = trainer.tokenizer.config.name
            raise Interrupted(f"stopped at step {trainer.step} of the {name} tokenizer; the same command goes on")
