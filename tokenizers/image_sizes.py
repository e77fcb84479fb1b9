"""The sizes of pictures that a config states, as `image_size`: size_pair, size_pairs, refuse_misfit,
as_text.

They are one side, (height, width), or a list of such pairs. Rules for pictures of many sizes are in image_edges.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from mot_gen.errors import InputError


def size_pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one side or a pair; raises InputError unless both are at least 1."""
    sides = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2 or not all(map(_is_side, sides)):
        raise InputError(f"image_size must be one side or (height, width), each at least 1, got {image_size!r}")
    height, width = sides
    return height, width


def _is_side(side: object) -> bool:
    return isinstance(side, int) and side >= 1


def size_pairs(image_size: int | Sequence) -> list[tuple[int, int]]:
    """Every (height, width) of one side, a pair, or a list of pairs; raises InputError where one comes twice."""
    if isinstance(image_size, int) or not image_size or isinstance(image_size[0], int):
        pairs = [size_pair(image_size)]
    else:
        pairs = [size_pair(each) for each in image_size]
    if len(set(pairs)) < len(pairs):
        raise InputError(f"image_size names a size twice: {as_text(pairs)}")
    return pairs


def refuse_misfit(size: tuple[int, int], fold: int, shrink: int) -> None:
    """InputError where a network does not fit pictures of (height, width). fold: pixels a side that it sees as one;
    shrink: pixels a side that become one latent."""
    if size[0] % shrink or size[1] % shrink:
        raise InputError(
            f"image_size {size[0]} x {size[1]} must be a multiple of {shrink}, by which a network of fold {fold} "
            f"shrinks; give such an image_size, or another fold"
        )


def as_text(sizes: Sequence[tuple[int, int]]) -> str:
    """Sizes or grids for people: "16 x 8, 8 x 16"."""
    return ", ".join(f"{height} x {width}" for height, width in sizes)
