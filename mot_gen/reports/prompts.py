"""What a checkpoint is asked to draw or to caption by `mot-gen eval`: prompts_of, pairs_of."""

from __future__ import annotations

import sys
from pathlib import Path

from mot_gen.data.records import Pair, open_records
from mot_gen.data.samples import captioned_pairs
from mot_gen.errors import InputError
from mot_gen.eval.jsonl import read_jsonl
from mot_gen.files.suffixes import suffix_of

TABLES = (".json", ".csv", ".tsv", ".parquet")  # whose lines are no prompts
KEYS = ("prompt", "caption", "text")  # under which a .jsonl file may have its prompts


def prompts_of(file: str | None, real: str) -> list[str]:
    """Prompts of a .txt (one a line) or .jsonl ("prompt", "caption" or "text") file, or the captions of REAL."""
    if file is None:
        return [pair.captions[0] for pair in pairs_of(real, "--prompts: give a file of them, since ")]
    suffix = suffix_of(file)
    if suffix in TABLES:
        raise InputError(f"{file}: prompts are read from a .txt, one a line, or a .jsonl; write them as one of these")
    prompts = _of_records(file) if suffix == ".jsonl" else _of_lines(file)
    if not prompts:
        raise InputError(f"{file}: holds no prompts; write one a line")
    return prompts


def _of_records(file: str) -> list[str]:
    prompts = []
    for line, row in read_jsonl(file):
        prompt = next((row[key] for key in KEYS if key in row), None)
        if not isinstance(prompt, str) or not prompt:
            raise InputError(f"{file}:{line}: has no text in any of {', '.join(KEYS)}; add one")
        prompts.append(prompt)
    return prompts


def _of_lines(file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: prompts cannot be read ({error}); give a .txt or .jsonl file") from error
    return list(filter(None, map(str.strip, lines)))


def pairs_of(path: str, why: str = "") -> list[Pair]:
    """Pictures with captions: a .jsonl, .parquet or .tar file, or a folder with a .txt beside each picture.

    why: stands before the reason, where there are none.
    """
    try:
        records = open_records(path)
        samples = list(map(records.__getitem__, range(len(records))))
    except InputError as error:
        raise InputError(f"{why}{error}") from error
    pairs = captioned_pairs(samples)
    if not pairs:
        raise InputError(f"{why}{path}: holds no picture with a caption")
    if records.broken.count:
        print(f"{records.broken.count} records cannot be read: {records.broken.first(3)}", file=sys.stderr)
    return pairs
