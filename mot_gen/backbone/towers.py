"""What every backbone says about towers: tower_table, tower_widths, active_parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def tower_widths(config: Any, towers: Sequence[str]) -> list[int] | None:
    """The width of each tower, by the config's `widths`; None where all are as wide as the model."""
    if not config.widths:
        return None
    tied = [name for name in config.slots.owned_names() if name not in (*config.untied, "qk_norm")]
    if tied:
        raise InputError(
            f"backbone.widths: towers of different widths share attention alone; untie {', '.join(tied)} too"
        )
    if config.experts != 1 or config.qkv_bias:
        raise InputError("backbone.widths: towers of different widths share attention alone; drop experts and qkv_bias")
    for name, width in config.widths.items():
        if name not in towers:
            raise InputError(f"backbone.widths: {name!r} is not a tower" + nearest(name, towers))
        if not 1 <= width <= config.dim:
            raise InputError(
                f"backbone.widths: {name} must be from 1 to backbone.dim, {config.dim}, got {width}; give narrower "
                f"backbone.widths too, or backbone.dim={width}"
            )
    widths = [config.widths.get(name, config.dim) for name in towers]
    if max(widths) < config.dim:
        raise InputError(
            f"backbone.widths: no tower is as wide as backbone.dim, {config.dim}; say backbone.dim={max(widths)}"
        )
    return widths


def active_parameters(backbone: Any, tower: int) -> int:
    """Parameters of a backbone without those that only other towers own."""
    owners = backbone.untied_parameters()
    return sum(
        p.numel() * owners[name].count(tower) // len(owners[name]) if name in owners else p.numel()
        for name, p in backbone.named_parameters()
    )
