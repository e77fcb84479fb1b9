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
    if source.is_dir():
        files = find(source, SOUNDS)
        found: list[tuple[str, Any]] = [(f.relative_to(source).as_posix(), f) for f in files]
    elif not source.is_file():
        raise InputError(f"{source}: no such file or folder")
    else:
        found = _rows(source) if source.suffix.lower() == ".parquet" else [(str(source), source)]
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
    column = next((name for name in _COLUMNS if rows and name in rows[0]), None)
    if rows and column is None:
        raise InputError(f"{table}: has none of the columns {', '.join(_COLUMNS)}; it has {', '.join(rows[0])}")
    return sorted((str(row.get("id", number)), row[column]) for number, row in enumerate(rows))


def sound_sets(source: Path, sample_rate: int) -> SoundSets:
    """The recordings of a folder or table at one rate, a tenth of them held out by a hash of the name."""
    sounds, skipped = load_sounds(find_recordings(source), sample_rate)
    held_out = {name: sound for name, sound in sounds.items() if by_hash(name)}
    learned = {name: sound for name, sound in sounds.items() if name not in held_out}
    if not held_out or not learned:
        raise InputError(f"{source}: {len(sounds)} recordings are too few to hold a tenth out; give more")
    return SoundSets(learned, held_out, skipped)
