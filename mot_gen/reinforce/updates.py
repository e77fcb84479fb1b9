"""Step, the base of steps that learn from rewards or preferences; make_updates, their loop of optimizer updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from mot_gen.recipes.sections import Reinforce
from mot_gen.reinforce.data_losses import DataLosses
from mot_gen.reinforce.learner import Learner
from mot_gen.reinforce.lines import step_cost
from mot_gen.sequence import PackedBatch
from mot_gen.training.runs import Run
from mot_gen.training.step import StepCost, average, read_norm


class Step:
    """The base of `GrpoStep`, `NftStep` and `DpoStep`. It makes the learner of a run once."""

    def __init__(self) -> None:
        self._learner: Learner | None = None

    def learner(self, run: Run) -> Learner:
        """The learner of a run, made when it is first asked for. InputError for what does not fit it."""
        if self._learner is None:
            self._learner = Learner(run)
            self.begin(self._learner)
        return self._learner

    def begin(self, learner: Learner) -> None:
        """Called once, before the first step."""


class UpdateBatch(Protocol):
    """A batch for one forward and backward pass, with what belongs to it."""

    @property
    def batch(self) -> PackedBatch:
        """What the model reads."""


Batch = TypeVar("Batch", bound=UpdateBatch)
Measured = TypeVar("Measured")


@dataclass
class UpdateResult(Generic[Measured]):
    """What came of the updates of a step.

    measures: of each batch, in the last update. spent: what one update took on this process. line: fields for the line
    of metrics.jsonl.
    """

    measures: list[Measured]
    spent: StepCost
    line: dict[str, Any]


def make_updates(
    run: Run, section: Reinforce, batches: Sequence[Batch], backward: Callable[[Batch, bool], Measured]
) -> UpdateResult[Measured]:
    """`reinforce.updates` times: the gradients of all batches and of the recipe's data, and the optimizer's step.

    backward: forward and backward pass of a batch; its second argument is whether an optimizer's step follows.
    """
    data = DataLosses(run, section)
    for _ in range(section.updates):
        data.add()
        measures = [backward(batch, batch is batches[-1]) for batch in batches]
        rate, norm = run.optimizer.step(run.step)
    size = read_norm(run, norm)
    average(run)
    used = step_cost(run, [each.batch for each in batches], data)
    return UpdateResult(measures, used, data.means() | {"lr": rate, "grad_norm": size})
