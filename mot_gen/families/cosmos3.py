"""Cosmos3 (nvidia/Cosmos3, of diffusers' layout): drawing. Its reader of pictures is not converted.

A Mixture-of-Transformers of two towers. One reads a text, token by token; the other draws a picture, which sees itself
and the text. Rows and columns turn queries and keys as time does, each some of their pairs.

    transformer/    the two towers; what begins with audio_ or action_ is passed over
    vae/            Wan's autoencoder of video; a picture is one frame
    text_tokenizer/, scheduler/
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mot_gen.errors import InputError
from mot_gen.families.shared.conversion import ConvertedPart, PublishedFolder, assemble, outline
from mot_gen.families.shared.latent_diffusion import diffusers_table, diffusers_vae
from mot_gen.families.shared.random_weights import TINY_TOWER, byte_tokenizer, randomise, write_configs
from mot_gen.families.shared.recipes import whole_model_recipe
from mot_gen.families.shared.table import Entry, layer_entries
from mot_gen.families.shared.towers import Kind, Names, published_text, tower
from mot_gen.families.shared.transformers_folders import special_ids
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer

LICENCE = "NVIDIA Open Model License"
LOOKS_FOR = "a model_index.json of a Cosmos3 pipeline, transformer/ and vae/"
WEIGHTS = ("transformer/*.safetensors", "vae/*.safetensors")
PASSES_OVER = ("audio_", "action_")
BEGIN, END = "<|im_start|>", "<|im_end|>"
BOUNDS = ("<|vision_start|>", "<|vision_end|>")
SYSTEM = "You are a helpful assistant who will generate images from a give prompt."
LONG, SHORT = 40, 8  # sides of pictures in tokens: 1280 and 256 pixels
KIND = Kind(qk_norm=True)
READS = Names("", attention={"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out"} | {
    "q_norm": "norm_q", "k_norm": "norm_k"})  # fmt: skip
DRAWS = Names("", "_moe_gen", attention={name: f"add_{name}_proj" for name in "qkv"} | {
    "out": "to_add_out", "q_norm": "norm_added_q", "k_norm": "norm_added_k"})  # fmt: skip
SAMPLING = {
    "num_inference_steps": 35,
    "guidance_scale": 6.0,
    "unconditional": "template",
    "chat": {
        "system": SYSTEM,
        "added": "This image is of {height}x{width} resolution.",
        "added_negative": "This image is not of {height}x{width} resolution.",
    },
}


def recognises(folder: Path) -> bool:
    """Whether the folder is a pipeline of Cosmos3."""
    index = folder / "model_index.json"
    if not index.is_file() or not (folder / "transformer" / "config.json").is_file():
        return False
    return "Cosmos3" in str(PublishedFolder(folder).config(index.name).get("_class_name"))


def parts(source: PublishedFolder) -> list[ConvertedPart]:
    """The two towers, and the autoencoder."""
    config, text = source.config("transformer/config.json"), text_tokenizer(source)
    _check(source, config)
    pictures = _autoencoder(source, config)
    model = outline(MultimodalModel, _model_config(config, text, pictures).to_dict())
    return [
        ConvertedPart("model", model, _table(model)),
        ConvertedPart("image_tokenizer", cast(nn.Module, pictures), diffusers_table(pictures)),
    ]


def pipeline(source: PublishedFolder, parts: Sequence[ConvertedPart]) -> MultimodalPipeline:
    """The pipeline over the modules of `parts`, with the published sampler and defaults."""
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler.from_pretrained(source.folder / "scheduler")
    native = source.config("model_index.json").get("use_native_flow_schedule", False)
    sampling = SAMPLING | ({"sigmas": "native"} if native else {})
    return assemble(parts, text_tokenizer(source), scheduler=scheduler, sampling=sampling)


def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
    """A recipe that goes on training the whole model in the folder `out`."""
    training = {"lr": 2e-5, "min_lr": 2e-6}
    return whole_model_recipe(pipeline, out, "Cosmos3", training, cheaper="frozen towers: backbone.frozen")


def text_tokenizer(source: PublishedFolder) -> TextTokenizer:
    """Its tokenizer. A document begins with the <|im_start|> that its chat template begins with, and a picture follows
    the end of text that the pipeline puts after the template."""
    size = source.config("transformer/config.json").get("vocab_size", 151_936)
    begin, end = _special(source, [BEGIN, END])
    text = published_text(source.folder / "text_tokenizer", size, begin=begin, end=end)
    template = text.chat_template
    if not isinstance(template, str):
        raise InputError(f"{source.folder / 'text_tokenizer'}: has no chat template; fetch it again")
    whole = f"{{% set whole %}}{template}{{% endset %}}{{{{ whole.removeprefix('{BEGIN}') }}}}{END}"
    return text.with_chat_template(whole)


def _special(source: PublishedFolder, names: Sequence[str]) -> list[int]:
    return special_ids(PublishedFolder(source.folder / "text_tokenizer"), names)


# ---------------------------------------------------------------- the model


def _check(source: PublishedFolder, config: dict[str, Any]) -> None:
    """InputError for a transformer of another make."""
    wanted = {"hidden_act": "silu", "qk_norm_for_text": True, "attention_bias": False, "use_und_k_norm_for_gen": False}
    for name, value in wanted.items():
        if config.get(name, value) != value:
            where = source.folder / "transformer" / "config.json"
            raise InputError(f"{where}: {name} is {config[name]!r}, and only {value!r} is supported")


def _model_config(config: dict[str, Any], text: TextTokenizer, pictures: LatentImageTokenizer) -> MultimodalConfig:
    backbone = {
        "kind": "mot",
        "dim": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "kv_heads": config["num_key_value_heads"],
        "head_dim": config["head_dim"],
        "ffn_dim": config["intermediate_size"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": float(config["rope_theta"]),
        "rope_axes": rope_axes(config["head_dim"], config["rope_axes_dim"]),
        # In the order of the alphabet: a saved config is sorted, and towers are numbered in its order.
        "towers": {"generation": ["image"], "understanding": ["text"]},
    }
    layers = {"image": {"kind": "linear", "time_scale": 1000 * config["timestep_scale"], "places": False}}
    objectives = {"image": {"kind": "flow", "cap": 1.0}}
    return MultimodalConfig([text.modality, pictures.modality], backbone, objectives, layers)


def rope_axes(head_dim: int, widths: Sequence[int]) -> list[int]:
    """The axis of each pair of a head: time, row and column in turn, as far as rows and columns have pairs."""
    axes = [0] * (head_dim // 2)
    for axis in (1, 2):
        for pair in range(axis, min(3 * widths[axis], len(axes)), 3):
            axes[pair] = axis
    return axes


def _table(model: MultimodalModel) -> list[Entry]:
    draws, reads = model.backbone.towers.index("generation"), model.backbone.towers.index("understanding")
    entries = [*tower(model, KIND, reads, READS), *tower(model, KIND, draws, DRAWS)]
    entries += [Entry("embedding.weight", "embed_tokens.weight"), Entry("head.weight", "lm_head.weight")]
    layers = {
        "patch_layers.image.proj_in": "proj_in",
        "patch_layers.image.proj_out": "proj_out",
        "patch_layers.image.time.mlp.0": "time_embedder.linear_1",
        "patch_layers.image.time.mlp.2": "time_embedder.linear_2",
    }
    return entries + layer_entries(layers)


# ---------------------------------------------------------------- pictures


def _autoencoder(source: PublishedFolder, config: dict[str, Any]) -> LatentImageTokenizer:
    """Wan's. A picture stands some way after its text, and nothing after it."""
    vae = diffusers_vae(source)
    patch = config["latent_patch_size"]
    begin, end = _special(source, BOUNDS)
    margin = config["unified_3d_mrope_temporal_modality_margin"]
    stride = patch * vae["scale_factor_spatial"]
    stated = {
        "vae_class": "AutoencoderKLWan",
        "vae_config": vae,
        "image_size": {"long": LONG * stride, "short": SHORT * stride, "stride": stride},
        "patch_size": patch,
        "shift": vae["latents_mean"],
        "scale": [1 / deviation for deviation in vae["latents_std"]],
    }
    layout = {"begin": begin, "end": end, "margin": margin, "ends": False, "position": "grid"}
    return outline(LatentImageTokenizer, stated | {"layout": layout})


