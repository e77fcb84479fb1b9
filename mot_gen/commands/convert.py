"""`mot-gen convert`, over pipelines/language_models.py: register. Nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from mot_gen.errors import InputError


def register(commands) -> None:
    """Add the command `convert`."""
    command = commands.add_parser(
        "convert", help="a Hugging Face language model as a Mixture-of-Transformers, and back"
    )
    command.add_argument("source", metavar="SOURCE", help="folder or hub name of a language model, or with --like ours")
    command.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    command.add_argument("--towers", default="text,image", metavar="NAMES", help="text first (default: text,image)")
    command.add_argument("--image-tokenizer", metavar="FOLDER", help="what reads and writes the tower image")
    command.add_argument("--speech-tokenizer", metavar="FOLDER", help="what reads and writes the tower speech")
    command.add_argument("--start", default="copy", help="what a new tower begins as: copy of the text's, or fresh")
    command.add_argument("--like", metavar="FOLDER", help="back to this language model, with the text tower of SOURCE")
    command.add_argument("--download", action="store_true", help="let a hub name be fetched")
    command.set_defaults(func=convert_command)


def convert_command(arguments: argparse.Namespace) -> int:
    """`mot-gen convert`: refuses to write into a folder that holds anything."""
    out, local = arguments.out, not arguments.download
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty; give another folder")
    if arguments.like:
        _back(arguments.source, out, arguments.like, local)
        print(f"{out} is a language model for transformers")
        return 0
    from mot_gen.pipelines.language_models import from_language_model, save

    pipeline = from_language_model(arguments.source, _tokenizers(arguments), arguments.start, local)
    save(pipeline, out)
    print(f"{out} has the towers {', '.join(pipeline.model.backbone.towers)}; mot-gen train {out / 'recipe.yaml'}")
    return 0


def _tokenizers(arguments: argparse.Namespace) -> dict[str, object]:
    from mot_gen.commands.tokenizer import load_tokenizer

    first, *others = arguments.towers.split(",")
    if first != "text" or len({first, *others}) != 1 + len(others):
        raise InputError(f"--towers {arguments.towers}: text comes first, and each name once, as in text,image")
    tokenizers = {}
    for name in others:
        folder = getattr(arguments, f"{name}_tokenizer", None)
        if folder is None:
            raise InputError(f"--towers {arguments.towers}: {name} needs --{name}-tokenizer FOLDER")
        tokenizers[name] = load_tokenizer(folder)
    return tokenizers


def _back(source: str, out: Path, like: str, local: bool) -> None:
    from transformers import AutoTokenizer

    from mot_gen.pipelines.base import MultimodalPipeline
    from mot_gen.pipelines.language_models import to_language_model
    from mot_gen.pipelines.loaded import load_pipeline

    to_language_model(load_pipeline(MultimodalPipeline, source), like, local).save_pretrained(out)
    AutoTokenizer.from_pretrained(like, local_files_only=local).save_pretrained(out)
