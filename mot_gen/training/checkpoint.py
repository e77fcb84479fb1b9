"""Checkpoints that a kill, a full disk or a flipped byte cannot spoil unnoticed: safetensors and JSON, no pickle.

`save` writes `RUN/checkpoints/step-NNNNNNNN/` under a hidden name first, every file flushed to the disk and listed with
size and sha256 in manifest.json, renames it, and points `RUN/checkpoints/latest` to it; so whatever bears the name of a
step is whole. `load` verifies the manifest, `latest_good` finds the newest that passes, `lock` keeps a second writer
out. `separate` and `rejoin` take a nested state (an optimizer's) apart into tensors and JSON and put it together again;
`random_state` and `set_random_state` do the same for torch's generators.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mot_gen import manifest
from mot_gen.errors import InputError

STATE = "state.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What `save` was given, read back: tensors by group and name, the JSON state, and where they lie."""

    folder: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


# ---------------------------------------------------------------- writing


def save(
    run: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
    keep: int = 0,
) -> Path:
    """Writes one checkpoint and returns its folder. Call it under `lock(run)`, on one rank.

    tensors: group -> name -> tensor, a safetensors file each. state: what JSON holds. files: name -> content of
    others to keep beside them. keep: how many of the newest checkpoints stay, 0 = all.
    Raises InputError if it cannot be written (a full disk); what was there before is then untouched.
    """
    parent = Path(run) / "checkpoints"
    final, saving = parent / f"step-{step:08d}", parent / f".saving-step-{step:08d}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        saving.mkdir()
        _write_files(saving, step, tensors, state, files or {})
        _put_in_place(saving, final)
        _write_atomically(parent / "latest", final.name)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(saving, ignore_errors=True)
        raise InputError(f"{final}: cannot be written: {error}; {_advice(parent)}") from error
    if keep:
        for old in _steps(parent)[keep:]:
            _discard(old)
    return final


def _write_files(folder: Path, step: int, tensors, state, files):
    for group, named in tensors.items():
        # clone: safetensors refuses tensors that share memory, such as tied embeddings and views of a flat buffer.
        whole = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()
        }
        save_file(whole, folder / f"{group}.safetensors")
    (folder / STATE).write_text(json.dumps({"step": step, "state": state}), encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest.write(folder, {"step": step})
    for path in folder.iterdir():
        _flush(path)
    _flush(folder)


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


def _write_atomically(path: Path, text: str):
    written = path.with_name(f".{path.name}.new")
    try:
        written.write_text(text + "\n", encoding="utf-8")
        _flush(written)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
    _flush(path.parent)


def _flush(path: Path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------- reading


def load(folder: str | Path) -> Checkpoint:
    """Verifies and reads one step's folder. InputError names what is damaged and which older checkpoint is good."""
    folder = Path(folder)
    damage = damaged(folder)
    if damage:
        raise InputError(f"{damage}; {_advice(folder.parent, besides=folder)}")
    named = json.loads((folder / STATE).read_text(encoding="utf-8"))
    tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return Checkpoint(folder, named["step"], tensors, named["state"])


def damaged(folder: str | Path) -> str | None:
    """What is wrong with a checkpoint, as `file: what`, or None if every file is as the manifest says."""
    folder = Path(folder)
    return manifest.damage(folder) if folder.is_dir() else f"{folder}: no such checkpoint"


def latest_good(run: str | Path) -> Path | None:
    """The newest undamaged checkpoint of a run, None if it has none yet; InputError if all that it has are damaged."""
    steps = _steps(Path(run) / "checkpoints")
    damages = []
    for folder in steps:
        damage = damaged(folder)
        if not damage:
            return folder
        log.warning("passed over a damaged checkpoint: %s", damage)
        damages.append(damage)
    if damages:
        raise InputError(f"{run}: none of its {len(steps)} checkpoints is good; {damages[0]}")
    return None


def _steps(parent: Path) -> list[Path]:
    """Folders of steps, newest first."""
    return sorted(parent.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")), reverse=True)


def _advice(parent: Path, besides: Path | None = None) -> str:
    good = next((f for f in _steps(parent) if f != besides and not damaged(f)), None)
    return f"the newest good one is {good}" if good else "there is no other good one"


# ---------------------------------------------------------------- one writer


@contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Holds a run's folder for writing: a second writer gets an InputError at once, a killed one frees it.

    Tidies what a killed writer left, so take it before `latest_good`.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            writer = file.read().strip() or "unknown"
            raise InputError(f"{folder}: process {writer} is writing here; wait for it or give another --out") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _sweep(folder / "checkpoints")
        yield


# ---------------------------------------------------------------- nested states


def separate(tree: Any, name: str = "") -> tuple[dict[str, Tensor], Any]:
    """A nested state of dicts, lists and tuples -> (tensors by dotted path, a skeleton for JSON)."""
    if isinstance(tree, Tensor):
        return {name: tree}, {"tensor": name}
    if not isinstance(tree, (dict, list, tuple)):
        return {}, {"value": tree}
    tensors, skeletons = {}, []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        below, skeleton = separate(value, f"{name}.{key}" if name else str(key))
        tensors.update(below)
        skeletons.append([key, skeleton])
    kind = "dict" if isinstance(tree, dict) else "tuple" if isinstance(tree, tuple) else "list"
    return tensors, {kind: skeletons}


def rejoin(tensors: Mapping[str, Tensor], skeleton: Mapping[str, Any]) -> Any:
    """The inverse of `separate`."""
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "value":
        return content
    pairs = [(key, rejoin(tensors, below)) for key, below in content]
    return dict(pairs) if kind == "dict" else {"list": list, "tuple": tuple}[kind](value for _, value in pairs)


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
