"""Autoencoders of latents: autoencoder_config and vae_names of latent diffusion and FLUX, as BAGEL's `ae.safetensors`
has theirs; diffusers_vae and diffusers_table of one in diffusers' own layout."""

from __future__ import annotations

import re
from typing import Any

from mot_gen.families.shared.conversion import PublishedFolder
from mot_gen.families.shared.table import Entry, Permuted
from mot_gen.tokenizers.image_latent import LatentImageTokenizer

SHIFT, SCALE = 0.1159, 0.3611  # of FLUX's latents, which no file states


def autoencoder_config(widths: list[int], blocks: int, channels: int, patch: int, most: int) -> dict[str, Any]:
    """A `LatentImageTokenizer` of these widths and blocks a level. most: patches of latents on a side."""
    vae = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "latent_channels": channels,
        "norm_num_groups": 32,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    stride = patch * 2 ** (len(widths) - 1)
    long = stride * most
    return {
        "vae_class": "AutoencoderKL",
        "vae_config": vae,
        "image_size": {"long": long, "short": long // 2, "stride": stride},
        "patch_size": patch,
        "shift": [SHIFT] * channels,
        "scale": [SCALE] * channels,
    }


def diffusers_vae(source: PublishedFolder) -> dict[str, Any]:
    """What vae/config.json states of an autoencoder, without the notes of diffusers itself."""
    stated = source.config("vae/config.json")
    return {name: value for name, value in stated.items() if not name.startswith("_")}


def diffusers_table(tokenizer: LatentImageTokenizer) -> list[Entry]:
    """Every tensor of an autoencoder that is published in diffusers' own names."""
    return [Entry(name, name.removeprefix("vae.")) for name in tokenizer.state_dict()]


def vae_names(tokenizer: LatentImageTokenizer) -> list[tuple[str, str, tuple]]:
    """(ours, published, steps) of every tensor of an autoencoder in the names of latent diffusion."""
    levels = len(tokenizer.config.vae_config["block_out_channels"])

    def upwards(match: re.Match) -> str:
        return f"up.{levels - 1 - int(match[1])}."

    found = []
    for ours, value in tokenizer.state_dict().items():
        theirs = ours.removeprefix("vae.")
        theirs = re.sub(r"up_blocks\.(\d+)\.", upwards, theirs)
        for pattern, name in _VAE_NAMES:
            theirs = re.sub(pattern, name, theirs)
        attends = ".attn_1." in theirs and theirs.endswith("weight") and value.dim() == 2
        wide = tuple(value.shape)
        how = (Permuted(wide, (0, 1), wide, (*wide, 1, 1)),) if attends else ()
        found.append((ours, theirs, how))
    return found


_VAE_NAMES = (
    (r"down_blocks\.(\d+)\.", r"down.\1."),
    (r"resnets\.(\d+)\.", r"block.\1."),
    (r"(down|up)samplers\.0\.", r"\1sample."),
    (r"mid_block\.block\.0\.", "mid.block_1."),
    (r"mid_block\.block\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_([qkv])\.", r"attn_1.\1."),
    (r"attn_1\.to_out\.0\.", "attn_1.proj_out."),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
)
