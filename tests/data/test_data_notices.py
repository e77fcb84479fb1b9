"""What training says of its data: what it leaves out, what it changes, and what it finds at a first look."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from raw_files import lines, picture, told, write

from mot_gen.data import cache_size
from mot_gen.data.cache_size import cache_lines, media_bytes
from mot_gen.data.loader import Loader
from mot_gen.data.notices import NAMED, Notice, Notices
from mot_gen.data.records import Pair, open_all, open_records
from mot_gen.data.spans import SpanCache
from mot_gen.errors import InputError
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.image_patch import PatchImageTokenizer


class Words:
    """Bytes as text tokens."""

    modality, fingerprint = Modality("text", vocab_size=256), "bytes"

    def encode_batch(self, texts):
        return [Span("text", torch.tensor(list(text.encode()))) for text in texts]


class Codes:
    """Discrete tokens of pictures."""

    modality, fingerprint, grid = Modality("image", vocab_size=8), "codes", (2, 2)


def loader(samples, source="digits", **training) -> Loader:
    tokenizers = {"text": Words(), "image": PatchImageTokenizer(image_size=[8, 8], patch_size=4, color_channels=1)}
    data = Data(source=source, window=16, caption_dropout=0)
    return Loader(samples, tokenizers, data, Training(row_length=64, rows=2, **training))


def test_broken_records_count_towards_the_cap(tmp_path):
    good = [{"text": f"{i}"} for i in range(20)]
    samples = open_all([lines(tmp_path / "a.jsonl", *good, {"text": ""}, {"image": 3}, {"image": "none.png"})])
    with pytest.raises(InputError, match=r"unusable samples: 2, more than training\.max_corrupt=1; .*a\.jsonl:21.*:22"):
        loader(samples, max_corrupt=1)
    stream = loader(samples, max_corrupt=2)
    with pytest.raises(InputError, match=r"unusable samples: 3, more than training\.max_corrupt=2; .*none\.png"):
        list(stream.one_pass())
    stream = loader(samples, max_corrupt=3)
    assert sum(len(row) for rows in stream.one_pass() for row in rows) == 20
    assert any("2 records that cannot be read" in line for line in stream.first_lines())


def test_training_says_what_becomes_of_pictures(tmp_path):
    write(tmp_path, {"0.png": picture(size=(28, 28)), "1.png": picture(size=(4, 8)), "2.png": picture(size=(8, 8))})
    for i in range(3):
        write(tmp_path, {f"{i}.txt": f"{i}"})
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "2.png")
    stream = loader(open_records(tmp_path))
    expected = {
        "pictures shrunk to 8 x 8": 1,
        "pictures whose colour is taken away (tokenizers.image.color_channels is 1)": 2,
        "pictures enlarged to 8 x 8": 1,
        "pictures cut to the shape of 8 x 8": 1,
    }
    first = stream.first_lines()
    assert all("of the first 3 samples" in line for line in first)
    assert len(first) == 4 and any("0.png (28 x 28)" in line for line in first)
    for _ in range(3):
        list(stream.one_pass())
    assert {what: notice.count for what, notice in stream.changed.items()} == expected


def test_pictures_that_are_made_in_python_are_watched_where_a_user_makes_them():
    samples = [Pair("a", Image.new("RGB", (8, 8)), ("x",)), Pair("b", Image.new("L", (8, 8)), ("x",))]
    (line,) = loader(samples, source="my_parts.discs").first_lines()
    assert line.startswith("data: of the first 2 samples 1 pictures whose colour is taken away")
    assert not loader(samples).first_lines()


def test_what_is_cut_off_and_frames_that_are_not_read_are_named(tmp_path):
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    write(tmp_path, {"tall.png": picture(size=(8, 40), mode="L", color=3), "two.txt": "x", "tall.txt": "x"})
    stream = loader(open_records(tmp_path))
    list(stream.one_pass())
    assert {what: notice.count for what, notice in stream.changed.items()} == {
        "pictures cut to the shape of 8 x 8": 1,
        "pictures of several frames, of which the first is taken": 1,
    }


def test_pictures_of_one_name_share_their_caption(tmp_path):
    write(tmp_path, {"a.png": picture(), "a.jpg": picture("JPEG"), "a.txt": "both"})
    source = open_records(tmp_path)
    assert {sample.id: sample.captions for sample in source} == {"a.jpg": ("both",), "a.png": ("both",)}
    assert not source.broken.count and not told(source)


def test_a_modality_that_no_sample_holds_is_named(tmp_path):
    (line,) = loader(open_records(lines(tmp_path / "a.jsonl", {"text": "x"}))).first_lines()
    assert line == "data: no sample holds image, so nothing is learned of it"


def test_tokens_beyond_the_vocabulary_are_named(tmp_path):
    made = {"fingerprint": "codes", "grid": [2, 2]}
    path = lines(
        tmp_path / "a.jsonl",
        {"id": "good", "image": {"tokens": [0, 1, 2, 7], **made}},
        {"id": "bad", "image": {"tokens": [0, 1, 2, 8], **made}},
    )
    stream = Loader(open_records(path), {"text": Words(), "image": Codes()}, Data(), Training(row_length=64, rows=2))
    assert sum(len(row) for rows in stream.one_pass() for row in rows) == 1
    assert list(stream.skipped.values()) == ["bad: its image tokens go up to 8, their vocabulary to 7"]


def test_notices_name_the_first_and_count_all():
    notices = Notices()
    for i in range(NAMED + 5):
        notices.note("things", f"n{i}")
    both = Notices().add([notices, notices])
    assert both["things"].count == 2 * NAMED + 10 and len(both["things"].samples) == NAMED
    assert notices.lines(shown=2) == ["1,005 things: n0; n1; and 1,003 more"]
    assert Notice().first(3) == "" and json.dumps(notices.as_dict())


@pytest.mark.parametrize("channels, discrete", [(3, False), (None, True)])
def test_a_cache_that_is_too_small_is_said_with_the_size_that_is_enough(channels, discrete, monkeypatch):
    """A thousand pictures of 256 tokens."""
    modality = Modality("image", vocab_size=9) if discrete else Modality("image", channels=channels)
    tokenizers = {"text": Words(), "image": SimpleNamespace(modality=modality, grid=(16, 16))}
    samples = [Pair(str(i), b"", ("a",)) for i in range(1000)]
    size = 1000 * (256 * (8 if discrete else 12) + SpanCache.OVERHEAD)
    assert media_bytes(samples, tokenizers, Data()) == size
    assert media_bytes(samples, tokenizers, Data(augment={"shift": 0.1, "variants": 3})) == 3 * size
    assert media_bytes(samples, tokenizers, Data(augment={"shift": 0.1})) == 0  # none comes again
    needed = size // 2**20 + 1
    monkeypatch.setattr(cache_size, "_memory", lambda: 2**30)
    (line,) = cache_lines(samples, tokenizers, Data(cache_mb=needed - 1))
    assert f"take {needed} MiB" in line and f"data.cache_mb={needed + needed // 4}" in line
    assert not cache_lines(samples, tokenizers, Data(cache_mb=needed))
    assert not cache_lines(samples, tokenizers, Data(cache_mb=1, augment={"shift": 0.1}))
    monkeypatch.setattr(cache_size, "_memory", lambda: 2**20)  # too small a machine
    assert not cache_lines(samples, tokenizers, Data(cache_mb=1))
