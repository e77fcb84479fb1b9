"""One step of learning pictures by DiffusionNFT: NftStep. Sample, reward, noise again, learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.model import MultimodalModel, Output
from mot_gen.reinforce.advantages import advantages, equal_rows
from mot_gen.reinforce.documents import Packed, RolloutDocument, add_noise, in_a_batch, pack_documents, rows_of
from mot_gen.reinforce.learner import Learner, RewardedSamples, SampleGroup
from mot_gen.reinforce.lines import Sums, join_measures, means_of, rewards_of, sums_of
from mot_gen.reinforce.nft import goodness, nft_loss
from mot_gen.reinforce.policy import zero_of_unused
from mot_gen.reinforce.unigrpo import velocity_penalty
from mot_gen.reinforce.updates import Step, make_updates
from mot_gen.sequence import PackedBatch, all_learned
from mot_gen.training import parallel
from mot_gen.training.runs import Run
from mot_gen.training.step import Clock, autocast, close_step


@dataclass
class _Batch:
    """Pictures that were noised again. good: (D,) of each document. old, reference: (N, C) what the sampling model and
    the reference say of each token."""

    packed: Packed
    good: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None

    @property
    def batch(self) -> PackedBatch:
        """What the model reads."""
        return self.packed.batch


class NftStep(Step):
    """A step of `method: nft`, as `training.loop.Hooks.step`."""

    def __call__(self, run: Run) -> dict[str, Any]:
        """Sample groups, reward them, and make the optimizer's updates. Returns the line of metrics.jsonl."""
        clock, learner = Clock(), self.learner(run)
        rewarded = learner.rewarded()
        batches = _batches(learner, rewarded)
        (samples,) = run.world.sum([float(rewarded.rewards.isfinite().sum())])
        documents = max(samples * learner.section.draws, 1.0)

        def backward(batch: _Batch, last: bool) -> dict[str, Tensor]:
            return _backward(learner, batch, documents, last)

        made = make_updates(run, learner.section, batches, backward)
        numbers = sums_of(join_measures(made.measures)) | rewarded.sums
        line, sums = close_step(run, clock, made.spent, numbers)
        return line | _logged(sums) | made.line


def _batches(learner: Learner, rewarded: RewardedSamples) -> list[_Batch]:
    """Batches of the samples that teach something, one at least, as many on every process, on its device."""
    run, (rows, slots) = learner.run, learner.shape
    good = goodness(advantages(rewarded.rewards, learner.section.divide))
    documents: list[RolloutDocument] = []
    weights: list[float] = []
    for group, sample in _learned(rewarded.rewards, learner.section.penalty).nonzero().tolist():
        own = _documents(learner, rewarded.groups[group], sample)
        documents += own
        weights += [float(good[group, sample])] * len(own)
    size = in_a_batch(run.model, documents, rows, slots)
    starts = range(0, len(documents), size)
    made = [_batch(learner, documents[start : start + size], weights[start : start + size]) for start in starts]
    return learner.as_many_everywhere(made, lambda: _batch(learner, [], []))


def _learned(rewards: Tensor, penalty: float) -> Tensor:
    """(P, G) bool, which samples are learned from.

    A group whose rewards are equal is pulled as much as it is pushed. It is read only where a penalty holds the model
    to its reference.
    """
    known = rewards.isfinite()
    if penalty:
        return known
    return known & ~equal_rows(rewards)[:, None]


def _batch(learner: Learner, documents: Sequence[RolloutDocument], good: Sequence[float]) -> _Batch:
    run, (_, slots) = learner.run, learner.shape
    made = pack_documents(run.model, documents, rows_of(run.model, documents, slots), slots)
    return _Batch(made.to(run.world.device), torch.tensor(good, device=run.world.device))


def _documents(learner: Learner, group: SampleGroup, sample: int) -> list[RolloutDocument]:
    """A sample's picture, as often as it is noised again."""
    rollout, number = group.rollouts[sample], group.numbers[sample]
    (picture,) = rollout.spans
    found: list[RolloutDocument] = []
    for draw in range(learner.section.draws):
        generator = learner.generator("noise", number * learner.section.draws + draw)
        found += add_noise(learner.run.model, rollout.read, all_learned([picture]), generator)
    return found


def _backward(learner: Learner, batch: _Batch, documents: float, last: bool) -> dict[str, Tensor]:
    """Forward and backward of one batch; what was measured of each of its documents."""
    run = learner.run
    with parallel.accumulating(run.network, last):
        with autocast(run):
            output = run.network(batch.packed.batch)
        if batch.old is None:
            batch.old = _prediction(learner, batch, run.averaged)
            if learner.section.penalty:
                batch.reference = _prediction(learner, batch, learner.reference)
        found = _losses(learner, batch, output)
        loss = found["loss"].sum()
        if "penalty" in found:
            loss = loss + learner.section.penalty * found["penalty"].sum()
        (loss / documents + zero_of_unused(output)).backward()
    return {name: each.detach() for name, each in found.items()}


@torch.no_grad()
def _prediction(learner: Learner, batch: _Batch, model: MultimodalModel) -> Tensor:
    """(N, C) the prediction of another model for a batch."""
    with autocast(learner.run):
        return model(batch.packed.batch).latents["image"].float()


def _losses(learner: Learner, batch: _Batch, output: Output) -> dict[str, Tensor]:
    """(D,) of each document: its loss, and its squared distance to the reference, averaged over its tokens."""
    made, now = batch.packed, output.latents["image"].float()
    latents = made.batch.latents["image"]
    assert batch.old is not None and latents.time is not None
    objective: Any = learner.run.model.objectives["image"]
    padded = torch.cat([batch.good, batch.good.new_zeros(1)])  # what is not learned is of no document, -1
    good, time = padded[made.of_token], latents.per_token(latents.time)
    found = {"loss": nft_loss(objective, now, batch.old, made.target, time, good, learner.section.nft_beta)}
    if batch.reference is not None:
        found["penalty"] = velocity_penalty(now, batch.reference)
    return {name: made.means(each, len(batch.good)) for name, each in found.items()}


def _logged(sums: Sums) -> dict[str, Any]:
    """Part of the line of metrics.jsonl, of sums over all processes."""
    means = means_of(sums)
    line: dict[str, Any] = {"losses": {"image": means.pop("loss")}}
    if "penalty" in means:
        line["penalty"] = {"image": means.pop("penalty")}
    return line | rewards_of(sums, means)
