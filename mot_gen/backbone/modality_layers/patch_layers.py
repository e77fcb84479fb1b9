"""How continuous tokens enter and leave the backbone: PatchLinear; build and build_all, of every kind;
check_stated; init_weights.

Other kinds have files of their own: `patch_unet.PatchUNet`, `shallow_uvit.ShallowUViT` and `connector.Connector`.

All have `encode(latents) -> (tokens (N, D), memory)`, `decode(hidden (N, D), latents, memory) -> (N, C)`, and
`flops(latents)` and `activations(latents)`, the numbers kept for the backward pass, of both together. A `Connector`,
whose tokens are only read, has no `decode`. The time of a span is embedded once per span. `PatchLinear` and `PatchUNet`
add it to each of the span's tokens (Transfusion, section 3).

Shapes: N tokens of n spans, C channels of a token, D width of the backbone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.backbone.modality_layers.connector import Connector
from mot_gen.backbone.modality_layers.embeddings import (
    USUAL_TIME_SCALE,
    GridTable,
    TimeEmbedding,
    grid_embedding,
    weights_in,
)
from mot_gen.backbone.modality_layers.patch_unet import PatchUNet
from mot_gen.backbone.modality_layers.shallow_uvit import ShallowUViT
from mot_gen.backbone.modality_layers.span_times import condition_flops, condition_of_tokens, embed_times, on_grid
from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Latents, Modality

__all__ = ["KINDS", "PatchLinear", "PatchUNet", "build", "build_all", "embed_times", "grid_embedding", "init_weights"]


class PatchLinear(nn.Module):
    """One linear layer in, one out; the output starts at zero.

    time_scale: what times are multiplied by before they are embedded. table: the side of a `GridTable` of positions in
    place of the computed embedding; only for modalities of position "grid". places: whether such an embedding is added
    at all (Cosmos3 knows rows and columns by rotation alone).
    """

    def __init__(
        self,
        dim: int,
        modality: Modality,
        time_scale: float = USUAL_TIME_SCALE,
        table: int | None = None,
        takes_step: bool = False,
        places: bool = True,
    ):
        super().__init__()
        assert modality.channels is not None
        self.on_grid = modality.position == "grid" and places
        self.time = TimeEmbedding(dim, scale=time_scale)
        self.step = TimeEmbedding(dim, scale=time_scale) if takes_step else None
        self.table = None if table is None else GridTable(table, dim, modality.name)
        self.proj_in = nn.Linear(modality.channels, dim)
        self.proj_out = nn.Linear(dim, modality.channels)

    def flops(self, latents: Latents) -> int:
        projections = weights_in(self.proj_in) + weights_in(self.proj_out)
        return 2 * len(latents.values) * projections + condition_flops(self, latents)

    def activations(self, latents: Latents) -> int:
        """The input of either projection."""
        return len(latents.values) * (self.proj_in.in_features + self.proj_out.in_features)

    def encode(self, latents: Latents) -> tuple[Tensor, None]:
        tokens = self.proj_in(latents.values.to(self.proj_in.weight.dtype))
        tokens = tokens + condition_of_tokens(self, latents)
        if self.table is not None:
            tokens = tokens + self.table(latents.grids)
        elif self.on_grid:
            tokens = tokens + on_grid(latents, tokens)
        return tokens, None

    def decode(self, hidden: Tensor, latents: Latents, memory: None) -> Tensor:
        return self.proj_out(hidden)


KINDS = {"linear": PatchLinear, "unet": PatchUNet, "shallow_uvit": ShallowUViT, "connector": Connector}


def build(
    dim: int,
    modality: Modality,
    kind: str = "linear",
    takes_step: bool = False,
    usual_scale: float | None = None,
    **options,
) -> nn.Module:
    """The patch layers of a modality by kind: "linear", "unet", "shallow_uvit", or "connector" for what is only read.
    takes_step: they are given the sampler's step too. usual_scale: of times, where no option says `time_scale`.
    InputError for a kind or an option that is not known, and for a connector of what is not only read."""
    where = f"patch_layers.{modality.name}"
    check_stated(where, {"kind": kind, **options})
    if (kind == "connector") != modality.input_only:
        raise InputError(f"{where}.kind: input_only modalities have the kind connector, and no others have it")
    if kind == "connector":
        return Connector(dim, modality, **options)
    layers = KINDS[kind](dim, modality, takes_step=takes_step, **options)
    if usual_scale is not None and "time_scale" not in options:
        _set_time_scale(layers, usual_scale)
    return layers


def check_stated(where: str, options: Mapping[str, Any]) -> None:
    """InputError for a kind of patch layers that is not known, or an option that it has not. where: the field."""
    kind = options.get("kind", "linear")
    if kind not in KINDS:
        raise InputError(f"{where}.kind: {kind!r} is not known" + nearest(str(kind), KINDS))
    known = ["kind", *_options_of(KINDS[kind])]
    for name in options:
        if name not in known:
            raise InputError(f"{where}: {kind} has no option {name!r}" + nearest(name, known))


def _set_time_scale(layers: Any, scale: float) -> None:
    """Set what times, and the sampler's steps where they are given, are multiplied by before they are embedded."""
    layers.time.scale = scale
    if layers.step is not None:
        layers.step.scale = scale


def build_all(
    dim: int, modalities: Sequence[Modality], objectives: Mapping[str, Any], given: Mapping[str, dict]
) -> nn.ModuleDict:
    """Modality name -> its patch layers, of all that are continuous. dim: D. objectives, given: by name, the objective
    of each modality that has one, and the options of `build`."""
    layers = nn.ModuleDict()
    for modality in modalities:
        if modality.discrete:
            continue
        objective = objectives.get(modality.name)
        layers[modality.name] = build(
            dim,
            modality,
            takes_step=getattr(objective, "takes_step", False),
            usual_scale=getattr(objective, "time_scale", None),
            **given.get(modality.name, {}),
        )
    return layers


def _options_of(layers: Any) -> list[str]:
    """The names of the options that a recipe may give to a kind of patch layers."""
    given = ("dim", "modality", "takes_step")  # by the model
    stated = vars(layers).get("Options", layers)
    return [name for name in inspect.signature(stated).parameters if name not in given]


@torch.no_grad()
def init_weights(layers: nn.Module) -> None:
    """Initial values of the patch layers of a modality:

    linear layers           normal, std 1 / sqrt(fan in), bias 0
    other layers            PyTorch's own
    the last layer          0, so that an untrained model predicts the mean of its targets
    the step's last layer   0, so that a flow model which begins to learn steps is still that flow
    """
    for module in layers.modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=1 / math.sqrt(module.in_features))
            module.bias.zero_()
        elif reset is not None:
            reset()
    for layer in _last_layers(layers):
        layer.weight.zero_()
        layer.bias.zero_()


def _last_layers(layers: Any) -> list[Any]:
    """The layer that gives the prediction, and that of the step's embedding; a modality that is only read has none."""
    found = []
    step = getattr(layers, "step", None)
    last = getattr(layers, "conv_out", None) or getattr(layers, "proj_out", None)
    if last is not None:
        found.append(last)
    if step is not None:
        found.append(step.mlp[-1])
    return found
