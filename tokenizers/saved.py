"""A tokenizer's folder as a tokenizer, of whichever class: load_tokenizer, home_of."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError, nearest

# Class name in a saved config -> module of the tokenizer that reads such a folder, and its class.
HOMES = {
    "TextTokenizer": ("text", "TextTokenizer"),
    "PatchImageTokenizer": ("image_patch", "PatchImageTokenizer"),
    "LatentImageTokenizer": ("image_latent", "LatentImageTokenizer"),
    "VQImageTokenizer": ("image_vq", "VQImageTokenizer"),
    "ScalesImageTokenizer": ("image_scales", "ScalesImageTokenizer"),
    "VQModel": ("image_vq", "VQImageTokenizer"),
    "AutoencoderKL": ("image_latent", "LatentImageTokenizer"),
    "AutoencoderTiny": ("image_latent", "LatentImageTokenizer"),
    "AutoencoderDC": ("image_latent", "LatentImageTokenizer"),
    "SpeechUnitTokenizer": ("speech_units", "SpeechUnitTokenizer"),
    "SpeechCodecTokenizer": ("speech_codec", "SpeechCodecTokenizer"),
}


def home_of(folder: str) -> tuple[str, str]:
    """The module and class that read a tokenizer's folder. InputError where there is none, or none that is known."""
    config = Path(folder) / "config.json"
    if config.is_file():
        name = json.loads(config.read_text("utf-8")).get("_class_name")
        if name not in HOMES:
            raise InputError(f"{config}: _class_name {name!r} is not a tokenizer" + nearest(str(name), HOMES))
    elif (Path(folder) / "tokenizer_config.json").is_file():
        name = "TextTokenizer"
    else:
        raise InputError(f"{folder}: no tokenizer in this folder (no config.json, no tokenizer_config.json)")
    return HOMES[name]


def load_tokenizer(folder: str) -> Any:
    """The tokenizer saved in a folder; also a diffusers VQModel or autoencoder, and any byte-level tokenizer of text.
    InputError as of `home_of`."""
    module, kind = home_of(folder)
    return getattr(importlib.import_module(f"mot_gen.tokenizers.{module}"), kind).from_pretrained(folder)
