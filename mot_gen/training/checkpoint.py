"""Checkpoints that a kill, a full disk or a flipped byte cannot spoil unnoticed: safetensors and JSON, no pickle.

`latest_good` finds the newest whose files are all as the manifest says. `read` gives its tensors to those of a run, on
however many processes; `load` reads it whole; `peek`, `names_in` and `read_group` read parts. `damage_of` and `finite`
judge one. `lock` keeps a second writer out. saver.py writes them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from mot_gen.checkpoints.folders import read_json
from mot_gen.errors import InputError, require
from mot_gen.files import manifest
from mot_gen.files.lock import lock as files_lock
from mot_gen.training.checkpoint_folders import steps_of, sweep
from mot_gen.training.world import World

STATE = "state.json"
FORMAT = 2  # 1 had a whole tensor a name
Groups = Mapping[str, Mapping[str, Tensor]]  # group -> name -> tensor
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What was saved, read back: the JSON state, the folder and, where `load` read them, the tensors."""

    folder: Path
    step: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def read(folder: str | Path, tensors: Groups) -> Checkpoint:
    """Write a good checkpoint's values into the given tensors, of whatever shares; InputError that says what differs
    where they do not fit. Every process for itself."""
    folder = Path(folder)
    saved = peek(folder)
    flat: dict[str, Tensor] = {}
    for group, named in tensors.items():
        flat |= {f"{group}.{name}": tensor.detach() for name, tensor in named.items()}
    _refuse_misfit(folder, flat)
    with quiet():
        dcp.load(flat, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return saved


def _refuse_misfit(folder: Path, wanted: Mapping[str, Tensor]) -> None:
    """InputError where the wanted tensors, by `group.name`, are not those of their groups in the checkpoint."""
    groups = {group_of(name) for name in wanted}
    there = {name: entry.size for name, entry in _entries(folder).items() if group_of(name) in groups}
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    for name in (*shapes, *there):
        have, want = _shape_in_words(there.get(name)), _shape_in_words(shapes.get(name))
        require(have == want, f"{folder}: does not fit the recipe: {name} is {have} there and {want} in the recipe")


def _shape_in_words(shape: torch.Size | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))


def group_of(name: str) -> str:
    """The group in `group.name`."""
    return name.partition(".")[0]


def load(folder: str | Path) -> Checkpoint:
    """Verifies one step's folder and reads it whole. InputError names what is damaged and which older one is good."""
    folder = Path(folder)
    damage = damage_of(folder)
    if damage:
        raise InputError(f"{damage}; {newest_good(folder.parent, besides=folder)}")
    groups = {group_of(name) for name in _entries(folder)}
    return replace(peek(folder), tensors={group: read_group(folder, group) for group in groups})


def read_group(folder: str | Path, group: str) -> dict[str, Tensor]:
    """All tensors of a group of a good checkpoint, whole."""
    tensors = {}
    for name, entry in _entries(folder).items():
        if group_of(name) == group:
            tensors[name.removeprefix(f"{group}.")] = torch.empty(entry.size, dtype=entry.properties.dtype)
    read(folder, {group: tensors})
    return tensors


def names_in(folder: str | Path) -> set[str]:
    """`group.name` of every tensor in a checkpoint."""
    return set(_entries(folder))


def _entries(folder: str | Path) -> dict[str, Any]:
    """Size and kind of every tensor by `group.name`, as the files' own headers say."""
    try:
        return HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise InputError(f"{folder}: its tensors cannot be read: {' '.join(str(error).split())[:200]}") from error


def peek(folder: Path) -> Checkpoint:
    """A checkpoint's state without its tensors; InputError where the file has another shape."""
    path = folder / STATE
    named = read_json(path)
    if named.get("format") != FORMAT:
        raise InputError(
            f"{path}: has format {named.get('format', 1)}, and this version reads format {FORMAT}; "
            "finish the run with the version that began it, or begin anew with another --out"
        )
    step, state = named.get("step"), named.get("state")
    if not isinstance(step, int) or not isinstance(state, dict):
        raise InputError(f"{path}: has no step and state; remove {folder} to go on from the checkpoint before it")
    return Checkpoint(folder, step, state, {})


def damage_of(folder: str | Path, world: World | None = None) -> str | None:
    """What is wrong with a checkpoint, as `file: what`, or None if every file is as the manifest says. The processes
    of a world share the files out, and agree."""
    folder, world = Path(folder), world or World()
    if folder.is_dir():
        found = manifest.damage(folder, world.rank, world.size)
    else:
        found = f"{folder}: no such checkpoint"
    return next(filter(None, world.gather(found)), None)


def latest_good(run: str | Path, world: World | None = None) -> Path | None:
    """The newest undamaged checkpoint of a run, None if it has none yet; InputError if all that it has are damaged."""
    steps = steps_of(run)
    damages = []
    for folder in steps:
        damage = damage_of(folder, world)
        if not damage:
            return folder
        log.warning("passed over a damaged checkpoint: %s", damage)
        damages.append(damage)
    if damages:
        raise InputError(f"{run}: none of its {len(steps)} checkpoints is good; {damages[0]}")
    return None


def finite(folder: Path) -> bool:
    """Whether a checkpoint is undamaged and all weights of its model are finite numbers."""
    if damage_of(folder):
        return False
    return all(bool(torch.isfinite(tensor).all()) for tensor in read_group(folder, "model").values())


def newest_good(parent: Path, besides: Path | None = None) -> str:
    """Which checkpoint of a folder of them one can go on from, for the end of a message. besides: one to pass over."""
    for folder in steps_of(parent.parent):
        if folder != besides and not damage_of(folder):
            return f"the newest good one is {folder}"
    return "there is no other good one"


@contextmanager
def quiet() -> Iterator[None]:
    """Within, torch does not warn that a process saves or reads alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@contextmanager
def lock(run: str | Path) -> Iterator[None]:
    """Holds a run's folder as `files.lock` does, and tidies what a killed writer left; take it before `latest_good`."""
    with files_lock(run):
        sweep(Path(run) / "checkpoints")
        yield
