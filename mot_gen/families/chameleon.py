"""Chameleon (facebook/chameleon-7b, -30b, arXiv 2405.09818), in transformers' layout.

A language model like Llama whose vocabulary holds the ids of pictures: `IMGIMG...` are the codes of a VQ network. One
tower reads both, one softmax is over both. Queries and keys have a layer norm for each head; the larger model has its
norms after attention and feed-forward (`swin_norm`).

    model.*, lm_head.weight     the language model
    model.vqmodel.*             the VQ network, without the part that would make pictures of its codes
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mot_gen.families.shared.conversion import ConvertedPart, PublishedFolder, assemble, outline
from mot_gen.families.shared.random_weights import TINY_TOWER, byte_tokenizer, write_configs, write_tiny
from mot_gen.families.shared.recipes import whole_model_recipe
from mot_gen.families.shared.table import Entry
from mot_gen.families.shared.towers import Kind, conversing_text, one_tower, tower
from mot_gen.families.shared.transformers_folders import (
    codes_in_one_range,
    colours,
    config_of,
    in_order_of_ids,
    model_type,
    special_ids,
    vq_network,
    vq_table,
)
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.tokenizers.image_vq_networks import VQNetworkTokenizer
from mot_gen.tokenizers.text import TextTokenizer

LICENCE = "Chameleon Research License: research, no commercial use"
LOOKS_FOR = "a config.json whose model_type is chameleon"
BOUNDS = ("<racm3:break>", "<eoss>")
KIND = Kind(qk_norm="layer")
# A picture's values are its bytes times this number, minus 1; so they reach from -1 to 0.989.
RESCALE = 0.0078
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<reserved08706>{% endfor %}"
SAMPLING = {"guidance_scale": 1.0, "chat": True}


def recognises(folder: Path) -> bool:
    """Whether config.json is a Chameleon's."""
    return model_type(folder) == "chameleon"


def parts(source: PublishedFolder) -> list[ConvertedPart]:
    """The model, and the VQ network that reads pictures."""
    config, text = config_of(source.folder, "chameleon"), text_tokenizer(source)
    ids = _picture_ids(source, config)
    pictures = _pictures(source, config, ids)
    norm = "output" if config.swin_norm else "pre"
    stated = one_tower(config, KIND, [text.modality, pictures.modality], {"norm": norm})
    model = outline(MultimodalModel, stated.to_dict())
    codes = vq_table(pictures, "model.vqmodel.", [in_order_of_ids(ids)])
    rows = [
        Entry("embedding.weight", "model.embed_tokens.weight"),
        Entry("head.weight", "lm_head.weight"),
    ]
    return [
        ConvertedPart("model", model, [*tower(model, KIND, 0), *rows]),
        ConvertedPart("image_tokenizer", cast(nn.Module, pictures), codes),
    ]


def pipeline(source: PublishedFolder, parts: Sequence[ConvertedPart]) -> MultimodalPipeline:
    """The pipeline over the modules of `parts`."""
    return assemble(parts, text_tokenizer(source), sampling=SAMPLING)


def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
    """A recipe that goes on training the whole model in the folder `out`."""
    return whole_model_recipe(pipeline, out, "Chameleon", {"lr": 1e-5, "min_lr": 1e-6})


def text_tokenizer(source: PublishedFolder) -> TextTokenizer:
    """Its tokenizer; texts have neither the ids of pictures nor those that no token has."""
    return conversing_text(source.folder, config_of(source.folder, "chameleon"), TEMPLATE)


# ---------------------------------------------------------------- pictures


def _picture_ids(source: PublishedFolder, config: Any) -> list[int]:
    """The id of each code of the VQ network: of names IMGIMG and the code, with letters A to J for its digits."""
    digits = str.maketrans("ABCDEFGHIJ", "0123456789")
    found = {}
    for name, id in (config.vocabulary_map or {}).items():
        if name.startswith("IMGIMG"):
            letters = name.removeprefix("IMGIMG")[:-1]  # the last stands for the end of the name
            found[int(letters.translate(digits))] = id
    return codes_in_one_range(source, found, config.vq_config.num_embeddings)


def _pictures(source: PublishedFolder, config: Any, ids: list[int]) -> VQNetworkTokenizer:
    begin, end = special_ids(source, BOUNDS)
    layout = {"first": min(ids), "begin": begin, "end": end}
    standard = colours(source, rescale=RESCALE, mean=1.0, std=1.0)
    vq = config.vq_config
    return vq_network("ChameleonVQVAE", vq, vq.resolution, layout, standard)


# ---------------------------------------------------------------- a small one


def tiny(folder: Path, swin_norm: bool = False) -> None:
    """A Chameleon of random weights, whose codes are named in another order than their ids."""
    import transformers

    first = ["<s>", "</s>", "<image>", *BOUNDS, "<reserved08706>"]
    text = byte_tokenizer(first)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1)).tolist()
    names = ["IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z" for code in range(64)]
    vocabulary = {name: len(text) + place for name, place in zip(names, order)}
    config = transformers.ChameleonConfig(
        vocab_size=350,
        **TINY_TOWER,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        swin_norm=swin_norm,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        vocabulary_map={"<image>": 2, **vocabulary},
        vq_config={"embed_dim": 8, "num_embeddings": 64, "latent_channels": 8, "resolution": 8, "base_channels": 32,
                   "channel_multiplier": [1, 1], "num_res_blocks": 1},
    )  # fmt: skip
    model = transformers.ChameleonForConditionalGeneration(config)
    write_tiny(folder, model, text)
    about = {"rescale_factor": RESCALE, "image_mean": [1.0] * 3, "image_std": [1.0] * 3, "size": {"shortest_edge": 8}}
    write_configs(folder, {"preprocessor_config.json": about})
