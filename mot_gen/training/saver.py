"""Writing checkpoints: Saver, in the background, and save, at once.

torch.distributed.checkpoint cuts the tensors up, each process writing its own share. A checkpoint goes into
`RUN/checkpoints/` under a hidden name first, every file flushed to the disk and listed with size and sha256 in
manifest.json. Then the folder is renamed to `step-NNNNNNNN`, and `RUN/checkpoints/latest` points to it. So whatever
bears the name of a step is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from mot_gen.errors import InputError
from mot_gen.files import atomic, manifest
from mot_gen.training import checkpoint_folders
from mot_gen.training.checkpoint import FORMAT, STATE, Groups, newest_good, quiet
from mot_gen.training.world import World


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
        self._pending = self._thread.submit(self.write, step, _copy_to_cpu(tensors), state, files)

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
        final, saving = checkpoint_folders.folders_of(self.parent, step)
        try:
            self._on_first(lambda: checkpoint_folders.begin(saving))
            self._write_tensors(saving, tensors)
            self._on_first(lambda: _write_files(saving, step, state, files or {}))
            listed: dict[str, dict] = {}
            for share in self._together(lambda: manifest.entries(saving, self.world.rank, self.world.size)):
                listed |= share
            self._on_first(lambda: _finish(saving, final, step, listed))
        except (OSError, SafetensorError) as error:
            if self.world.first:
                shutil.rmtree(saving, ignore_errors=True)
            raise InputError(f"{final}: cannot be written: {error}; {newest_good(self.parent)}") from error
        return final

    def rotate(self) -> None:
        """Remove all but the newest `keep` checkpoints; the loop asks for it once a step after the newest was sound."""
        writing = self._pending is not None and not self._pending.done()
        if writing or not self.keep or not self.world.first:
            return
        for old in checkpoint_folders.steps_of(self.parent.parent)[self.keep :]:
            checkpoint_folders.discard(old)

    def _on_first(self, action: Callable[[], None]) -> None:
        """Let the first process do something, for which the others wait; an error there is an OSError on all."""
        if self.world.first:
            self._together(action)
        else:
            self._together(lambda: None)

    def _together(self, action: Callable[[], Any]) -> list:
        """Every process's result of an action; an error on one is an OSError on all."""
        result, failure = None, None
        try:
            result = action()
        except (OSError, SafetensorError) as error:
            failure = str(error)
        found = self.world.gather((result, failure), self.world.saving)
        for _, message in found:
            if message is not None:
                raise OSError(message)
        return [result for result, _ in found]

    def _write_tensors(self, folder: Path, tensors: Groups) -> None:
        # A file a group, since a file is put together in memory before it is written.
        flat, file_of = {}, {}
        for number, (group, named) in enumerate(tensors.items(), 1):
            for name, tensor in named.items():
                flat[f"{group}.{name}"] = tensor
                file_of[f"{group}.{name}"] = number
        writer = HuggingFaceStorageWriter(str(folder), file_of, save_distributed=True)
        alone = self.world.size == 1
        try:
            with quiet():
                dcp.save(flat, storage_writer=writer, process_group=self.world.saving, no_dist=alone)
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

    tensors: group -> name -> tensor.
    state: what JSON holds.
    files: name -> content of others to keep beside them.
    keep: how many of the newest checkpoints stay, 0 = all.

    Raises InputError if it cannot be written (a full disk); what was there before is then untouched.
    """
    saver = Saver(run, keep=keep)
    saver.save(step, tensors, state, files)
    saver.wait()
    saver.rotate()
    return checkpoint_folders.folders_of(saver.parent, step)[0]


def _copy_to_cpu(tensors: Groups) -> dict[str, dict[str, Tensor]]:
    """The tensors on the CPU, in memory of their own: safetensors refuses what is shared or strided, and training goes
    on."""
    staged: dict[str, dict[str, Tensor]] = {}
    for group, named in tensors.items():
        staged[group] = {name: _copy(tensor) for name, tensor in named.items()}
    return staged


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _write_files(folder: Path, step: int, state: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write all that is no tensor."""
    about = {"format": FORMAT, "step": step, "state": state}
    (folder / STATE).write_text(json.dumps(about), encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _finish(saving: Path, final: Path, step: int, listed: Mapping[str, dict]) -> None:
    """Flush a folder whose files are written, and give it its name."""
    manifest.write(saving, {"step": step}, listed)
    for path in saving.iterdir():
        atomic.flush(path)
    atomic.flush(saving)
    checkpoint_folders.put_in_place(saving, final)
    atomic.write_text(final.parent / "latest", final.name + "\n", durable=True)
