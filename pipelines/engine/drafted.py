"""Greedy text in fewer passes: drafts of some tokens, verified by the whole model in one pass; Drafts, EarlyLayers,
NarrowModel, DraftedText, write_drafted.

A draft guesses what the model would write: its first layers, whose output goes straight to the final norm and the head
(early exit, the plain form of M2R2, arXiv 2502.02040); or the whole model with narrower feed-forwards (MatFormer, arXiv
2310.07707). The model reads the guesses in one pass, keeps those that it would have chosen itself, and adds the token
that it would have chosen next. So the text is that of greedy decoding, whatever the drafts: they bear on the number of
passes alone.

Shapes: R documents, k drafted tokens, D width, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mot_gen.backbone.cache import Cache
from mot_gen.backbone.width_and_experts import chosen
from mot_gen.errors import require
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.sequence import PADDING, Layout


class Drafts(Protocol):
    """What guesses the next tokens of a stream's documents."""

    def begin(self) -> None:
        """Guessing starts after what the stream has kept."""

    def read(self, ids: Tensor, layout: Layout) -> Tensor:
        """One token (R, 1) of each document, at its place -> hidden states (R, D), normed."""
        raise NotImplementedError

    def end(self) -> None:
        """The guesses are forgotten, before they are verified."""

    def keep(self, ids: Tensor, layout: Layout, counts: Tensor) -> None:
        """Keep the first counts[r] of the tokens (R, k + 1) at these places in each row r."""


class EarlyLayers:
    """Drafts of a model's first layers, over the stream's own cache."""

    def __init__(self, stream: Stream, layers: int):
        most = len(stream.model.backbone.blocks) - 1
        require(1 <= layers <= most, f"layers: must be from 1 to {most}, below those of the model, got {layers}")
        self.stream, self.layers = stream, layers

    def begin(self) -> None:
        self.cache = copy(self.stream.cache)
        self.cache.layers = self.stream.cache.layers[: self.layers]
        self.before = self.cache.snapshot()

    def read(self, ids: Tensor, layout: Layout) -> Tensor:
        backbone = self.stream.model.backbone
        plan = backbone.plan(layout, self.cache)
        hidden = backbone.early(self.stream.model.embed_ids(ids), plan, self.cache)[:, 0]
        self.cache.advance((layout.document[:, 0] != PADDING).long())
        return hidden

    def end(self) -> None:
        _take_back(self.cache, self.before)

    def keep(self, ids: Tensor, layout: Layout, counts: Tensor) -> None:
        """Nothing to do: the cache is the stream's own."""


class NarrowModel:
    """Drafts of the model at another width of its nested feed-forwards, over a cache of its own."""

    def __init__(self, stream: Stream, width: int | Mapping[str, int]):
        self.stream, self.width, self.model = stream, width, stream.model
        with chosen(self.model.backbone, width):
            self.own = stream.again()

    def begin(self) -> None:
        self.before = self.own.cache.snapshot()

    def read(self, ids: Tensor, layout: Layout) -> Tensor:
        hidden = self._pass(ids, layout)[:, 0]
        self.own.cache.advance((layout.document[:, 0] != PADDING).long())
        return hidden

    def _pass(self, ids: Tensor, layout: Layout) -> Tensor:
        with chosen(self.model.backbone, self.width):
            plan = self.model.backbone.plan(layout, self.own.cache)
            return self.model.backbone(self.model.embed_ids(ids), plan, self.own.cache)

    def end(self) -> None:
        _take_back(self.own.cache, self.before)

    def keep(self, ids: Tensor, layout: Layout, counts: Tensor) -> None:
        self._pass(ids, layout)
        self.own.cache.advance(counts)


def _take_back(cache: Cache, before: Any) -> None:
    """Forget in all rows what was kept since a snapshot."""
    cache.restore(before, torch.ones_like(cache.lengths, dtype=torch.bool))


