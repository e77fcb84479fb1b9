"""The state of a tokenizer's training in one file, from which it goes on: save_state, load_state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mot_gen.errors import InputError, require
from mot_gen.files.atomic import writing


def save_state(file: Path, run: dict, state: dict) -> None:
    """Written aside and renamed, so that a kill at any moment leaves a whole file. run: what `load_state` asks for."""
    with writing(file) as part:
        torch.save(_on_cpu(state) | {"run": json.dumps(run, sort_keys=True)}, part)


def _on_cpu(value: Any) -> Any:
    """A state with its tensors on the CPU, so that any machine can read it."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_on_cpu, value))
    return value


def load_state(file: Path, run: dict) -> dict | None:
    """What was saved, on the CPU; None where nothing was. InputError where it cannot be read or is of another run."""
    if not file.is_file():
        return None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        saved = json.loads(state["run"])
    except Exception as error:  # a broken archive fails in as many ways as it can be broken
        raise InputError(f"{file}: not a checkpoint that can be read; remove it to begin again") from error
    others = _differences(saved, json.loads(json.dumps(run)))
    require(not others, f"{file}: is of a training with {', '.join(others)}; give that, or another folder")
    return state


def _differences(saved: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """What of `run` was saved otherwise, one entry a value; of digests only that they differ."""
    found: list[str] = []
    for key, value in run.items():
        old = saved.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            found += _differences(old, value)
        elif old != value:
            digest = isinstance(value, str) and len(value) == 64
            found.append(f"other {key}" if digest else f"{key} {old}, not {value}")
    return found
