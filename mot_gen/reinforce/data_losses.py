"""The objectives' own losses on the recipe's data, learned beside rewards: DataLosses.

A model that learns from rewards alone forgets what it does not need for them. InstructGPT adds the gradients of
pretraining to those of the reward for this reason (PPO-ptx; Ouyang et al. 2022, arXiv 2203.02155, equation 2).
"""

from __future__ import annotations

from torch import Tensor

from mot_gen.recipes.sections import Reinforce
from mot_gen.training.runs import Run
from mot_gen.training.step import StepCost, add_gradients


class DataLosses:
    """The batches of data of one step. A step that reads none adds nothing.

    Where data are read in every n-th step alone, they weigh n times as much there.
    """

    def __init__(self, run: Run, section: Reinforce):
        self._run, self._weight = run, section.data_weight * section.data_every
        reads = section.data_weight > 0 and run.step % section.data_every == 0
        self._work = run.batches.take(run.step) if reads else None
        self._sums: Tensor | None = None

    def add(self) -> None:
        """Add their gradients to those of an update. The batches of the reward follow."""
        if self._work is not None:
            self._sums = add_gradients(self._run, self._work, self._weight, more=True)

    @property
    def spent(self) -> StepCost:
        """What one update takes, this process's share."""
        if self._work is None:
            return StepCost(0.0, 0.0, 0.0)
        size = self._run.world.size
        return StepCost(self._work.tokens / size, self._work.flops / size, self._work.slots / size)

    def means(self) -> dict[str, dict[str, float]]:
        """`data_losses` of a line of metrics.jsonl, by modality; nothing where no data are learned. All processes call
        it."""
        if self._work is None or self._sums is None:
            return {}
        sums = dict(zip(self._run.model.modality_names, self._run.world.sum(self._sums.tolist())))
        counts = self._work.counts
        return {"data_losses": {name: sums[name] / counts[name] for name in counts if counts[name]}}
