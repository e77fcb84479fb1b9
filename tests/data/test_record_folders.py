"""Folders of pictures beside captions: read as they were meant, or counted and named."""

import pytest
from raw_files import MARK, picture, tar, told, write

from mot_gen.data.records import Pair, open_records
from mot_gen.errors import InputError
from mot_gen.files.suffixes import PICTURES


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
            "a.caption": "another",
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
        "caption files beside another of their picture, which are not read": 1,
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


def test_folders_named_for_what_they_show_say_how_they_are_read(tmp_path):
    write(tmp_path, {"cat/1.png": picture(), "dog/2.png": picture()})
    with pytest.raises(
        InputError, match=r"has no caption file 1\.txt.*mot-gen data convert class-folder \S+ --out FILE"
    ):
        open_records(tmp_path)
    write(tmp_path, {"cat/other.txt": "a text"})  # somebody did write captions
    with pytest.raises(InputError) as refusal:
        open_records(tmp_path)
    assert "class-folder" not in str(refusal.value)
