"""mot-gen data convert | validate | stats | tokenize: `register` adds them to the command line."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mot_gen.checkpoints import locate
from mot_gen.commands.early import check_run, refuse_unwritable
from mot_gen.corpora import formats
from mot_gen.errors import InputError, require
from mot_gen.tokenizers.saved import home_of

if TYPE_CHECKING:
    from mot_gen.data.samples import Sample

SHOWN = 20  # lines of a kind; --json has all


def register(subparsers) -> None:
    """Add the command `data`; each of its own commands sets func(args) -> exit code."""
    commands = subparsers.add_parser("data", help="prepare training data").add_subparsers(required=True)
    _convert_arguments(commands)
    _look_arguments(commands)
    _tokenize_arguments(commands)


# ---------------------------------------------------------------- convert


def _convert_arguments(commands) -> None:
    known = ", ".join(formats.names())
    command = commands.add_parser("convert", help=f"other people's data sets to records: {known}")
    command.add_argument("format", metavar="FORMAT", help=f"{known}, or a dotted path to a module of your own")
    command.add_argument("source", type=Path, metavar="SOURCE", help="a file, or a folder of such files")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help=".jsonl, or .parquet with its media")
    command.add_argument("--media", type=Path, action="append", default=[], metavar="DIR", help="where pictures are")
    command.add_argument("--max-skipped", type=int, default=20, metavar="N", help="rows that may be left out")
    command.add_argument("--json", action="store_true", help="print what was found as JSON")
    command.set_defaults(func=convert_command)


def convert_command(args: argparse.Namespace) -> int:
    """Write the records, then say what was left out, what was not understood, and what was not there."""
    from mot_gen.corpora.convert import convert

    _at_least(args, max_skipped=0)
    found = convert(args.format, args.source, args.out, args.media, args.max_skipped)
    if args.json:
        print(json.dumps(found.as_dict(), indent=2))
        return 0
    print(f"{found.out}: {found.records} records of {found.rows} rows, {len(found.skipped)} rows left out")
    for line in found.skipped[:SHOWN]:
        print(f"left out: {line}")
    if len(found.skipped) > SHOWN:
        print(f"left out: {len(found.skipped) - SHOWN} more, which --json names")
    for name, noted in sorted(found.unknown_fields.items()):
        print(f"not understood: {name!r} of {noted.count} rows, which were converted without; first {noted.first}")
    if found.outside_media.count:
        print(f"outside of its folder: {found.outside_media.count} pictures; train with data.outside_media=true")
    if found.missing_media.count:
        print(f"not there: {found.missing_media.count} pictures, left out; first {found.missing_media.first}")
    return 0


# ---------------------------------------------------------------- validate, stats


def _look_arguments(commands) -> None:
    looks = (
        (
            "validate",
            validate_command,
            "what carries loss, what is dropped and why, what comes twice, how full rows get",
        ),
        ("stats", stats_command, "how many samples of what: texts, pictures, sounds, sources"),
    )
    for name, func, help in looks:
        command = commands.add_parser(name, help=help)
        command.add_argument("source", metavar="RECIPE_OR_RECORDS", help="a recipe, or a file or folder of records")
        command.add_argument(
            "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe; or more records"
        )
        command.add_argument("--limit", type=int, default=0, metavar="N", help="samples of each set, drawn at random")
        _outside_argument(command)
        command.add_argument("--json", action="store_true", help="print what was found as JSON")
        command.set_defaults(func=func)
        if name == "validate":
            command.add_argument("--workers", type=int, default=_cores(), metavar="N", help="threads; default: cores")


def _outside_argument(command: argparse.ArgumentParser) -> None:
    help = "records may name media outside of their folder; in a recipe: data.outside_media=true"
    command.add_argument("--outside-media", action="store_true", help=help)


def validate_command(args: argparse.Namespace) -> int:
    """Print what training would make of the data; InputError, exit code 2, where it could use nothing of it."""
    from mot_gen.corpora.inputs import open_inputs, unreadable_lines
    from mot_gen.corpora.lines import validate_lines
    from mot_gen.corpora.validate import validate

    _at_least(args, limit=0, workers=1)
    try:
        source = open_inputs(args.source, args.overrides, args.outside_media, check_run)
    except InputError as error:
        if not args.json:
            for line in unreadable_lines(error):
                print(f"refused: {line}")
        raise
    report = validate(source, args.limit, args.workers)
    if args.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        print("\n".join(validate_lines(report)))
    require(report.first.usable, f"{args.source}: no sample can be used; the first: {report.first.first_problem}")
    return 0


def stats_command(args: argparse.Namespace) -> int:
    """Print what a corpus holds."""
    from mot_gen.corpora.inputs import open_inputs
    from mot_gen.corpora.lines import stats_lines
    from mot_gen.corpora.stats import stats

    _at_least(args, limit=0)
    found = stats(open_inputs(args.source, args.overrides, args.outside_media, check_run).sets, args.limit)
    if args.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        print("\n".join(stats_lines(found)))
    return 0


def _at_least(args: argparse.Namespace, **least: int) -> None:
    for name, value in least.items():
        if getattr(args, name) < value:
            option = name.replace("_", "-")
            raise InputError(f"--{option} must be at least {value}, got {getattr(args, name)}")


# ---------------------------------------------------------------- tokenize


def _tokenize_arguments(commands) -> None:
    command = commands.add_parser("tokenize", help="tokenise the media of a corpus once, for training to read")
    command.add_argument("inputs", nargs="+", metavar="RECORDS", help="files or folders of records, or one recipe")
    command.add_argument(
        "--tokenizer",
        type=locate,
        action="append",
        required=True,
        metavar="FOLDER",
        help="of an image or speech tokenizer, or a shipped one: openmoji/image_tokenizer",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="shards; of a recipe train/, held_out/")
    workers = "processes, or threads beside a GPU; default: one a core"
    command.add_argument("--workers", type=int, default=_cores(), metavar="N", help=workers)
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: all GPUs, or the CPU")
    command.add_argument("--shard-size", type=int, default=1000, metavar="N", help="samples a file")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="samples a pass")
    command.add_argument("--max-corrupt", type=int, default=10, metavar="N", help="samples that may be unreadable")
    _outside_argument(command)
    command.set_defaults(func=tokenize_command)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tokenize_command(args: argparse.Namespace) -> int:
    """Tokenise records into DIR; a recipe's source by its own splits, into DIR/train and DIR/held_out."""
    from mot_gen.corpora.inputs import allow_outside_media, check_places, is_recipe

    first = args.inputs[0]
    recipe = is_recipe(first)
    if not recipe:
        check_places(args.inputs)
    refuse_unwritable(args.out)
    for folder in args.tokenizer:
        home_of(folder)
    from mot_gen.data.records import open_all
    from mot_gen.data.tokenize import Corpus, TokenizeOptions, tokenize

    options = TokenizeOptions(args.workers, args.shard_size, args.batch_size, args.max_corrupt, args.device)
    tokenizers = partial(load_tokenizers, tuple(args.tokenizer))
    opening = partial(open_all, tuple(args.inputs), args.outside_media)
    sets: dict[str, Callable[[], Sequence[Sample]]] = {"": opening}
    if recipe:
        overrides = (*args.inputs[1:], *allow_outside_media(args.outside_media))
        sets = {name: partial(split_of, first, overrides, name) for name in ("train", "held_out")}
    for name, samples in sets.items():
        found = tokenize(Corpus(samples, tokenizers), args.out / name, options)
        print(f"{args.out / name}: {found.samples} samples, {len(found.skipped)} left out")
        for line in found.skipped:
            print(f"left out: {line}")
        for line in found.notices:
            print(f"noticed: {line}")
    return 0


def split_of(recipe: str, overrides: Sequence[str], name: str) -> Sequence[Any]:
    """The samples of a recipe's source that are trained on ("train") or never are ("held_out")."""
    from mot_gen.recipes.recipe import load_recipe
    from mot_gen.training.build import load_splits

    return getattr(load_splits(load_recipe(recipe, overrides, check_run)), name)


def load_tokenizers(folders: Sequence[str]) -> Mapping[str, Any]:
    """Modality -> the tokenizer saved in each of the folders; InputError for text, which stays text, and for twins."""
    from mot_gen.tokenizers.saved import load_tokenizer

    found: dict[str, Any] = {}
    for folder in folders:
        tokenizer = load_tokenizer(folder)
        name = tokenizer.modality.name
        require(name != "text", f"{folder}: text stays text in records; give tokenizers of images or speech")
        require(name not in found, f"{folder}: a second tokenizer of {name}; give one")
        found[name] = tokenizer
    return found
