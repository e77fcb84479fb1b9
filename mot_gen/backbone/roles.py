"""The parts that a `Config` names, of all layers: Roles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any

from mot_gen.backbone.named_parts import read_part, read_pattern
from mot_gen.backbone.parts import FeedForward, Part, Parts
from mot_gen.backbone.study_shapes import EVEN
from mot_gen.errors import InputError, nearest, require

# Roles whose parts may have parameters, in the order in which a token meets them; feed-forwards come after.
OWNING = ("mixer", "bias", "head_choice", "depth", "residual")


class Roles:
    """The parts of all layers.

    config: a dataclass with a field for each role, and with those whose names parts' options share. InputError where
    it names what is not known or does not fit.
    parts: role -> its parts, which layers take in turn.
    """

    def __init__(self, config: Any):
        self.config = config
        self.flat = {f.name: getattr(config, f.name) for f in fields(config)}
        self.parts: dict[str, list[Any]] = {f.name: self._read(f.name) for f in fields(Parts)}
        self._refuse_unread()

    def _read(self, role: str) -> list[Any]:
        """The parts that fill a role, to be taken in turn by layer."""
        found = read_pattern(role, self.flat[role], self.flat)
        if role == "feed_forward":
            read_part("router", self.flat["router"], self.flat, "backbone.router")
            if self._asks_for_experts():
                found = [self._with_experts(unit) for unit in found]
        return [part.fit(self.config) for part in found]

    def _refuse_unread(self) -> None:
        """InputError for a part that only mixers read, where none of them does."""
        usual = {f.name: f.default for f in fields(self.config)}
        read = set(chain.from_iterable(mixer.reads for mixer in self.parts["mixer"]))
        for role in ("reach", "bias", "head_choice"):
            is_filled = self.flat[role] != usual[role]
            require(
                role in read or not is_filled,
                f"backbone.{role}: no mixer here reads it, as attention does; drop it, or let some layers have "
                "attention: mixer=[..., attention]",
            )

    def _asks_for_experts(self) -> bool:
        """Whether one of the flat fields of experts is not at its default."""
        flat = self.flat
        return flat["experts"] != 1 or flat["shared_experts"] > 0 or flat["router"] != "expert_choice"

    def _with_experts(self, unit: FeedForward) -> FeedForward:
        """Experts of this unit, as the flat fields ask for them; a feed-forward that cannot be an expert, as it is."""
        if not unit.matrices:
            return unit
        return read_part("feed_forward", {"kind": "experts", "unit": unit}, self.flat, "backbone")

    def __iter__(self) -> Iterator[Part]:
        return chain.from_iterable(self.parts.values())

    def of_layer(self, layer: int) -> Parts:
        """The parts of one layer, counted from 0: each role's in turn."""
        return Parts(**{role: found[layer % len(found)] for role, found in self.parts.items()})

    def sublayers(self, layers: int) -> int:
        """How many mixers and feed-forwards so many layers have together."""
        empty = sum(self.of_layer(layer).feed_forward.empty for layer in range(layers))
        return 2 * layers - empty

    def width_steps(self) -> tuple[int, ...]:
        """Steps in which the width may change; a smaller one is for where no multiple of the one before it fits."""
        step = math.lcm(*(mixer.width_step() for mixer in self.parts["mixer"]))
        if step == 1:
            return EVEN, 1
        return (step,)

    def take_over(self, role: str, *options: str) -> None:
        """Set fields of the config that were not given to what a part found for them."""
        for option in options:
            for part in self.parts[role]:
                if getattr(self.config, option) is None:
                    setattr(self.config, option, getattr(part, option, None))

    def owned_names(self) -> list[str]:
        """The names of all that towers may own, in the order in which a token meets them."""
        norms = [mixer.norm for mixer in self.parts["mixer"]]
        names = [norm for norm in norms if norm == "attention_norm"]  # Mamba's is called "norm", and all share it
        for part in chain.from_iterable(self.parts[role] for role in OWNING):
            names += part.untied
        for feed_forward in self.parts["feed_forward"]:
            if not feed_forward.empty:
                names += ["ffn_norm", *feed_forward.untied]
        return [*dict.fromkeys(names), "final_norm"]  # each once

    def untied(self, given: Sequence[str] | None) -> tuple[str, ...]:
        """The names that are to be untied, in order; all where none are given. InputError for an unknown one."""
        known = self.owned_names()
        if given is None:
            return tuple(known)
        for name in given:
            if name not in known:
                raise InputError(f"backbone.untied: {name!r} is not a part of this backbone" + nearest(name, known))
        return tuple(name for name in known if name in given)
