"""Checkpoints that a kill, a full disk or a flipped byte cannot spoil unnoticed: safetensors and JSON, no pickle.

torch.distributed.checkpoint cuts the tensors up, each process writing its own share, and puts them together again for
any other number of processes. `Saver` does it in the background: into `RUN/checkpoints/` under a hidden name first,
every file flushed to the disk and listed with size and sha256 in manifest.json; then the folder is renamed to
`step-NNNNNNNN` and `RUN/checkpoints/latest` points to it; so whatever bears the name of a step is whole. `save` does
it at once. `latest_good` finds the newest whose files are all as the manifest says, `read` gives its tensors to those
of a run, `load` reads it whole. `lock` keeps a second writer out; `random_state` and `set_random_state` are for torch's
generators.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from mot_gen.checkpoints.folders import read_json
from mot_gen.errors import InputError
from mot_gen.files import manifest, whole
from mot_gen.files.lock import lock as files_lock
from mot_gen.training.checkpoint_folders import steps_of
from mot_gen.training.parallel import World

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


# ---------------------------------------------------------------- writing


class Saver:
    """Writes the checkpoints of a run, one at a time, in the background; every process of its world has one.

    keep: how many of the newest checkpoints stay, 0 = all. Whether writing has `failed` is the same on every process,
    though not at the same moment; `wait` then raises an InputError, and what was there before is untouched.
    """

    def __init__(self, run: str | Path, world: World | None = None, keep: int = 0):
        self.parent, self.world, self.keep = Path(run) / "checkpoints", world or World(), keep
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[Path] | None = None

    def save(self, step: int, tensors: Groups, state: Mapping[str, Any], files: Mapping[str, bytes] | None = None):
        """Begin to write a checkpoint of the tensors as they are now, once the one before is written.

        tensors: each process gives its shares of the sharded, and all of the others. state, files: as in `save`.
        """
        self.wait()
        staged = {group: {name: _copied(tensor) for name, tensor in named.items()} for group, named in tensors.items()}
        self._pending = self._thread.submit(self.write, step, staged, state, files)

    @property
    def failed(self) -> bool:
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def wait(self) -> None:
        """Until what was begun is written; InputError where it could not be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait for what is being written, whatever becomes of it."""
        self._thread.shutdown()

    def write(self, step: int, tensors: Groups, state: Mapping[str, Any], files: Mapping[str, bytes] | None) -> Path:
        """Write one checkpoint and return its folder."""
        final, saving = self.parent / f"step-{step:08d}", self.parent / f".saving-step-{step:08d}"
        first = self.world.first
        try:
            self._together(lambda: _begin(saving) if first else None)
            self._write_tensors(saving, tensors)
            self._together(lambda: _write_files(saving, step, state, files or {}) if first else None)
            found = self._together(lambda: manifest.entries(saving, self.world.rank, self.world.size))
            listed = {name: entry for share in found for name, entry in share.items()}
            self._together(lambda: _finish(saving, final, step, listed) if first else None)
        except (OSError, SafetensorError) as error:
            if first:
                shutil.rmtree(saving, ignore_errors=True)
            raise InputError(f"{final}: cannot be written: {error}; {_advice(self.parent)}") from error
        return final

    def rotate(self) -> None:
        """Remove all but the newest `keep` checkpoints; the loop asks for it once a step after the newest was sound."""
        if not self.keep or not self.world.first or (self._pending is not None and not self._pending.done()):
            return
        for old in steps_of(self.parent.parent)[self.keep :]:
            _discard(old)

    def _together(self, action: Callable[[], Any]) -> list:
        """Every process's result of an action; an error on one is an OSError on all."""
        result, failure = None, None
        try:
            result = action()
        except (OSError, SafetensorError) as error:
            failure = str(error)
        found = self.world.gather((result, failure), self.world.saving)
        if failures := [failure for _, failure in found if failure is not None]:
            raise OSError(failures[0])
        return [result for result, _ in found]

    def _write_tensors(self, folder: Path, tensors: Groups) -> None:
        flat = {f"{group}.{name}": tensor for group, named in tensors.items() for name, tensor in named.items()}
        # A file a group, since a file is put together in memory before it is written.
        numbers = {group: number for number, group in enumerate(tensors, 1)}
        writer = HuggingFaceStorageWriter(
            str(folder), {name: numbers[name.partition(".")[0]] for name in flat}, save_distributed=True
        )
        try:
            with _quiet():
                dcp.save(flat, storage_writer=writer, process_group=self.world.saving, no_dist=self.world.size == 1)
        except CheckpointException as error:
            raise OSError(str(next(iter(error.failures.values()))[0])) from error


def save(
    run: str | Path,
    step: int,
    tensors: Groups,
    state: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
    keep: int = 0,
) -> Path:
    """Writes one checkpoint and returns its folder. Call it under `lock(run)`.

    tensors: group -> name -> tensor. state: what JSON holds. files: name -> content of others to keep beside them.
    keep: how many of the newest checkpoints stay, 0 = all.
    Raises InputError if it cannot be written (a full disk); what was there before is then untouched.
    """
    saver = Saver(run, keep=keep)
    saver.save(step, tensors, state, files)
    saver.wait()
    saver.rotate()
    return saver.parent / f"step-{step:08d}"


