"""What a checkpoint's folder says, read with care: tokenizer_part, read_json, read_config, permission,
refuse_foreign, refuse_foreign_recipe, refuse_misfit, tensor_shapes.

A folder may come from anybody. Its JSON files are bounded in size and nesting, the code that they name is imported only
if it is this package's own (or with permission), and the tensors that a config describes are compared with the headers
of the weight files before any memory is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import NoneType
from typing import Any

from mot_gen.errors import InputError, expect, require
from mot_gen.files import json_files

INDEX = "model_index.json"
CONFIG = "config.json"
ANSWERS = "answers.json"  # captions by language, beside a model (`mot_gen/pipelines/captions/languages.py`)
LARGEST = 64 << 20  # bytes of the header of a safetensors file
DEEPEST = 64  # levels of nesting
HIGHEST = 1 << 40  # the largest integer in a config
OWN = ("mot_gen.", "diffusers.", "transformers.")


def tokenizer_part(modality: str, modalities: Sequence[str]) -> str:
    """The name that a modality's tokenizer has among a pipeline's parts. modalities: all of the model, text first."""
    if modality == modalities[0]:
        return "text_tokenizer"
    return f"{modality}_tokenizer"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError, which names the file, for anything else."""
    try:
        found = json_files.read(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    require(isinstance(found, dict), f"{path}: should hold names with their values, got {type(found).__name__}")
    deepest = max((depth for depth, _ in _values(found)), default=0)
    require(deepest <= DEEPEST, f"{path}: is nested deeper than {DEEPEST} levels")
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The object in a model's config. InputError as of `read_json`, and for an integer that no size can have."""
    found = read_json(path)
    for _, value in _values(found):
        if isinstance(value, int) and abs(value) > HIGHEST:
            raise InputError(f"{path}: the number {str(value)[:12]}... is larger than any size can be")
    return found


def _values(tree: Any, depth: int = 0) -> Iterator[tuple[int, Any]]:
    """Every value that is neither a list nor a mapping, with the level that it stands on."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if depth > DEEPEST:
        yield depth, None
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value, depth + 1)
    else:
        yield depth, tree


# ---------------------------------------------------------------- code

_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def permission(trust_remote_code: bool) -> Iterator[None]:
    """Within, folders may name code of other packages, if `trust_remote_code` is true; it stays so if it was before."""
    token = _TRUSTED.set(_TRUSTED.get() or trust_remote_code)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def refuse_foreign(folder: Path) -> None:
    """InputError where a folder names code outside of this package, diffusers and transformers, without `permission`.

    folder: of a pipeline (with `model_index.json`) or of one model (with `config.json`).
    """
    for name in _components(folder):
        _refuse_module(folder / INDEX, name)
    for config in _configs(folder):
        for name in _modules(read_config(config)):
            _refuse_module(config, name)


def _refuse_module(path: Path, name: str) -> None:
    allowed = name.startswith(OWN) or _TRUSTED.get()
    require(
        allowed,
        f"{path}: names the module {name.rstrip('.')}, which is not part of mot_gen and would be run; if you trust "
        "it, say trust_remote_code=True in Python or --trust-remote-code on the command line",
    )


def refuse_foreign_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    """As `refuse_foreign`, of a recipe that lies in somebody's folder; one of the user's own needs no permission."""
    data = _mapping(recipe.get("data"))
    tokenizers = map(_mapping, _mapping(recipe.get("tokenizers")).values())
    sources = [data.get("source"), _mapping(data.get("rehearsal")).get("source")]
    kinds = [tokenizer.get("kind") for tokenizer in tokenizers]
    for name in [*_dotted(sources), *_dotted(kinds), *_modules(recipe)]:
        _refuse_module(path, name)


def _mapping(section: Any) -> Mapping[str, Any]:
    """A section as it is, nothing where it is no mapping."""
    return section if isinstance(section, Mapping) else {}


def _components(folder: Path) -> list[str]:
    """Modules that `model_index.json` names for components; InputError for an entry that is no pair of names."""
    path = folder / INDEX
    if not path.is_file():
        return []
    components = {name: entry for name, entry in read_json(path).items() if isinstance(entry, list)}
    for name, entry in components.items():
        require(name.isidentifier(), f"{path}: {name!r:.80} is no name of a component, which is a folder in this one")
        pair = len(entry) == 2 and {str, NoneType}.issuperset(map(type, entry))
        expect(pair, f"{path}: {name} should be a module and a class", entry)
    return [f"{module}." for module, _ in components.values() if module]


def _configs(folder: Path) -> list[Path]:
    return sorted([*folder.glob(CONFIG), *folder.glob(f"*/{CONFIG}")])


def _modules(config: Mapping[str, Any]) -> list[str]:
    """Every text with a dot among the values of a model's config: nothing else in there has one but module paths."""
    # Of a tokenizer's config no value is imported by name: its class is that of the index.
    chosen = {key: config.get(key) for key in ("backbone", "objectives", "patch_layers")}
    return _dotted(value for _, value in _values(chosen))


def _dotted(values: Iterable[Any]) -> list[str]:
    """Those that are texts with a dot."""
    texts = [value for value in values if isinstance(value, str)]
    return [text for text in texts if "." in text]


# ---------------------------------------------------------------- tensors


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a folder's safetensors files, as their headers say."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        header = _header(path)
        for name, entry in header.items():
            if name != "__metadata__":
                shapes[name] = tuple(entry["shape"])
    return shapes


def _header(path: Path) -> dict[str, Any]:
    """safetensors: eight bytes of length, then JSON, then the values."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            require(length <= LARGEST, f"{path}: its header claims {length} bytes; it is damaged, fetch it again")
            return json.loads(file.read(length))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (RecursionError, UnicodeDecodeError, json.JSONDecodeError):
        raise InputError(f"{path}: is damaged; fetch it again") from None


def refuse_misfit(folder: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """InputError unless the folder's tensors have the names and shapes that its config describes."""
    there = tensor_shapes(folder)
    for name, shape in wanted.items():
        require(name in there, f"{folder}: the tensor {name} is missing; fetch the folder again")
        if there[name] != tuple(shape):
            raise InputError(
                f"{folder}: the tensor {name} is {as_text(there[name])} and {CONFIG} makes it {as_text(shape)}"
            )
    foreign = there.keys() - wanted.keys()
    if foreign:
        raise InputError(f"{folder}: holds the tensor {min(foreign)}, which its {CONFIG} does not describe")


def as_text(shape: tuple[int, ...]) -> str:
    """A shape for people: "4 x 8"."""
    return " x ".join(map(str, shape)) or "a single number"