@dataclass
class DraftedText:
    """What was written, and in how many passes.

    ids: of each document, the one that ended it included. passes: of the whole model, after the prompt.
    """

    ids: list[list[int]]
    passes: int

    @property
    def tokens_a_pass(self) -> float:
        """Tokens written in a pass, on average over documents; 1 is decoding without drafts."""
        return sum(map(len, self.ids)) / max(1, self.passes * len(self.ids))


@torch.inference_mode()
def write_drafted(
    stream: Stream, drafts: Drafts, most: int, ends: Collection[int], allowed: Tensor, ahead: int = 4
) -> DraftedText:
    """Continue each document greedily, by up to `most` tokens or until one of the ids `ends`.

    allowed: (V,) bool, the ids that may be written. ahead: k, tokens that are drafted at a time. `stream` needs room
    for `most` tokens and `ahead` more.
    """
    require(ahead >= 1, f"ahead: must be a positive integer, got {ahead}")
    rule = _Greedy(stream, allowed)
    written: list[list[int]] = [[] for _ in range(stream.rows)]
    following, passes = rule.next(stream.hidden), 0
    alive = torch.ones(stream.rows, dtype=torch.bool, device=stream.device)
    while alive.any():
        guesses = _guessed(drafts, rule, following, alive, ahead)
        layout = rule.layout(guesses.shape[1], alive)
        hidden = stream.model.backbone(*_given(stream, guesses, layout))
        verified, passes = rule.next(hidden), passes + 1
        agree = (verified[:, :-1] == guesses[:, 1:]).long().cumprod(1).sum(1)
        counts = torch.zeros_like(agree)
        for row in alive.nonzero().flatten().tolist():
            counts[row] = _take(written[row], guesses[row].tolist(), int(agree[row]) + 1, most, ends)
        drafts.keep(guesses, layout, counts)
        stream.cache.advance(counts)
        stream.time.add_(counts)
        stream.written_otherwise()
        last = (counts - 1).clamp_min(0)[:, None]
        following = torch.where(alive, verified.gather(1, last)[:, 0], following)
        ended = [len(ids) >= most or ids[-1] in ends for ids in written]
        alive = alive & ~torch.tensor(ended, device=stream.device)
    return DraftedText(written, passes)


def _take(written: list[int], guesses: list[int], agreed: int, most: int, ends: Collection[int]) -> int:
    """Add the tokens that the model agreed with, up to the first that ends the document; how many they are."""
    for number, token in enumerate(guesses[:agreed], 1):
        written.append(token)
        if token in ends or len(written) == most:
            return number
    return agreed


def _guessed(drafts: Drafts, rule: _Greedy, following: Tensor, alive: Tensor, ahead: int) -> Tensor:
    """(R, k + 1) the next token of each document, which is known, and the guesses after it."""
    drafts.begin()
    guesses = [following]
    for step in range(ahead):
        layout = rule.layout(1, alive, step)
        guesses.append(rule.next(drafts.read(guesses[-1][:, None], layout)))
    drafts.end()
    return torch.stack(guesses, 1)


def _given(stream: Stream, ids: Tensor, layout: Layout) -> tuple[Tensor, Any, Any]:
    backbone = stream.model.backbone
    return stream.model.embed_ids(ids), backbone.plan(layout, stream.cache), stream.cache


class _Greedy:
    """The likeliest allowed token, and the places of those that come next."""

    def __init__(self, stream: Stream, allowed: Tensor):
        self.stream, self.hidden_ids = stream, ~allowed

    def next(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...)."""
        return self.stream.model.logits(hidden).masked_fill(self.hidden_ids, float("-inf")).argmax(-1)

    def layout(self, number: int, alive: Tensor, after: int = 0) -> Layout:
        """The places (R, n) of the next tokens of text of each document that is alive."""
        stream = self.stream
        text = torch.zeros(stream.rows, number, dtype=torch.long, device=stream.device)
        time = stream.time[:, None] + after + torch.arange(number, device=stream.device)
        document = torch.where(alive[:, None], text, PADDING)
        return Layout(text, document, text + stream.spans, torch.stack([time, text, text], -1))
