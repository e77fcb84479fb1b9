"""The folders of a run's checkpoints: steps_of, has_begun, step_of; and how they appear and go, so that a kill leaves
none by halves: begin, put_in_place, discard, sweep. Apart from checkpoint.py, which imports much to read them.

    .saving-step-N    is being written
    .old-step-N       stands aside while a new one of the same step takes its place
    .trash-step-N     is being removed
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mot_gen.errors import InputError
from mot_gen.files.atomic import flush

_STEP = re.compile(r"step-\d{8,}")


def steps_of(run: str | Path) -> list[Path]:
    """The checkpoints of a run, newest first, good or not; copies with other names are none of them."""
    parent = Path(run) / "checkpoints"
    named = [path for path in parent.glob("step-*") if _STEP.fullmatch(path.name)]
    folders = [path for path in named if path.is_dir()]
    return sorted(folders, key=step_of, reverse=True)


def has_begun(run: Path, resume: bool) -> bool:
    """Whether a run has a checkpoint; InputError where it has one and is not to be gone on with."""
    begun = bool(steps_of(run))
    if begun and not resume:
        raise InputError(f"{run}: has a run already; say --resume to go on with it, or give another --out")
    return begun


def step_of(folder: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(folder.name.removeprefix("step-"))


def folders_of(parent: Path, step: int) -> tuple[Path, Path]:
    """The folder of a step's checkpoint, and the one in which it is written first."""
    name = f"step-{step:08d}"
    return parent / name, parent / f".saving-{name}"


def begin(saving: Path) -> None:
    """Make the folder that a checkpoint is written into, and tidy up what killed writers left beside it."""
    saving.parent.mkdir(parents=True, exist_ok=True)
    sweep(saving.parent)
    saving.mkdir()


def put_in_place(saving: Path, final: Path) -> None:
    """Rename a written folder; an earlier checkpoint of the step stands aside, and `sweep` brings it back after a kill
    in between."""
    aside = final.with_name(f".old-{final.name}")
    if final.exists():
        final.rename(aside)
    saving.rename(final)
    flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what killed writers left, and bring back a checkpoint that was about to be replaced."""
    for aside in parent.glob(".old-step-*"):
        final = aside.with_name(aside.name.removeprefix(".old-"))
        if final.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(final)
    for left in [*parent.glob(".saving-step-*"), *parent.glob(".trash-step-*")]:
        shutil.rmtree(left)


def discard(folder: Path) -> None:
    """Remove a checkpoint. It is renamed first, so that a kill leaves no half of it under a step's name."""
    trash = folder.with_name(f".trash-{folder.name}")
    folder.rename(trash)
    shutil.rmtree(trash)
