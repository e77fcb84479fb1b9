"""JanusFlow (deepseek-ai/JanusFlow-1.3B, arXiv 2411.07975), with stabilityai/sdxl-vae in a folder vae/ beside it.

A Llama whose pictures are drawn by rectified flow, all tokens seeing only what came before them. Latents enter and
leave by ConvNeXt blocks with a skip between, and the time stands before them as a token. Pictures that are read are
features of a SigLIP encoder; the token that begins one has an embedding of its own.

    language_model.*; beg_of_und_embed
    vision_und_enc_model.vision_tower.* (its pooling is not used), vision_und_enc_aligner.*
    vision_gen_enc_model.*, vision_gen_enc_aligner.*, vision_gen_dec_*
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mot_gen.errors import InputError
from mot_gen.families.janus import conversation
from mot_gen.families.shared.conversion import ConvertedPart, PublishedFolder, assemble, outline
from mot_gen.families.shared.latent_diffusion import diffusers_table, diffusers_vae
from mot_gen.families.shared.random_weights import (
    TINY_TOWER,
    byte_tokenizer,
    published_shapes,
    random_tensors,
    write_configs,
)
from mot_gen.families.shared.recipes import whole_model_recipe
from mot_gen.families.shared.siglip import of_convolution
from mot_gen.families.shared.table import Entry, layer_entries
from mot_gen.families.shared.towers import Kind, Names, conversing_text, one_tower, tower
from mot_gen.families.shared.transformers_folders import causal_layout, colours, special_ids
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.tokenizers.image_features import ImageFeatureTokenizer
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer

LICENCE = "DeepSeek Model License (use is restricted); the code's is MIT; SDXL's autoencoder: MIT"
LOOKS_FOR = "a config.json with a vision_gen_enc_config of ShallowUViTEncoder, and SDXL's autoencoder in vae/"
VAE = "vae/diffusion_pytorch_model.safetensors"
WEIGHTS = ("*.safetensors", VAE)
PASSES_OVER = ("vision_und_enc_model.vision_tower.attn_pool.",)
READ, DRAWN = ("<begin_of_image>", "<end_of_image>"), "<｜begin▁of▁generation｜>"
TEMPLATE = conversation("User", "Assistant")
SAMPLING = {
    "num_inference_steps": 30,
    "sigmas": "even",
    "guidance_scale": 2.0,
    "unconditional": "hidden",
    "chat": True,
}
TOWERS = {"siglip_large_patch16_384": {"width": 1024, "layers": 24, "heads": 16, "patch_size": 16, "mlp_ratio": 4}}
KIND = Kind()


def recognises(folder: Path) -> bool:
    """Whether the folder has a JanusFlow's config, and the autoencoder."""
    if not (folder / "config.json").is_file() or not (folder / VAE).is_file():
        return False
    return PublishedFolder(folder).config().get("vision_gen_enc_config", {}).get("cls") == "ShallowUViTEncoder"


def parts(source: PublishedFolder) -> list[ConvertedPart]:
    """The model, the autoencoder of pictures that are drawn, and the encoder of those that are read."""
    config, text = source.config(), text_tokenizer(source)
    drawn, read = _autoencoder(source, config), _read(source, config)
    modalities = [text.modality, read.modality, drawn.modality]
    model = outline(MultimodalModel, _model_config(config, modalities).to_dict())
    (begin,) = special_ids(source, READ[:1])
    return [
        ConvertedPart("model", model, [*tower(model, KIND, 0, Names("language_model.model.")), *_table(model, begin)]),
        ConvertedPart("image_tokenizer", cast(nn.Module, drawn), diffusers_table(drawn)),
        ConvertedPart("sight_tokenizer", cast(nn.Module, read), list(_vision_table(read))),
    ]


def pipeline(source: PublishedFolder, parts: Sequence[ConvertedPart]) -> MultimodalPipeline:
    """The pipeline over the modules of `parts`, with the published sampler and defaults."""
    return assemble(parts, text_tokenizer(source), sampling=SAMPLING)


def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
    """A recipe that goes on training the whole model in the folder `out`."""
    return whole_model_recipe(pipeline, out, "JanusFlow", {"lr": 2e-5, "min_lr": 2e-6})


def text_tokenizer(source: PublishedFolder) -> TextTokenizer:
    """Its tokenizer, with the conversation of the published code as chat template."""
    return conversing_text(source.folder, _language_config(source.config()), TEMPLATE)


