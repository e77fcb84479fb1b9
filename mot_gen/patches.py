"""Images and latents as rows of patch tokens, and back: patchify, unpatchify.

Tokens run row by row over the grid of patches; inside a token the channels run (patch row, patch column, C).
"""

from torch import Tensor

from mot_gen.errors import InputError


def patchify(x: Tensor, patch_size: int) -> tuple[Tensor, tuple[int, int]]:
    """(..., C, H, W) -> (..., n, p * p * C) and the grid (rows, columns) = (H / p, W / p), n = rows * columns.

    Raises InputError unless p divides H and W.
    """
    *batch, channels, height, width = x.shape
    p = patch_size
    if p < 1 or height % p or width % p:
        raise InputError(f"patch_size {p} must divide the height and width {height} x {width}")
    rows, columns = height // p, width // p
    tiles = x.reshape(*batch, channels, rows, p, columns, p)
    tokens = tiles.movedim((-4, -2), (-5, -4)).movedim(-3, -1)  # C r p c p -> r c C p p -> r c p p C
    return tokens.reshape(*batch, rows * columns, p * p * channels), (rows, columns)


def unpatchify(values: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """(..., n, p * p * C) -> (..., C, rows * p, columns * p), the inverse of `patchify`.

    Raises InputError unless the grid has n cells and p * p divides the channels of a token.
    """
    *batch, n, width = values.shape
    (rows, columns), p = grid, patch_size
    if rows * columns != n:
        raise InputError(f"a grid of {rows} x {columns} patches cannot hold {n} tokens")
    if width % (p * p):
        raise InputError(f"tokens of {width} channels are not patches of {p} x {p}")
    tiles = values.reshape(*batch, rows, columns, p, p, width // (p * p))
    image = tiles.movedim(-1, -5).movedim(-3, -2)  # r c p p C -> C r c p p -> C r p c p
    return image.reshape(*batch, width // (p * p), rows * p, columns * p)
