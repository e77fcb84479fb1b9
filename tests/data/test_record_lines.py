"""Records a line, and files of other kinds: read as they were meant, or named with what to do."""

import gzip
import os

import pyarrow
import pyarrow.parquet
import pytest
from raw_files import MARK, lines, picture, told, write

from mot_gen.data.records import Document, Pair, open_all, open_records, split
from mot_gen.data.sources import NoRecord
from mot_gen.errors import InputError


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
