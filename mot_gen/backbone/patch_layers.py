"""How continuous tokens enter and leave the backbone: PatchLinear, PatchUNet, Connector; build, which also knows
`shallow_uvit.ShallowUViT`; init_weights of all of them.

All have `encode(latents) -> (tokens (N, dim), memory)`, `decode(hidden (N, dim), latents, memory) -> (N, C)`, and
`flops(latents)` and `activations(latents)`, the numbers kept for the backward pass, of both together. A `Connector`,
whose tokens are only read, has no `decode`. The time of a span is embedded once per span. `PatchLinear` and `PatchUNet`
add it to each of the span's tokens (Transfusion, section 3).

Shapes: N tokens of n spans, C channels of a token, D width of the backbone.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.embeddings import (
    USUAL_TIME_SCALE,
    GridTable,
    TimeEmbedding,
    by_grid,
    grid_embedding,
    weights_in,
)
from mot_gen.backbone.shallow_uvit import ShallowUViT
from mot_gen.errors import InputError, nearest
from mot_gen.patches import patchify, unpatchify
from mot_gen.sequence import Latents, Modality


def condition(layers: PatchLinear | PatchUNet, latents: Latents) -> Tensor:
    """(n, dim): the embedded time of every span, and where the objective takes steps that of the step's size."""
    if latents.told is not None:
        return latents.told
    assert latents.time is not None
    return embed_times(layers, latents.time, latents.step)


def embed_times(layers: PatchLinear | PatchUNet, time: Tensor, step: Tensor | None) -> Tensor:
    """time and step (n,) -> (n, dim); step None is 0, and is not looked at where the objective takes none."""
    embedded = layers.time(time)
    if layers.step is None:
        return embedded
    return embedded + layers.step(torch.zeros_like(time) if step is None else step)


def condition_flops(layers: PatchLinear | PatchUNet, latents: Latents) -> int:
    """FLOPs of `condition`."""
    spans = len(latents.learned)
    return layers.time.flops(spans) + (layers.step.flops(spans) if layers.step is not None else 0)


def _on_grid(latents: Latents, tokens: Tensor) -> Tensor:
    """`grid_embedding` of these tokens (N, dim)."""
    return latents.once("grid", lambda: grid_embedding(latents.grids, tokens.shape[-1], tokens.device))


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
        tokens = tokens + latents.per_token(condition(self, latents))
        if self.table is not None:
            tokens = tokens + self.table(latents.grids)
        elif self.on_grid:
            tokens = tokens + _on_grid(latents, tokens)
        return tokens, None

    def decode(self, hidden: Tensor, latents: Latents, memory: None) -> Tensor:
        return self.proj_out(hidden)


