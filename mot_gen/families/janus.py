"""Janus and Janus-Pro (deepseek-community/Janus-Pro-1B, arXiv 2410.13848 and 2501.17811), in transformers' layout.

A Llama in which pictures enter by two ways. Those that are read are features of a SigLIP encoder; those that are drawn
are ids of a VQ network, which enter and leave by layers of their own. All tokens come one by one.

    model.language_model.*, lm_head.weight      the language model
    model.vision_model.*, model.aligner.*       the encoder of pictures that are read, and its connector
    model.vqmodel.*                             the VQ network of pictures that are drawn
    model.generation_embeddings.*, generation_aligner.*, generation_head.*      how its ids enter and leave
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from mot_gen.errors import InputError
from mot_gen.families.shared.conversion import ConvertedPart, PublishedFolder, assemble, outline
from mot_gen.families.shared.random_weights import TINY_TOWER, byte_tokenizer, write_configs, write_tiny
from mot_gen.families.shared.recipes import whole_model_recipe
from mot_gen.families.shared.siglip import of_convolution, siglip_name
from mot_gen.families.shared.table import Entry, layer_entries
from mot_gen.families.shared.towers import Kind, Names, conversing_text, one_tower, tower
from mot_gen.families.shared.transformers_folders import (
    causal_layout,
    colours,
    config_of,
    model_type,
    special_ids,
    vq_network,
    vq_table,
)
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.tokenizers.image_features import ImageFeatureTokenizer
from mot_gen.tokenizers.image_vq_networks import VQNetworkTokenizer
from mot_gen.tokenizers.text import TextTokenizer

LICENCE = "DeepSeek Model License (use is restricted); the code's is MIT"
LOOKS_FOR = "a config.json whose model_type is janus"
BOUNDS = ("<begin_of_image>", "<end_of_image>")
PAD = "<｜▁pad▁｜>"
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.\n\n"
)


def conversation(user: str, assistant: str) -> str:
    """The chat template of the Janus family, with its names of the two who speak."""
    # Newlines stand in expressions, since transformers' templates drop those that follow a block.
    system = "{{ '" + SYSTEM.replace("\n", "\\n") + "' }}"
    return (
        f"{{% if to != 'image' %}}{system}{{% endif %}}"
        "{% for message in messages %}"
        f"{{% if message['role'] == 'user' %}}{user}: {{% else %}}{assistant}: {{% endif %}}"
        "{% for part in message['parts'] %}{{ part['text'] }}{% if part['type'] == 'image' %}{{ '\\n' }}{% endif %}"
        "{% endfor %}{{ '\\n\\n' }}{% endfor %}" + f"{assistant}:"
    )


TEMPLATE = conversation("<|User|>", "<|Assistant|>")
KIND = Kind()


def recognises(folder: Path) -> bool:
    """Whether config.json is a Janus'."""
    return model_type(folder) == "janus"


def parts(source: PublishedFolder) -> list[ConvertedPart]:
    """The model, the VQ network of pictures that are drawn, and the encoder of those that are read."""
    config, text = config_of(source.folder, "janus"), text_tokenizer(source)
    drawn, read = _drawn(source, config), _read(source, config)
    modalities = [text.modality, read.modality, drawn.modality]
    model = outline(MultimodalModel, _model_config(config, modalities).to_dict())
    return [
        ConvertedPart("model", model, _table(source, model)),
        ConvertedPart("image_tokenizer", cast(nn.Module, drawn), vq_table(drawn, "model.vqmodel.")),
        ConvertedPart("sight_tokenizer", cast(nn.Module, read), _vision_table(read)),
    ]


def pipeline(source: PublishedFolder, parts: Sequence[ConvertedPart]) -> MultimodalPipeline:
    """The pipeline over the modules of `parts`, with the published defaults."""
    return assemble(parts, text_tokenizer(source), sampling=_sampling(source))


def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
    """A recipe that goes on training the whole model in the folder `out`."""
    return whole_model_recipe(pipeline, out, "Janus", {"lr": 2e-5, "min_lr": 2e-6})


def text_tokenizer(source: PublishedFolder) -> TextTokenizer:
    """Its tokenizer, with the conversation of the published code as chat template."""
    return conversing_text(source.folder, config_of(source.folder, "janus").text_config, TEMPLATE)


def _sampling(source: PublishedFolder) -> dict[str, Any]:
    """Guidance leads away from a prompt of pads, between the beginnings of the text and of the picture."""
    (pad,) = special_ids(source, [PAD])
    return {"guidance_scale": 5.0, "unconditional": {"filled": pad}, "chat": True}


# ---------------------------------------------------------------- the model


