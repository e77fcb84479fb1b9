"""What every backbone says about towers: tower_table, tower_widths, active_parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mot_gen.errors import InputError, nearest, require
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
    owner = _owners(towers, names)
    if not untied:
        return ["all"], [0] * len(names)
    return list(towers), [owner[name] for name in names]


def _owners(towers: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, int]:
    """The number of each modality's tower; InputError unless each of `names` is in exactly one."""
    owner: dict[str, int] = {}
    for number, (tower, members) in enumerate(towers.items()):
        for member in members:
            if member not in names:
                raise InputError(f"backbone.towers.{tower}: {member!r} is not a modality" + nearest(member, names))
            if member in owner:
                raise InputError(f"backbone.towers.{tower}: {member!r} is in another tower already")
            owner[member] = number
    missing = [name for name in names if name not in owner]
    require(not missing, f"backbone.towers: no tower has {', '.join(missing)}; add it to one")
    return owner


def tower_widths(config: Any, towers: Sequence[str]) -> list[int] | None:
    """The width of each tower, by the config's `widths`; None where all are as wide as the model.

    InputError for a tower that is not there, a width beyond the model's, and what towers of different widths cannot
    share.
    """
    if not config.widths:
        return None
    _refuse_shared(config)
    for name, width in config.widths.items():
        if name not in towers:
            raise InputError(f"backbone.widths: {name!r} is not a tower" + nearest(name, towers))
        _check_width(name, width, config.dim)
    widths = [config.widths.get(name, config.dim) for name in towers]
    if max(widths) < config.dim:
        raise InputError(
            f"backbone.widths: no tower is as wide as backbone.dim, {config.dim}; say backbone.dim={max(widths)}"
        )
    return widths


def _check_width(tower: str, width: int, dim: int) -> None:
    """InputError for a tower that is wider than the model, or has no width."""
    require(
        1 <= width <= dim,
        f"backbone.widths: {tower} must be from 1 to backbone.dim, {dim}, got {width}; give narrower "
        f"backbone.widths too, or backbone.dim={width}",
    )


def _refuse_shared(config: Any) -> None:
    """InputError where towers of different widths would share more than attention."""
    why = "backbone.widths: towers of different widths share attention alone"
    own = (*config.untied, "qk_norm")
    tied = [name for name in config.roles.owned_names() if name not in own]
    require(not tied, f"{why}; untie {', '.join(tied)} too")
    require(config.experts == 1 and not config.qkv_bias, f"{why}; drop experts and qkv_bias")


def active_parameters(backbone: Any, tower: int) -> int:
    """Parameters of a backbone without those that only other towers own."""
    owners = backbone.untied_parameters()
    total = 0
    for name, parameter in backbone.named_parameters():
        slices = owners.get(name, [tower])
        total += parameter.numel() * slices.count(tower) // len(slices)
    return total
