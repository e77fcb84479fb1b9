"""BAGEL (ByteDance-Seed/BAGEL-7B-MoT, arXiv 2505.14683), and what uses its file format.

A Mixture-of-Transformers with experts by role: one tower reads texts, the features of pictures, and all bounds; the
other has the latents of pictures, clean or noised. A picture is read as the features of a SigLIP2 encoder, edited as
its latents and its features, and drawn as latents of FLUX's autoencoder.

    ema.safetensors   language_model.*   the two towers, embedding and head; `_moe_gen` is the tower that draws
                      vit_model.*        the encoder of pictures that are read
                      connector.*, vit_pos_embed.*; vae2llm.*, llm2vae.*, time_embedder.*, latent_pos_embed.*
    ae.safetensors    the autoencoder, in the names of latent diffusion (`vae_names`)

Facts that stand in no published file are constants here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mot_gen.errors import InputError
from mot_gen.families.shared.conversion import ConvertedPart, PublishedFolder, assemble, outline
from mot_gen.families.shared.latent_diffusion import autoencoder_config, vae_names
from mot_gen.families.shared.random_weights import (
    TINY_TOWER,
    byte_tokenizer,
    published_shapes,
    random_tensors,
    write_configs,
)
from mot_gen.families.shared.recipes import row_length, training_recipe
from mot_gen.families.shared.siglip import siglip_name
from mot_gen.families.shared.table import Entry, layer_entries
from mot_gen.families.shared.towers import Kind, Names, published_text, tower
from mot_gen.families.shared.transformers_folders import special_ids
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.sequence import Modality
from mot_gen.tokenizers.image_features import ImageFeatureTokenizer
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer

LICENCE = "Apache-2.0 (BAGEL-7B-MoT); its autoencoder is FLUX.1-schnell's, Apache-2.0"
LOOKS_FOR = "llm_config.json, vit_config.json, ema.safetensors and ae.safetensors"
WEIGHTS = ("ema.safetensors", "ae.safetensors")
FILES = ("llm_config.json", "vit_config.json", *WEIGHTS)
BOUNDS = {"text": ("<|im_start|>", "<|im_end|>"), "picture": ("<|vision_start|>", "<|vision_end|>")}
KIND = Kind(qk_norm=True, qkv_bias=True)
SHORT_OF_VIT = 224 / 980  # the least side of a picture that is read, of its greatest
SAMPLING = {
    "num_inference_steps": 49,  # 50 points
    "sigmas": "even",
    "guidance_scale": 4.0,
    "guidance_interval": [0.4, 1.0],
    "guidance_renorm": "global",
    "image_guidance_scale": 2.0,
    "image_to_image": {"guidance_interval": [0.0, 1.0], "guidance_renorm": "text_channel"},
}
DRAWING_SHIFT = 3.0  # of the sampler's times; that of training stands in config.json


def recognises(folder: Path) -> bool:
    """Whether the folder has BAGEL's files."""
    return all((folder / name).is_file() for name in FILES)


def parts(source: PublishedFolder) -> list[ConvertedPart]:
    """The model, the encoder of pictures that are read, and the autoencoder."""
    text = text_tokenizer(source)
    image = _autoencoder(source)
    sight = _vision(source, image.config.image_size)
    model = outline(MultimodalModel, _model_config(source, [text.modality, image.modality, sight.modality]).to_dict())
    image_table = [Entry(ours, theirs, how) for ours, theirs, how in vae_names(image)]
    sight_table = [Entry(name, siglip_name(name, "vit_model.vision_model.")) for name in sight.state_dict()]
    # mypy does not see that diffusers' ModelMixin, which is imported lazily, is a Module.
    return [
        ConvertedPart("model", model, _model_table(model)),
        ConvertedPart("image_tokenizer", cast(nn.Module, image), image_table),
        ConvertedPart("sight_tokenizer", cast(nn.Module, sight), sight_table),
    ]


def pipeline(source: PublishedFolder, parts: Sequence[ConvertedPart]) -> MultimodalPipeline:
    """The pipeline over the modules of `parts`, with the published sampler and defaults."""
    return assemble(parts, text_tokenizer(source), sampling=SAMPLING)


