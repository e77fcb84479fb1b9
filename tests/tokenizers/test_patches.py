"""patchify and unpatchify against explicit indexing."""

import pytest
import torch

from mot_gen.errors import InputError
from mot_gen.patches import patchify, unpatchify


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(("channels", "height", "width", "p"), [(1, 8, 8, 2), (3, 4, 6, 2), (8, 3, 5, 1), (2, 6, 6, 3)])
def test_every_pixel_is_where_the_order_says(batch, channels, height, width, p):
    x = torch.randn(*batch, channels, height, width)
    tokens, (rows, columns) = patchify(x, p)
    assert tokens.shape == (*batch, rows * columns, p * p * channels)
    assert (rows, columns) == (height // p, width // p)
    for y in range(height):
        for z in range(width):
            token = (y // p) * columns + z // p
            first = ((y % p) * p + z % p) * channels
            assert torch.equal(tokens[..., token, first : first + channels], x[..., y, z])
    assert torch.equal(unpatchify(tokens, (rows, columns), p), x)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"patch_size 3 .* 8 x 9"):
        patchify(torch.zeros(1, 8, 9), 3)
    with pytest.raises(InputError, match="2 x 2 patches cannot hold 5"):
        unpatchify(torch.zeros(5, 4), (2, 2), 1)
    with pytest.raises(InputError, match="6 channels are not patches of 2 x 2"):
        unpatchify(torch.zeros(4, 6), (2, 2), 2)
