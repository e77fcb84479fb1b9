"""What people bring: read as it was meant, or counted and named. Nothing is dropped, changed or repeated in silence."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from mot_gen.data.loader import Loader
from mot_gen.data.looks import first_look
from mot_gen.data.notices import NAMED, Notice, Notices
from mot_gen.data.records import Document, Pair, open_all, open_records, split
from mot_gen.data.sources import NoRecord
from mot_gen.errors import InputError
from mot_gen.files.suffixes import PICTURES
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.image_patch import PatchImageTokenizer

MARK = b"\xef\xbb\xbf"


def picture(kind="PNG", size=(16, 16), color="red", mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, kind)
    return buffer.getvalue()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tar(path, members, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def lines(path, *records):
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records))
    return path


def told(samples) -> dict[str, int]:
    return {what: notice.count for what, notice in samples.notices.items()}


# ---------------------------------------------------------------- folders


def test_captions_of_windows(tmp_path):
    write(
        tmp_path, {"a.png": picture(), "a.txt": MARK + b"a red square\r\nred\r\n", "b.png": picture(), "b.TXT": "b\n"}
    )
    source = open_records(tmp_path)
    assert [pair.captions for pair in source] == [("a red square", "red"), ("b",)]
    (what,) = told(source)
    assert "byte order mark" in what and source.notices[what].samples == [str(tmp_path / "a.txt")]


@pytest.mark.parametrize("suffix", [".txt", ".caption", ".cls", ".TXT", ".Caption"])
def test_every_suffix_of_captions(tmp_path, suffix):
    write(tmp_path, {"a.b.JPG": picture("JPEG"), f"a.b{suffix}": "seven"})
    assert list(open_records(tmp_path)) == [Pair("a.b.JPG", tmp_path / "a.b.JPG", ("seven",))]


def test_every_kind_of_picture_that_is_read_is_found(tmp_path):
    for number, suffix in enumerate(sorted(PICTURES)):
        write(tmp_path, {f"{number}{suffix}": picture(), f"{number}.txt": "x"})
    assert len(open_records(tmp_path)) == len(PICTURES)


def test_what_a_folder_holds_beside_pairs_is_named(tmp_path):
    write(tmp_path / "other", {"x.png": picture(), "x.txt": "x"})
    folder = tmp_path / "set"
    write(
        folder,
        {
            "a.png": picture(),
            "a.txt": "a",
            "._a.png": b"\0\5\x16\7",
            "._a.txt": b"\0\xb0",
            ".ipynb_checkpoints/a-checkpoint.png": picture(),
            "b.svg": "<svg/>",
            "c.mp4": b"",
            "lonely.txt": "no picture",
        },
    )
    (folder / "more").symlink_to(tmp_path / "other")
    source = open_records(folder)
    assert [pair.id for pair in source] == ["a.png"] and not source.broken.count
    assert told(source) == {
        "hidden files and folders, which are left out": 4,
        ".svg files, which are not read": 1,
        ".mp4 files, which are not read": 1,
        "linked folders, which are not followed (give each in data.records)": 1,
        "caption files without a picture beside them": 1,
    }


def test_pictures_without_a_caption_are_named_and_the_others_read(tmp_path):
    files = {f"{i}.png": picture() for i in range(6)} | {f"{i}.txt": "c" for i in range(6)}
    write(tmp_path, files | {"2.txt": "", "4.txt": " \n", "5.txt": b"\xff\xfe"})
    (tmp_path / "1.txt").unlink()
    source = open_records(tmp_path)
    assert [pair.id for pair in source] == ["0.png", "3.png"]
    reasons = [line.removeprefix(f"{tmp_path}/") for line in source.broken.samples]
    assert [line.split(": ")[0] for line in reasons] == ["1.png", "2.txt", "4.txt", "5.txt"]
    assert "has no caption file 1.txt" in reasons[0] and "holds no caption" in reasons[1] and "not UTF-8" in reasons[3]


def test_a_name_that_is_no_text_is_named(tmp_path):
    write(tmp_path, {"a.png": picture(), "a.txt": "a"})
    name = b"bad\xff.png"
    with open(bytes(tmp_path) + b"/" + name, "wb") as file:
        file.write(picture())
    source = open_records(tmp_path)
    assert len(source) == 1 and "bad" in source.broken.samples[0] and "not UTF-8" in source.broken.samples[0]
    assert source.broken.samples[0].isprintable()


def test_a_folder_of_shards_says_where_records_are(tmp_path):
    tar(tmp_path / "0.tar", [("a.png", picture()), ("a.txt", b"a")])
    with pytest.raises(InputError, match=r"its \.tar files are records: give them in data\.records"):
        open_records(tmp_path)
    write(tmp_path, {"metadata.csv": "file_name,text\n"})
    (tmp_path / "1.jsonl").write_text("")
    with pytest.raises(InputError, match=r"mot-gen data convert image-folder"):
        open_records(tmp_path)


# ---------------------------------------------------------------- tar


def img2dataset(i: int, **more) -> list[tuple[str, bytes]]:
    about = {"caption": f"c {i}", "url": "http://x/a.jpg", "key": f"{i:09}", "status": "success", "width": 16} | more
    return [
        (f"{i:09}.jpg", picture("JPEG")),
        (f"{i:09}.txt", f"c {i}".encode()),
        (f"{i:09}.json", json.dumps(about).encode()),
    ]


def test_img2dataset_shards(tmp_path):
    path = tar(tmp_path / "0.tar", [*img2dataset(0), *img2dataset(1), *img2dataset(2, caption="another")])
    source = open_records(path)
    assert [pair.captions for pair in source] == [("c 0",), ("c 1",)] and source[1].image == picture("JPEG")
    assert source.outline(1) == Pair("0.tar:000000001", None, ("c 1",))
    assert "000000002.txt: says another thing than caption" in source.broken.samples[0]


def test_img2dataset_parquet(tmp_path):
    rows = [
        {"jpg": picture("JPEG"), "key": "0", "caption": "zero", "url": "u", "status": "success"},
        {"jpg": None, "key": "1", "caption": "one", "url": "u", "status": "failed_to_download"},
        {"jpg": picture("PNG"), "key": "2", "caption": "two", "url": "u", "status": "success"},
        {"jpg": None, "key": "3", "caption": "three", "url": "u", "status": "success"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "0.parquet", row_group_size=2)
    source = open_records(tmp_path / "0.parquet")
    assert list(source) == [
        Pair("0.parquet:0", picture("JPEG"), ("zero",)),
        Pair("0.parquet:2", picture("PNG"), ("two",)),
    ]
    assert source.outline(1) == Pair("0.parquet:2", None, ("two",))
    assert told(source) == {"rows whose picture was not downloaded, which are left out": 1}
    assert "row 3: has none of image" in source.broken.samples[0]


def test_a_null_picture_that_becomes_text_is_named(tmp_path):
    rows = [{"image": picture(), "text": "a"}, {"image": None, "text": "b"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "0.parquet")
    source = open_records(tmp_path / "0.parquet")
    assert isinstance(source[1], Document)
    assert told(source) == {"rows without their picture, of which the text alone is learned": 1}


def test_members_that_lie_apart_are_joined(tmp_path):
    pictures = [(f"{i}.png", picture()) for i in range(4)]
    texts = [(f"{i}.txt", f"{i}".encode()) for i in range(4)]
    source = open_records(tar(tmp_path / "0.tar", pictures + texts))
    assert [pair.captions for pair in source] == [("0",), ("1",), ("2",), ("3",)]
    assert told(source) == {"members that lie apart from the others of their sample": 3}
    twice = open_records(tar(tmp_path / "1.tar", [pictures[0], texts[0], pictures[0], texts[0]]))
    assert len(twice) == 2 and told(twice) == {"samples of a name that came before": 1}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("0.svg", b"<svg/>"), ("0.txt", b"x")], r"0\.svg: pictures of this kind are not read"),
        ([("0.wav", b""), ("0.txt", b"x")], r"0\.wav: sound needs a \.json beside it"),
        ([("a.v1.jpg", b""), ("a.v1.txt", b"x")], r"a\.v1\.jpg: the key of a sample ends at its first dot"),
        ([("0.json", b"[1]"), ("0.png", b""), ("0.txt", b"x")], r"0: a record is an object"),
        ([("0.json", b"5"), ("0.png", b"")], r"0: a record is an object"),
        ([("0.json", b"[" * 100_000), ("0.png", b"")], r"0: not valid JSON: nested too deep"),
        ([("0.png", b""), ("0.txt", b"")], r"0\.txt: holds no text"),
        ([("0.png", b""), ("0.txt", b"\xff")], r"0\.txt: not UTF-8"),
        ([("b\udcff.png", b""), ("b\udcff.txt", b"x")], "id holds what is no character"),
    ],
)
def test_samples_of_a_tar_that_cannot_be_read_are_named(tmp_path, members, reason):
    with pytest.raises(NoRecord, match=reason) as error:
        open_records(tar(tmp_path / "0.tar", members))
    assert "\n" not in str(error.value)
    good = [("good.png", picture()), ("good.txt", b"good")]
    source = open_records(tar(tmp_path / "1.tar", [*good, *members]))
    assert [pair.captions for pair in source] == [("good",)] and source.broken.count == 1


def test_a_tar_that_was_cut_off_or_damaged_is_named(tmp_path):
    members = [("0.png", picture()), ("0.txt", b"a"), ("1.png", picture()), ("1.txt", b"b")]
    whole = tar(tmp_path / "0.tar", members).read_bytes()
    with tarfile.open(tmp_path / "0.tar") as archive:
        third = archive.getmembers()[2].offset
    (tmp_path / "cut.tar").write_bytes(whole[:third])
    assert told(open_records(tmp_path / "cut.tar")) == {"archives without their end, which are perhaps cut off": 1}
    (tmp_path / "bad.tar").write_bytes(whole[:third] + b"x" * 512 + whole[third + 512 :])
    source = open_records(tmp_path / "bad.tar")
    assert len(source) == 1 and "archives that are damaged, of which the rest is not read" in told(source)
    (tmp_path / "half.tar").write_bytes(whole[: third + 600])
    with pytest.raises(InputError, match=r"half\.tar: cannot be read: unexpected end of data"):
        open_records(tmp_path / "half.tar")


def test_hidden_members_and_links_are_left_out_and_named(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in (("a.png", picture()), ("a.txt", b"a"), ("._a.png", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    source = open_records(tmp_path / "0.tar")
    assert len(source) == 1 and told(source) == {
        "hidden members, which are left out": 1,
        "members that are no regular files, which are left out": 1,
    }


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"image": "a.png", "caption": "a \ud800 b"}, "caption holds half a character"),
        ({"id": "s\ud800", "text": "x"}, "id holds what is no character"),
        ({"id": "a\0b", "text": "x"}, "id holds what is no character"),
        ({"id": {"a": 1}, "text": "x"}, "id must be text or a number"),
        ({"image": "a\0.png"}, "image must be the path of a file"),
        ({"image": "a\ud800.png"}, "image must be the path of a file"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
        ({"image": {"latents": [[float("nan")] * 4], "fingerprint": "f"}}, "image.latents: holds NaN or infinity"),
        ({"image": {"tokens": [2**40], "fingerprint": "f"}}, "ids are whole numbers from 0"),
        ({"image": {"tokens": [-1], "fingerprint": "f"}}, "ids are whole numbers from 0"),
        ({"image": {"tokens": [1, 2], "grid": 2, "fingerprint": "f"}}, "grid 2 does not hold 2 tokens"),
        ({"image": {"tokens": [1, 2], "grid": [-1, -2], "fingerprint": "f"}}, "does not hold 2 tokens"),
        ({"image": {"tokens": [1, 2], "shape": "x", "fingerprint": "f"}}, "its shape must be a list"),
        ({"image": {"latents": [["x"]], "fingerprint": "f"}}, "latents are numbers"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path, record, reason):
    source = open_records(lines(tmp_path / "a.jsonl", {"text": "good"}, record))
    (line,) = source.broken.samples
    assert line.startswith(f"{tmp_path}/a.jsonl:2: ") and reason in line and line.isprintable()
    assert len(source) == 1 and source[0].id == "a.jsonl:1"


def test_marks_and_carriage_returns_are_taken_out_of_texts(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"text": "\ufeffone\r\ntwo\rthree"}, {"text": "plain"})
    path.write_bytes(MARK + path.read_bytes())
    source = open_records(path)
    assert source[0].parts[0].value == "one\ntwo\nthree" and list(told(source).values()) == [1]


def test_media_outside_of_the_folder_need_a_permission(tmp_path):
    """A record reaches nothing but its folder, by whatever path; who allows it gets what was there before."""
    folder = tmp_path / "set"
    folder.mkdir()
    names = ["../a.png", "sub/../../a.png", str(tmp_path / "a.png"), f"{folder}x/a.png"]
    inside = ["sub/../b.png", str(folder / "b.png"), "..b.png", "~/b.png"]
    path = lines(folder / "a.jsonl", *({"image": name, "caption": "x"} for name in names + inside))
    source = open_records(path)
    assert [os.path.relpath(sample.image, folder) for sample in source] == ["b.png", "b.png", "..b.png", "~/b.png"]
    assert source.broken.count == 4
    assert all("lies outside of" in line and "data.outside_media=true" in line for line in source.broken.samples)
    allowed = open_records(path, outside_media=True)
    assert len(allowed) == 8 and not allowed.broken.count and allowed[0].image == folder / "../a.png"
    table = pyarrow.Table.from_pylist([{"image": name, "caption": "x"} for name in names + inside])
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    source = open_records(folder / "a.parquet")  # whose media are looked at when they are asked for
    assert source[4].image == folder / "sub/../b.png"
    with pytest.raises(InputError, match=r"row 0: image: \.\./a\.png lies outside of"):
        source[0]
    assert open_records(folder / "a.parquet", outside_media=True)[0].image == folder / "../a.png"


def test_a_text_that_should_have_had_a_picture_is_noticed(tmp_path):
    path = lines(
        tmp_path / "a.jsonl", {"img": "a.png", "text": "x"}, {"file_name": "a.png", "text": "x"}, {"text": "y"}
    )
    source = open_records(path)
    assert [type(sample) for sample in source] == [Document, Pair, Document]
    assert told(source) == {"texts beside a field 'img', which is not read": 1}


def test_names_are_found_however_their_accents_are_written(tmp_path):
    """macOS stores ä as a and two dots; texts mostly have one character."""
    composed, decomposed = "\u00e4.png", "a\u0308.png"
    write(tmp_path, {decomposed: picture()})
    (sample,) = open_records(lines(tmp_path / "a.jsonl", {"image": composed, "caption": "x"}))
    assert sample.image == tmp_path / decomposed
    write(tmp_path, {composed: picture()})
    assert open_records(tmp_path / "a.jsonl")[0].image == tmp_path / composed


PACKED = {
    "a.jsonl": (gzip.compress(b"{}"), "is compressed by gzip; unpack it: gunzip"),
    "b.tar": (gzip.compress(b"{}"), "is compressed by gzip"),
    "a.jsonl.gz": (gzip.compress(b"{}"), "is compressed by gzip"),
    "a.zip": (b"PK\x03\x04", "is a zip file; unpack it: unzip"),
    "u.jsonl": ('{"text": "x"}'.encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
    "array.jsonl": (b'[{"text": "x"}]', "write each object on a line of its own"),
    "object.jsonl": (b'{\n"text": "x"\n}', "write each object on a line of its own"),
    "t.csv": (b"image,caption\n", "mot-gen data convert image-folder"),
    "t.json": (b"[]", "mot-gen data convert image-folder"),
    "x.pkl": (b"", r"\.pkl is no known kind of records"),
}


@pytest.mark.parametrize("name", PACKED)
def test_files_of_another_kind_are_refused_with_what_to_do(tmp_path, name):
    content, said = PACKED[name]
    write(tmp_path, {name: content})
    with pytest.raises(InputError, match=said):
        open_records(tmp_path / name)


def test_a_folder_with_a_table_below_says_how_to_convert_it(tmp_path):
    write(tmp_path, {"train/metadata.csv": "file_name,text\n0.png,x\n", "train/0.png": picture()})
    with pytest.raises(NoRecord, match=r"holds train/metadata\.csv; say mot-gen data convert image-folder"):
        open_records(tmp_path)


def test_a_lone_record_is_trained_on(tmp_path):
    for i in range(20):
        samples = open_records(lines(tmp_path / "a.jsonl", {"id": f"r{i}", "text": "x"}))
        splits = split(samples, 0.9, 0)
        assert (len(splits.train), len(splits.held_out)) == (1, 0)


def test_all_files_that_cannot_be_read_are_named_at_once(tmp_path):
    good = lines(tmp_path / "good.jsonl", {"text": "x"})
    bad = lines(tmp_path / "bad.jsonl", {"txet": "x"}, "{")
    with pytest.raises(NoRecord, match=r"bad\.jsonl:1: has none of.*; .*none\.jsonl: no such file") as error:
        open_all([good, bad, tmp_path / "none.jsonl"])
    assert len(error.value.broken.samples) == 3 and "\n" not in str(error.value)


# ---------------------------------------------------------------- training


class Words:
    """Bytes as text tokens."""

    modality, fingerprint = Modality("text", vocab_size=256), "bytes"

    def encode_batch(self, texts):
        return [Span("text", torch.tensor(list(text.encode()))) for text in texts]


class Codes:
    """Discrete tokens of pictures."""

    modality, fingerprint, grid = Modality("image", vocab_size=8), "codes", (2, 2)


def loader(samples, **training) -> Loader:
    tokenizers = {"text": Words(), "image": PatchImageTokenizer(image_size=[8, 8], patch_size=4, color_channels=1)}
    return Loader(samples, tokenizers, Data(window=16, caption_dropout=0), Training(row_length=64, rows=2, **training))


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


def test_a_first_look_finds_size_colours_and_lengths(tmp_path):
    for i in range(5):
        write(tmp_path, {f"{i}.png": picture(size=(28, 20), mode="L", color=i), f"{i}.txt": "é" * (i + 1)})
    look = first_look(open_records(tmp_path), count=4)
    assert (look.records, look.image_size, look.of_one_size, look.color_channels) == (4, (20, 28), True, 1)
    assert look.longest_text == 8 and look.kinds == {"text": 4, "image": 4}
    write(tmp_path, {"0.png": picture(size=(30, 20))})
    look = first_look(open_records(tmp_path))
    assert (look.image_size, look.of_one_size, look.color_channels) == ((20, 28), False, 3)
    (tmp_path / "0.png").write_bytes(b"broken")
    assert len(first_look(open_records(tmp_path)).pictures) == 4


def test_notices_name_the_first_and_count_all():
    notices = Notices()
    for i in range(NAMED + 5):
        notices.note("things", f"n{i}")
    both = Notices().add([notices, notices])
    assert both["things"].count == 2 * NAMED + 10 and len(both["things"].samples) == NAMED
    assert notices.lines(shown=2) == ["1,005 things: n0; n1; and 1,003 more"]
    assert Notice().first(3) == "" and json.dumps(notices.as_dict())
