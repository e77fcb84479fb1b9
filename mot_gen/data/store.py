"""A sample as one record in parquet: schema, to_record, parts_of, medium_bytes. `parse_record` is the inverse."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mot_gen.data.encoded import Encoded, columns
from mot_gen.data.samples import Pair, Part, Sample, SpeechPair, type_of
from mot_gen.errors import require

if TYPE_CHECKING:
    import pyarrow

    from mot_gen.sequence import Span


def schema(modalities: Iterable[str] = ()) -> pyarrow.Schema:
    """The schema of records: media of a pair or a recording, or of the parts of a document, see encoded.py. modalities:
    beyond the usual."""
    import pyarrow

    ints = pyarrow.list_(pyarrow.int32())
    medium = pyarrow.struct(
        {
            "tokens": pyarrow.binary(),
            "latents": pyarrow.binary(),
            "shape": ints,
            "grid": ints,
            "fingerprint": pyarrow.string(),
            "bytes": pyarrow.binary(),
        }
    )
    media = {type_of(name): medium for name in ("image", "speech", *modalities)}
    text = pyarrow.string()
    part = {"type": text, "text": text, "loss": pyarrow.bool_(), **media}
    return pyarrow.schema(
        {
            "id": text,
            "image": medium,
            "captions": pyarrow.list_(text),
            "audio": medium,
            "text": text,
            "content": pyarrow.list_(pyarrow.struct(part)),
        }
    )


def to_record(
    sample: Sample, spans: Mapping[int, Span] | None = None, fingerprints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A sample as one record, its media as bytes, or as tokens where `spans` (part number -> span) has them.

    fingerprints: modality -> that of its tokenizer.
    """
    made, prints = dict(spans or {}), dict(fingerprints or {})
    content = []
    for number, part in enumerate(sample.parts):
        kind = type_of(part.kind)
        value = columns(made[number], prints[part.kind]) if number in made else _as_is(part)
        content.append({"type": kind, kind: value, "loss": part.loss})
    if isinstance(sample, Pair):
        return {"id": sample.id, "image": content[0]["image"], "captions": list(sample.captions)}
    if isinstance(sample, SpeechPair):
        return {"id": sample.id, "audio": content[-1]["audio"], "text": next(iter(sample.texts), None)}
    return {"id": sample.id, "content": content}


def parts_of(sample: Sample) -> tuple[Part, ...]:
    """The parts of a document, or the one medium of a pair."""
    return sample.parts


def _as_is(part: Part) -> Any:
    """Text, tokens that another tokenizer made, or the bytes of a medium that none is given for."""
    if isinstance(part.value, Encoded):
        return columns(part.value.span(part.kind), part.value.fingerprint)
    numbers = isinstance(part.value, np.ndarray)
    require(not numbers, f"a {part.kind} of numbers is stored as tokens; give its tokenizer with --tokenizer")
    return part.value if isinstance(part.value, str) else {"bytes": medium_bytes(part.value)}


def medium_bytes(value: Any) -> bytes:
    """The file that a medium is: of a path or bytes as they are, of a PIL image a PNG; of numbers what they hold."""
    if isinstance(value, np.ndarray):
        return repr(value.shape).encode() + value.tobytes()
    if isinstance(value, bytes):
        return value
    if hasattr(value, "read_bytes"):
        there = not isinstance(value, Path) or value.is_file()
        require(there, f"{value}: no such file")
        return value.read_bytes()
    kind = type(value).__name__
    require(hasattr(value, "save"), f"a medium of type {kind} cannot be stored; give a path, bytes or a picture")
    file = io.BytesIO()
    value.save(file, format="PNG")
    return file.getvalue()
