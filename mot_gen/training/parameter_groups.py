"""What training does with a parameter, as its name says: freeze, decays, rate_factors, is_stack_of_matrices.

A ParameterGroup is what parameters have in common that are stepped alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mot_gen.errors import nearest, require
from mot_gen.model import MultimodalModel
from mot_gen.recipes.sections import Backbone, Phase, Training
from mot_gen.tokenizers.muon import LEAST

Factors = tuple[float, ...]  # of the learning rate: one for each of `training.phases`, and one for after them


class ParameterGroup(NamedTuple):
    """A group of an optimizer. matrices: whether Muon steps its values. decay: their weight decay."""

    matrices: bool
    decay: float
    factors: Factors


def is_stack_of_matrices(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a projection of the backbone: (towers or experts, out, in), which Muon can step."""
    return name.startswith("backbone.") and parameter.dim() == 3 and min(parameter.shape[1:]) >= LEAST


def freeze(model: MultimodalModel, training: Training) -> None:
    """Freeze every parameter that is not among `training.learns`, or is below `training.frozen_layers`.

    InputError where a name of `training.learns` is that of no parameter or module.
    """
    parts = {part for name, _ in model.named_parameters() for part in name.split(".") if not part.isdigit()}
    for part in training.learns:
        require(part in parts, f"training.learns: no part of the model is called {part!r}{nearest(part, parts)}")
    for name, parameter in model.named_parameters():
        if not _learns(name, training):
            parameter.requires_grad_(False)


def _learns(name: str, training: Training) -> bool:
    path = name.split(".")
    if training.frozen_layers and _is_below(path, training.frozen_layers):
        return False
    return not training.learns or any(part in training.learns for part in path)


def _is_below(path: list[str], layers: int) -> bool:
    """Whether a parameter belongs to the embedding or to one of the first layers. path: its name's parts."""
    if path[0] == "embedding":
        return True
    return path[:2] == ["backbone", "blocks"] and int(path[2]) < layers


def rate_factors(
    name: str, model: MultimodalModel, backbone: Backbone, phases: Sequence[Phase]
) -> list[tuple[int | None, Factors]]:
    """[(place, factors)] of the learning rate of a parameter.

    Where the factors of towers differ and each tower owns a slice of the parameter, there is an entry for each slice;
    else one for the whole parameter, at the place None.
    """
    sections: list[Backbone | Phase] = [*phases, backbone]
    by_tower = [_factors(tower, sections) for tower in model.backbone.towers]
    if len(set(by_tower)) == 1:
        return [(None, by_tower[0])]
    owners = model.backbone.untied_parameters().get(name.removeprefix("backbone."))
    if owners:
        return [(place, by_tower[tower]) for place, tower in enumerate(owners)]
    owner = _owner(name, model)
    if owner is None:
        return [(None, (1.0,) * len(sections))]
    return [(None, by_tower[owner])]


def _factors(tower: str, sections: Sequence[Backbone | Phase]) -> Factors:
    return tuple(_factor(tower, section) for section in sections)


def _factor(tower: str, section: Backbone | Phase) -> float:
    """What a section of the recipe multiplies a tower's learning rate by; 0 where the tower is frozen."""
    if tower in section.frozen:
        return 0.0
    return section.lr_factors.get(tower, 1.0)


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices, but not to norms, biases and embeddings."""
    if parameter.dim() < 2 or "norm" in name:
        return False
    return not name.endswith("bias") and not name.startswith("embedding") and ".codes." not in name


def _owner(name: str, model: MultimodalModel) -> int | None:
    """The tower of a parameter that is not untied: for patch and token layers that of their modality, for the embedding
    and the head that of text. A tied parameter of the backbone has none."""
    section, _, rest = name.partition(".")
    if section == "backbone":
        return None
    modality = model.modality_names[0]
    if section in ("patch_layers", "token_layers"):
        modality = rest.partition(".")[0]
    return int(model.backbone.tower_of[model.index_of[modality]])
