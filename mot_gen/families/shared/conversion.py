"""From a published folder to ours and back: PublishedFolder, ConvertedPart, assemble, load, convert, restore.

Weights are never all in memory: they are read tensor by tensor, and written as soon as one of ours is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError, require
from mot_gen.families.shared.table import Entry, check_table, our_specs, restore_tensors, values
from mot_gen.files import json_files, manifest
from mot_gen.files.atomic import writing_folder
from mot_gen.files.tensors import Shards, Spec, weight_files, write_tensors
from mot_gen.pipelines.base import MultimodalPipeline, scheduler_of
from mot_gen.tokenizers.text import TextTokenizer

M = TypeVar("M", bound="nn.Module")
WEIGHTS = "diffusion_pytorch_model.safetensors"
FAMILY = "family.json"  # beside model_index.json: which family a folder came from, and the licence of its weights


@dataclass
class ConvertedPart:
    """One component of ours. name: its folder. outline: the module on the meta device. table: its weights' names."""

    name: str
    outline: nn.Module
    table: Sequence[Entry]


class PublishedFolder:
    """A published folder: its configs as dicts, and its weights, which are opened when they are asked for."""

    def __init__(self, folder: str | Path, files: Sequence[str] = (), passes_over: Sequence[str] = ()):
        """files: those that hold its weights; by default `weight_files` of the folder. A name that ends in
        `*.safetensors` stands for those of its own folder. passes_over: beginnings of names of tensors that are not
        read."""
        self.folder, self._files, self.passes_over = Path(folder), files, tuple(passes_over)

    def config(self, name: str = "config.json") -> dict:
        """A JSON file of the folder; InputError where it is missing or broken."""
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: is missing; fetch all files of the model") from None
        except ValueError as error:
            raise InputError(f"{path}: is no JSON ({error}); fetch it again") from error

    @cached_property
    def weights(self) -> Shards:
        """The published tensors, opened when they are first asked for."""
        if not self._files:
            return Shards.of(self.folder)
        found: list[Path] = []
        for name in self._files:
            path = self.folder / name
            found += weight_files(path.parent) if "*" in name else [path]
        return Shards(found)

    def close(self) -> None:
        """Close the files, if they were opened."""
        if "weights" in self.__dict__:
            self.weights.close()


@contextmanager
def open_published(folder: str | Path, family: Any) -> Iterator[PublishedFolder]:
    """A `PublishedFolder` of a family, whose files are closed at the end."""
    source = PublishedFolder(folder, getattr(family, "WEIGHTS", ()), getattr(family, "PASSES_OVER", ()))
    try:
        yield source
    finally:
        source.close()


def assemble(parts: Sequence[ConvertedPart], text: TextTokenizer, **options: Any) -> MultimodalPipeline:
    """A pipeline over the modules of `parts`. options: its scheduler, by default that of what it draws by steps, if it
    does; the published defaults of `sampling`; and tokenizers that are no parts."""
    modules: dict[str, Any] = {part.name: part.outline for part in parts}
    stated = {"scheduler": scheduler_of(modules["model"]), **options}
    return MultimodalPipeline(text_tokenizer=text, **modules, **stated)


# Buffers that old files hold, and that follow from the config.
PASSED_OVER = ("rotary_emb.inv_freq", "position_ids")


def check_parts(parts: Sequence[ConvertedPart], source: PublishedFolder) -> None:
    """InputError unless the tables of all parts together use every published tensor, each in its shape."""
    specs = source.weights.specs
    left = {*specs}
    for part in parts:
        mine = {entry.theirs for entry in part.table} & specs.keys()
        check_table(part.table, part.outline, {name: specs[name] for name in mine}, str(source.folder))
        left -= mine
    for name in sorted(left):
        passed_over = name.endswith(PASSED_OVER) or name.startswith(source.passes_over)
        if not passed_over:
            raise InputError(f"{source.folder}: holds the tensor {name}, which this family does not have")


def load(family: Any, source: PublishedFolder, parts: Sequence[ConvertedPart]) -> MultimodalPipeline:
    """The published model in memory, as a pipeline of ours in the precision of its files."""
    check_parts(parts, source)
    pipeline = family.pipeline(source, parts)
    for part in parts:
        weights = dict(values(part.outline, part.table, source.weights))
        part.outline.load_state_dict(weights, assign=True)
        part.outline.eval()
    return pipeline


def convert(family: Any, source: PublishedFolder, parts: Sequence[ConvertedPart], out: Path) -> None:
    """Write the published model as a folder of ours, tensor by tensor; nothing is left of it where that fails."""
    check_parts(parts, source)
    with writing_folder(out) as folder:
        write_frame(family, source, parts, folder, out)
        for part in parts:
            specs = our_specs(part.outline, part.table, source.weights)
            made = values(part.outline, part.table, source.weights)
            write_tensors(folder / part.name / WEIGHTS, specs, made, {"format": "pt"})
        manifest.write(folder)


