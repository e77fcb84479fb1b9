"""Preferences: Preference; read_preferences, of files; best_and_worst, of samples and their rewards.

A line of a file says {"prompt": TEXT, "chosen": ANSWER, "rejected": ANSWER}; answers are texts, or paths of pictures
where pictures are written. {"image": PATH} is a picture that the answers are about, in the place of the prompt or
before it. Paths are relative to the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.reinforce.prompts import Prompt
from mot_gen.reinforce.rollouts import Rollout
from mot_gen.sequence import Span, only_read


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt; number: of the pair among all of its step."""

    prompt: Prompt
    chosen: Sequence[Span]
    rejected: Sequence[Span]
    number: int


@dataclass(frozen=True)
class Record:
    """A line of a file, checked and not yet tokenised. where: the file and the line."""

    where: str
    prompt: str
    image: Path | None
    chosen: str
    rejected: str


def read_preferences(paths: Sequence[str], pictures: bool) -> list[Record]:
    """All records of these files. InputError, with file and line, for what is no pair. pictures: what answers are."""
    found: list[Record] = []
    for path in map(Path, paths):
        for number, line in enumerate(_lines(path), 1):
            found.append(_record(path, number, line, pictures))
    require(found, f"reinforce.preferences: {', '.join(paths)} holds no record")
    return found


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"reinforce.preferences: {path}: cannot be read: {error}") from None
    return [line for line in text.splitlines() if line.strip()]


def _record(path: Path, number: int, line: str, pictures: bool) -> Record:
    """A line as a record; InputError for what is none."""
    where = f"{path}, line {number}"
    raw = _object(where, line)
    prompt = raw.get("prompt", "")
    image = raw.get("image") or ""
    if not isinstance(image, str):
        raise InputError(f"{where}: image must be the path of a picture, got {image!r:.60}")
    if not isinstance(prompt, str) or not (prompt or image):
        raise InputError(f"{where}: has no prompt; give a text, or an image that the answers are about")
    chosen, rejected = _answer(where, raw, "chosen"), _answer(where, raw, "rejected")
    if pictures:
        chosen, rejected = _picture(where, path, chosen), _picture(where, path, rejected)
    picture = path.parent / image if image else None
    return Record(where, prompt, picture, chosen, rejected)


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        raw = json.loads(line)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise InputError(f"{where}: is no JSON object with prompt, chosen and rejected")
    return raw


def _answer(where: str, raw: Mapping[str, Any], name: str) -> str:
    answer = raw.get(name)
    if not isinstance(answer, str) or not answer:
        raise InputError(f"{where}: has no {name!r}; a preference is a pair of a chosen and a rejected answer")
    return answer


def _picture(where: str, file: Path, answer: str) -> str:
    """The path of a picture that a record of a file names."""
    picture = file.parent / answer
    if not picture.is_file():
        raise InputError(f"{where}: {picture} is not there; answers are paths of pictures, since pictures are written")
    return str(picture)


def tokenise(
    pipe: MultimodalPipeline, records: Sequence[Record], numbers: Sequence[int], pictures: bool
) -> list[Preference]:
    """Records as spans. numbers: of the pairs. pictures: what answers are."""
    tokenizer = pipe.image_tokenizer if pictures else pipe.text_tokenizer
    return [_of(pipe, record, number, tokenizer) for record, number in zip(records, numbers)]


def _of(pipe: MultimodalPipeline, record: Record, number: int, tokenizer: Any) -> Preference:
    """tokenizer: of the answers."""
    spans: list[Span] = []
    if record.image is not None:
        spans += pipe.seen([record.image], drawn=False)[0]
    if record.prompt:
        spans += only_read(pipe.text_tokenizer.encode_batch([record.prompt]))
    chosen, rejected = tokenizer.encode_batch([record.chosen, record.rejected])
    return Preference(Prompt(record.where, spans, record.prompt), [chosen], [rejected], number)


def best_and_worst(rollouts: Sequence[Rollout], rewards: Tensor, least: float, first: int) -> list[Preference]:
    """Pairs of one group: the best with the worst, the second best with the second worst, and so on, while their
    rewards (G,) differ by more than `least`. first: the number of the first pair."""
    known = [(reward, place) for place, reward in enumerate(rewards.tolist()) if not math.isnan(reward)]
    order = [place for _, place in sorted(known)]
    pairs: list[Preference] = []
    for low, high in zip(order, reversed(order)):
        if rewards[high] - rewards[low] <= least:
            break
        better, worse = rollouts[high], rollouts[low]
        pairs.append(Preference(better.prompt, better.spans, worse.spans, first + len(pairs)))
    return pairs