def _copied(tensor: Tensor) -> Tensor:
    """On the CPU, in memory of its own: safetensors refuses what is shared or strided, and training goes on."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _begin(saving: Path) -> None:
    saving.parent.mkdir(parents=True, exist_ok=True)
    _sweep(saving.parent)
    saving.mkdir()


def _write_files(folder: Path, step: int, state: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    about = {"format": FORMAT, "step": step, "state": state}
    (folder / STATE).write_text(json.dumps(about), encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _finish(saving: Path, final: Path, step: int, listed: Mapping[str, dict]) -> None:
    manifest.write(saving, {"step": step}, listed)
    for path in saving.iterdir():
        _flush(path)
    _flush(saving)
    _put_in_place(saving, final)
    whole.write_text(final.parent / "latest", final.name + "\n", durable=True)


def _put_in_place(saving: Path, final: Path):
    """Renames; an earlier checkpoint of the step stands aside, and `_sweep` brings it back after a kill in between."""
    aside = final.with_name(f".old-{final.name}")
    if final.exists():
        final.rename(aside)
    saving.rename(final)
    _flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(parent: Path):
    """Removes what killed writers left, and brings back a checkpoint that was about to be replaced."""
    for aside in parent.glob(".old-step-*"):
        final = aside.with_name(aside.name.removeprefix(".old-"))
        if final.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(final)
    for left in [*parent.glob(".saving-step-*"), *parent.glob(".trash-step-*")]:
        shutil.rmtree(left)


def _discard(folder: Path):
    """Renamed before it is removed, so that a kill leaves no half of it under a step's name."""
    trash = folder.with_name(f".trash-{folder.name}")
    folder.rename(trash)
    shutil.rmtree(trash)


def _flush(path: Path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------- reading


def read(folder: str | Path, tensors: Groups) -> Checkpoint:
    """Write a good checkpoint's values into the given tensors, of whatever shares; InputError that says what differs
    where they do not fit. Every process for itself."""
    folder = Path(folder)
    saved = peek(folder)
    there = {name: entry.size for name, entry in _entries(folder).items()}
    flat = {f"{group}.{name}": tensor.detach() for group, named in tensors.items() for name, tensor in named.items()}
    groups = {name.partition(".")[0] for name in flat}
    for name in (*flat, *(name for name in there if name.partition(".")[0] in groups)):
        have, want = there.get(name), flat[name].shape if name in flat else None
        if have != want:
            shapes = ["absent" if shape is None else "x".join(map(str, shape)) for shape in (have, want)]
            raise InputError(
                f"{folder}: does not fit the recipe: {name} is {shapes[0]} there and {shapes[1]} in the recipe"
            )
    with _quiet():
        dcp.load(flat, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return saved


def load(folder: str | Path) -> Checkpoint:
    """Verifies one step's folder and reads it whole. InputError names what is damaged and which older one is good."""
    folder = Path(folder)
    damage = damaged(folder)
    if damage:
        raise InputError(f"{damage}; {_advice(folder.parent, besides=folder)}")
    names = {name.partition(".")[0] for name in _entries(folder)}
    return replace(peek(folder), tensors={group: read_group(folder, group) for group in names})


def read_group(folder: str | Path, group: str) -> dict[str, Tensor]:
    """All tensors of a group of a good checkpoint, whole."""
    tensors = {
        name.removeprefix(f"{group}."): torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in _entries(folder).items()
        if name.startswith(f"{group}.")
    }
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
            f"{path}: is of format {named.get('format', 1)} and this version goes on from format {FORMAT}; "
            "finish the run with the version that began it, or begin anew with another --out"
        )
    step, state = named.get("step"), named.get("state")
    if not isinstance(step, int) or not isinstance(state, dict):
        raise InputError(f"{path}: has no step and state; remove {folder} to go on from the checkpoint before it")
    return Checkpoint(folder, step, state, {})


def damaged(folder: str | Path, world: World | None = None) -> str | None:
    """What is wrong with a checkpoint, as `file: what`, or None if every file is as the manifest says. The processes
    of a world share the files out, and agree."""
    folder, world = Path(folder), world or World()
    found = manifest.damage(folder, world.rank, world.size) if folder.is_dir() else f"{folder}: no such checkpoint"
    return next(filter(None, world.gather(found)), None)


def latest_good(run: str | Path, world: World | None = None) -> Path | None:
    """The newest undamaged checkpoint of a run, None if it has none yet; InputError if all that it has are damaged."""
    steps = steps_of(run)
    damages = []
    for folder in steps:
        damage = damaged(folder, world)
        if not damage:
            return folder
        log.warning("passed over a damaged checkpoint: %s", damage)
        damages.append(damage)
    if damages:
        raise InputError(f"{run}: none of its {len(steps)} checkpoints is good; {damages[0]}")
    return None


def finite(folder: Path) -> bool:
    """Whether a checkpoint is undamaged and all weights of its model are finite numbers."""
    if damaged(folder):
        return False
    return all(bool(torch.isfinite(tensor).all()) for tensor in read_group(folder, "model").values())


def _advice(parent: Path, besides: Path | None = None) -> str:
    good = next((f for f in steps_of(parent.parent) if f != besides and not damaged(f)), None)
    return f"the newest good one is {good}" if good else "there is no other good one"


# ---------------------------------------------------------------- one writer


@contextmanager
def lock(run: str | Path) -> Iterator[None]:
    """Holds a run's folder as `files.lock` does, and tidies what a killed writer left; take it before `latest_good`."""
    with files_lock(run):
        _sweep(Path(run) / "checkpoints")
        yield


# ---------------------------------------------------------------- random state


def random_state() -> dict[str, Tensor]:
    """State of torch's generators, uint8: the CPU's, and one a CUDA device that this process has used."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state |= {f"cuda:{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Restores what `random_state` gave; devices that are not here any more are passed over."""
    torch.set_rng_state(state["cpu"])
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda:{i}" in state:
            torch.cuda.set_rng_state(state[f"cuda:{i}"], i)