class PatchUNet(nn.Module):
    """A U-Net whose middle block is the backbone: diffusers' down and up blocks around it, with skips (Transfusion).

    The values are unpatched to the picture of latents that they are patches of, and one down block a halving brings it
    to the grid of tokens; the up blocks bring the backbone's output back. width: channels at full resolution, doubled
    at each halving. layers: residual blocks a level.
    """

    def __init__(
        self,
        dim: int,
        modality: Modality,
        patch_size: int = 2,
        width: int = 128,
        layers: int = 1,
        takes_step: bool = False,
    ):
        super().__init__()
        assert modality.channels is not None
        levels = patch_size.bit_length() - 1
        if patch_size != 2**levels or modality.channels % patch_size**2 or width % 8:
            raise InputError(
                f"patch_layers.{modality.name}: patch_size {patch_size} must be a power of two whose square divides "
                f"the {modality.channels} channels, and width {width} a multiple of 8"
            )
        from diffusers.models.unets.unet_2d_blocks import DownBlock2D, UpBlock2D

        self.patch_size, self.on_grid = patch_size, modality.position == "grid"
        channels = modality.channels // patch_size**2
        widths = [width * 2**level for level in range(levels + 1)]
        common: dict[str, Any] = {"temb_channels": dim, "num_layers": layers, "resnet_groups": 8}
        self.time = TimeEmbedding(dim)
        self.step = TimeEmbedding(dim) if takes_step else None
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(
            DownBlock2D(in_channels=narrow, out_channels=wide, add_downsample=level < levels, **common)
            for level, (narrow, wide) in enumerate(zip([width, *widths], widths))
        )
        self.proj_in = nn.Linear(widths[-1], dim)
        self.proj_out = nn.Linear(dim, widths[-1])
        common["num_layers"] = layers + 1
        self.up = nn.ModuleList(
            UpBlock2D(
                in_channels=widths[max(level - 1, 0)],
                prev_output_channel=widths[min(level + 1, levels)],
                out_channels=widths[level],
                add_upsample=level > 0,
                **common,
            )
            for level in range(levels, -1, -1)
        )
        self.norm_out = nn.GroupNorm(8, width)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def flops(self, latents: Latents) -> int:
        """A convolution of W weights over P pixels takes 2 W P, and each finer level has 4 times the pixels."""
        tokens, spans = len(latents.values), len(latents.learned)
        finest = len(self.down) - 1
        pixels = [tokens * 4 ** (finest - level) for level in range(finest + 1)]
        products = tokens * (weights_in(self.proj_in) + weights_in(self.proj_out))
        products += pixels[0] * (weights_in(self.conv_in) + weights_in(self.conv_out))
        blocks: list[tuple[int, Any]] = [*enumerate(self.down), *zip(range(finest, -1, -1), self.up)]
        for level, block in blocks:
            timed = sum(weights_in(resnet.time_emb_proj) for resnet in block.resnets)
            products += spans * timed + pixels[level] * (sum(map(weights_in, block.resnets)) - timed)
            products += sum(pixels[level + 1] * weights_in(m) for m in getattr(block, "downsamplers", None) or ())
            products += sum(pixels[level - 1] * weights_in(m) for m in getattr(block, "upsamplers", None) or ())
        return 2 * products + condition_flops(self, latents)

    def activations(self, latents: Latents) -> int:
        """A residual block keeps the inputs of its norms, activations and convolutions, 6 a pixel and channel."""
        tokens, finest, kept = len(latents.values), len(self.down) - 1, 0
        blocks: list[tuple[int, Any]] = [*enumerate(self.down), *zip(range(finest, -1, -1), self.up)]
        for level, block in blocks:
            channels = sum(3 * r.conv1.in_channels + 3 * r.conv2.in_channels for r in block.resnets)
            kept += tokens * 4 ** (finest - level) * channels
        return kept + tokens * (self.proj_in.in_features + self.proj_out.in_features)

    def encode(self, latents: Latents) -> tuple[Tensor, list]:
        time = condition(self, latents)
        values = latents.values.to(self.proj_in.weight.dtype)
        tokens = values.new_zeros(len(values), self.proj_in.out_features)
        memory = []
        for grid, spans, slots in by_grid(latents):
            temb = time[spans]
            picture = unpatchify(values[slots].unflatten(0, (len(spans), grid[0] * grid[1])), grid, self.patch_size)
            x = self.conv_in(picture)
            skips = [x]
            for block in self.down:
                x, kept = block(x, temb)
                skips.extend(kept)
            memory.append((temb, skips))
            tokens = tokens.index_copy(0, slots, self.proj_in(patchify(x, 1)[0].flatten(0, 1)).to(tokens.dtype))
        tokens = tokens + latents.per_token(time)
        if self.on_grid:
            tokens = tokens + _on_grid(latents, tokens)
        return tokens, memory

    def decode(self, hidden: Tensor, latents: Latents, memory: list) -> Tensor:
        up: list[Any] = list(self.up)
        values = hidden.new_zeros(len(hidden), latents.values.shape[1])
        for (grid, spans, slots), (temb, skips) in zip(by_grid(latents), memory):
            x = unpatchify(self.proj_out(hidden[slots]).unflatten(0, (len(spans), grid[0] * grid[1])), grid, 1)
            skips = list(skips)
            for block in up:
                mine = len(block.resnets)
                x = block(x, tuple(skips[-mine:]), temb)
                del skips[-mine:]
            picture = self.conv_out(F.silu(self.norm_out(x)))
            values = values.index_copy(0, slots, patchify(picture, self.patch_size)[0].flatten(0, 1).to(values.dtype))
        return values


