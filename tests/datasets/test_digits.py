"""The digits: exact images, captions that parse back, a stratified split that stays."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mot_gen.datasets import digits
from mot_gen.recipes.sections import Data


@pytest.fixture(scope="module")
def splits():
    return digits.load(Data())


def test_images_keep_every_grey_level(splits):
    levels = {pair.id: digits.to_levels(pair.image) for pair in [*splits.train, *splits.held_out]}
    for i, image in enumerate(load_digits().images):
        assert np.array_equal(levels[f"digits/{i}"], image)


def test_captions_name_the_digit(splits):
    target = load_digits().target
    for pair in [*splits.train, *splits.held_out]:
        index = int(pair.id.removeprefix("digits/"))
        assert {digits.digit_in_caption(caption) for caption in pair.captions} == {target[index]}


def test_phrasings_are_unambiguous():
    captions = [caption for digit in range(10) for caption in digits.captions_of(digit)]
    assert len(set(captions)) == len(captions) == 10 * len(digits.PHRASINGS)


@pytest.mark.parametrize("text", ["", "a handwritten", "a handwritten seven seven", "seven", "a handwritten eleven"])
def test_other_texts_name_no_digit(text):
    assert digits.digit_in_caption(text) is None


def test_split_is_stratified_disjoint_and_fixed_by_its_seed(splits):
    train, held_out = ({pair.id for pair in part} for part in (splits.train, splits.held_out))
    assert not train & held_out and len(train | held_out) == 1797
    of_class = np.bincount([digits.digit_in_caption(pair.captions[0]) for pair in splits.held_out])
    assert np.array_equal(of_class, np.round(0.15 * np.bincount(load_digits().target)))
    assert held_out == {pair.id for pair in digits.load(Data()).held_out}
    assert held_out != {pair.id for pair in digits.load(Data(split_seed=1)).held_out}
