"""How discrete tokens are chosen: TextSampling, choose, choose_each, draws, pick.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.errors import require
from mot_gen.pipelines.settings import check
from mot_gen.sequence.moving import upload


@dataclass(frozen=True)
class TextSampling:
    """How discrete tokens are chosen: temperature 0 is greedy; top_k 0 and top_p 1 keep every token.

    processors: transformers' logits processors, or a LogitsProcessorList, called with the joint ids of a document's
    discrete tokens (1, length) and the scores (1, V) before anything else bears on them.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    processors: Sequence = ()

    def __post_init__(self):
        for name in ("max_new_tokens", "temperature", "top_k", "top_p"):
            check(name, getattr(self, name))
        callables = isinstance(self.processors, (list, tuple)) and all(map(callable, self.processors))
        require(callables, f"logits_processor must be a list of logits processors, got {self.processors!r:.60}")


def choose(logits: Tensor, sampling: TextSampling, generators: Sequence[torch.Generator] | None = None) -> Tensor:
    """(N, V) logits -> (N,) ids: greedy, or by top-k, nucleus (Holtzman et al. 2020) and temperature.

    Greedy choice draws no random number. Each row draws from its own generator.
    """
    return pick(logits, sampling, draws(1, len(logits), sampling, logits.device, generators)[:, 0])


def choose_each(logits: Tensor, sampling: TextSampling, generators: Sequence[torch.Generator] | None = None) -> Tensor:
    """(N, n, V) logits -> (N, n) ids, chosen as by `choose`; the n of a row draw from its generator."""
    rows, n = logits.shape[:2]
    uniform = draws(n, rows, sampling, logits.device, generators)
    return pick(logits.flatten(0, 1), sampling, uniform.flatten()).view(rows, n)


def draws(
    n: int,
    rows: int,
    sampling: TextSampling,
    device: torch.device,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """(rows, n) uniform numbers in [0, 1), with which `pick` chooses n tokens of each row; each row from its own
    generator. Greedy choice reads none, and none are drawn then."""
    if sampling.temperature == 0:
        return torch.empty(1, 1, device=device).expand(rows, n)
    if generators is None:
        return upload(torch.stack([torch.rand(n) for _ in range(rows)]), device)
    return upload(uniform_rows(n, generators), device)


def uniform_rows(n: int, generators: Sequence[torch.Generator]) -> Tensor:
    """(rows, n) uniform numbers in [0, 1), each row from its own generator."""
    return torch.stack([torch.rand(n, generator=own, device=own.device) for own in generators])


def pick(logits: Tensor, sampling: TextSampling, uniform: Tensor) -> Tensor:
    """(N, V) logits, and (N,) of `draws` -> (N,) ids."""
    return logits.argmax(-1) if sampling.temperature == 0 else _at(uniform, logits, sampling)


def _at(uniform: Tensor, logits: Tensor, sampling: TextSampling) -> Tensor:
    """uniform (N,) in [0, 1), logits (N, V) -> the ids (N,) at these shares of the mass that is sampled from."""
    scores, ids = _likeliest(logits.float() / sampling.temperature, sampling)
    mass = scores.softmax(-1).cumsum(-1)
    if sampling.top_p < 1:
        # Keep a token when the mass before it is below top_p; the first is always kept.
        before = F.pad(mass[:, :-1], (1, 0))
        mass = scores.masked_fill(before >= sampling.top_p, float("-inf")).softmax(-1).cumsum(-1)
    # Below the total whatever the rounding, so that the place found always has mass of its own.
    total = mass[:, -1:]
    aim = torch.minimum(uniform.to(mass)[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(mass, aim, right=True)
    return place[:, 0] if ids is None else ids.gather(-1, place)[:, 0]


def _likeliest(scores: Tensor, sampling: TextSampling) -> tuple[Tensor, Tensor | None]:
    """The scores (N, k) that are sampled from, the highest first, and their ids; all as they are, and None, where none
    is left out."""
    if sampling.top_k:
        return scores.topk(min(sampling.top_k, scores.shape[-1]), dim=-1)
    return scores.sort(dim=-1, descending=True) if sampling.top_p < 1 else (scores, None)
