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
    if READ_BY not in modalities:
        return list(parts)
    spans: list[Part] = []
    for place, part in enumerate(parts):
        if part.kind != "image":
            spans.append(part)
            continue
        later = parts[place + 1 :]
        if part.loss:
            spans.append(part)
        if part.loss and not later:
            continue
        if part.loss or any(other.kind == "image" and other.loss for other in later):
            spans.append(replace(part, loss=False))
        spans.append(replace(part, kind=READ_BY, loss=False))
    return spans
