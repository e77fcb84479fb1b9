"""Other people's data sets become the records that they mean; what cannot is named; nothing is half-written."""

import fcntl
import io
import json
import os
import random
import re
import resource
import signal
from pathlib import Path

import pytest
from foreign_samples import CONVERSATION, SAMPLES, picture, pictures, write_lines, write_table

from mot_gen.commands.main import main
from mot_gen.corpora import foreign, formats
from mot_gen.corpora.convert import convert
from mot_gen.corpora.json_array import Array
from mot_gen.data.records import Document, Pair, open_records
from mot_gen.errors import InputError
from mot_gen.files.image_files import load_image

CASES = [(name, make) for name, makers in SAMPLES.items() for make in makers]


def converted(name: str, make, folder: Path, suffix: str = ".jsonl"):
    source, options = make(folder)
    found = convert(name, source, folder / f"records{suffix}", **options)
    return found, list(open_records(folder / f"records{suffix}"))


def shape(sample) -> list:
    """A sample as [text or the grey of a picture, whether it carries loss], to compare by."""
    if isinstance(sample, Pair):
        return [grey(sample.image), *sample.captions]
    return [(part.value if part.kind == "text" else grey(part.value), part.loss) for part in sample.parts]


def grey(medium) -> int:
    return load_image(medium).getpixel((0, 0))[0]


def test_every_format_has_a_sample_a_source_and_a_line_in_the_docs():
    assert sorted(SAMPLES) == formats.names()
    docs = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    for name in formats.names():
        module = formats.load(name)
        assert all(hasattr(module, part) for part in ("FIELDS", "rows", "records"))
        assert f"| `{name}` |" in docs and re.search(r"(github|huggingface)\.co", module.__doc__), name


