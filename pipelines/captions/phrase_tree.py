"""The tree of tokens of many texts, also of more than could be listed: Node, PhraseTree, encode_texts.

A phrase such as "{} left of {}, on red" has blanks that any name may fill, so a few names and phrases make very many
texts. What may follow a name is one tree that all names share, and what may follow the second name is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BLANK = "{}"  # where a phrase has a name


@dataclass
class Node:
    """The beginning of some texts.

    following: token -> the beginning that is longer by this token. whole: whether it is a text, its end included.
    endings: trees that may follow as well, which many nodes share.
    """

    following: dict[int, Node] = field(default_factory=dict)
    whole: bool = False
    endings: list[Node] = field(default_factory=list)

    def at(self, tokens: Sequence[int]) -> Node:
        """The node at the end of a path, made where it is not there."""
        node = self
        for token in tokens:
            node = node.following.setdefault(token, Node())
        return node

    def add(self, tokens: Sequence[int], end: int) -> None:
        """Add a text."""
        self.at([*tokens, end]).whole = True

    def joined(self, other: Node) -> Node:
        """What may follow either of the two."""
        both = Node(self.following | other.following, self.whole or other.whole)
        for token in self.following.keys() & other.following.keys():
            both.following[token] = self.following[token].joined(other.following[token])
        return both

    def ended(self) -> Node:
        """The same tree, with the endings among what follows."""
        node = Node({token: each.ended() for token, each in self.following.items()}, self.whole)
        for ending in self.endings:
            node = node.joined(ending)
        return node

    def depth(self) -> int:
        """The most tokens of a path from here."""
        return self._depth({})

    def _depth(self, known: dict[int, int]) -> int:
        """known: depths by the id of a node, since many nodes are shared."""
        if id(self) not in known:
            depths = [1 + node._depth(known) for node in self.following.values()]
            known[id(self)] = max(depths, default=0)
        return known[id(self)]


@dataclass(frozen=True)
class PhraseTree:
    """Makes trees of phrases. end: the id of the token that ends a text.

    A name's tokens are those that it has alone, wherever the tokenizer leaves it so. Where it joins the end of a name
    with what follows, this name is written into the phrases, and they are added one by one.
    """

    names: Sequence[str]
    tokenizer: Any
    end: int

    def of(self, phrases: Iterable[str]) -> Node:
        """The tree of all texts of some phrases."""
        root = Node()
        self._add(root, phrases)
        return root.ended()

    def _add(self, root: Node, phrases: Iterable[str]) -> None:
        """Add the texts of phrases to a tree that is not ended yet."""
        for tokens in self._encoded([phrase for phrase in phrases if BLANK not in phrase]):
            root.add(tokens, self.end)
        for before, afters in _by_beginning(phrases).items():
            named = self._encoded([before + name for name in self.names])
            for alike in self._by_first_token(afters):
                self._branch(root, before, named, alike)

    def _branch(self, root: Node, before: str, named: Sequence[Sequence[int]], afters: Sequence[str]) -> None:
        """Add what comes after a name, to every name. named: the tokens of `before` with each name. afters: what may
        follow a name, all beginning with the same token."""
        shared, example = self.of(afters), self._example(afters[0])
        (tokens,) = self._encoded([example])
        # Where nothing follows, nothing can be joined.
        found = self._encoded([before + name + example for name in self.names]) if example else named
        joined: list[str] = []
        for name, path, whole in zip(self.names, named, found):
            if whole == [*path, *tokens]:
                root.at(path).endings.append(shared)
            else:
                joined += [before + name + after for after in afters]
        if joined:
            self._add(root, joined)

    def _by_first_token(self, afters: Sequence[str]) -> Iterable[list[str]]:
        """What may follow a name, by its first token, which decides whether a tokenizer joins it with the name."""
        found: dict[tuple[int, ...], list[str]] = {}
        for after, tokens in zip(afters, self._encoded([self._example(after) for after in afters])):
            found.setdefault(tuple(tokens[:1]), []).append(after)
        return found.values()

    def _example(self, phrase: str) -> str:
        """A text of a phrase."""
        return phrase.replace(BLANK, self.names[0])

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return encode_texts(texts, self.tokenizer)


def _by_beginning(phrases: Iterable[str]) -> Mapping[str, list[str]]:
    """What stands before the first blank -> all that may follow it, each once."""
    found: dict[str, dict[str, None]] = {}
    for phrase in phrases:
        before, blank, after = phrase.partition(BLANK)
        if blank:
            found.setdefault(before, {})[after] = None
    return {before: list(afters) for before, afters in found.items()}


def encode_texts(texts: Sequence[str], tokenizer) -> list[list[int]]:
    """The ids of texts."""
    if not texts:
        return []
    return [span.values.tolist() for span in tokenizer.encode_batch(list(texts))]
