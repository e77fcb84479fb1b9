"""Likelihood of text under a model: Perplexity, BitsPerByte, and token_losses, which both are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mot_gen.errors import InputError, require
from mot_gen.eval.text.segments import SegmentMetric

IGNORE = -100


def token_losses(logits: Tensor, targets: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """(B, 2) float64: summed loss in nats and number of tokens of each row; logits (B, S, V), targets (B, S).

    The targets are what each position must predict: shift them by one before. Log probabilities may be given as logits.
    """
    if logits.shape[:2] != targets.shape:
        raise InputError(
            f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}; want (B, S, V), (B, S)"
        )
    integers = not targets.is_floating_point() and targets.dtype != torch.bool
    require(integers, f"targets must be integer ids, got {targets.dtype}")
    ids, size = targets[targets != ignore_index], logits.shape[-1]
    outside = ids[(ids < 0) | (ids >= size)]
    require(not len(outside), f"targets: {outside[:1].tolist()} lies outside of the {size} logits")
    losses = cross_entropy(
        logits.double().flatten(0, 1), targets.flatten().long(), ignore_index=ignore_index, reduction="none"
    )
    require(not losses.isnan().any(), "logits hold NaN; leave these rows out, or mark their targets by ignore_index")
    counted = targets != ignore_index
    return torch.stack([losses.view_as(targets).sum(1), counted.sum(1).double()], 1)


def perplexity(total: Tensor) -> float:
    """exp(nats / tokens) of summed rows (nats, tokens)."""
    nats, tokens = total.tolist()
    require(tokens, "perplexity: no token is counted; check ignore_index and the targets")
    return math.exp(nats / tokens)


def bits_per_byte(total: Tensor) -> float:
    """nats / (bytes ln 2) of summed rows (nats, bytes): comparable between tokenizers, as perplexity is not."""
    nats, count = total.tolist()
    require(count, "bits per byte: the texts hold no byte; give the UTF-8 text that was scored")
    return nats / (count * math.log(2))


class Perplexity(SegmentMetric):
    """`update(logits, targets)`: (B, S, V) and (B, S), targets already shifted; `ignore_index` marks what is not
    counted. Depends on the tokenizer: compare only models that share one."""

    name = "perplexity"
    unit = "rows"
    takes = "logits and targets"
    higher_is_better = False

    def __init__(self, *, ignore_index: int = IGNORE, **kwargs):
        super().__init__(**kwargs)
        self.ignore_index = ignore_index

    def statistics(self, logits: Tensor, targets: Tensor) -> Tensor:
        return token_losses(logits, targets, self.ignore_index)

    def score(self, total: Tensor) -> float:
        return perplexity(total)

    def counts(self, rows: Tensor) -> dict[str, int]:
        return {"tokens": int(rows[:, 1].sum())}


class BitsPerByte(SegmentMetric):
    """`update(losses, texts)`: summed loss in nats of each text (B,), and the texts, or their sizes in UTF-8 bytes."""

    name = "bits_per_byte"
    unit = "texts"
    takes = "losses and texts"
    higher_is_better = False

    def statistics(self, losses: Tensor, texts: Sequence[str] | Sequence[int] | Tensor) -> Tensor:
        require(not isinstance(texts, str), "texts: must be a list, got a single text; put [ ] around it")
        sizes = [len(text.encode()) if isinstance(text, str) else int(text) for text in texts]
        losses = torch.as_tensor(losses, dtype=torch.float64)
        if losses.shape != (len(sizes),):
            raise InputError(
                f"losses have shape {tuple(losses.shape)} for {len(sizes)} texts; give one sum of nats a text"
            )
        require(torch.isfinite(losses).all(), "losses hold NaN or infinity; the model gives some token no probability")
        return torch.stack([losses, torch.tensor(sizes, dtype=torch.float64, device=losses.device)], 1)

    def score(self, total: Tensor) -> float:
        return bits_per_byte(total)

    def counts(self, rows: Tensor) -> dict[str, int]:
        return {"bytes": int(rows[:, 1].sum())}
