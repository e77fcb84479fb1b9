"""Pairs of answers as batches: PairBatch, batches_of, scores.

Shapes: P pairs of a batch, 2 P documents, the two of a pair one after the other, the chosen one first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.model import MultimodalModel, Output
from mot_gen.reinforce.documents import (
    NEVER,
    Packed,
    RolloutDocument,
    add_noise,
    choices,
    in_a_batch,
    pack_documents,
    rows_of,
)
from mot_gen.reinforce.grpo import token_log_probs
from mot_gen.reinforce.learner import Learner
from mot_gen.reinforce.preferences import Preference
from mot_gen.sequence import PackedBatch, all_learned, only_read


@dataclass
class PairBatch:
    """A batch of P pairs. reference: (2 P,) the `scores` by the reference, once they are computed."""

    packed: Packed
    pairs: int
    reference: Tensor | None = None

    @property
    def batch(self) -> PackedBatch:
        """What the model reads."""
        return self.packed.batch


def batches_of(learner: Learner, preferences: Sequence[Preference]) -> list[PairBatch]:
    """Batches of these pairs, one at least, as many on every process, on its device."""
    run = learner.run
    rows, slots = learner.shape
    documents: list[RolloutDocument] = []
    for preference in preferences:
        documents += _documents(learner, preference)
    size = 2 * max(1, in_a_batch(run.model, documents, rows, slots) // 2)  # in pairs
    made = [_compared(run.model, documents[start : start + size], slots) for start in range(0, len(documents), size)]
    made = learner.as_many_everywhere(made, lambda: _compared(run.model, [], slots))
    return [PairBatch(each.packed.to(run.world.device), each.pairs) for each in made]


def _compared(model: MultimodalModel, documents: Sequence[RolloutDocument], slots: int) -> PairBatch:
    rows = rows_of(model, documents, slots)
    return PairBatch(pack_documents(model, documents, rows, slots), len(documents) // 2)


def _documents(learner: Learner, preference: Preference) -> Iterator[RolloutDocument]:
    """The two documents of a pair, as often as it is compared: pictures are denoised at several times."""
    model = learner.run.model
    read = only_read(preference.prompt.spans)
    answers = [all_learned(preference.chosen), all_learned(preference.rejected)]
    modality = model.modality[answers[0][-1].modality]
    if modality.discrete:
        for answer in answers:
            yield RolloutDocument([*read, *answer], choices(model, answer, ended=True))
        return
    for draw in range(learner.section.draws):
        number = preference.number * learner.section.draws + draw
        yield from add_noise(model, read, [answer[-1] for answer in answers], learner.generator("noise", number))


def scores(learner: Learner, compared: PairBatch, output: Output) -> Tensor:
    """(2 P,) of each document: the log-probability of its answer, or minus the error of denoising its picture."""
    if learner.continuous:
        return -_errors(learner, compared, output)
    batch = compared.packed
    each = token_log_probs(output.logits, batch.batch.target_ids, learner.ids[batch.allowed])
    each = torch.where(batch.allowed != NEVER, each, 0.0)
    return each.new_zeros(2 * compared.pairs).index_add(0, batch.of_target, each)


def _errors(learner: Learner, compared: PairBatch, output: Output) -> Tensor:
    """(2 P,) the loss of the objective, averaged over the tokens of each picture."""
    batch, latents = compared.packed, compared.packed.batch.latents["image"]
    assert latents.time is not None
    objective: Any = learner.run.model.objectives["image"]
    each = objective.loss(output.latents["image"], batch.target, latents.per_token(latents.time))
    return batch.means(each, 2 * compared.pairs)
