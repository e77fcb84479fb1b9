"""Pictures changed a little: not where nothing is asked, in known ways where it is, the same for the same seed."""

import random

import numpy as np
import pytest
from PIL import Image

from mot_gen.data.augment import augment
from mot_gen.data.loader import Loader
from mot_gen.data.records import Pair
from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.recipes.sections import Augment, Data, Training
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer


class Fixed(random.Random):
    """Draws the same share of every range."""

    share = 1.0

    def uniform(self, a, b):
        return a + (b - a) * self.share


def picture(mode: str = "L") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_nothing_asked_changes_nothing(mode):
    image = picture(mode)
    assert augment(image, Augment(), random.Random(0)).tobytes() == image.tobytes()
    assert not Augment(variants=3).active and Augment(shift=0.1).active


def test_a_whole_pixel_of_shift_moves_and_repeats_the_border():
    image = np.asarray(picture())
    moved = np.asarray(augment(picture(), Augment(shift=1 / 9), Fixed()))
    assert (moved[1:, 1:] == image[:-1, :-1]).all()
    assert (moved[0, 1:] == image[0, :-1]).all() and (moved[1:, 0] == image[:-1, 0]).all()


def test_a_quarter_turn_is_a_transposition():
    image = np.asarray(picture(), dtype=int)
    turned = np.asarray(augment(picture(), Augment(degrees=90.0), Fixed()), dtype=int)
    assert abs(turned - np.rot90(image, -1)).max() <= 1


def test_larger_and_smaller_keep_the_centre():
    image = Image.new("L", (9, 9))
    image.paste(255, (3, 3, 6, 6))
    larger = np.asarray(augment(image, Augment(scale=0.5), Fixed()), dtype=float)
    fixed = Fixed()
    fixed.share = 0.0
    smaller = np.asarray(augment(image, Augment(scale=0.5), fixed), dtype=float)
    assert larger.sum() > 1.5 * np.asarray(image, dtype=float).sum() > 3 * smaller.sum() > 0
    assert larger[4, 4] == 255 and np.allclose(larger, larger[::-1, ::-1], atol=1)


def test_the_loader_changes_pictures_and_repeats_its_variants():
    pairs = [Pair(f"p{i}", picture(), ("caption",)) for i in range(4)]
    tokenizers = {
        "text": TextTokenizer.train(["caption"], 300),
        "image": PatchImageTokenizer(image_size=(9, 9), patch_size=3, color_channels=1),
    }

    def images(epoch: int, **augment) -> list:
        data = Data(augment=Augment(**augment), caption_first=0.0, caption_dropout=0.0)
        rows = Loader(pairs, tokenizers, data, Training(row_length=64, rows=8)).one_pass(epoch)
        return sorted(doc[0].values.flatten().tolist() for batch in rows for row in batch for doc in row)

    plain, changed = images(0), images(0, shift=0.2, variants=2)
    assert all(image == plain[0] for image in plain)
    assert len({tuple(image) for image in changed}) == 4 and plain[0] not in changed
    assert images(2, shift=0.2, variants=2) == changed == images(0, shift=0.2)
    assert images(1, shift=0.2, variants=2) != changed != images(2, shift=0.2)


def test_a_wrong_amount_is_one_line():
    for override in ("data.augment.scale=1.0", "data.augment.shift=-0.1", "data.augment.variants=-1"):
        with pytest.raises(InputError, match=override.split("=")[0]):
            load_recipe("digits", [override])
    with pytest.raises(InputError, match=r"data\.augment\.degree"):
        load_recipe("digits", ["data.augment.degree=5"])
