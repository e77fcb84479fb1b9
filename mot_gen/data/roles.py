"""A picture as several spans, by its role: with_roles.

A model that reads pictures by other tokens than it draws them in (BAGEL) is given

- a picture that is learned: its latents, noised; and where the sample goes on, its latents, clean, and its features;
- one that is only read, before a picture that is learned: its latents, clean, and its features;
- one that is only read, before texts alone: its features.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from mot_gen.data.samples import Part

READ_BY = "sight"  # the modality that pictures are read by


def with_roles(parts: Sequence[Part], modalities: Collection[str]) -> list[Part]:
    """The parts of a sample as the spans of a model of these modalities; as they are where it has no features."""
    if READ_BY not in modalities or any(part.kind == READ_BY for part in parts):
        return list(parts)  # a sample that names what is read says itself which spans it has
    spans: list[Part] = []
    for place, part in enumerate(parts):
        spans += _spans_of(part, parts[place + 1 :])
    return spans


def _spans_of(part: Part, later: Sequence[Part]) -> list[Part]:
    """The spans of one part: of a picture by what follows it, of anything else the part itself."""
    if part.kind != "image":
        return [part]
    clean, read = replace(part, loss=False), replace(part, kind=READ_BY, loss=False)
    if part.loss:
        return [part, clean, read] if later else [part]
    drawn_later = any(other.kind == "image" and other.loss for other in later)
    return [clean, read] if drawn_later else [read]
