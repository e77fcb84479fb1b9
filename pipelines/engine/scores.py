"""How scores of tokens change before one is chosen: ProcessedScores, by logits processors; ForbiddenTokens, by rules.

Shapes: N samples, M of them that move, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from mot_gen.pipelines.engine.rules import Follows
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.sequence import Vocabulary
from mot_gen.sequence.moving import upload


class ProcessedScores:
    """Logits processors of transformers, with the tokens of each document so far, which they are shown."""

    def __init__(self, processors: Sequence, stream: Stream, samples: int):
        self.processors = processors
        self.documents = [stream.prompt_ids(number) for number in range(samples)] if processors else []

    def add(self, number: int, token: int) -> None:
        """Show the processors a token that a document was given."""
        if self.processors:
            self.documents[number].append(token)

    def __call__(self, scores: Tensor, numbers: Sequence[int]) -> Tensor:
        """(M, V) scores of these documents' next tokens -> the same, processed."""
        if not self.processors:
            return scores
        return torch.cat([self._one(number, each) for number, each in zip(numbers, scores.split(1))])

    def _one(self, number: int, scores: Tensor) -> Tensor:
        ids = upload([self.documents[number]], scores.device)
        for processor in self.processors:
            scores = processor(ids, scores)
        return scores

    def after(self, scores: Tensor, ids: Tensor) -> Tensor:
        """(N, V) scores, processed as if the joint ids (N, k) stood at the documents' ends."""
        longer = copy(self)
        longer.documents = [[*before, *now] for before, now in zip(self.documents, ids.tolist())]
        return longer(scores, range(len(scores)))


class ForbiddenTokens:
    """Masks of the ids that may not come next."""

    def __init__(self, vocabulary: Vocabulary, device: torch.device):
        self.vocabulary, self.device = vocabulary, device
        self._made: dict[Follows, Tensor] = {}

    def __call__(self, follows: Sequence[Follows]) -> Tensor:
        """What may follow in each of M documents -> (M, V) or (1, V) bool, True for all else."""
        masks = [self._mask(each) for each in follows]
        return torch.stack(masks) if len(set(follows)) > 1 else masks[0][None]

    def _mask(self, follows: Follows) -> Tensor:
        if follows not in self._made:
            modality, special = follows
            allowed = torch.zeros(self.vocabulary.size, dtype=torch.bool)
            if modality is not None:
                allowed |= self.vocabulary.writable(modality)
            allowed[list(special)] = True
            self._made[follows] = upload(~allowed, self.device)
        return self._made[follows]
