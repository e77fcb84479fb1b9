"""Records: every form reads to the same samples, every mistake is named by file, line and field."""

import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from mot_gen.data import parquet, records
from mot_gen.data.records import Document, Pair, Part, SpeechPair, open_records
from mot_gen.datasets.records import load
from mot_gen.errors import InputError
from mot_gen.recipes.sections import Data


def write_jsonl(path: Path, *lines) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), grey).save(buffer, "png")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


# ---------------------------------------------------------------- arranging


def arranged(sample, caption_first, caption_dropout, n=4000):
    options = Data(caption_first=caption_first, caption_dropout=caption_dropout)
    return [sample.arrange(random.Random(seed), options) for seed in range(n)]


def test_a_pair_is_arranged_with_the_stated_probabilities():
    pair = Pair("p", "image", ("a", "b", "c"))
    orders = Counter(tuple(part.kind for part in parts) for parts in arranged(pair, 0.8, 0.25))
    assert orders[("image",)] == pytest.approx(1000, abs=100)
    assert orders[("text", "image")] == pytest.approx(2400, abs=120)
    assert orders[("image", "text")] == pytest.approx(600, abs=90)
    phrasings = Counter(p.value for parts in arranged(pair, 0.5, 0.0) for p in parts if p.kind == "text")
    assert phrasings.keys() == {"a", "b", "c"} and min(phrasings.values()) > 1200


def test_certain_probabilities_are_certain():
    pair = Pair("p", "image", ("a",))
    caption, image = Part("text", "a"), Part("image", "image")
    assert all(parts == [caption, image] for parts in arranged(pair, 1, 0, 100))
    assert all(parts == [image, caption] for parts in arranged(pair, 0, 0, 100))
    assert all(parts == [image] for parts in arranged(pair, 1, 1, 100))
    assert all(parts == [image] for parts in arranged(Pair("p", "image"), 1, 0, 100))


def test_a_recording_stands_as_an_image_does():
    text, sound = Part("text", "a"), Part("speech", "sound")
    recording = SpeechPair("r", (text, sound))
    assert all(parts == [text, sound] for parts in arranged(recording, 1, 0, 20))
    assert all(parts == [sound, text] for parts in arranged(recording, 0, 0, 20))
    assert all(parts == [sound] for parts in arranged(recording, 1, 1, 20))
    assert all(parts == [sound] for parts in arranged(SpeechPair("r", (sound,)), 1, 0, 20))


def test_parts_that_are_none_are_refused():
    with pytest.raises(InputError, match=r"d: the parts of a document are Part.*got 'hello'"):
        Document("d", ("hello",))


def test_a_plain_list_is_split_by_ids():
    samples = [Pair(f"{i}", "image", ("a",)) for i in range(200)]
    one, two = (records.split(chosen, 0.25, 3) for chosen in (samples, samples[::-1]))
    assert {pair.id for pair in one.held_out} == {pair.id for pair in two.held_out}
    assert 30 < len(one.held_out) < 70 and len(one.train) + len(one.held_out) == 200
    assert records.fingerprint(one.train) != records.fingerprint(one.held_out)


def test_a_document_keeps_its_order():
    parts = (Part("text", "a", False), Part("image", "b"))
    assert all(given == list(parts) for given in arranged(Document("d", parts), 0, 1, 20))


# ---------------------------------------------------------------- jsonl

CONVERSATION = {
    "id": "r1",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Make it snow."}, {"type": "image", "image": "a.jpg"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Here:", "loss": False},
                {"type": "image", "image": "b.jpg", "loss": True},
                {"type": "audio", "audio": "c.wav"},
            ],
        },
    ],
}


def test_messages_carry_loss_where_the_assistant_speaks(tmp_path):
    (sample,) = open_records(write_jsonl(tmp_path / "d.jsonl", CONVERSATION))
    assert sample == Document(
        "r1",
        (
            Part("text", "Make it snow.", False),
            Part("image", tmp_path / "a.jpg", False),
            Part("text", "Here:", False),
            Part("image", tmp_path / "b.jpg", True),
            Part("speech", tmp_path / "c.wav", True),
        ),
    )