def write_frame(family: Any, source: PublishedFolder, parts: Sequence[ConvertedPart], folder: Path, out: Path) -> None:
    """Everything of our folder but the weights of its parts. out: where it will stand."""
    pipeline = family.pipeline(source, parts)
    outlines = {part.name for part in parts}
    pipeline.save_config(folder)
    for name, component in pipeline.components.items():
        if name in outlines:
            component.save_config(folder / name)
        elif name != "sampling" and component is not None:
            component.save_pretrained(folder / name)
    if hasattr(family, "recipe"):
        (folder / "recipe.yaml").write_text(family.recipe(pipeline, out), encoding="utf-8")
    about = {"family": _name_of(family), "licence": family.LICENCE}
    (folder / FAMILY).write_text(json.dumps(about, indent=1), encoding="utf-8")


def restore(family: Any, folder: Path, like: PublishedFolder, out: Path) -> None:
    """Write a converted, perhaps trained, folder of ours as `like`: its file names, tensors and other files."""
    _refuse_other_family(family, folder, like)
    parts = _parts_like(family, like, folder)
    check_parts(parts, like)
    _refuse_misfits(parts, folder, like)
    with writing_folder(out) as made:
        _copy_others(like, made)
        by_file: dict[Path, list[str]] = {}
        for name, path in like.weights.file_of.items():
            by_file.setdefault(path, []).append(name)
        for path, held in by_file.items():
            specs = {name: like.weights.specs[name] for name in held}
            target = made / path.relative_to(like.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(target, specs, _restored(parts, folder, like, specs), {"format": "pt"})


def _refuse_other_family(family: Any, folder: Path, like: PublishedFolder) -> None:
    """InputError where our folder says that it came from another family than `like`."""
    about = json_files.read(folder / FAMILY) if (folder / FAMILY).is_file() else {}  # a run's folder has none
    asked = _name_of(family)
    came_from = about.get("family", asked)
    remedy = "give what it was made from"
    require(came_from == asked, f"{folder}: is of the family {came_from}, and {like.folder} of {asked}; {remedy}")


def _refuse_misfits(parts: Sequence[ConvertedPart], folder: Path, like: PublishedFolder) -> None:
    """InputError for a tensor that our folder lacks, or has in another shape than one made from `like` would have."""
    for part in parts:
        wanted = our_specs(part.outline, part.table, like.weights)
        with Shards.of(folder / part.name) as ours:
            for name in dict.fromkeys(entry.ours for entry in part.table):
                there, shape = ours.specs.get(name), wanted[name].shape
                fits = there is not None and there.shape == shape
                what = f"{name} is {'absent' if there is None else there.shape}, and of {like.folder} {shape}"
                require(fits, f"{folder / part.name}: {what}; give what it was made from")


def _name_of(family: Any) -> str:
    return family.__name__.removeprefix("mot_gen.families.")


def _parts_like(family: Any, like: PublishedFolder, folder: Path) -> Sequence[ConvertedPart]:
    """The parts of our folder; if the family does not say, those of the published model."""
    if hasattr(family, "parts_like"):
        return family.parts_like(like, folder)
    return family.parts(like)


def _restored(
    parts: Sequence[ConvertedPart], folder: Path, like: PublishedFolder, specs: dict[str, Spec]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one published file, in its order, from the parts that have them."""
    readers = {part.name: Shards.of(folder / part.name) for part in parts}
    owner = {entry.theirs: part for part in parts for entry in part.table}
    try:
        for name in specs:
            part = owner.get(name, parts[0])
            table = [entry for entry in part.table if entry.theirs == name]
            yield from restore_tensors(table, readers[part.name], _OneTensor(like, name), str(like.folder))
    finally:
        for reader in readers.values():
            reader.close()


class _OneTensor:
    """One tensor of a source, as a reader."""

    def __init__(self, source: PublishedFolder, name: str):
        self.specs = {name: source.weights.specs[name]}
        self.get = source.weights.get


def _copy_others(like: PublishedFolder, out: Path) -> None:
    """The published files that hold no weights: configs, tokenizers, the index of shards. A second form of the weights
    stays behind: beside trained ones it would be the old model."""
    written = {path.parent for path in like.weights.file_of.values()}

    def holds_weights(path: Path) -> bool:
        if path.suffix == ".safetensors":
            return path.parent in written
        return path.suffix in manifest.PICKLES

    for path in sorted(like.folder.rglob("*")):
        if path.is_file() and not holds_weights(path):
            target = out / path.relative_to(like.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def outline(kind: type[M], config: dict[str, Any]) -> M:
    """A module of ours on the meta device: every shape, no value, no memory."""
    with torch.device("meta"):
        return kind(**config)
