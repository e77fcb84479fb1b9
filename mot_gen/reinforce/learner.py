"""Learner: what a run needs to learn from rewards, made once a sitting; SampleGroup, RewardedSamples: those of a step.

All that is random is a function of the seed, the step and the sample, so a run that was stopped goes on to the bit: the
samples of the next step are drawn anew from the weights of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from mot_gen.data.records import sample_key
from mot_gen.errors import InputError
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.recipes.recipe import with_fields
from mot_gen.reinforce.advantages import equal_rows
from mot_gen.reinforce.documents import Ids
from mot_gen.reinforce.lines import Sums, sums_of
from mot_gen.reinforce.moe_grpo import refuse_without_experts
from mot_gen.reinforce.prompts import Prompt, Prompts
from mot_gen.reinforce.rewards import RewardInputs, Rewards, make_rewards
from mot_gen.reinforce.rollouts import Rollout, Sampler
from mot_gen.reports.hooks import pipeline_of
from mot_gen.training.origin import Origin
from mot_gen.training.runs import Run, reference_model

B = TypeVar("B")  # a batch


@dataclass(frozen=True)
class SampleGroup:
    """The samples of one prompt. numbers: their numbers among all samples of the step, on all processes."""

    rollouts: Sequence[Rollout]
    numbers: Sequence[int]


@dataclass(frozen=True)
class RewardedSamples:
    """The samples of a step with their rewards.

    rewards: (P, G) for P groups of G samples, NaN where a sample has none. sums: for the line of metrics.jsonl.
    """

    groups: list[SampleGroup]
    rewards: Tensor
    sums: Sums


def samples_of(groups: Sequence[SampleGroup]) -> RewardInputs:
    """All samples of these groups, one after another."""
    return RewardInputs.of([rollout for group in groups for rollout in group.rollouts])


class Learner:
    """Samples groups of answers and rewards them, for one run. InputError, before the first step, for a recipe that
    does not fit the model.

    sampler, prompts: what samples are drawn by, and from. ids: the sets of ids that tokens are chosen from.
    """

    def __init__(self, run: Run):
        assert run.recipe.reinforce is not None
        self.run, self.section = run, run.recipe.reinforce
        if self.section.prompts % run.world.size:
            raise InputError(
                f"reinforce.prompts: {self.section.prompts} prompts cannot be shared by {run.world.size} processes; "
                "give a multiple of it"
            )
        if self.section.experts:
            refuse_without_experts(run.model)
        self.sampler = Sampler(self.pipeline(), self.section)
        self.prompts = Prompts(run.splits.train, self.section, run.recipe.training.seed)
        self.ids = Ids(run.model, self.section.writes)

    @property
    def continuous(self) -> bool:
        """Whether what is written last is continuous."""
        model = self.run.model
        return not model.modality[self.section.writes[-1]].discrete

    @cached_property
    def rewards(self) -> Rewards:
        """The rewards that the recipe names."""
        return make_rewards(self.run.recipe, self.run.splits)

    @cached_property
    def reference(self) -> MultimodalModel:
        """The model from which the penalty measures distance. InputError where it is gone, or has another
        vocabulary."""
        run, name = self.run, self.section.reference or self.run.recipe.training.init
        origin = Origin.of(with_fields(run.recipe, {"training.init": name}))
        assert origin is not None  # a recipe with this section has training.init
        for modality, tokenizer in run.tokenizers.items():
            bound = origin.fingerprints.get(modality)
            if bound and bound != tokenizer.fingerprint:
                raise InputError(
                    f"reinforce.reference: {name} has another vocabulary than the model that learns ({modality} is "
                    "another tokenizer); give a model that shares its tokenizers"
                )
        return reference_model(run, origin, shared=name == run.recipe.training.init)

    def pipeline(self) -> MultimodalPipeline:
        """A pipeline with the weights as they are now; for nft with their average, which is its old model."""
        if self.section.method == "nft":
            return pipeline_of(self.run)
        return pipeline_of(replace(self.run, averaged=self.run.model))

    def groups(self) -> list[SampleGroup]:
        """This process's samples of the step, all drawn in one batch."""
        run, section = self.run, self.section
        own = range(run.world.rank, section.prompts, run.world.size)
        with self._sampling() as pipe:
            prompts = self.prompts.take(pipe, [run.step * section.prompts + number for number in own])
            numbers: list[int] = []
            asked: list[Prompt] = []
            for number, prompt in zip(own, prompts):
                numbers += range(number * section.group, (number + 1) * section.group)
                asked += [prompt] * section.group
            generators = [self.generator("rollout", number) for number in numbers]
            steps = [self.drawn_steps(number) for number in numbers]
            rollouts = self.sampler(pipe, asked, generators, steps)
        groups = []
        for start in range(0, len(numbers), section.group):
            members = slice(start, start + section.group)
            groups.append(SampleGroup(rollouts[members], numbers[members]))
        return groups

    def rewarded(self) -> RewardedSamples:
        """This process's samples of the step, drawn and rewarded."""
        groups = self.groups()
        total, scores = self.rewards(samples_of(groups))
        rewards = total.view(len(groups), -1)
        sums = sums_of({"reward": total, **scores})
        sums["step", "equal_groups"] = int(equal_rows(rewards).sum())
        sums["step", "without_reward"] = float(total.isnan().sum())
        return RewardedSamples(groups, rewards, sums)

    def drawn_steps(self, number: int) -> list[int]:
        """The steps of a sample's picture that are drawn at random, and learned from."""
        flow = self.sampler.flow
        if flow is None:
            return []
        noisy = flow.noisy_steps(self.section.num_inference_steps)
        count = min(self.section.learned_steps or noisy, noisy)
        return sorted(torch.randperm(noisy, generator=self.generator("steps", number))[:count].tolist())

    @contextmanager
    def _sampling(self) -> Any:
        """Within, the pipeline; afterwards the model is in the mode in which training had it."""
        training = self.run.model.training
        try:
            yield self.pipeline()
        finally:
            self.run.model.train(training)

    def generator(self, what: str, number: int) -> torch.Generator:
        """The generator of one sample of this step."""
        seed = sample_key(f"{what}/{self.run.recipe.training.seed}/{self.run.step}/{number}") >> 1
        return torch.Generator().manual_seed(seed)

    def as_many_everywhere(self, batches: Sequence[B], empty: Callable[[], B]) -> list[B]:
        """This process's batches and as many empty ones as it takes to have the same number on every process, one at
        least: processes that share a model make the same calls."""
        (most,) = self.run.world.max([len(batches)])
        missing = max(1, int(most)) - len(batches)
        return [*batches, *(empty() for _ in range(missing))]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of a batch, slots of a row."""
        return self.run.recipe.training.rows, self.run.recipe.training.row_length