def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
    """A recipe that goes on training the whole model in the folder `out`."""
    heading = "Goes on training a converted BAGEL. Set data.records; frozen towers: backbone.frozen; or backbone.lora."
    sampling = {"num_inference_steps": 49, "guidance_scale": 4.0, "published": SAMPLING}
    training = {"row_length": row_length(pipeline), "lr": 2.5e-5}
    return training_recipe(pipeline, out, heading, training, sampling=sampling)


def parts_like(source: PublishedFolder, folder: Path) -> list[ConvertedPart]:
    """The parts of a folder of ours, which must be of the published model's shape."""
    made = parts(source)
    published: Any = made[0].outline
    ours, theirs = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8")), published.config
    for name in ("dim", "layers", "heads", "kv_heads", "ffn_dim"):
        if ours["backbone"].get(name) != theirs["backbone"][name]:
            raise InputError(
                f"{source.folder}: its {name} is {theirs['backbone'][name]}, the model's {ours['backbone'].get(name)}; "
                "give what it was made from"
            )
    return made


def text_tokenizer(source: PublishedFolder) -> TextTokenizer:
    """Qwen2's, with texts wrapped in the ids that the published tokenizer gives <|im_start|> and <|im_end|>."""
    size = source.config("llm_config.json")["vocab_size"]
    begin, end = special_ids(source, BOUNDS["text"])
    bounds = {"begin": begin, "end": end, "wraps": True}  # in place of a chat template
    return published_text(source.folder, size, **bounds).with_chat_template(None)


# ---------------------------------------------------------------- the model


def _picture_bounds(source: PublishedFolder) -> dict[str, Any]:
    begin, end = special_ids(source, BOUNDS["picture"])
    return {"begin": begin, "end": end, "block": True, "position": "grid"}


def _model_config(source: PublishedFolder, modalities: list[Modality]) -> MultimodalConfig:
    """The towers by role, and how pictures enter and leave."""
    llm, config = source.config("llm_config.json"), source.config()
    backbone = {
        "kind": "mot",
        "dim": llm["hidden_size"],
        "layers": llm["num_hidden_layers"],
        "heads": llm["num_attention_heads"],
        "kv_heads": llm["num_key_value_heads"],
        "ffn_dim": llm["intermediate_size"],
        "qk_norm": True,
        "qkv_bias": True,
        "norm_eps": llm["rms_norm_eps"],
        "rope_theta": float(llm["rope_theta"]),
        # In the order of the alphabet: a saved config is sorted, and towers are numbered in its order.
        "towers": {"generation": ["image"], "understanding": ["text", "sight"]},
    }
    if llm.get("tie_word_embeddings"):
        raise InputError(f"{source.folder / 'llm_config.json'}: tie_word_embeddings is true; BAGEL's head is its own")
    layers = {
        "image": {"kind": "linear", "time_scale": 1.0, "table": config["max_latent_size"]},
        "sight": {"kind": "connector", "table": config["vit_max_num_patch_per_side"]},
    }
    shift = config.get("timestep_shift", 1.0)
    objectives = {"image": {"kind": "flow", "time": "logit_normal", "shift": shift, "cap": 1.0}}
    objectives["image"]["drawing_shift"] = DRAWING_SHIFT
    return MultimodalConfig(modalities, backbone, objectives, layers, llm["max_position_embeddings"])


def _model_table(model: MultimodalModel) -> list[Entry]:
    prefix = "language_model.model."
    draws, reads = model.backbone.towers.index("generation"), model.backbone.towers.index("understanding")
    entries = [*tower(model, KIND, reads, Names(prefix)), *tower(model, KIND, draws, Names(prefix, "_moe_gen"))]
    names = {
        "embedding.weight": f"{prefix}embed_tokens.weight",
        "head.weight": "language_model.lm_head.weight",
        "patch_layers.image.table.weight": "latent_pos_embed.pos_embed",
        "patch_layers.sight.table.weight": "vit_pos_embed.pos_embed",
    }
    layers = {
        "patch_layers.image.proj_in": "vae2llm",
        "patch_layers.image.proj_out": "llm2vae",
        "patch_layers.image.time.mlp.0": "time_embedder.mlp.0",
        "patch_layers.image.time.mlp.2": "time_embedder.mlp.2",
        "patch_layers.sight.fc1": "connector.fc1",
        "patch_layers.sight.fc2": "connector.fc2",
    }
    return [*entries, *(Entry(ours, theirs) for ours, theirs in names.items()), *layer_entries(layers)]


