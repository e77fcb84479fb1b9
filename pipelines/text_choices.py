"""Which of some given texts a model would rather write: Choices.

The texts are paths through a tree of tokens. The log-probability of a text, its end included, is a sum along its path,
and every further token makes it smaller. So if the likeliest beginning is always the one that is gone on with, the
first text that comes to its end is the likeliest of all (uniform-cost search). The result is exact, and few of the
beginnings are looked at.

Shapes: R documents, L tokens of the longest beginning that is looked at, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import torch
from torch import Tensor

from mot_gen.backbone.cache import upload
from mot_gen.errors import require
from mot_gen.pipelines.stream import Stream
from mot_gen.pipelines.text_lists import is_list_of_texts
from mot_gen.sequence import PADDING, Layout

BLANK = "{}"  # where a phrase has the name


@dataclass
class _Node:
    """A beginning of texts: what may follow it, by token. whole: whether it is a text, its end included. endings:
    what may follow besides, which many nodes share."""

    following: dict[int, _Node] = field(default_factory=dict)
    whole: bool = False
    endings: list[_Node] = field(default_factory=list)

    def at(self, tokens: Sequence[int]) -> _Node:
        """The node at the end of a path, made where it is not there."""
        node = self
        for token in tokens:
            node = node.following.setdefault(token, _Node())
        return node

    def add(self, tokens: Sequence[int], end: int) -> None:
        """Add a text."""
        self.at([*tokens, end]).whole = True

    def joined(self, other: _Node) -> _Node:
        """What may follow either of the two."""
        both = _Node(dict(self.following), self.whole or other.whole)
        for token, node in other.following.items():
            known = both.following.get(token)
            both.following[token] = node if known is None else known.joined(node)
        return both

    def ended(self) -> _Node:
        """The same tree, with the endings among what follows."""
        node = _Node({token: each.ended() for token, each in self.following.items()}, self.whole)
        for ending in self.endings:
            node = node.joined(ending)
        return node


@dataclass
class Choices:
    """Texts to choose from. longest: the most tokens of one. read: the text of a path's tokens."""

    root: _Node
    longest: int
    read: Callable[[Sequence[int]], str]

    @classmethod
    def of_texts(cls, texts: Sequence[str], tokenizer, end: int) -> Choices:
        """end: the id of the token that ends a text. InputError for what is no list of texts."""
        require(is_list_of_texts(texts), f"choices must be a list of texts, none empty, got {texts!r:.60}")
        root, encoded = _Node(), _encoded(texts, tokenizer)
        for tokens in encoded:
            root.add(tokens, end)
        by_tokens = {tuple(tokens): text for tokens, text in zip(encoded, texts)}
        return cls(root, max(map(len, encoded)), lambda tokens: by_tokens[tuple(tokens)])

    @classmethod
    def of_phrases(cls, phrases: Sequence[str], names: Sequence[str], tokenizer, end: int) -> Choices:
        """Every name in every phrase, such as "small {}, on red", in its place.

        What may follow a name is one tree, which all names share. Where the tokenizer joins the end of a name with what
        follows it, the texts are listed one by one instead, which gives the same answers and takes longer.
        """
        afters: dict[str, list[str]] = {}
        for phrase in phrases:
            before, _, after = phrase.partition(BLANK)
            afters.setdefault(before, []).append(after)
        root, longest = _Node(), 0
        for before, tails in afters.items():
            begun = _encoded([before + name for name in names], tokenizer)
            first = _encoded([before + names[0] + tail for tail in tails], tokenizer)
            endings = [tokens[len(begun[0]) :] for tokens in first]
            last = _encoded([before + name + tails[-1] for name in names], tokenizer)
            if last != [[*tokens, *endings[-1]] for tokens in begun]:
                texts = {phrase.replace(BLANK, name): None for phrase in phrases for name in names}
                return cls.of_texts(list(texts), tokenizer, end)
            shared = _Node()
            for tokens in endings:
                shared.add(tokens, end)
            for tokens in begun:
                root.at(tokens).endings.append(shared)
            longest = max(longest, max(map(len, begun)) + max(map(len, endings)))
        return cls(root.ended(), longest, lambda tokens: tokenizer.decode(list(tokens)))

    def likeliest(self, stream: Stream) -> list[str]:
        """The likeliest text after each document of a stream, whose text has begun. Nothing is kept of what is looked
        at: `stream` needs room for the longest text, and stays where it is."""
        searches = [_Search(self.root) for _ in range(stream.rows)]
        while not all(search.best.whole for search in searches):
            paths = [search.tokens for search in searches]
            for search, scores in zip(searches, _next_scores(stream, paths).cpu()):
                search.look_further(scores)
        return [self.read(search.tokens[:-1]) for search in searches]


def _encoded(texts: Sequence[str], tokenizer) -> list[list[int]]:
    return [span.values.tolist() for span in tokenizer.encode_batch(list(texts))]


class _Search:
    """The search for one document. tokens, best: the likeliest beginning, and its node."""

    def __init__(self, root: _Node):
        self.tokens: tuple[int, ...] = ()
        self.best, self.score = root, 0.0
        self._open: list[tuple[float, int, tuple[int, ...], _Node]] = []  # by -score; the number decides equal ones
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
