"""Recordings of a folder or a table, named: find_recordings, sound_sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.files.audio_files import load_sounds
from mot_gen.files.suffixes import SOUNDS, find
from mot_gen.tokenizers.image_corpus import by_hash

_COLUMNS = ("audio", "flac", "wav")  # that may hold the bytes of recordings


class SoundSets(NamedTuple):
    """learned and held_out: samples (T,) by name. skipped: one line for each recording that cannot be used."""

    learned: dict[str, Tensor]
    held_out: dict[str, Tensor]
    skipped: list[str]


def find_recordings(source: Path) -> list[tuple[str, Any]]:
    """(name, raw recording) of a file, of all files in a folder and below it, or of the rows of a parquet table with
    the bytes of recordings in a column audio, flac or wav; sorted. InputError where there is none."""
    source = Path(source)
    found: list[tuple[str, Any]]
    if source.is_dir():
        found = [(file.relative_to(source).as_posix(), file) for file in find(source, SOUNDS)]
    elif not source.is_file():
        raise InputError(f"{source}: no such file or folder")
    elif source.suffix.lower() == ".parquet":
        found = list(_rows(source))
    else:
        found = [(str(source), source)]
    if not found:
        raise InputError(f"{source}: no recordings ({', '.join(sorted(SOUNDS))}) there")
    return found


def _rows(table: Path) -> list[tuple[str, bytes]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(table).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{table}: not a parquet file: {str(error).splitlines()[0]}") from None
    if not rows:
        return []
    column = _column_of(table, rows[0])
    return sorted((str(row.get("id", number)), row[column]) for number, row in enumerate(rows))


def _column_of(table: Path, row: dict[str, Any]) -> str:
    """The column that holds recordings, of a table with such rows."""
    for name in _COLUMNS:
        if name in row:
            return name
    raise InputError(f"{table}: has none of the columns {', '.join(_COLUMNS)}; it has {', '.join(row)}")


def sound_sets(source: Path, sample_rate: int) -> SoundSets:
    """The recordings of a folder or table at one rate, a tenth of them held out by a hash of the name."""
    sounds, skipped = load_sounds(find_recordings(source), sample_rate)
    learned: dict[str, Tensor] = {}
    held_out: dict[str, Tensor] = {}
    for name, sound in sounds.items():
        side = held_out if by_hash(name) else learned
        side[name] = sound
    if not held_out or not learned:
        raise InputError(f"{source}: {len(sounds)} recordings are too few to hold a tenth out; give more")
    return SoundSets(learned, held_out, skipped)
