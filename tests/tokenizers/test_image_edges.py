"""Pictures of many sizes: the rule of BAGEL's transforms, and tokenizers that follow it."""

import pytest
import torch
from PIL import Image
from tiny import generator

from mot_gen.errors import InputError
from mot_gen.tokenizers.image_edges import EdgeRule, rule_of
from mot_gen.tokenizers.image_features import ImageFeatureTokenizer

RULE = EdgeRule(long=1024, short=512, stride=16)


@pytest.mark.parametrize(
    "size, want",
    [
        ((1024, 1024), (1024, 1024)),
        ((2048, 1024), (1024, 512)),  # too large: the greater side is `long`
        ((300, 400), (512, 688)),  # too small: the smaller side is `short`; 682.67 rounds to a stride
        ((100, 1000), (96, 1024)),  # both cannot be kept: `long` wins
        ((600, 601), (608, 608)),
    ],
)
def test_sides_are_between_the_limits(size, want):
    assert RULE.size_for(*size) == want
    assert RULE.allows(*RULE.size_for(*size))


def test_a_tensor_of_its_size_stays_as_it_is():
    picture = torch.rand(3, 512, 528, generator=generator(0))
    assert torch.equal(RULE.resized(picture), picture)
    assert RULE.resized(Image.new("RGB", (100, 50))).shape == (3, 512, 1024)


def test_a_rule_that_cannot_be_followed_is_refused():
    with pytest.raises(InputError, match="long 100 must be a multiple of stride 16"):
        EdgeRule(100, 32, 16)
    with pytest.raises(InputError, match=r"one of these sets of fields: long, short, stride; .*got long, short"):
        rule_of({"long": 32, "short": 16})


def features():
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    rule = {"long": 20, "short": 8, "stride": 4}
    made = ImageFeatureTokenizer(vision, rule, patch_size=4, side=5)
    with torch.no_grad():
        made.positions.normal_()
    return made.eval()


def test_features_of_pictures_do_not_depend_on_their_batch(tmp_path):
    tokenizer = features()
    pictures = [Image.new("RGB", size, color) for size, color in (((20, 8), "red"), ((16, 20), "blue"))]
    together = tokenizer.encode_batch(pictures)
    assert [span.grid for span in together] == [(2, 5), (5, 4)]
    for picture, span in zip(pictures, together):
        torch.testing.assert_close(tokenizer.encode(picture).values, span.values)
    tokenizer.save_pretrained(tmp_path)
    again = ImageFeatureTokenizer.from_pretrained(tmp_path)
    assert torch.equal(again.encode(pictures[0]).values, together[0].values)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.modality.input_only


def test_features_are_no_pictures():
    tokenizer = features()
    with pytest.raises(InputError, match="features are read, and no picture can be made of them"):
        tokenizer.decode(tokenizer.encode(Image.new("RGB", (20, 20))))
    with pytest.raises(InputError, match="sides must be multiples of 4, at most 20"):
        tokenizer.grid_of((24, 20))