# ---------------------------------------------------------------- pictures that are read


def _vision(source: PublishedFolder, first_size: dict[str, int]) -> ImageFeatureTokenizer:
    """The encoder, of one layer less than its config counts. first_size: the rule of pictures that are drawn, by which
    those that are read are resized too, before their own."""
    given, side = source.config("vit_config.json"), source.config()["vit_max_num_patch_per_side"]
    patch = given["patch_size"]
    kept = ("hidden_size", "intermediate_size", "num_attention_heads")
    vision = {name: given[name] for name in kept} | {"num_hidden_layers": given["num_hidden_layers"] - 1}
    long = patch * side
    sizes = {"long": long, "short": round(long * SHORT_OF_VIT), "stride": patch}
    return outline(
        ImageFeatureTokenizer,
        {
            "vision": vision,
            "image_size": sizes,
            "patch_size": patch,
            "side": side,
            "layout": _picture_bounds(source),
            "first_size": dict(first_size),
        },
    )


# ---------------------------------------------------------------- pictures that are drawn


def _autoencoder(source: PublishedFolder) -> LatentImageTokenizer:
    """Its widths are read off the tensors, since no published file states them."""
    config, specs = source.config(), source.weights.specs
    widths: list[int] = []
    blocks = 0
    while f"encoder.down.{len(widths)}.block.0.conv2.weight" in specs:
        widths.append(specs[f"encoder.down.{len(widths)}.block.0.conv2.weight"].shape[0])
    while f"encoder.down.0.block.{blocks}.conv2.weight" in specs:
        blocks += 1
    if not widths or "decoder.conv_in.weight" not in specs:
        raise InputError(f"{source.folder / 'ae.safetensors'}: holds no autoencoder; fetch it again")
    channels = specs["decoder.conv_in.weight"].shape[1]
    stated = autoencoder_config(widths, blocks, channels, config["latent_patch_size"], config["max_latent_size"])
    return outline(LatentImageTokenizer, stated | {"layout": _picture_bounds(source) | {"alone": True}})


# ---------------------------------------------------------------- a small one


def tiny(folder: Path) -> None:
    """A BAGEL of random weights, with a tokenizer of bytes and four special tokens."""
    from safetensors.torch import save_file

    write_configs(folder, _TINY)
    byte_tokenizer([*BOUNDS["text"], *BOUNDS["picture"]]).save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    save_file(random_tensors(_tiny_autoencoder(), generator), folder / "ae.safetensors")
    source = PublishedFolder(folder, ("ae.safetensors",))
    tensors: dict[str, torch.Tensor] = {}
    for part in parts(source):
        if part.name != "image_tokenizer":
            tensors |= random_tensors(published_shapes(part.outline, part.table), generator)
    source.close()
    save_file(tensors, folder / "ema.safetensors")


def _tiny_autoencoder() -> dict[str, torch.Size]:
    module = outline(LatentImageTokenizer, autoencoder_config([32, 32], 1, 4, 2, 4))
    return published_shapes(module, [Entry(*names) for names in vae_names(module)])


_TINY: dict[str, dict[str, Any]] = {
    "config.json": {
        "model_type": "bagel",
        "latent_patch_size": 2,
        "max_latent_size": 4,
        "vit_max_num_patch_per_side": 5,
        "timestep_shift": 2.0,
    },
    "llm_config.json": {
        **TINY_TOWER,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "vocab_size": 270,
    },
    "vit_config.json": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "patch_size": 4,
    },
}