def _model_config(config: Any, modalities: list) -> MultimodalConfig:
    vq = config.vq_config
    if config.vision_config.depth != 2 or vq.num_hidden_layers != 2:
        raise InputError("config.json: depth and num_hidden_layers of the aligners must be 2")
    layers = {"sight": {"kind": "connector", "hidden": config.vision_config.projection_dim, "gelu": "none"}}
    own = {"width": vq.embed_dim, "hidden": vq.projection_dim, "head_hidden": vq.projection_dim}
    return one_tower(config.text_config, KIND, modalities, patch_layers=layers, token_layers={"image": own})


LAYERS = {
    "patch_layers.sight.fc1": "model.aligner.fc1",
    "patch_layers.sight.fc2": "model.aligner.hidden_layers.0",
    "token_layers.image.fc1": "model.generation_aligner.fc1",
    "token_layers.image.fc2": "model.generation_aligner.hidden_layers.0",
    "token_layers.image.head1": "model.generation_head.proj_out",
    "token_layers.image.head2": "model.generation_head.vision_head",
}


def _table(source: PublishedFolder, model: MultimodalModel) -> list[Entry]:
    prefix = "model.language_model."
    embedding = f"{prefix}embed_tokens.weight"
    tied = "lm_head.weight" not in source.weights.specs
    return [
        *tower(model, KIND, 0, Names(prefix)),
        Entry("embedding.weight", embedding),
        Entry("head.weight", embedding if tied else "lm_head.weight", copy=tied),
        Entry("token_layers.image.codes.weight", "model.generation_embeddings.weight"),
        *layer_entries(LAYERS),
    ]


# ---------------------------------------------------------------- pictures


def _drawn(source: PublishedFolder, config: Any) -> VQNetworkTokenizer:
    """The VQ network, over pictures of the one size that it draws."""
    begin, end = special_ids(source, BOUNDS)
    side = config.vq_config.num_patches * 2 ** (len(config.vq_config.channel_multiplier) - 1)
    layout = {"begin": begin, "end": end, "apart": True}
    return vq_network("JanusVQVAE", config.vq_config, side, layout, colours(source))


def _read(source: PublishedFolder, config: Any) -> ImageFeatureTokenizer:
    """The encoder, over pictures that are filled up to a square of their mean colour."""
    given = config.vision_config
    if given.use_qk_norm:
        raise InputError("config.json: use_qk_norm of the vision tower is not supported")
    mean, std = colours(source)
    vision = {
        "hidden_size": given.hidden_size,
        "intermediate_size": int(given.hidden_size * given.mlp_ratio),
        "num_attention_heads": given.num_attention_heads,
        "num_hidden_layers": given.num_hidden_layers,
        "hidden_act": given.hidden_act,
        "layer_norm_eps": given.layer_norm_eps,
    }
    layout = causal_layout(source, BOUNDS)
    stated = {"vision": vision, "patch_size": given.patch_size, "side": given.image_size // given.patch_size}
    least = source.config("preprocessor_config.json").get("min_size", 14)
    size = {"square": given.image_size, "fill": [int(255 * colour) for colour in mean], "least": least}
    return outline(ImageFeatureTokenizer, stated | {"image_size": size, "layout": layout, "mean": mean, "std": std})


def _vision_table(read: ImageFeatureTokenizer) -> list[Entry]:
    """The encoder's tensors. The patch embedding is a convolution (c p q) there, and a product over (p q c) here."""
    tensors = read.state_dict()
    steps = {"embed.weight": [of_convolution(len(tensors["embed.weight"]), 3, read.config.patch_size)]}
    entries = []
    for name in tensors:
        theirs = siglip_name(name, "model.vision_model.").replace("self_attn.out_proj", "self_attn.projection_layer")
        entries.append(Entry(name, theirs, steps.get(name, ())))
    return entries


# ---------------------------------------------------------------- a small one


def tiny(folder: Path, tied: bool = False) -> None:
    """A Janus of random weights. Its codebook has entries of unequal lengths."""
    import transformers

    text = byte_tokenizer(["<bos>", "<eos>", PAD, "<image_placeholder>", *BOUNDS, "<|User|>", "<|Assistant|>"])
    config = transformers.JanusConfig(
        text_config={"vocab_size": 280, **TINY_TOWER, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
                     "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1,
                     "model_type": "llama"},
        vision_config={"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 12,
                       "patch_size": 4, "projection_dim": 32, "num_image_tokens": 9},
        vq_config={"embed_dim": 8, "num_embeddings": 50, "latent_channels": 8, "base_channels": 32,
                   "channel_multiplier": [1, 1, 1], "num_res_blocks": 1, "projection_dim": 32,
                   "image_token_embed_dim": 32},
        image_token_id=3,
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = transformers.JanusForConditionalGeneration(config)
    write_tiny(folder, model, text)
    about = {"rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.4, 0.5, 0.6]}
    about |= {"image_processor_type": "JanusImageProcessor", "size": {"height": 12, "width": 12}, "min_size": 2}
    write_configs(folder, {"preprocessor_config.json": about})