# ---------------------------------------------------------------- the model


def _language_config(config: dict[str, Any]) -> Any:
    """The config of the language model. Fields that it leaves out have Llama's own defaults."""
    import transformers

    return transformers.LlamaConfig(**config["language_config"])


def _model_config(config: dict[str, Any], modalities: list) -> MultimodalConfig:
    text, drawn = _language_config(config), config["vision_gen_dec_config"]["params"]
    encoder = config["vision_gen_enc_config"]["params"]
    uvit = {
        "kind": "shallow_uvit",
        "width": encoder["block_out_channels"][0],
        "blocks": encoder["layers_in_middle"],
        "patch_size": encoder["stride"],
        "eps": drawn["norm_eps"],
        "head_eps": text.rms_norm_eps,
        "reversed_time": True,
    }
    layers = {"image": uvit, "sight": {"kind": "connector", "layers": 1}}
    objectives = {"image": {"kind": "flow", "cap": 1.0}}
    return one_tower(text, KIND, modalities, objectives=objectives, patch_layers=layers)


LAYERS = {
    "sight.fc1": "vision_und_enc_aligner",
    "image.time.mlp.0": "vision_gen_enc_model.time_embed.linear_1",
    "image.time.mlp.2": "vision_gen_enc_model.time_embed.linear_2",
    "image.conv_in": "vision_gen_enc_model.in_conv",
    "image.proj_in": "vision_gen_enc_aligner",
    "image.proj_out": "vision_gen_dec_aligner",
    "image.conv_out": "vision_gen_dec_model.out_convs.0.unpatch_conv",
}
NORMS = {
    "image.head_norm": "vision_gen_dec_aligner_norm",
    "image.norm_in": "vision_gen_dec_model.input_norm",
    "image.norm_out": "vision_gen_dec_model.out_convs.0.norm",
}
BLOCK = {
    "depthwise": "depthwise",
    "wide": "channelwise_linear_1",
    "response_norm": "channelwise_norm",
    "narrow": "channelwise_linear_2",
    "by_time": "cond_embeds_mapper",
}


def _table(model: MultimodalModel, begin: int) -> Iterator[Entry]:
    """All but the tower. begin: the token that begins a picture that is read; its row is `beg_of_und_embed`, and the
    published row in its place is read by nothing."""
    embedding = "language_model.model.embed_tokens.weight"
    for rows in ((slice(0, begin),), (slice(begin + 1, None),)):
        yield Entry("embedding.weight", embedding, place=rows, taken=rows)
    yield Entry("embedding.weight", "beg_of_und_embed", place=(slice(begin, begin + 1),))
    yield Entry("head.weight", "language_model.lm_head.weight")
    for ours, theirs in NORMS.items():
        yield Entry(f"patch_layers.{ours}.weight", f"{theirs}.weight")
    yield from layer_entries({f"patch_layers.{ours}": theirs for ours, theirs in LAYERS.items()})
    for side, theirs in (("before", "vision_gen_enc_model"), ("after", "vision_gen_dec_model")):
        for number in range(len(getattr(model.patch_layers["image"], side))):
            ours, block = f"patch_layers.image.{side}.{number}", f"{theirs}.mid_block.res_blocks.{number}"
            yield Entry(f"{ours}.norm.weight", f"{block}.norm.weight")
            yield from layer_entries({f"{ours}.{mine}": f"{block}.{name}" for mine, name in BLOCK.items()})


# ---------------------------------------------------------------- pictures


def _autoencoder(source: PublishedFolder, config: dict[str, Any]) -> LatentImageTokenizer:
    """SDXL's. The token before a picture is its time, and nothing stands after it."""
    vae = {name: value for name, value in diffusers_vae(source).items() if value is not None}
    layout = causal_layout(source, [DRAWN, READ[1]]) | {"ends": False, "timed": True}
    channels = vae["latent_channels"]
    made = {
        "vae_class": "AutoencoderKL",
        "vae_config": vae,
        "image_size": config["vision_und_enc_config"]["params"]["image_size"],
        "patch_size": config["vision_gen_enc_config"]["params"]["stride"],
        "shift": [vae.get("shift_factor", 0.0)] * channels,
        "scale": [vae["scaling_factor"]] * channels,
    }
    return outline(LatentImageTokenizer, made | {"layout": layout})