def test_simple_forms_of_records_are_read(tmp_path):
    lines = [
        {"image": "a.png", "caption": "x"},
        {"image": "a.png", "text": "x", "width": 640},
        "",
        {"id": 3, "image": f"{tmp_path}/b.png", "captions": ["x", "y"]},
        {"image": "a.png"},
        {"text": "only text"},
        {"audio": "a.wav", "text": "hallo"},
        {"audio": "b.wav"},
        {"content": [{"type": "text", "text": "t"}, {"type": "image", "image": "a.png", "loss": False}]},
    ]
    assert list(open_records(write_jsonl(tmp_path / "d.jsonl", *lines))) == [
        Pair("d.jsonl:1", tmp_path / "a.png", ("x",)),
        Pair("d.jsonl:2", tmp_path / "a.png", ("x",)),
        Pair("3", tmp_path / "b.png", ("x", "y")),
        Pair("d.jsonl:5", tmp_path / "a.png", ()),
        Document("d.jsonl:6", (Part("text", "only text"),)),
        SpeechPair("d.jsonl:7", (Part("text", "hallo"), Part("speech", tmp_path / "a.wav"))),
        SpeechPair("d.jsonl:8", (Part("speech", tmp_path / "b.wav"),)),
        Document("d.jsonl:9", (Part("text", "t"), Part("image", tmp_path / "a.png", False))),
    ]


def test_fields_beside_a_record_that_are_not_read_are_named(tmp_path):
    talk = {"messages": [{"role": "assistant", "content": "a box"}], "image": "a.png"}
    prompted = {"image": "a.png", "prompt": "a box", "width": 9}
    whole = {"image": "a.png", "caption": "a box", "width": 9}
    source = open_records(write_jsonl(tmp_path / "d.jsonl", talk, prompted, whole))
    assert {what: notice.samples for what, notice in source.notices.items()} == {
        "records of messages beside a field 'image', which is not read": [f"{tmp_path / 'd.jsonl'}:1"],
        "pictures with no caption beside fields that are not read: prompt, width": [f"{tmp_path / 'd.jsonl'}:2"],
        "pictures without a caption": ["d.jsonl:2"],
    }
    source = open_records(write_jsonl(tmp_path / "e.jsonl", {"audio": "a.wav", "sentence": "hallo"}))
    (said,) = source.notices.items()
    assert said[0] == "recordings beside a field 'sentence', which is not read"


def test_access_by_index_reads_what_iteration_reads(tmp_path):
    source = open_records(
        write_jsonl(tmp_path / "d.jsonl", *({"id": f"é{i}", "text": "ü" * (i + 1)} for i in range(20)))
    )
    samples = list(source)
    assert [source[i] for i in range(-20, 20)] == samples * 2
    with pytest.raises(IndexError):
        source[20]


WRONG_LINES = {
    '{"image": ': ("not valid JSON",),
    "[1]": ("a record is an object",),
    "{}": ("has none of image, audio, messages, content, vector and text", "its keys are none"),
    '{"url": "x"}': ("has a url and no picture",),
    '{"image": 3}': ("image must be the path of a file", "got 3"),
    '{"image": "a.png", "caption": ""}': ("caption must be text that is not empty",),
    '{"image": "a.png", "captions": "x"}': ("captions must be a list", "got 'x'"),
    '{"image": "a.png", "captions": ["x", 4]}': ("captions[1] must be text", "got 4"),
    '{"image": "a.png", "caption": "x", "text": "y"}': ("caption and text both caption the image",),
    '{"messages": []}': ("messages must be a list that is not empty",),
    '{"messages": [{"role": "robot", "content": "x"}]}': ("messages[0].role must be system, user or assistant",),
    '{"messages": [{"role": "user"}]}': ("messages[0].content must be text or a list", "got None"),
    '{"content": [{"text": "x"}]}': ("content[0] must be a part such as",),
    '{"content": [{"type": "image", "text": "x"}]}': ("content[0] needs the keys type and image",),
    '{"content": [{"type": "text", "text": "x"}, {"type": "text", "text": ""}]}': ("content[1].text must be text",),
    '{"content": [{"type": "text", "text": "x", "loss": "yes"}]}': ("content[0].loss must be true or false",),
}


@pytest.mark.parametrize("line", WRONG_LINES)
def test_a_wrong_line_is_named(tmp_path, line):
    path = write_jsonl(tmp_path / "d.jsonl", {"text": "fine"}, line)
    source = open_records(path)
    (broken,) = source.broken.samples
    assert len(source) == 1 and source[0].parts[0].value == "fine"
    assert broken.startswith(f"{path}:2: ") and "\n" not in broken
    for expected in WRONG_LINES[line]:
        assert expected in broken
    with pytest.raises(InputError) as caught:
        open_records(write_jsonl(tmp_path / "e.jsonl", line))
    assert str(caught.value) == broken.replace("d.jsonl:2", "e.jsonl:1")


# ---------------------------------------------------------------- other files


