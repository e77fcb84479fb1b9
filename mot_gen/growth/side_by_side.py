"""Growth: two models side by side in one, which predicts the mean of both (Growing Transformers, arXiv 2507.09129).

Embeddings and picture layers stand side by side, too, so that each model reads its own; heads and the layers that
predict pictures are halved, which makes logits and predictions the mean. It costs what both cost. Picture
layers that compute positions from the width cannot stand side by side: such models are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.backbone import transformer
from mot_gen.backbone.modality_layers.patch_layers import PatchLinear
from mot_gen.errors import require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel

PREDICTS = ("head.weight", "proj_out.weight")  # ends of the names of parameters whose outputs are averaged
SUMS = ("dim", "heads", "kv_heads", "ffn_dim")  # options of which the new model has twice as much


@dataclass(frozen=True)
class Growth(base.Growth):
    """It has no options."""

    needs_other = True

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        assert other is not None, "it needs another"
        same = base.shapes_of(model) == base.shapes_of(other)
        require(same, "--grow side_by_side: the two models differ in their parameters; give two of one recipe")
        _check(model)
        config = model.backbone.config
        stated = {name: getattr(config, name) for name in SUMS}
        doubled = {name: 2 * size for name, size in stated.items() if size is not None}
        made = base.rebuild(model, kind="side_by_side", members=2, size=None, layers=config.layers, **doubled)
        own = [dict(each.named_parameters()) for each in (model, other)]
        for name, parameter in made.named_parameters():
            if name.startswith("backbone.members."):
                number, _, leaf = name.removeprefix("backbone.members.").partition(".")
                parameter.copy_(own[int(number)][f"backbone.{leaf}"])
            else:
                parameter.copy_(beside(name, own[0][name], own[1][name], parameter.shape))
        return made


def _check(model: MultimodalModel) -> None:
    """InputError for models whose layers outside of the backbone cannot stand side by side."""
    plain = type(model.backbone) is transformer.Backbone and not model.backbone.config.widths
    require(plain, "--grow side_by_side: is for transformers of one width; this model is another")
    for name, layers in model.patch_layers.items():
        plain = isinstance(layers, PatchLinear) and (layers.table is not None or not layers.on_grid)
        complaint = f"--grow side_by_side: picture layers of {name} must be linear, and not compute places by the width"
        require(plain, f"{complaint}; give two such models")
    require(not model.token_layers, "--grow side_by_side: is not for token layers of a modality apart")


def beside(name: str, first: Tensor, second: Tensor, shape: torch.Size) -> Tensor:
    """Two parameters as one of this shape. If it is their own shape, the mean; else both side by side along the
    dimensions that are doubled, halved if the parameter predicts."""
    doubled = [place for place, (own, both) in enumerate(zip(first.shape, shape)) if both == 2 * own]
    if not doubled:
        return (first + second) / 2
    if len(doubled) == 2:
        return torch.block_diag(first, second)
    joined = torch.cat([first, second], doubled[0])
    if name.endswith(PREDICTS):
        return joined / 2
    return joined