def _read(source: PublishedFolder, config: dict[str, Any]) -> ImageFeatureTokenizer:
    """The encoder, over pictures that are filled up to a square."""
    given = config["vision_und_enc_config"]["params"]
    sizes = TOWERS.get(given["model_name"], {}) | given
    for name in ("width", "layers", "heads", "patch_size", "mlp_ratio"):
        if name not in sizes:
            known = ", ".join(TOWERS)
            raise InputError(f"{source.folder}: the vision tower {given['model_name']!r} is not known; it is {known}")
    stated = source.config("preprocessor_config.json")
    mean, std = colours(source)
    vision = {
        "hidden_size": sizes["width"],
        "intermediate_size": int(sizes["width"] * sizes["mlp_ratio"]),
        "num_attention_heads": sizes["heads"],
        "num_hidden_layers": sizes["layers"],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }
    fill = stated.get("background_color", [127, 127, 127])
    square = {"square": given["image_size"], "fill": fill, "least": stated.get("min_size", 14), "rounds": False}
    made = {"vision": vision, "patch_size": sizes["patch_size"], "side": given["image_size"] // sizes["patch_size"]}
    layout = causal_layout(source, READ)
    return outline(ImageFeatureTokenizer, made | {"image_size": square, "layout": layout, "mean": mean, "std": std})


def _vision_table(read: ImageFeatureTokenizer) -> Iterator[Entry]:
    """The encoder's tensors, in timm's names, whose queries, keys and values are one matrix."""
    prefix, width = "vision_und_enc_model.vision_tower.", read.positions.shape[1]
    for name, own in read.state_dict().items():
        theirs = name
        for mine, timms in _TIMM:
            theirs = theirs.replace(mine, timms)
        how: tuple = ()
        taken: tuple = ()
        if name == "positions":
            taken = (0,)
        elif name == "embed.weight":
            how = (of_convolution(len(own), 3, read.config.patch_size),)
        elif match := re.search(r"\.([qkv])_proj\.", name):
            place = "qkv".index(match[1])
            taken = (slice(place * width, (place + 1) * width),)
        yield Entry(name, prefix + theirs, how, taken=taken)


# What names of `ImageFeatureTokenizer` hold -> what timm's have in its place.
_TIMM = (
    ("positions", "pos_embed"),
    ("embed.", "patch_embed.proj."),
    ("encoder.layers.", "blocks."),
    ("layer_norm", "norm"),
    ("out_proj", "proj"),
    ("self_attn", "attn"),
    ("q_proj", "qkv"),
    ("k_proj", "qkv"),
    ("v_proj", "qkv"),
)


# ---------------------------------------------------------------- a small one


def tiny(folder: Path) -> None:
    """A JanusFlow of random weights."""
    import diffusers
    from safetensors.torch import save_file

    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "min_size": 2, "background_color": [127, 127, 127]}
    write_configs(folder, {"config.json": _TINY, "preprocessor_config.json": about})
    byte_tokenizer(["<bos>", "<eos>", "<image_placeholder>", *READ, DRAWN]).save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae: Any = diffusers.AutoencoderKL(
        block_out_channels=[32, 32], layers_per_block=1, scaling_factor=0.13025, **blocks
    )
    vae.save_pretrained(folder / "vae")
    source = PublishedFolder(folder, (VAE,))
    made = {part.name: part for part in parts(source)}
    source.close()
    drawn = made.pop("image_tokenizer")
    save_file(random_tensors(published_shapes(drawn.outline, drawn.table), generator), folder / VAE)
    shapes: dict[str, torch.Size] = {}
    for part in made.values():
        shapes |= published_shapes(part.outline, part.table)
    save_file(random_tensors(shapes, generator), folder / "model.safetensors")


_TINY: dict[str, Any] = {
    "model_type": "multi_modality",
    "language_config": {
        "vocab_size": 270,
        **TINY_TOWER,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
    },
    "vision_und_enc_config": {
        "params": {"image_size": 8, "model_name": "tiny", "width": 24, "layers": 2, "heads": 2, "patch_size": 4,
                   "mlp_ratio": 2},
    },
    "vision_gen_enc_config": {
        "cls": "ShallowUViTEncoder",
        "params": {"block_out_channels": [16], "layers_in_middle": 2, "stride": 2, "norm_eps": 1e-6},
    },
    "vision_gen_dec_config": {"params": {"norm_eps": 1e-6}},
}  # fmt: skip