def test_parquet_holds_media_as_bytes_or_paths(tmp_path):
    rows = [
        {"id": "a", "image": {"bytes": png(1), "path": None}, "captions": ["x", "y"], "messages": None},
        {"id": "b", "image": {"bytes": None, "path": "b.png"}, "captions": None, "messages": None},
        {
            "id": "c",
            "image": None,
            "captions": None,
            "messages": [{"role": "assistant", "content": [{"type": "text", "text": "t", "loss": None}]}],
        },
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    source = open_records(tmp_path / "d.parquet")
    assert list(source) == [
        Pair("a", png(1), ("x", "y")),
        Pair("b", tmp_path / "b.png"),
        Document("c", (Part("text", "t"),)),
    ]
    assert source[-1].id == "c"


def test_parquet_errors_name_the_row(tmp_path):
    rows = [{"image": b"x", "caption": "x"}, {"image": b"x", "caption": ""}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    source = open_records(tmp_path / "d.parquet")
    assert len(source) == 1 and source[0].captions == ("x",)
    assert "d.parquet: row 1: caption must be text" in source.broken.samples[0]
    (tmp_path / "e.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"e\.parquet: not a parquet file"):
        open_records(tmp_path / "e.parquet")


def test_parquet_is_read_by_row_groups_and_its_bytes_for_the_rows_that_are_asked_for(tmp_path, monkeypatch):
    encoded = {"tokens": b"\1\0\0\0\2\0\0\0", "shape": [2], "fingerprint": "f"}
    rows = [{"id": f"r{i}", "image": png(i), "caption": f"c{i}", "content": None} for i in range(8)]
    rows.append({"id": "t", "image": None, "caption": None, "content": [{"type": "image", "image": encoded}]})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet", row_group_size=3)
    read, read_row_group = [], pyarrow.parquet.ParquetFile.read_row_group

    def counted(self, group, columns=None):
        read.append((group, columns is None))
        return read_row_group(self, group, columns=columns)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", counted)
    monkeypatch.setattr(parquet, "_decoded", parquet.GroupCache(1))  # room for no more than the last
    source = open_records(tmp_path / "d.parquet")
    assert not any(whole for _, whole in read)
    assert source.outline(4) == Pair("r4", None, ("c4",))
    (part,) = source.outline(8).parts
    assert (part.value.values, part.value.count, part.value.fingerprint) == (None, 2, "f")
    assert not any(whole for _, whole in read)
    assert [source[i] for i in (3, 4, 5)] == [Pair(f"r{i}", png(i), (f"c{i}",)) for i in (3, 4, 5)]
    assert [group for group, whole in read if whole] == [1]
    assert source[8].parts[0].value.values.tolist() == [1, 2] and source[0] == Pair("r0", png(0), ("c0",))
    assert len(parquet._decoded._tables) == 1


def test_groups_that_were_used_last_are_kept():
    table = pyarrow.table({"x": pyarrow.array(range(100), pyarrow.int64())})
    cache, asked = parquet.GroupCache(2 * table.nbytes), []
    for key in (1, 2, 1, 3, 1, 2):
        cache.get(key, lambda key=key: asked.append(key) or table)
    assert asked == [1, 2, 3, 2] and cache.size == 2 * table.nbytes


def test_a_folder_of_images_beside_captions(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, captions in {"b.png": "x\n\n y \n", "deep/a.JPG": "z"}.items():
        (tmp_path / name).write_bytes(png(0))
        (tmp_path / name).with_suffix(".txt").write_text(captions)
    assert list(open_records(tmp_path)) == [
        Pair("b.png", tmp_path / "b.png", ("x", "y")),
        Pair("deep/a.JPG", tmp_path / "deep/a.JPG", ("z",)),
    ]
    (tmp_path / "b.txt").write_text("\n")
    source = open_records(tmp_path)
    assert [pair.id for pair in source] == ["deep/a.JPG"] and "b.txt: holds no caption" in source.broken.samples[0]
    (tmp_path / "b.txt").unlink()
    assert "b.png: has no caption file b.txt" in open_records(tmp_path).broken.samples[0]


def test_tar_shards_are_read_in_place(tmp_path):
    conversation = {"content": [{"type": "image", "image": "s2.0.png"}, {"type": "image", "image": "1.png"}]}
    members = {
        "s1.png": png(1),
        "s1.txt": b"a caption",
        "s2.0.png": png(2),
        "s2.1.png": png(3),
        "s2.json": json.dumps(conversation).encode(),
        "sub/s3.jpg": png(4),
        "sub/s3.json": b'{"caption": "img2dataset", "url": "u"}',
        "../s4.png": png(5),
    }
    source = open_records(write_tar(tmp_path / "d.tar", members))
    assert list(source) == [
        Pair("d.tar:s1", png(1), ("a caption",)),
        Document("d.tar:s2", (Part("image", png(2)), Part("image", png(3)))),
        Pair("d.tar:sub/s3", png(4), ("img2dataset",)),
        Pair("d.tar:../s4", png(5)),
    ]
    assert not (tmp_path.parent / "s4.png").exists()


def test_tar_errors_name_the_sample(tmp_path):
    path = write_tar(tmp_path / "d.tar", {"s.json": b'{"image": "0.png"}', "s.1.png": png(1)})
    with pytest.raises(InputError, match=r"d\.tar: s: image: the sample has no member '0\.png'; did you mean '1\.png'"):
        open_records(path)
    with pytest.raises(InputError, match=r"e\.tar: s: not valid JSON"):
        open_records(write_tar(tmp_path / "e.tar", {"s.json": b"{"}))
    (tmp_path / "f.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match=r"f\.tar: cannot be read"):
        open_records(tmp_path / "f.tar")


def test_what_is_not_there_or_empty_or_unknown(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: no such file or folder"):
        open_records(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"a\.jsonl: holds no record"):
        open_records(write_jsonl(tmp_path / "a.jsonl", ""))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no record"):
        open_records(tmp_path / "empty")
    with pytest.raises(InputError, match=r"a\.csv: a table is converted first"):
        open_records(write_jsonl(tmp_path / "a.csv", ""))
    (tmp_path / "b.jsonl").write_bytes(b"\x80\x81\n")
    with pytest.raises(InputError, match=r"b\.jsonl:1: not valid JSON"):
        open_records(tmp_path / "b.jsonl")


# ---------------------------------------------------------------- splits and fingerprints


def numbered(path: Path, n: int) -> Path:
    return write_jsonl(path, *({"id": f"s{i}", "text": f"text {i}"} for i in range(n)))


def test_split_is_a_partition_of_about_the_share(tmp_path):
    splits = load(Data(records=[str(numbered(tmp_path / "d.jsonl", 2000))], held_out=0.15))
    train, held_out = ({sample.id for sample in part} for part in (splits.train, splits.held_out))
    assert not train & held_out and len(train | held_out) == 2000
    assert len(held_out) == pytest.approx(300, abs=60)


def test_a_set_that_grows_keeps_what_it_held_out(tmp_path):
    small = load(Data(records=[str(numbered(tmp_path / "a.jsonl", 200))])).held_out
    large = load(Data(records=[str(numbered(tmp_path / "b.jsonl", 400))])).held_out
    assert {s.id for s in small} == {s.id for s in large if int(s.id[1:]) < 200}
    other = load(Data(records=[str(tmp_path / "a.jsonl")], split_seed=1)).held_out
    assert {s.id for s in other} != {s.id for s in small}


@pytest.mark.parametrize("n, share", [(2, 0.01), (2, 0.99), (3, 0.5), (1, 0.5), (5, 0.0)])
def test_small_sets_leave_no_side_empty(tmp_path, n, share):
    splits = load(Data(records=[str(numbered(tmp_path / "d.jsonl", n))], held_out=share))
    assert len(splits.train) + len(splits.held_out) == n
    assert bool(len(splits.held_out)) == (n > 1 and share > 0)


def test_fingerprints_follow_the_content(tmp_path):
    def of(*lines):
        return load(Data(records=[str(write_jsonl(tmp_path / "d.jsonl", *lines))])).train.fingerprint

    a, b = {"id": "a", "text": "a"}, {"id": "b", "text": "b"}
    assert of(a, b) == of(a, b)
    assert len({of(a, b), of(b, a), of(a), of(a, {"id": "b", "text": "c"})}) == 4
    plain = [Pair("a", None, ("x",)), Pair("b", None, ("y",))]
    assert records.fingerprint(plain) == records.fingerprint(list(plain))
    assert records.fingerprint(plain) != records.fingerprint(plain[::-1])
    assert records.fingerprint(plain) != records.fingerprint([plain[0], Pair("b", None, ("z",))])


def test_several_sources_follow_one_another(tmp_path):
    joined = records.ConcatSamples([open_records(numbered(tmp_path / f"{n}.jsonl", n)) for n in (3, 1, 4)])
    assert [sample.id for sample in joined] == ["s0", "s1", "s2", "s0", "s0", "s1", "s2", "s3"]
    assert len(joined) == len(joined.keys) == 8 and joined[-1].id == "s3"
