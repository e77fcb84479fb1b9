"""The folders of a run's checkpoints: steps_of, step_of. Apart from checkpoint.py, which imports much to read them."""

from __future__ import annotations

import re
from pathlib import Path

_STEP = re.compile(r"step-\d{8,}")


def steps_of(run: str | Path) -> list[Path]:
    """The checkpoints of a run, newest first, good or not; copies with other names are none of them."""
    parent = Path(run) / "checkpoints"
    folders = [folder for folder in parent.glob("step-*") if _STEP.fullmatch(folder.name) and folder.is_dir()]
    return sorted(folders, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(folder.name.removeprefix("step-"))
