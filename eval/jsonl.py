"""Text files that lie beside samples: `read_jsonl`, one object a line, and `provenance_of` samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank."""
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder, and a .jsonl file is wanted here")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({err}); check the file") from err
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _parsed(line, f"{path}:{number}")


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as err:
        raise InputError(f"{where}: not JSON ({err.msg}); write one object a line") from err
    except RecursionError as err:
        raise InputError(f"{where}: not JSON (nested too deeply); write one object a line") from err
    if not isinstance(record, dict):
        raise InputError(f"{where}: a {type(record).__name__} where an object belongs; write one object a line")
    return record


def provenance_file(path: Path) -> Path:
    """`provenance.json`, in a folder of samples or beside a file of them."""
    folder = path if path.is_dir() or not path.suffix else path.parent
    return folder / "provenance.json"


def provenance_of(path: str | Path) -> dict[str, Any]:
    """What samples say of themselves (the model's hash, the sampler, ...), {} where they say nothing.

    Whoever makes a set of samples may put facts into `provenance.json`, and they stand in every result.
    """
    file = provenance_file(Path(path))
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(f"{file}: is not JSON ({err}); mend or remove it") from err
    if not isinstance(found, dict):
        raise InputError(f"{file}: holds a {type(found).__name__}; write an object, or remove it")
    return found