class Connector(nn.Module):
    """Features of another network, which are read and never predicted: linear, GELU, linear (LLaVA 1.5, BAGEL).
    hidden: the width between the two, the backbone's by default. table: as of `PatchLinear`. gelu: "tanh", by which it
    is approximated (BAGEL), or "none" (Janus). layers: 1 for one linear layer alone (JanusFlow)."""

    def __init__(
        self,
        dim: int,
        modality: Modality,
        hidden: int | None = None,
        table: int | None = None,
        gelu: str = "tanh",
        layers: int = 2,
    ):
        super().__init__()
        if gelu not in ("tanh", "none"):
            raise InputError(f"patch_layers.{modality.name}.gelu: {gelu!r} is not known; it is tanh or none")
        if layers not in (1, 2):
            raise InputError(f"patch_layers.{modality.name}.layers: must be 1 or 2, got {layers!r}")
        self.gelu = gelu
        assert modality.channels is not None
        self.fc1 = nn.Linear(modality.channels, dim if layers == 1 else hidden or dim)
        self.fc2 = nn.Linear(hidden or dim, dim) if layers == 2 else None
        self.table = None if table is None else GridTable(table, dim, modality.name)

    def flops(self, latents: Latents) -> int:
        return 2 * len(latents.values) * weights_in(self)

    def activations(self, latents: Latents) -> int:
        """The input of either layer, and that of the GELU."""
        inner = 0 if self.fc2 is None else 2 * self.fc2.in_features
        return len(latents.values) * (self.fc1.in_features + inner)

    def encode(self, latents: Latents) -> tuple[Tensor, None]:
        tokens = self.fc1(latents.values.to(self.fc1.weight.dtype))
        if self.fc2 is not None:
            tokens = self.fc2(F.gelu(tokens, approximate=self.gelu))
        if self.table is not None:
            tokens = tokens + self.table(latents.grids)
        return tokens, None


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
    takes_step: they are told the sampler's step too. usual_scale: of times, where no option says `time_scale`.
    InputError for a kind or an option that is not known, and for a connector of what is not only read."""
    where = f"patch_layers.{modality.name}"
    if kind not in KINDS:
        raise InputError(f"{where}.kind: {kind!r} is not known" + nearest(kind, KINDS))
    if (kind == "connector") != modality.input_only:
        raise InputError(f"{where}.kind: connector is for input_only modalities, which have no other")
    known = _options_of(KINDS[kind])
    for name in options:
        if name not in known:
            raise InputError(f"{where}: {kind} has no option {name!r}" + nearest(name, known))
    if kind == "connector":
        return Connector(dim, modality, **options)
    layers = KINDS[kind](dim, modality, takes_step=takes_step, **options)
    if usual_scale is not None and "time_scale" not in options:
        for embedding in (layers.time, layers.step):
            if embedding is not None:
                embedding.scale = usual_scale
    return layers


def _options_of(layers: Any) -> list[str]:
    """The names of the options that a recipe may give to a kind of patch layers."""
    given = ("dim", "modality", "takes_step")  # by the model
    return [name for name in inspect.signature(getattr(layers, "Options", layers)).parameters if name not in given]


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
    last = getattr(layers, "conv_out", None) or getattr(layers, "proj_out", None)
    step = getattr(layers, "step", None)
    for layer in (last, None if step is None else step.mlp[-1]):
        if layer is not None:  # what is only read has no last one
            layer.weight.zero_()
            layer.bias.zero_()
