"""How discrete tokens are chosen: TextSampling, choose, choose_each. How a text ends: StopStrings.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.pipelines.settings import check
from mot_gen.sequence import Span


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
        if not isinstance(self.processors, (list, tuple)) or not all(map(callable, self.processors)):
            raise InputError(f"logits_processor must be a list of logits processors, got {self.processors!r:.60}")


def choose(logits: Tensor, sampling: TextSampling, generators: Sequence[torch.Generator] | None = None) -> Tensor:
    """(N, V) logits -> (N,) ids: greedy, or by top-k, nucleus (Holtzman et al. 2020) and temperature.

    Greedy choice draws no random number. Each row draws from its own generator.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    own: Sequence[torch.Generator | None] = generators or [None] * len(logits)
    uniform = torch.stack([torch.rand((), generator=g, device=g.device if g else None) for g in own])
    return _at(uniform, logits, sampling)


def choose_each(logits: Tensor, sampling: TextSampling, generators: Sequence[torch.Generator] | None = None) -> Tensor:
    """(N, n, V) logits -> (N, n) ids, chosen as by `choose`; the n of a row draw from its generator."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    n = logits.shape[1]
    own: Sequence[torch.Generator | None] = generators or [None] * len(logits)
    rows = [torch.rand(n, generator=g, device=g.device if g else None) for g in own]
    return _at(torch.cat(rows), logits.flatten(0, 1), sampling).view(-1, n)


def _at(uniform: Tensor, logits: Tensor, sampling: TextSampling) -> Tensor:
    """uniform (N,) in [0, 1), logits (N, V) -> the ids (N,) at these shares of the mass that is sampled from."""
    scores, ids = logits.float() / sampling.temperature, None
    if sampling.top_p < 1 or sampling.top_k:
        kept = min(sampling.top_k or scores.shape[-1], scores.shape[-1])
        scores, ids = scores.topk(kept, dim=-1) if sampling.top_k else scores.sort(dim=-1, descending=True)
    mass = scores.softmax(-1).cumsum(-1)
    if sampling.top_p < 1:
        # Keep a token when the mass before it is below top_p; the first is always kept.
        before = torch.cat([torch.zeros_like(mass[:, :1]), mass[:, :-1]], dim=-1)
        mass = scores.masked_fill(before >= sampling.top_p, float("-inf")).softmax(-1).cumsum(-1)
    # Below the total whatever the rounding, so that the place found always has mass of its own.
    total = mass[:, -1:]
    aim = torch.minimum(uniform.to(mass)[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(mass, aim, right=True)
    return (place if ids is None else ids.gather(-1, place))[:, 0]


class StopStrings:
    """Whether a text that is being written has come to one of these strings, which end it and are not part of it."""

    def __init__(self, stop: str | Sequence[str], tokenizer):
        """stop: one or several; InputError for what is no text, or empty."""
        self.strings = [stop] if isinstance(stop, str) else list(stop)
        if not self.strings or not all(isinstance(string, str) and string for string in self.strings):
            raise InputError(f"stop must be a text or a list of texts, none empty, got {stop!r:.60}")
        self.tokenizer = tokenizer
        tokenizer.encode_batch(self.strings)  # which refuses what no text can hold
        # A token is at least a byte, so that as many tokens as the longest string has bytes hold all of it.
        self.tail = max(len(string.encode()) for string in self.strings)

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether the last of these text ids complete a stop string."""
        text = self.tokenizer.decode(Span("text", torch.tensor(ids[-self.tail :], dtype=torch.long)))
        return any(string in text for string in self.strings)

    def cut(self, text: str) -> str:
        """The text before the first stop string in it."""
        places = [text.find(string) for string in self.strings]
        return text[: min((place for place in places if place >= 0), default=len(text))]
