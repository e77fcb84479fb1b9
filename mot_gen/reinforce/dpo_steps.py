"""One step of learning from preferences: DpoStep. Pairs of a file, or of the model's own samples, judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.reinforce.dpo import diffusion_margin, preference_loss, token_margin
from mot_gen.reinforce.learner import Learner, samples_of
from mot_gen.reinforce.lines import join_measures, means_of, sums_of
from mot_gen.reinforce.pairs import PairBatch, batches_of, scores
from mot_gen.reinforce.policy import zero_of_unused
from mot_gen.reinforce.preferences import Preference, Record, best_and_worst, read_preferences, tokenise
from mot_gen.reinforce.updates import Step, make_updates
from mot_gen.training import parallel
from mot_gen.training.runs import Run
from mot_gen.training.step import Clock, autocast, close_step


class DpoStep(Step):
    """A step of `method: dpo`, as `training.loop.Hooks.step`."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[Record] = []

    def __call__(self, run: Run) -> dict[str, Any]:
        """Take or make pairs, and make the optimizer's updates. Returns the line of metrics.jsonl."""
        clock, learner = Clock(), self.learner(run)
        preferences, logged = self._preferences(learner)
        batches = batches_of(learner, preferences)
        (total,) = run.world.sum([sum(batch.pairs for batch in batches)])

        def backward(batch: PairBatch, last: bool) -> dict[str, Tensor]:
            return _backward(learner, batch, max(total, 1.0), last)

        made = make_updates(run, learner.section, batches, backward)
        line, sums = close_step(run, clock, made.spent, sums_of({**join_measures(made.measures), **logged}))
        line |= _logged(means_of(sums), learner.section.writes[0], list(logged))
        line["pairs"] = int(total)
        return line | made.line

    def begin(self, learner: Learner) -> None:
        """Read the preferences of files. InputError for what is no pair."""
        section = learner.section
        if len(section.writes) > 1:
            raise InputError("reinforce.writes: dpo compares texts, or pictures; name one of them")
        if section.preferences:
            self._records = read_preferences(section.preferences, pictures=section.writes == ["image"])

    def _preferences(self, learner: Learner) -> tuple[list[Preference], dict[str, Tensor]]:
        """This process's pairs of the step, and the scores of the samples that they are made of."""
        if self._records:
            return self._of_file(learner), {}
        section, groups = learner.section, learner.groups()
        total, found = learner.rewards(samples_of(groups))
        preferences: list[Preference] = []
        for group, rewards in zip(groups, total.view(len(groups), -1)):
            preferences += best_and_worst(group.rollouts, rewards, section.least_gap, group.numbers[0])
        return preferences, {"reward": total, **found}

    def _of_file(self, learner: Learner) -> list[Preference]:
        run, section = learner.run, learner.section
        first = run.step * section.prompts
        numbers = [first + number for number in range(run.world.rank, section.prompts, run.world.size)]
        records = [self._records[number % len(self._records)] for number in numbers]
        pictures = section.writes == ["image"]
        return tokenise(learner.pipeline(), records, numbers, pictures=pictures)


@torch.no_grad()
def _by_reference(learner: Learner, batch: PairBatch) -> Tensor:
    """(2 P,) the scores of a batch by the reference."""
    with autocast(learner.run):
        return scores(learner, batch, learner.reference(batch.packed.batch))


def _backward(learner: Learner, batch: PairBatch, total: float, last: bool) -> dict[str, Tensor]:
    """Forward and backward of one batch; what was measured of each of its pairs. total: pairs of the step."""
    run, section = learner.run, learner.section
    if batch.reference is None:
        batch.reference = _by_reference(learner, batch)
    with parallel.accumulating(run.network, last):
        with autocast(run):
            output = run.network(batch.packed.batch)
            now = scores(learner, batch, output)
        won, lost = now[0::2], now[1::2]
        won_before, lost_before = batch.reference[0::2], batch.reference[1::2]
        if learner.continuous:
            margin = diffusion_margin(-won, -lost, -won_before, -lost_before, section.image_beta)
        else:
            margin = token_margin(won, lost, won_before, lost_before, section.beta)
        each = preference_loss(margin)
        (each.sum() / total + zero_of_unused(output)).backward()
    gained = won.detach() - won_before
    return {"loss": each.detach(), "margin": margin.detach(), "chosen_gain": gained, "preferred": (margin > 0).float()}


def _logged(means: dict[str, float], modality: str, scores: Sequence[str]) -> dict[str, Any]:
    """Part of the line of metrics.jsonl. scores: which of the means are rewards; the others are of the pairs."""
    line: dict[str, Any] = {"losses": {modality: means.pop("loss")}}
    if scores:
        line["reward"] = means.pop("reward")
        line["rewards"] = {name: means.pop(name) for name in scores if name != "reward"}
    return line | means
