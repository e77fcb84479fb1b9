"""Folders of pictures as one tensor, with what could not be read counted and named: find_images, read_images, split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mot_gen.errors import InputError, require, with_name
from mot_gen.files.image_files import image_tensor
from mot_gen.files.suffixes import PICTURES, find


class ImageSet(NamedTuple):
    """Pictures as one tensor.

    names: of the N pictures read. images: (N, C, H, W) uint8. skipped: one line for each that could not be.
    """

    names: list[str]
    images: Tensor
    skipped: list[str]


def find_images(folder: Path) -> list[Path]:
    """The pictures in a folder and all below it, by suffix, sorted; raises InputError where there is none."""
    require(Path(folder).is_dir(), f"{folder}: is no folder; give one of pictures")
    files = find(Path(folder), PICTURES)
    if not files:
        raise InputError(f"{folder}: no pictures ({', '.join(sorted(PICTURES))}) in this folder")
    return files


def read_images(
    pictures: Sequence[tuple[str, object]], size: tuple[int, int], channels: int = 3, max_skipped: int = 20
) -> ImageSet:
    """(name, raw image) pairs -> an ImageSet, cropped and resized to `size` = (height, width).

    What cannot be read is skipped and listed; more than max_skipped, or nothing read at all, is an InputError.
    """
    names, images, skipped = [], [], []
    for name, raw in pictures:
        try:
            images.append((image_tensor(raw, size, channels) * 255).round().to(torch.uint8))
            names.append(name)
        except InputError as error:
            skipped.append(with_name(name, error))
        if len(skipped) > max_skipped:
            raise InputError(f"more than {max_skipped} pictures cannot be read; the last: {skipped[-1]}")
    if not images and not skipped:
        raise InputError("no pictures were given")
    if not images:
        raise InputError(f"no picture could be read; the first: {skipped[0]}")
    return ImageSet(names, torch.stack(images), skipped)


def by_hash(name: str, share: float = 0.1) -> bool:
    """Whether a picture is held out: the same for the same name, whatever else is in the set."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) < share * 2**64


def split(pictures: ImageSet, held_out: Callable[[str], bool] = by_hash) -> tuple[Tensor, Tensor]:
    """(learned, held out), both (N, C, H, W); a picture equal to a held-out one is not learned.

    Raises InputError when a side is empty.
    """
    aside = torch.tensor([held_out(name) for name in pictures.names])
    unseen = {image.numpy().tobytes() for image in pictures.images[aside]}
    learned = [image for image in pictures.images if image.numpy().tobytes() not in unseen]
    if not unseen or not learned:
        raise InputError(f"{len(aside)} pictures are too few to hold a tenth out: give more")
    return torch.stack(learned), pictures.images[aside]
