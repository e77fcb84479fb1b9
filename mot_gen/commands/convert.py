"""`mot-gen convert`, over mot_gen/families and mot_gen/growth: register. Nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import Any, cast

from mot_gen.checkpoints import find, locate, weights_of
from mot_gen.commands.early import refuse_unwritable
from mot_gen.commands.without_torch import refuse_early
from mot_gen.errors import InputError
from mot_gen.tokenizers.saved import home_of


def register(commands) -> None:
    """Add the command `convert`."""
    command = commands.add_parser("convert", help="a published model as one of ours, and back")
    command.add_argument(
        "source", metavar="SOURCE", help="folder or hub name of a published model, or with --like ours"
    )
    command.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    command.add_argument("--towers", metavar="NAMES", help="of a language model: text first (default: text,image)")
    for name in ("image", "speech"):
        help_tower = f"what reads and writes the tower {name}"
        command.add_argument(f"--{name}-tokenizer", type=locate, metavar="FOLDER", help=help_tower)
    command.add_argument("--start", help="what a new tower begins as: copy of the text's (default), or fresh")
    command.add_argument("--like", metavar="FOLDER", help="back to this published model, with the weights of SOURCE")
    command.add_argument("--family", metavar="NAME", help="its family, or one of yours: my_package.my_family")
    help_grow = "one of our models made into another: a growth and its OPTION=VALUE, see docs/convert.md"
    command.add_argument("--grow", nargs="+", metavar=("NAME", "OPTION=VALUE"), help=help_grow)
    command.add_argument("--with", dest="other", metavar="FOLDER", help="the second model, for growths of two")
    command.add_argument("--download", action="store_true", help="let a hub name be fetched")
    command.set_defaults(func=convert_command)


def convert_command(arguments: argparse.Namespace) -> int:
    """`mot-gen convert`: refuses to write into a folder that holds anything."""
    out, local = arguments.out, not arguments.download
    refuse_unwritable(out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty; give another folder")
    if arguments.grow:
        return _grow(arguments, out)
    if arguments.other:
        raise InputError("--with: is for --grow joined, fused and side_by_side; give one of them")
    from mot_gen.families import check_name
    from mot_gen.families.shared.folders import local_folder

    if arguments.family:
        check_name(arguments.family)
    if arguments.like:
        _back(arguments.source, out, local_folder(arguments.like, local), arguments.family)
        print(f"{out} is a model in the layout of {arguments.like}")
        return 0
    if _is_ours(Path(locate(arguments.source))):
        remedy = "make another one of it by --grow NAME, or a published one by --like FOLDER"
        raise InputError(f"{arguments.source}: is a model of ours already; {remedy}")
    _forward(arguments, local_folder(arguments.source, local), out)
    return 0


def _is_ours(folder: Path) -> bool:
    """Whether a folder is that of a pipeline, whose model is in `model`, or of a run, whose pipeline is in `model`."""
    return any((folder / place / "config.json").is_file() for place in ("model", "model/model"))


def _grow(arguments: argparse.Namespace, out: Path) -> int:
    from mot_gen.growth import check_name

    name, *settings = arguments.grow
    check_name(name)
    find(arguments.source)
    if arguments.other and weights_of(arguments.other) is None:
        raise InputError(f"--with: {arguments.other} holds no model; give the folder of a run, or of its model")
    refuse_early(lambda: _growth(name, settings, arguments.other))

    from diffusers.utils import logging

    from mot_gen.growth.base import grow_folder

    logging.disable_progress_bar()  # of the shards
    grown = grow_folder(arguments.source, out, _growth(name, settings, arguments.other), arguments.other)
    weights = sum(parameter.numel() for parameter in grown.parameters())
    print(f"{out} has {weights:,} weights; training.init={out} begins with them")
    return 0


def _growth(name: str, settings: list[str], other: str | None) -> Any:
    """The growth that is asked for; imports torch."""
    from mot_gen.growth.base import check_number, read

    growth = read(name, settings)
    check_number(growth, other)
    return growth


def _forward(arguments: argparse.Namespace, folder: Path, out: Path) -> None:
    refuse_early(lambda: _planned(arguments, folder))

    from mot_gen.families import language_models, llama
    from mot_gen.families.shared import conversion
    from mot_gen.tokenizers.saved import load_tokenizer

    family, towers = _planned(arguments, folder)
    tokenizers = {name: load_tokenizer(place) for name, place in towers.items()}
    with conversion.open_published(folder, family) as source:
        if family is llama:
            parts = llama.parts(source, tokenizers, arguments.start or "copy")
            family = language_models.with_tokenizers(tokenizers)
        else:
            parts = family.parts(source)
        conversion.convert(family, source, parts, out)
        made = ", ".join(cast("Any", parts[0].outline).backbone.towers)
    print(f"{out} has the towers {made}; mot-gen train {quote(str(out / 'recipe.yaml'))}")


def _planned(arguments: argparse.Namespace, folder: Path) -> tuple[ModuleType, dict[str, str]]:
    """The family that a folder is of, and the folders of the tokenizers that a language model's towers get; imports
    torch, reads no weights."""
    from mot_gen.families import family_of

    family = family_of(folder, arguments.family)
    name = family.__name__.rpartition(".")[2]
    if name == "llama":
        return family, _tower_folders(arguments)
    _only_language_models(arguments, name)
    return family, {}


def _only_language_models(arguments: argparse.Namespace, family: str) -> None:
    for name in ("towers", "image_tokenizer", "speech_tokenizer", "start"):
        if getattr(arguments, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag}: is for language models; a model of the family {family} brings its own")


def _tower_folders(arguments: argparse.Namespace) -> dict[str, str]:
    """The folder of each tower's tokenizer, but of text's; InputError for one that holds none."""
    towers = "text,image" if arguments.towers is None else arguments.towers
    first, *others = towers.split(",")
    if first != "text" or len({first, *others}) != 1 + len(others):
        raise InputError(f"--towers {towers}: text comes first, and each name once, as in text,image")
    folders = {}
    for name in others:
        folder = getattr(arguments, f"{name}_tokenizer", None)
        if folder is None:
            raise InputError(f"--towers {towers}: {name} needs --{name}-tokenizer FOLDER")
        home_of(folder)
        folders[name] = folder
    return folders


def _back(source: str, out: Path, like: Path, name: str | None) -> None:
    from mot_gen.families import family_of

    find(source)
    refuse_early(lambda: family_of(like, name))

    from mot_gen.families.shared import conversion

    family = family_of(like, name)
    with conversion.open_published(like, family) as published:
        conversion.restore(family, find(source), published, out)
