"""Which of some given texts a model would rather write: Choices.

The texts are paths through a tree of tokens. The log-probability of a text, its end included, is a sum along its path,
and every further token makes it smaller. So if the likeliest beginning is always the one that is gone on with, the
first text that comes to its end is the likeliest of all (uniform-cost search). The result is exact, and few of the
beginnings are looked at.

Shapes: R documents, L tokens of the longest beginning that is looked at, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import torch
from torch import Tensor

from mot_gen.backbone.cache import upload
from mot_gen.errors import require
from mot_gen.pipelines.stream import Stream
from mot_gen.sequence import PADDING, Layout


@dataclass
class _Node:
    """A beginning of texts: its tokens, and what may follow. text: the number of the text that it is, its end
    included."""

    tokens: tuple[int, ...] = ()
    following: dict[int, _Node] = field(default_factory=dict)
    text: int | None = None


class Choices:
    """Texts to choose from; InputError for what is no list of texts."""

    def __init__(self, texts: Sequence[str], tokenizer, end: int):
        """end: the id of the token that ends a text."""
        listed = isinstance(texts, Sequence) and not isinstance(texts, str) and len(texts) > 0
        whole = listed and all(isinstance(text, str) and text for text in texts)
        require(whole, f"choices must be a list of texts, none empty, got {texts!r:.60}")
        self.texts, self.root = list(texts), _Node()
        encoded = [span.values.tolist() for span in tokenizer.encode_batch(self.texts)]
        for number, ids in enumerate(encoded):
            self._add([*ids, end], number)
        self.longest = max(map(len, encoded))

    def _add(self, tokens: Sequence[int], number: int) -> None:
        node = self.root
        for token in tokens:
            node = node.following.setdefault(token, _Node((*node.tokens, token)))
        node.text = number

    def likeliest(self, stream: Stream) -> list[int]:
        """The number of the likeliest text after each document of a stream, whose text has begun. Nothing is kept of
        what is looked at: `stream` needs room for the longest text, and stays where it is."""
        searches = [_Search(self.root) for _ in range(stream.rows)]
        while any(search.found is None for search in searches):
            paths = [search.best.tokens for search in searches]
            for search, scores in zip(searches, _next_scores(stream, paths).cpu()):
                search.look_further(scores)
        return [search.found for search in searches if search.found is not None]


class _Search:
    """The search for one document. found: the number of its text."""

    def __init__(self, root: _Node):
        self.best, self.score = root, 0.0
        self.found: int | None = None
        self._open: list[tuple[float, int, _Node]] = []  # by -score; the number decides between equal ones
        self._seen = 0

    def look_further(self, scores: Tensor) -> None:
        """Go on with what follows the best beginning, given the log-probabilities (V,) of its next token."""
        if self.found is not None:
            return
        for token, node in self.best.following.items():
            self._seen += 1
            heappush(self._open, (-self.score - float(scores[token]), self._seen, node))
        cost, _, self.best = heappop(self._open)
        self.score, self.found = -cost, self.best.text


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
