"""Part: what a part of any slot of a block may say; Modules, what it adds to a block. The slots are in parts.py.

`block` is always a `parts.Layer`: the block that the part is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mot_gen.backbone.batch import Batch
from mot_gen.backbone.next_token import NextToken
from mot_gen.backbone.routing import Initial
from mot_gen.backbone.sizes import is_count
from mot_gen.errors import InputError
from mot_gen.sequence import Modality

Modules = Mapping[str, nn.Module | nn.Parameter | None]


@dataclass(frozen=True)
class Part:
    """What parts of all slots may say. where: the part's place in the recipe, for messages. flat: the options that are
    fields of the `Config`."""

    where: str = field(default="", kw_only=True, compare=False, repr=False)
    flat: frozenset[str] = field(default=frozenset(), kw_only=True, compare=False, repr=False)

    untied: ClassVar[tuple[str, ...]] = ()  # names of what towers may own

    def refuse(self, option: str, complaint: str) -> InputError:
        """The error that says what is wrong with an option."""
        where = "backbone" if option in self.flat else self.where
        return InputError(f"{where}.{option}: {complaint}")

    def require_counts(self, *options: str, remedy: str = "") -> None:
        """InputError for the first of these options that is no positive integer."""
        for option in options:
            value = getattr(self, option)
            if not is_count(value):
                raise self.refuse(option, f"must be a positive integer{remedy}, got {value!r}")

    def fit(self, config: Any) -> Self:
        """The part with the options that follow from the backbone's `Config`. InputError where they do not fit."""
        return self

    def check(self, config: Any, towers: Sequence[str]) -> None:
        """InputError where the part does not fit these towers."""

    def check_modalities(self, modalities: Sequence[Modality]) -> None:
        """InputError where the part cannot read one of these modalities."""

    def require_spans(self, modalities: Sequence[Modality]) -> None:
        """InputError unless a modality has spans of which all tokens see one another."""
        if not any(modality.bidirectional for modality in modalities):
            kind = type(self).__module__.rpartition(".")[2]
            raise self.refuse("kind", f"{kind} is for bidirectional spans, which no modality here has; drop it")

    def causal(self, block: Any) -> bool:
        """False where, without a cache, later tokens bear on earlier ones."""
        return True

    def repeats(self, block: Any) -> bool:
        """Whether a compiled block serves its passes over a cache."""
        return True

    def row_multiple(self, device: torch.device) -> int:
        """What the number of slots of a training row should be a multiple of on a device."""
        return 1

    def modules(self, block: Any) -> Modules:
        """What it adds to a block, by name; it may set plain attributes of the block too."""
        return {}

    def initial(self, block: Any) -> Mapping[str, Initial]:
        """How the parameters among `modules` begin; modules that owners make know their own."""
        return {}

    def owned_by(self, block: Any) -> Mapping[str, list[int]]:
        """The tower of each slice of those parameters among `modules` that towers own."""
        return {}

    def prepare(self, block: Any, batch: Batch) -> None:
        """Derive what `forward` reads of a batch, with `batch.once`."""

    def follow(self, block: Any, step: NextToken) -> bool:
        """As `prepare`, for the next token of every row, which has no layout. False where one is needed."""
        return type(self).prepare is Part.prepare

    def flops(self, block: Any, batch: Batch) -> int:
        """FLOPs of a forward pass, as a kernel takes that skips what is not needed."""
        return 0

    def executed_flops(self, block: Any, batch: Batch) -> int:
        """FLOPs of a forward pass as it is run here."""
        return self.flops(block, batch)

    def activations(self, block: Any, batch: Batch) -> float:
        """How many numbers the backward pass keeps of a batch."""
        return 0

    def auxiliary_loss(self, block: Any) -> Tensor | float:
        """What the last forward pass adds to the training loss, weighted; told once."""
        return 0.0

    def idle_parameters(self, block: Any, tower: int) -> int:
        """How many parameters of its tower a token does not pass through."""
        return 0