@pytest.mark.parametrize(("name", "make"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_every_sample_converts_whole_into_either_file(name, make, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found, lines = converted(name, make, tmp_path / "a")
    assert found.records == len(lines) > 0 and not found.skipped and not found.unknown_fields
    again, rows = converted(name, make, tmp_path / "b", ".parquet")
    assert again.records == found.records
    assert [shape(sample) for sample in rows] == [shape(sample) for sample in lines]
    assert not list(tmp_path.glob("*/.*"))


@pytest.mark.parametrize(
    ("name", "index", "expected"),
    [
        ("image-folder", 0, [[0, "a grey cat", "a cat, asleep"], [1, "a black cat"]]),
        ("image-folder", 1, [[0, "a, with a comma"], [1, "b"]]),
        ("class-folder", 0, [[0, "cat"], [1, "cat"], [2, "striped dog"]]),
        (
            "llava",
            0,
            [
                [
                    (0, False),
                    ("Write a prompt for this image.", False),
                    ("a beautiful painting of chernobyl by nekro.", True),
                    ("Shorter.", False),
                    ("chernobyl, painted", True),
                ],
                [
                    ("First:", False),
                    (1, False),
                    ("Second:", False),
                    (2, False),
                    ("What differs?", False),
                    ("The hat.", True),
                ],
                [("Shorter.", False), ("chernobyl, painted", True)],
            ],
        ),
        ("bagel", 0, [[1, "a red fox", "fox"]]),
        (
            "bagel",
            1,
            [
                [(1, False), ("redden", False), (2, True), ("zoom", False), (3, True)],
                [(1, False), ("make it red", False), (2, True), ("zoom", False), (3, True)],
            ],
        ),
        ("obelics", 0, [[(0, True), ("A car.", True)], [("Its cabin:", True), (1, True), ("Leather.", True)]]),
        ("mmc4", 0, [[("When you lock the door. Press the switch.", True), (0, True), ("When you unlock.", True)]]),
        ("show-o", 0, [[0, "a cat"]]),
        ("show-o", 1, [[("One day", True), (0, True), ("it rained", True), (1, True)]]),
        (
            "omnigen2",
            0,
            [[(0, False), ("add a hat to the person", False), (1, True)], [("A big tree", False), (2, True)]],
        ),
    ],
)
def test_records_say_what_the_rows_mean(name, index, expected, tmp_path):
    _, samples = converted(name, SAMPLES[name][index], tmp_path)
    assert [shape(sample) for sample in samples] == expected


def test_ids_are_the_sources_own_or_its_files(tmp_path):
    ids = {}
    for name, make in CASES:
        (tmp_path / make.__name__).mkdir()
        ids[make.__name__] = [sample.id for sample in converted(name, make, tmp_path / make.__name__)[1]]
    assert ids["llava"] == ["997bb945", "spot_difference_1", "sharegpt_7"]
    assert ids["image_folder"] == ["cats/1.jpg", "cats/2.jpg"]
    assert ids["bagel_edits"] == ["0.parquet:0/0", "0.parquet:0/1"]
    assert ids["obelics"] == ["https://example.com/forum/728/0", "https://example.com/forum/728/1"]
    assert ids["show_o_pairs"] == ["openimages_data.jsonl:1"]


def test_paths_are_relative_below_the_records_and_absolute_elsewhere(tmp_path):
    source, options = SAMPLES["llava"][0](tmp_path)
    convert("llava", source, tmp_path / "here.jsonl", **options)
    convert("llava", source, tmp_path / "sub" / "there.jsonl", **options)
    here, there = (
        json.loads((tmp_path / name).read_text().splitlines()[0]) for name in ("here.jsonl", "sub/there.jsonl")
    )
    path = "images/" + CONVERSATION["image"]
    assert here["messages"][0]["content"][0]["image"] == path
    assert there["messages"][0]["content"][0]["image"] == str(tmp_path / path)


def test_bytes_become_files_once_each(tmp_path):
    converted("bagel", SAMPLES["bagel"][1], tmp_path)
    assert len(list((tmp_path / "records.media").glob("*.jpg"))) == 3


def test_missing_pictures_of_a_page_are_counted_and_named(tmp_path):
    found, _ = converted("obelics", SAMPLES["obelics"][0], tmp_path)
    assert found.missing_media.count == 1
    assert "train-00000.parquet: row 0: https://cdn.example.com/gone.jpg is not in" in found.missing_media.first


# ---------------------------------------------------------------- rows that are none

BAD_ROWS = [
    ({**CONVERSATION, "image": "x.jpg"}, "x.jpg is not in"),
    ({**CONVERSATION, "image": None}, "<image> stands 1 times in its conversations, for 0 pictures"),
    ({**CONVERSATION, "video": "v.mp4"}, "has a video"),
    ({"id": 1, "image": "a.jpg"}, "has no conversations; its fields are id, image"),
    ({"conversations": [{"from": "narrator", "value": "x"}]}, "a turn must be from system, human, gpt"),
    ({"conversations": [{"from": "gpt", "value": ""}]}, "messages[0].content[0].text must be text"),
    ({"conversations": 3}, "not iterable"),
    ({"conversations": []}, "messages must be a list that is not empty"),
    ([1], "a row must be an object, got [1]"),
    ({"conversations": [{"from": "gpt", "value": "\udc80"}]}, "not UTF-8"),
]


def test_rows_that_cannot_be_are_named_by_file_and_row(tmp_path):
    good = {"conversations": [{"from": "gpt", "value": "good"}]}
    source = write_lines(tmp_path / "rows.jsonl", good, *(row for row, _ in BAD_ROWS), good)
    found = convert("llava", source, tmp_path / "records.jsonl")
    assert found.records == 2 and found.rows == len(BAD_ROWS) + 2
    for number, ((_, words), line) in enumerate(zip(BAD_ROWS, found.skipped, strict=True), 2):
        assert line.startswith(f"{source}:{number}: ") and words in line, line
        assert line.count("rows.jsonl") == 1


def test_broken_lines_are_skipped_and_a_broken_array_is_refused(tmp_path):
    row = json.dumps({"path": "a.jpg", "prompt": "p"})
    pictures(tmp_path, "a.jpg")
    (tmp_path / "rows.jsonl").write_bytes(f"{row}\n{{broken\n".encode() + b'{"path": "a.jpg", "prompt": "\xff"}\n')
    found = convert("show-o", tmp_path / "rows.jsonl", tmp_path / "records.jsonl")
    assert found.records == 1 and ["rows.jsonl:2" in found.skipped[0], "UTF-8" in found.skipped[1]] == [True, True]
    (tmp_path / "rows.json").write_text(f"[{row}, {row[:-4]}")
    with pytest.raises(InputError, match=r"rows\.json: row 1: not valid JSON, perhaps cut off"):
        convert("show-o", tmp_path / "rows.json", tmp_path / "again.jsonl")
    assert not (tmp_path / "again.jsonl").exists()


def test_unknown_fields_are_counted_and_named(tmp_path):
    turn = {"from": "gpt", "value": "x"}
    rows = [{"conversations": [turn]}, {"conversations": [turn | {"weight": 0}], "audio": "a.wav"}] * 2
    found = convert("llava", write_lines(tmp_path / "rows.jsonl", *rows), tmp_path / "records.jsonl")
    assert found.records == 4 and found.unknown_fields.keys() == {"audio", "conversations.weight"}
    noted = found.unknown_fields["audio"]
    assert noted.count == 2 and noted.first.endswith("rows.jsonl:2")


def test_more_bad_rows_than_may_be_leave_nothing(tmp_path):
    rows = [{"path": "none.jpg", "prompt": "p"}] * 3
    source = write_lines(tmp_path / "in" / "rows.jsonl", *rows)
    with pytest.raises(
        InputError, match=r"rows that cannot be converted: 2, more than --max-skipped 1; .*rows.jsonl:2"
    ):
        convert("show-o", source, tmp_path / "out" / "records.jsonl", max_skipped=1)
    with pytest.raises(InputError, match=r"none of its 3 rows can be converted; the first: .*rows.jsonl:1: none.jpg"):
        convert("show-o", source, tmp_path / "out" / "records.jsonl")
    assert not list((tmp_path / "out").iterdir())


# ---------------------------------------------------------------- whole or not there


def test_what_is_there_stays(tmp_path):
    source, options = SAMPLES["bagel"][1](tmp_path)
    (tmp_path / "records.jsonl").write_text("mine")
    with pytest.raises(InputError, match="exists; remove it"):
        convert("bagel", source, tmp_path / "records.jsonl", **options)
    (tmp_path / "new.media").mkdir()
    with pytest.raises(InputError, match=r"new\.media: exists"):
        convert("bagel", source, tmp_path / "new.jsonl", **options)
    assert (tmp_path / "records.jsonl").read_text() == "mine" and not (tmp_path / "new.jsonl").exists()
    assert not list((tmp_path / "new.media").iterdir())


def test_two_conversions_at_once(tmp_path):
    source, options = SAMPLES["bagel"][0](tmp_path)
    held = (tmp_path / ".records.jsonl.part").open("ab")
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another process writes it now"):
        convert("bagel", source, tmp_path / "records.jsonl", **options)
    assert Path(held.name).exists()
    held.close()
    assert convert("bagel", source, tmp_path / "records.jsonl", **options).records == 1


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_killed_conversion_leaves_no_records_and_the_next_is_whole(how, tmp_path):
    row = {"image": picture(1), "captions": json.dumps({"a": "b"})}
    source = write_table(tmp_path / "in" / "0.parquet", *[row] * 200)
    child = os.fork()
    if child == 0:
        import mot_gen.corpora.convert as module

        to_parse = iter(range(1000))
        parse = module.parse_record

        def killed(*given):
            if next(to_parse) == 150:
                os.kill(os.getpid(), getattr(signal, how))
            return parse(*given)

        module.parse_record = killed
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        try:
            convert("bagel", source, tmp_path / "out" / "records.jsonl")
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (130 if how == "SIGINT" else -signal.SIGKILL)
    left = list((tmp_path / "out").iterdir())
    assert all(path.name.endswith(".part") for path in left) and (how == "SIGKILL" or not left)
    assert convert("bagel", source, tmp_path / "out" / "records.jsonl").records == 200
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["records.jsonl", "records.media"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_full_disk_leaves_nothing(suffix, tmp_path):
    noise = random.Random(0)
    rows = [{"path": "a.jpg", "prompt": noise.randbytes(400).hex()} for _ in range(200)]
    source = write_lines(tmp_path / "rows.jsonl", *rows)
    pictures(tmp_path, "a.jpg")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"records\.(jsonl|parquet).*: File too large"):
            convert("show-o", source, tmp_path / "out" / f"records{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").iterdir())


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_as_json_reads_it_however_it_is_cut(chunk, indent):
    values = [{"a": [1, {"b": "],["}]}, {}, 12, -3.5e3, "x, ]", None, {"ü": '\\"'}]
    file = io.StringIO(json.dumps(values, indent=indent)[1:])
    assert list(Array(file, "x.json", chunk)) == values
    assert list(Array(io.StringIO("]"), "x.json", chunk)) == []


def test_unknown_fields_looks_into_lists_where_the_format_does():
    fields = {"a": 1, "b": [{"c": 1, "d": {"e": 1}}, {"f": 1}, 3], "g": {"h": 1}}
    assert foreign.unknown_fields(fields, {"a", "b", "b.c", "b.d", "g"}) == {"b.f"}
    assert foreign.unknown_fields(fields, {"a"}) == {"b", "g"}


def test_a_format_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_format.py").write_text(
        "from mot_gen.corpora.foreign import rows\nFIELDS = {'said'}\n"
        "def records(row, media):\n    yield {'id': row.id, 'text': row['said']}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    convert("my_format", write_lines(tmp_path / "rows.jsonl", {"said": "hello"}), tmp_path / "records.jsonl")
    (sample,) = open_records(tmp_path / "records.jsonl")
    assert isinstance(sample, Document) and sample.parts[0].value == "hello"


# ---------------------------------------------------------------- the command


def test_the_command_says_what_it_did(tmp_path, capsys):
    rows = [{"path": "a.jpg", "prompt": "p", "score": 1}, {"path": "none.jpg", "prompt": "p"}]
    pictures(tmp_path, "a.jpg")
    source = write_lines(tmp_path / "rows.jsonl", *rows)
    assert main(["data", "convert", "show-o", str(source), "--out", str(tmp_path / "records.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "records.jsonl: 1 records of 2 rows, 1 rows left out" in said and "rows.jsonl:2: none.jpg is not in" in said
    assert f"not understood: 'score' of 1 rows, which were converted without; first {source}:1" in said
    assert main(["data", "convert", "show-o", str(source), "--out", str(tmp_path / "b.parquet"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["records"], len(found["skipped"])) == (2, 1, 1)
    assert found["unknown_fields"]["score"]["count"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lava", "rows.jsonl", "--out", "x.jsonl"], "did you mean 'llava'?"),
        (["llava", "none", "--out", "x.jsonl"], "none: no such file or folder"),
        (["llava", "rows.txt", "--out", "x.jsonl"], ".txt cannot be read; give .json"),
        (["llava", "rows.jsonl", "--out", "x.csv"], "give a name that ends in .jsonl or .parquet"),
        (
            ["image-folder", "rows.jsonl", "--out", "x.jsonl"],
            "rows.jsonl:1: has no captions or caption or text",
        ),
        (["image-folder", "rows.txt", "--out", "x.jsonl"], ".txt cannot be read; give .csv, .tsv"),
        (["image-folder", "none.csv", "--out", "x.jsonl"], "none.csv: no such file or folder"),
        (["llava", "rows.jsonl", "--out", "rows.txt/x.jsonl"], "rows.txt/x.jsonl: cannot be written: "),
        (["llava", "rows.jsonl", "--out", "x.jsonl", "--max-skipped", "0"], "rows.jsonl:1: has no conversations"),
        (["llava", "rows.jsonl", "--out", "x.jsonl", "--max-skipped", "-1"], "--max-skipped must be at least 0"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "rows.jsonl", {})
    (tmp_path / "rows.txt").write_text("")
    assert main(["data", "convert", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not list(tmp_path.glob("x.*"))


TABLES = {
    "a.csv": 'image,caption\n0.png,red\n1.png,"a, b"\n',
    "b.csv": "\ufefffile_name;text\r\n0.png;red\r\n1.png;a, b\r\n",  # as Excel writes it where commas are decimal
    "c.tsv": "image\tcaption\n0.png\tred\n1.png\ta, b\n",
    "d.json": json.dumps([{"image": "0.png", "captions": ["red"]}, {"file_name": "1.png", "text": "a, b"}], indent=1),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_any_kind_becomes_pairs(name, tmp_path):
    pictures(tmp_path, "0.png", "1.png")
    (tmp_path / name).write_text(TABLES[name], "utf-8", newline="")
    found = convert("image-folder", tmp_path / name, tmp_path / "out.jsonl")
    assert found.records == 2 and not found.skipped and not found.unknown_fields and not found.outside_media.count
    assert [sample.captions for sample in open_records(tmp_path / "out.jsonl")] == [("red",), ("a, b",)]


def test_pictures_outside_of_the_folder_are_counted_and_need_a_permission(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "out").mkdir()
    pictures(tmp_path / "set", "0.png", "1.png")
    (tmp_path / "set" / "a.csv").write_text(TABLES["a.csv"])
    out = tmp_path / "out" / "a.jsonl"
    assert convert("image-folder", tmp_path / "set" / "a.csv", out).outside_media.count == 2
    with pytest.raises(InputError, match=r"lies outside of .*; move it there, or allow it: data\.outside_media=true"):
        open_records(out)
    assert [sample.image.name for sample in open_records(out, outside_media=True)] == ["0.png", "1.png"]
    assert main(["data", "stats", str(out)]) == 2 and main(["data", "stats", str(out), "--outside-media"]) == 0
