"""Pictures as spans of a model that reads them by other tokens than it draws them in."""

from mot_gen.data.roles import with_roles
from mot_gen.data.samples import Part

MODEL = ("text", "image", "sight")
TEXT, SEEN, DRAWN = Part("text", "words"), Part("image", "a.png", loss=False), Part("image", "b.png")


def roles(parts, modalities=MODEL):
    return [(part.kind, part.value, part.loss) for part in with_roles(parts, modalities)]


def test_a_picture_that_is_drawn_is_noised():
    assert roles([TEXT, DRAWN]) == [("text", "words", True), ("image", "b.png", True)]


def test_a_picture_that_is_asked_about_is_its_features():
    assert roles([SEEN, TEXT]) == [("sight", "a.png", False), ("text", "words", True)]


def test_a_picture_that_is_edited_is_latents_and_features():
    assert roles([SEEN, TEXT, DRAWN]) == [
        ("image", "a.png", False),
        ("sight", "a.png", False),
        ("text", "words", True),
        ("image", "b.png", True),
    ]


def test_a_drawn_picture_is_read_again_where_the_sample_goes_on():
    assert roles([DRAWN, TEXT]) == [
        ("image", "b.png", True),
        ("image", "b.png", False),
        ("sight", "b.png", False),
        ("text", "words", True),
    ]


def test_a_model_without_features_has_the_parts_as_they_are():
    assert roles([SEEN, TEXT, DRAWN], ("text", "image")) == [
        ("image", "a.png", False),
        ("text", "words", True),
        ("image", "b.png", True),
    ]
