"""What several subcommands share: arguments (add_overrides, add_dtype, writable_file), KEY=VALUE as values (settings),
facts (print_facts), and warnings that are said in one line (warnings_in_one_line)."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mot_gen.checkpoints.storage import DTYPES
from mot_gen.commands.early import refuse_unwritable
from mot_gen.errors import InputError, UntaughtWarning, nearest, one_line

MIB, GIB = 2**20, 2**30  # bytes
SAID: Mapping[Any, str] = {int: "a whole number", float: "a number"}


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Add KEY=VALUE, any number of them. With a default, argparse does not call them required."""
    what = "fields of the recipe, by dotted path"
    command.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=what)


def add_dtype(command: argparse.ArgumentParser) -> None:
    """Add --dtype, in which a checkpoint generates."""
    what = "on a CPU fp16 is faster, bf16 only for pictures; default: fp32"
    command.add_argument("--dtype", choices=DTYPES, default="fp32", help=what)


def writable_file(path: str) -> str:
    """The type of an argument that names a file to write, so that one that cannot be written is refused at once and not
    after all the work. "-" and what is no regular file, such as /dev/stdout, are left alone."""
    there = Path(path)
    if there.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give a file")
    if path != "-" and (there.is_file() or not there.exists()):
        try:
            refuse_unwritable(there.absolute().parent)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return path


def settings(pairs: Sequence[str], types: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values that KEY=VALUE pairs state, of these types by name. InputError for another name or no such value."""
    values = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in types:
            raise InputError(f"{pair}: no such option" + nearest(key, types))
        try:
            values[key] = types[key](value)
        except ValueError as error:
            raise InputError(f"{pair}: {key} takes {SAID.get(types[key], 'another value')}") from error
    return values


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """A line a fact, or all of them as one JSON object."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):{width}}  {_as_text(value)}{_in_short(name, value)}")


def _as_text(value: Any) -> str:
    """A number, a text, or several by name."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {_number(each)}" for name, each in value.items())
    return _number(value)


def _in_short(name: str, value: Any) -> str:
    """A large number once more, as people say it: bytes in MiB or GiB, FLOPs as a power of ten."""
    if not isinstance(value, int) or value < MIB:
        return ""
    if name.endswith("_bytes"):
        return f"  ({value / GIB:.2f} GiB)" if value >= GIB else f"  ({value / MIB:.1f} MiB)"
    return f"  ({value:.3g})" if name.startswith("flops") else ""


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Within, what a prompt names and was never taught is said without the place in our code that says it."""
    show = warnings.showwarning

    def shown(message, category, *where, **more) -> None:
        if issubclass(category, UntaughtWarning):
            print(f"mot-gen: {one_line(message)}", file=sys.stderr, flush=True)
        else:
            show(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = shown
        yield
