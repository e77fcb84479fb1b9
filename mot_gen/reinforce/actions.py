"""The choices in samples, with their advantages, as batches: TrainedSample, Actions, ActionBuilder.

Shapes: M targets of a batch, N continuous tokens of its pictures, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mot_gen.model import MultimodalModel
from mot_gen.reinforce.documents import NEVER, Packed, RolloutDocument, choices, pack_documents, rows_of
from mot_gen.reinforce.rollouts import Rollout
from mot_gen.sequence import PackedBatch, all_learned, only_read
from mot_gen.sequence.moving import Movable


@dataclass(frozen=True)
class TrainedSample:
    """A sample that is learned from. steps: those steps of its picture that are learned from."""

    rollout: Rollout
    advantage: float
    steps: Sequence[int] = ()


@dataclass
class Actions(Movable):
    """A batch, and what was chosen in it.

    allowed: (M,) the set of ids from which each target was chosen, or NEVER.
    token_advantage, token_weight: (M,) of each target; a weight of 0 means that nothing was chosen.
    number: (N,) the sampler's step at which each continuous token is. after: (N, C) x after this step.
    advantage, weight: (N,) of each continuous token.
    """

    batch: PackedBatch
    allowed: Tensor
    token_advantage: Tensor
    token_weight: Tensor
    after: Tensor
    number: Tensor
    advantage: Tensor
    weight: Tensor


@dataclass
class _WeightedDocument:
    """A document, with the advantage of its sample, the weight of each of its actions, and the sampler's step."""

    document: RolloutDocument
    advantage: float
    weight: float
    step: int = 0


class ActionBuilder:
    """How samples become actions.

    times: the times of the sampler's steps, None where no picture is continuous.
    per_answer: whether all answers count the same; else all actions do.
    """

    def __init__(self, model: MultimodalModel, times: Tensor | None, per_answer: bool):
        self.model, self.times, self.per_answer = model, times, per_answer

    def batches(self, chosen: Sequence[TrainedSample], rows: int, slots: int) -> list[Actions]:
        """The actions of some samples, in batches of `rows` rows of `slots`; one at least."""
        weighed: list[_WeightedDocument] = []
        for each in chosen:
            weighed += self._of_tokens(each)
            weighed += self._of_steps(each)
        documents = [each.document for each in weighed]
        plan = rows_of(self.model, documents, slots)
        starts = range(0, len(plan), rows)
        return [_actions(pack_documents(self.model, documents, plan[s : s + rows], slots), weighed) for s in starts]

    def empty(self, slots: int) -> Actions:
        """A batch without a document, for a process that has none left while others have."""
        return _actions(pack_documents(self.model, [], [[]], slots), [])

    def _of_tokens(self, chosen: TrainedSample) -> list[_WeightedDocument]:
        """The document of what was written token by token; none where nothing was."""
        rollout = chosen.rollout
        written = all_learned(rollout.spans)
        allowed = choices(self.model, written, rollout.ended)
        count = sum(each != NEVER for each in allowed)
        if not count:
            return []
        weight = 1 / count if self.per_answer else 1.0
        return [_WeightedDocument(RolloutDocument([*rollout.read, *written], allowed), chosen.advantage, weight)]

    def _of_steps(self, chosen: TrainedSample) -> list[_WeightedDocument]:
        """A document for each step of a continuous picture, which reads all that was written before it."""
        rollout = chosen.rollout
        if rollout.noisy is None or rollout.after is None or self.times is None:
            return []
        *before, picture = rollout.spans
        read = [*rollout.read, *only_read(before)]
        none = [NEVER] * len(choices(self.model, [picture], ended=False))
        weight = 1.0
        if self.per_answer:
            weight = 1 / (len(picture) * max(1, len(chosen.steps)))
        found = []
        for step in chosen.steps:
            noisy = replace(picture, values=rollout.noisy[step], learned=True)
            document = RolloutDocument([*read, noisy], none, float(self.times[step]), rollout.after[step])
            found.append(_WeightedDocument(document, chosen.advantage, weight, step))
        return found


def _actions(batch: Packed, weighed: Sequence[_WeightedDocument]) -> Actions:
    advantage = torch.tensor([each.advantage for each in weighed], dtype=torch.float32)
    weight = torch.tensor([each.weight for each in weighed], dtype=torch.float32)
    step = torch.tensor([each.step for each in weighed], dtype=torch.long)
    of_target, of_token, learned = batch.of_target, batch.of_token.clamp_min(0), batch.of_token >= 0
    if not weighed:
        advantage, weight, step = torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    return Actions(
        batch.batch,
        batch.allowed,
        token_advantage=advantage[of_target],
        token_weight=weight[of_target] * (batch.allowed != NEVER),
        after=batch.target,
        number=step[of_token] * learned,
        advantage=advantage[of_token] * learned,
        weight=weight[of_token] * learned,
    )
