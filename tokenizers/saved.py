"""A tokenizer's folder as a tokenizer, of whichever class: load_tokenizer, home_of."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError, nearest
from mot_gen.files.json_files import read

# Networks of diffusers, and the class that makes a tokenizer of each.
NETWORKS = {
    "VQModel": "VQImageTokenizer",
    "AutoencoderKL": "LatentImageTokenizer",
    "AutoencoderTiny": "LatentImageTokenizer",
    "AutoencoderDC": "LatentImageTokenizer",
}


def home_of(folder: str) -> tuple[str, str]:
    """The module and class that read a tokenizer's folder. InputError where there is none, or none that is known."""
    homes = _homes()
    config = Path(folder) / "config.json"
    if config.is_file():
        stated = read(config).get("_class_name")
        name = NETWORKS.get(stated, stated)
        if name not in homes:
            known = {*homes, *NETWORKS}
            raise InputError(f"{config}: _class_name {stated!r} is not a tokenizer" + nearest(str(stated), known))
    elif (Path(folder) / "tokenizer_config.json").is_file():
        name = "TextTokenizer"
    else:
        raise InputError(f"{folder}: {_why_none(Path(folder))}")
    return homes[name], name


def _why_none(folder: Path) -> str:
    """Why this is no tokenizer's folder, and what to give instead."""
    if not folder.exists():
        return "no such folder; give a tokenizer's folder, or a shipped one such as openmoji/image_tokenizer"
    for model in (folder, folder / "model"):
        parts = [str(part) for part in sorted(model.glob("*_tokenizer"))]
        if parts:
            return f"is a model; give the folder of one of its tokenizers: {', '.join(parts)}"
    return "no tokenizer in this folder (no config.json, no tokenizer_config.json); give a tokenizer's folder"


def load_tokenizer(folder: str) -> Any:
    """The tokenizer saved in a folder; also a diffusers VQModel or autoencoder, and any byte-level tokenizer of text.
    InputError as of `home_of`."""
    module, kind = home_of(folder)
    return getattr(importlib.import_module(f"mot_gen.tokenizers.{module}"), kind).from_pretrained(folder)


def _homes() -> dict[str, str]:
    """Class -> module of every tokenizer of this folder, read from the sources: to import them would load torch."""
    homes: dict[str, str] = {}
    for file in Path(__file__).parent.glob("*.py"):
        homes |= dict.fromkeys(_stated(file), file.stem)
    return homes


def _stated(file: Path) -> Iterator[str]:
    """The tokenizers that a file defines: the classes that state the modality of their spans."""
    for statement in ast.parse(file.read_text("utf-8")).body:
        if isinstance(statement, ast.ClassDef) and any(map(_states_modality, statement.body)):
            yield statement.name


def _states_modality(member: ast.stmt) -> bool:
    return isinstance(member, ast.FunctionDef) and member.name == "modality"
