"""Emu3 (Emu3-community/Emu3-Gen-hf and Emu3-Chat-hf, arXiv 2409.18869), in transformers' layout.

A language model like Llama whose vocabulary holds the codes of pictures. A picture states its rows and columns in
digits, and marks the end of each row; so pictures of any shape are read and drawn.

    text_model.*    the language model
    vqmodel.*       the VQ network, made for video
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mot_gen.errors import InputError
from mot_gen.families.shared.conversion import ConvertedPart, PublishedFolder, assemble, outline
from mot_gen.families.shared.random_weights import TINY_TOWER, byte_tokenizer, write_configs, write_tiny
from mot_gen.families.shared.recipes import row_length, whole_model_recipe
from mot_gen.families.shared.table import Entry
from mot_gen.families.shared.towers import Kind, Names, conversing_text, one_tower, tower
from mot_gen.families.shared.transformers_folders import (
    codes_in_one_range,
    colours,
    config_of,
    in_order_of_ids,
    model_type,
    preprocessor,
    special_ids,
    vq_network,
    vq_table,
)
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.tokenizers.image_vq_networks import VQNetworkTokenizer
from mot_gen.tokenizers.text import TextTokenizer

LICENCE = "Apache-2.0"
LOOKS_FOR = "a config.json whose model_type is emu3"
BOUNDS = ("<|image start|>", "<|image end|>")
OPENED, ROW_END, CLOSED = "<|image token|>", "<|extra_200|>", "<|extra_201|>"
CODE = re.compile(r"<\|visual token (\d+)\|>")
# In pixels, where preprocessor_config.json is silent.
SIZES = {"least": 512 * 512, "most": 1024 * 1024, "stride": 8, "drawn": 720 * 720}
# That of reading (Emu3-Chat). A prompt of a picture stands alone (Emu3-Gen).
TEMPLATE = (
    "{% for message in messages %}{% if to == 'image' %}{{ message['content'] }}{% else %}"
    "You are a helpful assistant. USER: {{ message['content'] }}. ASSISTANT:{% endif %}{% endfor %}"
)
SAMPLING = {
    "guidance_scale": 3.0,
    "image_top_k": 2048,
    "negative_prompt": "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry.",
    "chat": True,
}
KIND = Kind()


def recognises(folder: Path) -> bool:
    """Whether config.json is an Emu3's."""
    return model_type(folder) == "emu3"


def parts(source: PublishedFolder) -> list[ConvertedPart]:
    """The model, and the VQ network of its pictures."""
    config, text = config_of(source.folder, "emu3"), text_tokenizer(source)
    ids = _picture_ids(source, config)
    pictures = _pictures(source, config, ids, text)
    stated = one_tower(config.text_config, KIND, [text.modality, pictures.modality])
    model = outline(MultimodalModel, stated.to_dict())
    prefix = "text_model.model."
    rows = [
        Entry("embedding.weight", f"{prefix}embed_tokens.weight"),
        Entry("head.weight", "text_model.lm_head.weight"),
    ]
    return [
        ConvertedPart("model", model, [*tower(model, KIND, 0, Names(prefix)), *rows]),
        ConvertedPart(
            "image_tokenizer", cast(nn.Module, pictures), vq_table(pictures, "vqmodel.", [in_order_of_ids(ids)])
        ),
    ]


def pipeline(source: PublishedFolder, parts: Sequence[ConvertedPart]) -> MultimodalPipeline:
    """The pipeline over the modules of `parts`, with the published defaults."""
    return assemble(parts, text_tokenizer(source), sampling=SAMPLING)


def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
    """A recipe that goes on training the whole model in the folder `out`."""
    training = {"row_length": row_length(pipeline, 9216), "lr": 1e-5, "min_lr": 1e-6}
    return whole_model_recipe(pipeline, out, "Emu3", training)


def text_tokenizer(source: PublishedFolder) -> TextTokenizer:
    """Its tokenizer; texts have neither the codes of pictures nor ids that no token has."""
    return conversing_text(source.folder, config_of(source.folder, "emu3").text_config, TEMPLATE)


# ---------------------------------------------------------------- pictures


def _picture_ids(source: PublishedFolder, config: Any) -> list[int]:
    """The id of each code of the VQ network, of the names of the vocabulary."""
    found = {}
    for name, id in (config.vocabulary_map or {}).items():
        if match := CODE.fullmatch(name):
            found[int(match[1])] = id
    return codes_in_one_range(source, found, config.vq_config.codebook_size)


def _pictures(source: PublishedFolder, config: Any, ids: list[int], text: TextTokenizer) -> VQNetworkTokenizer:
    begin, end = special_ids(source, BOUNDS)
    stated = preprocessor(source)
    sizes = {
        "least": stated.get("min_pixels", SIZES["least"]),
        "most": stated.get("max_pixels", SIZES["most"]),
        "stride": stated.get("spatial_factor", SIZES["stride"]),
        "drawn": SIZES["drawn"],
    }
    standard = colours(source, mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711])
    layout = {"first": min(ids), "begin": begin, "end": end, "frame": _frame(source, text)}
    return vq_network("Emu3VQVAE", config.vq_config, sizes, layout, standard)


def _frame(source: PublishedFolder, text: TextTokenizer) -> dict[str, Any]:
    """How a picture states its shape; InputError where the tokenizer does not write sizes digit by digit."""
    opened, row_end, closed = special_ids(source, [OPENED, ROW_END, CLOSED])
    digits = [text.encode(str(digit)).values.tolist() for digit in range(10)]
    times = text.encode("*").values.tolist()
    written = text.encode("90*128").values.tolist()
    if written != [*digits[9], *digits[0], *times, *digits[1], *digits[2], *digits[8]]:
        raise InputError(f"{source.folder}: its tokenizer does not write 90*128 digit by digit, as Emu3's does")
    return {
        "digits": [id for ids in digits for id in ids],
        "times": times[0],
        "opened": opened,
        "row_end": row_end,
        "closed": closed,
    }


# ---------------------------------------------------------------- a small one


def tiny(folder: Path) -> None:
    """An Emu3 of random weights, whose codes are named in another order than their ids."""
    import transformers

    text = byte_tokenizer(["<pad>", "<bos>", "<eos>", "<image>", *BOUNDS, OPENED, ROW_END, CLOSED])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1)).tolist()
    vocabulary = {f"<|visual token {code:06d}|>": len(text) + place for code, place in enumerate(order)}
    config = transformers.Emu3Config(
        vocabulary_map={"<image>": 3, ROW_END: 7, CLOSED: 8, **vocabulary},
        text_config={"vocab_size": 340, **TINY_TOWER, "max_position_embeddings": 256,
                     "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        vq_config={"codebook_size": 64, "embed_dim": 4, "latent_channels": 4, "base_channels": 32,
                   "channel_multiplier": [1, 1], "num_res_blocks": 1, "attn_resolutions": [1], "hidden_size": 32,
                   "temporal_downsample_factor": 2},
    )  # fmt: skip
    model = transformers.Emu3ForConditionalGeneration(config)
    write_tiny(folder, model, text)
    about = {"min_pixels": 16, "max_pixels": 64, "spatial_factor": 2, "image_processor_type": "Emu3ImageProcessor"}
    write_configs(folder, {"preprocessor_config.json": about})
