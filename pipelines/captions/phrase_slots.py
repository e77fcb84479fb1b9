"""What can be chosen in the phrases of a language, and the prompt that says what was chosen: PhraseSlots.

A phrase consists of pieces with commas between them. Pieces that stand in the very same surroundings, such as "on red"
and "on blue", are the choices of one slot. So nobody has to say which pieces are places and which are colours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from mot_gen.errors import InputError
from mot_gen.pipelines.captions.phrase_tree import BLANK
from mot_gen.pipelines.captions.taught import COMMA


@dataclass(frozen=True)
class PhraseSlots:
    """phrases: of a language in `model/answers.json`."""

    phrases: Sequence[str]

    @cached_property
    def attributes(self) -> list[list[str]]:
        """The choices of each slot but the subject's, without those that follow from others, as "small" from a place
        where small ones alone have places."""
        slots = [slot for slot in self._by_surroundings() if BLANK not in slot[0]]
        return [slot for slot in slots if len(slot) > 1 or not self._follows(slot[0])]

    @cached_property
    def relations(self) -> list[str]:
        """Pieces with two names, such as "{} left of {}"."""
        pieces = dict.fromkeys(chain.from_iterable(self._pieces))  # each once
        return [piece for piece in pieces if piece.count(BLANK) == 2]

    def prompt(self, names: Sequence[str], chosen: Iterable[str] = ()) -> str:
        """The shortest phrase that has all chosen pieces and a blank for each name, with the names in it. InputError
        where there is none."""
        wanted = set(chosen)
        with_wanted = [COMMA.join(pieces) for pieces in self._pieces if wanted.issubset(pieces)]
        fitting = [phrase for phrase in with_wanted if phrase.count(BLANK) == len(names)]
        if not fitting:
            asked = " and ".join(map(repr, sorted(wanted))).replace(BLANK, "...")
            raise InputError(f"{asked} were never taught together; leave one out")
        phrase = min(fitting, key=lambda phrase: phrase.count(COMMA))
        for name in names:
            phrase = phrase.replace(BLANK, name, 1)
        return phrase

    @cached_property
    def _pieces(self) -> list[list[str]]:
        return [phrase.split(COMMA) for phrase in self.phrases]

    def _by_surroundings(self) -> Iterable[list[str]]:
        """The pieces that stand in the same surroundings, slot by slot."""
        around: defaultdict[str, set[str]] = defaultdict(set)
        for pieces in self._pieces:
            for number, piece in enumerate(pieces):
                others = pieces.copy()
                others[number] = ""
                around[piece].add(COMMA.join(others))
        slots: defaultdict[frozenset[str], list[str]] = defaultdict(list)
        for piece, surroundings in around.items():
            slots[frozenset(surroundings)].append(piece)
        return slots.values()

    def _follows(self, piece: str) -> bool:
        """Whether a piece follows from others: wherever it stands, there is another that never stands without it."""
        beside = [set(pieces) for pieces in self._pieces if piece in pieces]
        elsewhere = [pieces for pieces in self._pieces if piece not in pieces]
        stand_without_it = {piece}.union(*elsewhere)
        return not any(map(stand_without_it.issuperset, beside))
