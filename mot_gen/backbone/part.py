"""Part: the methods that parts of all roles have in common. The roles are in parts.py.

`block` is always a `parts.Layer`: the block that the part is in. Modules: what a part adds to it, by name.
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
    """Base of all parts. Every method has a default, so that a part defines only what it needs.

    where: the part's place in the recipe, for messages. flat: the options that were given as fields of the `Config`.
    """

    where: str = field(default="", kw_only=True, compare=False, repr=False)
    flat: frozenset[str] = field(default=frozenset(), kw_only=True, compare=False, repr=False)

    untied: ClassVar[tuple[str, ...]] = ()  # names of the parameters that towers may own

    def refuse(self, option: str, complaint: str) -> InputError:
        """The error for an option, to be raised by the caller."""
        where = "backbone" if option in self.flat else self.where
        return InputError(f"{where}.{option}: {complaint}")

    def require_counts(self, *options: str, remedy: str = "") -> None:
        """InputError for the first of these options that is no positive integer."""
        for option in options:
            value = getattr(self, option)
            if not is_count(value):
                raise self.refuse(option, f"must be a positive integer{remedy}, got {value!r}")

    def fit(self, config: Any) -> Self:
        """A copy in which options that were not given follow from the backbone's `Config`. InputError where options do
        not fit."""
        return self

    def check(self, config: Any, towers: Sequence[str]) -> None:
        """InputError where the part does not fit these towers."""

    def check_modalities(self, modalities: Sequence[Modality]) -> None:
        """InputError where the part cannot read one of these modalities."""

    def require_spans(self, modalities: Sequence[Modality]) -> None:
        """InputError unless one of the modalities is bidirectional."""
        if not any(modality.bidirectional for modality in modalities):
            kind = type(self).__module__.rpartition(".")[2]
            raise self.refuse("kind", f"{kind} is for bidirectional spans, which no modality here has; drop it")

    def causal(self, block: Any) -> bool:
        """False if, without a cache, the output for a token depends on later tokens."""
        return True

    def repeats(self, block: Any) -> bool:
        """Whether passes over a cache are alike, so that one compiled program serves them all."""
        return True

    def row_multiple(self, device: torch.device) -> int:
        """On this device, the number of slots of a training row should be a multiple of this."""
        return 1

    def modules(self, block: Any) -> Modules:
        """The modules and parameters that it adds to a block, by name. It may set plain attributes of the block too."""
        return {}

    def initial(self, block: Any) -> Mapping[str, Initial]:
        """The initial values of the bare parameters among `modules`. Modules made by owners have their own."""
        return {}

    def owned_by(self, block: Any) -> Mapping[str, list[int]]:
        """For the bare parameters among `modules` that towers own: the tower of each slice."""
        return {}

    def prepare(self, block: Any, batch: Batch) -> None:
        """Derive with `batch.once` what `forward` needs of a batch, such as a mask; it then finds it in `plan.made`."""

    def follow(self, block: Any, step: NextToken) -> bool:
        """As `prepare`, for a pass that writes one token in every row, without a layout. False if it needs one."""
        return type(self).prepare is Part.prepare

    def flops(self, block: Any, batch: Batch) -> int:
        """FLOPs of a forward pass, in a kernel that skips what is not needed."""
        return 0

    def executed_flops(self, block: Any, batch: Batch) -> int:
        """FLOPs of a forward pass, as it is computed here."""
        return self.flops(block, batch)

    def activations(self, block: Any, batch: Batch) -> float:
        """How many numbers are kept for the backward pass of a batch."""
        return 0

    def auxiliary_loss(self, block: Any) -> Tensor | float:
        """What the last forward pass adds to the training loss, weighted. It may be read once a pass."""
        return 0.0

    def idle_parameters(self, block: Any, tower: int) -> int:
        """How many of the tower's parameters here a token does not pass through."""
        return 0
