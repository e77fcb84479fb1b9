"""What every backbone says about towers: tower_table, active_parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Modality


def tower_table(
    towers: Mapping[str, Sequence[str]] | None, untied: Sequence[str], modalities: Sequence[Modality]
) -> tuple[list[str], list[int]]:
    """Names of the towers, and the tower of each modality; one tower when nothing is untied.

    towers: {tower: [modalities]}, one per modality when not given. Raises InputError for a modality that is unknown, in
    two towers or in none.
    """
    names = [m.name for m in modalities]
    towers = towers or {name: [name] for name in names}
    owner: dict[str, int] = {}
    for number, (tower, members) in enumerate(towers.items()):
        for member in members:
            if member not in names:
                raise InputError(f"backbone.towers.{tower}: {member!r} is not a modality" + nearest(member, names))
            if member in owner:
                raise InputError(f"backbone.towers.{tower}: {member!r} is in another tower already")
            owner[member] = number
    missing = [name for name in names if name not in owner]
    if missing:
        raise InputError(f"backbone.towers: no tower has {', '.join(missing)}; add it to one")
    if not untied:
        return ["all"], [0] * len(names)
    return list(towers), [owner[name] for name in names]


def active_parameters(backbone: nn.Module, tower: int) -> int:
    """Parameters of a backbone without those that only other towers own."""
    owners = backbone.untied_parameters()
    return sum(
        p.numel() * owners[name].count(tower) // len(owners[name]) if name in owners else p.numel()
        for name, p in backbone.named_parameters()
    )
