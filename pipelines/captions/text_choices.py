"""Which of some given texts a model would rather write: Choices.

The texts are paths through a tree of tokens. The log-probability of a text, its end included, is a sum along its path,
and every further token makes it smaller. So if the likeliest beginning is always the one that is gone on with, the
first text that comes to its end is the likeliest of all (uniform-cost search). The result is exact, and few of the
beginnings are looked at.

Shapes: R documents, L tokens of the longest beginning that is looked at, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import torch
from torch import Tensor

from mot_gen.errors import require
from mot_gen.pipelines.captions.phrase_tree import Node, PhraseTree, encode_texts
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.settings import is_list_of_texts
from mot_gen.sequence import PADDING, Layout
from mot_gen.sequence.moving import upload


@dataclass
class Choices:
    """Texts to choose from. longest: the most tokens of one. read: the text of a path's tokens."""

    root: Node
    longest: int
    read: Callable[[Sequence[int]], str]

    @classmethod
    def of_texts(cls, texts: Sequence[str], tokenizer, end: int) -> Choices:
        """end: the id of the token that ends a text. InputError for what is no list of texts."""
        require(is_list_of_texts(texts), f"choices must be a list of texts, none empty, got {texts!r:.60}")
        root, paths = Node(), encode_texts(texts, tokenizer)
        for tokens in paths:
            root.add(tokens, end)
        by_tokens = {tuple(tokens): text for tokens, text in zip(paths, texts)}
        return cls(root, max(map(len, paths)), lambda tokens: by_tokens[tuple(tokens)])

    @classmethod
    def of_phrases(cls, phrases: Sequence[str], names: Sequence[str], tokenizer, end: int) -> Choices:
        """Every name in every blank of every phrase, such as "small {}, on red" or "{} left of {}"."""
        root = PhraseTree(names, tokenizer, end).of(phrases)
        return cls(root, root.depth() - 1, lambda tokens: tokenizer.decode(list(tokens)))

    def likeliest(self, stream: Stream) -> list[str]:
        """The likeliest text after each document of a stream, whose text has begun. Nothing is kept of what is looked
        at: `stream` needs room for the longest text, and stays where it is."""
        searches = [_Search(self.root) for _ in range(stream.rows)]
        while not all(search.best.whole for search in searches):
            paths = [search.tokens for search in searches]
            for search, scores in zip(searches, _next_scores(stream, paths).cpu()):
                search.look_further(scores)
        return [self.read(search.tokens[:-1]) for search in searches]


class _Search:
    """The search for one document. tokens, best: the likeliest beginning, and its node."""

    def __init__(self, root: Node):
        self.tokens: tuple[int, ...] = ()
        self.best, self.score = root, 0.0
        self._open: list[tuple[float, int, tuple[int, ...], Node]] = []  # by -score; the number decides equal ones
        self._seen = 0

    def look_further(self, scores: Tensor) -> None:
        """Go on with what follows the best beginning, given the log-probabilities (V,) of its next token."""
        if self.best.whole:
            return
        for token, node in self.best.following.items():
            self._seen += 1
            heappush(self._open, (-self.score - float(scores[token]), self._seen, (*self.tokens, token), node))
        cost, _, self.tokens, self.best = heappop(self._open)
        self.score = -cost


def _next_scores(stream: Stream, paths: Sequence[Sequence[int]]) -> Tensor:
    """(R, V) log-probabilities of the token that follows a path after each document."""
    hidden, lengths = stream.hidden, [len(path) for path in paths]
    if max(lengths):
        last = upload([max(length - 1, 0) for length in lengths], stream.device)
        rows = torch.arange(stream.rows, device=stream.device)
        begun = upload([length > 0 for length in lengths], stream.device)
        hidden = torch.where(begun[:, None], _pass(stream, paths)[rows, last], hidden)
    return stream.model.logits(hidden).float().log_softmax(-1)


def _pass(stream: Stream, paths: Sequence[Sequence[int]]) -> Tensor:
    """(R, L, D) the states of tokens that would follow each document."""
    longest = max(map(len, paths))
    ids = torch.zeros(stream.rows, longest, dtype=torch.long)
    document = torch.full_like(ids, PADDING)
    for row, path in enumerate(paths):
        ids[row, : len(path)] = torch.tensor(path, dtype=torch.long)
        document[row, : len(path)] = 0
    position = torch.zeros(*ids.shape, 3, dtype=torch.long)
    position[..., 0] = torch.arange(longest)
    layout = Layout(torch.zeros_like(ids), document, torch.full_like(ids, stream.spans), position).to(stream.device)
    layout.position[..., 0].add_(stream.time[:, None])
    return stream.look(upload(ids, stream.device), layout)
