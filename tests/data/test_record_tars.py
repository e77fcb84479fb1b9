"""Tar archives, and the parquet that img2dataset writes: read as they were meant, or counted and named."""

import io
import json
import tarfile

import pyarrow
import pyarrow.parquet
import pytest
from raw_files import picture, tar, told

from mot_gen.data.records import Document, Pair, Part, SpeechPair, open_records
from mot_gen.data.sources import NoRecord
from mot_gen.errors import InputError


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
    assert "row 3: has a url and no picture" in source.broken.samples[0]


def test_a_null_picture_that_becomes_text_is_named(tmp_path):
    rows = [{"image": picture(), "text": "a"}, {"image": None, "text": "b"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "0.parquet")
    source = open_records(tmp_path / "0.parquet")
    assert isinstance(source[1], Document)
    assert told(source) == {"rows without their picture, of which the text alone is learned": 1}


def test_sound_beside_its_text_is_a_recording(tmp_path):
    (sample,) = open_records(tar(tmp_path / "0.tar", [("0.flac", b"sound"), ("0.txt", b"hallo")]))
    assert sample == SpeechPair("0.tar:0", (Part("text", "hallo"), Part("speech", b"sound")))


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


def test_members_that_no_sample_has_are_named_and_no_broken_records(tmp_path):
    good = [("a.png", picture()), ("a.txt", b"a"), ("a.cls", b"1"), ("a.npy", b"x")]
    source = open_records(tar(tmp_path / "0.tar", [*good, ("README.md", b"x"), ("LICENSE", b"x")]))
    assert (
        len(source) == 1
        and not source.broken.count
        and told(source)
        == {
            "members .md, which are not read": 1,
            "members without a suffix, which are not read": 1,
            "members .cls, which are not read since a .txt is there": 1,
            "members .npy, which no record names": 1,
        }
    )
    with pytest.raises(NoRecord, match=r"holds no record; 1 members \.md, which are not read: README\.md"):
        open_records(tar(tmp_path / "1.tar", [("README.md", b"x")]))


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