# ---------------------------------------------------------------- a small one


def tiny(folder: Path) -> None:
    """A Cosmos3 of random weights, with sound, which is passed over."""
    import diffusers
    from diffusers.models.transformers.transformer_cosmos3 import Cosmos3OmniTransformer

    generator = torch.Generator().manual_seed(0)
    # mypy does not see that diffusers' classes, which are imported lazily, save themselves.
    transformer: Any = Cosmos3OmniTransformer(
        head_dim=12, latent_channel=4, patch_latent_dim=16, **TINY_TOWER, vocab_size=280, rope_axes_dim=(2, 2, 2),
        rope_theta=5e6, rms_norm_eps=1e-6, sound_gen=True, sound_dim=6, dtype="float32",
    )  # fmt: skip
    vae: Any = diffusers.AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, attn_scales=[], temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.1, 0.8, 1.2, 0.9], scale_factor_spatial=2,
    )  # fmt: skip
    for name, model in (("transformer", transformer), ("vae", vae)):
        randomise(model, generator)
        model.save_pretrained(folder / name)
    text = byte_tokenizer([BEGIN, END, *BOUNDS])
    text.eos_token = END
    text.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    text.save_pretrained(folder / "text_tokenizer")
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler: Any = diffusers.UniPCMultistepScheduler(**options)
    scheduler.save_pretrained(folder / "scheduler")
    write_configs(folder, {"model_index.json": {"_class_name": "Cosmos3OmniPipeline"}})
