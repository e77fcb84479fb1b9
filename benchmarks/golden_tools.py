"""What golden entries share: where things are in the package, pipelines, hashes, a folder for what is written.

The first section is all that reaches into the package beside the flat names of `mot_gen`: a line of it moves where a
module moves. Hashes say of what they are: `bits:` of floats, `sha256:` of whole numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CHECKPOINT = "openmoji"  # the one that ships

# ---------------------------------------------------------------- where things are


def load_recipe(name: str, overrides: Sequence[str]):
    """A shipped recipe with KEY=VALUE."""
    from mot_gen.recipes.recipe import load_recipe

    return load_recipe(name, overrides)


def train(recipe, folder: Path):
    """Train it into a folder, `model/` included; returns the run, whose averaged model is whole."""
    from mot_gen.reports.hooks import hooks
    from mot_gen.training.loop import train

    return train(recipe, folder, hooks=hooks(recipe))


def initial_model(recipe):
    """The model as training begins with it; tokenizers that would be trained stay as they are."""
    from mot_gen.training.build import build_model, build_tokenizers, load_splits

    return build_model(recipe, build_tokenizers(recipe, load_splits(recipe)))


def loader_of(recipe, folder: Path):
    """The loader of a recipe's training samples; its tokenizers are trained into the folder."""
    from mot_gen.data.loader import Loader
    from mot_gen.training.build import build_tokenizers, load_splits

    splits = load_splits(recipe)
    return Loader(splits.train, build_tokenizers(recipe, splits, folder), recipe.data, recipe.training)


def packed(loader, rows):
    """A batch of what a loader deals out."""
    from mot_gen.packing import pack_rows

    return pack_rows(rows, loader.modalities, loader.training.row_length)


def count_parameters(model) -> dict:
    """Parameters, active and total."""
    from mot_gen.flops import count_parameters

    return dataclasses.asdict(count_parameters(model))


def command(*words: str) -> str:
    """What `mot-gen` prints."""
    from mot_gen.commands.main import main

    with redirect_stdout(io.StringIO()) as out:
        try:
            code = main(list(words))
        except SystemExit as end:  # of --help
            code = end.code
    if code:
        raise RuntimeError(f"mot-gen {' '.join(words)}: exit code {code}")
    return out.getvalue()


def subcommands() -> Iterator[tuple[str, ...]]:
    """The words of every command, those of commands of commands too."""
    from mot_gen.commands.main import _parser

    return _below(_parser(), ())


def _below(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                yield from _below(each, (*words, name))


# ---------------------------------------------------------------- pipelines


def loaded(kind, checkpoint: str | Path | None = None, half: bool = False):
    """A pipeline in fp32, or in half storage."""
    pipe = kind.from_pretrained(str(checkpoint or CHECKPOINT))
    pipe.set_progress_bar_config(disable=True)
    if half:
        pipe.model.enable_half_storage()
    return pipe


def seeds(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + number) for number in range(count)]


# ---------------------------------------------------------------- hashes


def digest(values, length: int = 32) -> str:
    """Of a tensor or an array: type, shape and every bit."""
    tensor = torch.as_tensor(values).detach().contiguous()
    kind = "bits" if tensor.is_floating_point() else "sha256"
    hashed = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return f"{kind}:{hashed.hexdigest()[:length]}"


def digest_of_all(named: dict) -> str:
    """Of tensors, or lists of numbers, and their names."""
    each = {name: digest(value) for name, value in named.items()}
    kind = "bits" if any(value.startswith("bits") for value in each.values()) else "sha256"
    text = "".join(f"{name} {value}\n" for name, value in sorted(each.items()))
    return f"{kind}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def tensors_in(value, name: str = "") -> Iterator[tuple[str, object]]:
    """Every tensor, and list of plain values, in dataclasses and dictionaries, by dotted path."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        for key, each in value.items():
            yield from tensors_in(each, f"{name}.{key}" if name else key)
    elif value is not None:
        yield name, value


def picture(image: Image.Image) -> dict:
    """A hash of a picture's pixels, and a few of them, so that a difference shows its size."""
    pixels = np.asarray(image)
    at = [int(k * (size - 1) // 3) for k in (1, 2) for size in pixels.shape[:2]]
    shown = [pixels[at[0], at[1]], pixels[at[0], at[3]], pixels[at[2], at[1]], pixels[at[2], at[3]]]
    return {"size": list(image.size), "pixels": digest(pixels / 255), "some": [each.tolist() for each in shown]}


# ---------------------------------------------------------------- files


@cache
def scratch() -> Path:
    """A folder of this process; `main` removes it."""
    return Path(tempfile.mkdtemp(prefix="goldens-"))


def told(value):
    """What a command told, without versions and paths."""
    if isinstance(value, dict):
        left_out = ("version", "mot_gen_version", "sacrebleu", "path", "folder")
        return {key: told(each) for key, each in value.items() if key not in left_out}
    if isinstance(value, list):
        return [told(each) for each in value]
    if isinstance(value, str):
        kept = [part for part in value.split("|") if not part.startswith(("version:", "sacrebleu:"))]
        return "|".join(kept).replace(str(scratch()), "FOLDER")
    return value
