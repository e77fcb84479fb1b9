"""`mot-gen data validate` and `stats`: what they say is what the loader does, and what was put into the data."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest
from foreign_samples import SAMPLES, picture, write_lines, write_table
from PIL import Image

from mot_gen.commands.main import main
from mot_gen.corpora.convert import convert
from mot_gen.corpora.inputs import open_inputs
from mot_gen.corpora.stats import stats
from mot_gen.corpora.tables import histogram, number, summary, table
from mot_gen.corpora.validate import validate
from mot_gen.data.loader import Loader
from mot_gen.packing import pack_rows
from mot_gen.recipes.sections import Training
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.training.build import build_tokenizers, load_splits

SIZES = ["tokenizers.image.image_size=[8,8]", "tokenizers.text={kind: text, vocab_size: 300}"]
RECIPE = [*SIZES, "training.row_length=64", "data.caption_dropout=0.0", "data.held_out=0.2", "data.window=16"]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(["one", "two", "three"], k=draw.randint(1, 12))) + f" {i}" for i in range(count)]


def document(text: str, image: str, id: str, **loss) -> dict:
    return {"id": id, "content": [{"type": "text", "text": text, **loss}, {"type": "image", "image": image, **loss}]}


@pytest.fixture
def bad(tmp_path):
    """30 good documents, and one of each fault among those that are trained on."""
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(picture(8 * i, "PNG"))
    (tmp_path / "cut.png").write_bytes(picture(3, "PNG")[:45])
    (tmp_path / "same.png").write_bytes(picture(8, "PNG"))
    lines = [document(text, f"{i}.png", f"d{i}") for i, text in enumerate(texts(30))]
    faults = [
        document("missing", "none.png", "missing"),
        document("cut", "cut.png", "cut"),
        document("long " * 60, "0.png", "long"),
        document("nothing", "0.png", "nothing", loss=False),
        document(texts(30)[1], "same.png", "d1 again"),
        document("another text", "1.png", "d2"),
    ]
    write_lines(tmp_path / "held.jsonl", document(texts(30)[4], "4.png", "leak"), document("new", "5.png", "new"))
    return write_lines(tmp_path / "bad.jsonl", *lines, *faults)


def recipe(path, *overrides) -> list[str]:
    held_out = path.with_name("held.jsonl")
    return ["digits", f"data.records={path}", f"data.held_out_records={held_out}", *RECIPE, *overrides]


def test_every_fault_is_found_and_named(bad):
    name, *overrides = recipe(bad)
    found = validate(open_inputs(name, overrides)).as_dict()
    train = found["splits"]["train"]
    assert (train["samples"], train["checked"], train["usable"]) == (36, 36, 33)
    dropped = {problem: named["samples"] for problem, named in train["dropped"].items()}
    assert dropped.keys() == {"missing file", "broken media", "too long"}
    assert dropped["missing file"] == [f"missing: {bad.parent / 'none.png'}: no such file"]
    assert dropped["broken media"][0].startswith(f"cut: {bad.parent / 'cut.png'}: ")
    assert dropped["too long"][0].startswith("long: ") and "do not fit a row of 64" in dropped["too long"][0]
    assert train["without_loss"]["samples"] == ["nothing"]
    assert train["duplicates"]["ids"]["samples"] == ["d2"]
    assert train["duplicates"]["contents"]["samples"] == ["d1 again"]
    assert train["duplicates"]["media"] == 3  # 0.png once more, same.png, 1.png
    assert found["held_out_in_train"]["samples"] == ["leak"] and found["held_out_in_train"]["media"] == 2
    assert found["splits"]["held_out"]["usable"] == 2 and not found["training_stops"]


def test_it_says_what_the_loader_does(bad):
    """The loader, which decodes, encodes and packs, is the reference."""
    source = open_inputs("digits", recipe(bad)[1:])
    train = validate(source).as_dict()["splits"]["train"]
    splits = load_splits(source.recipe)
    tokenizers = build_tokenizers(source.recipe, splits)
    loader = Loader(splits.train, tokenizers, source.recipe.data, source.recipe.training)
    rows = [row for batch in loader.one_pass() for row in batch]
    assert {line.split(":")[0] for line in loader.skipped.values()} == {
        line.split(":")[0] for named in train["dropped"].values() for line in named["samples"]
    }
    for kind, counts in train["modalities"].items():
        spans = [span for row in rows for sample in row for span in sample if span.modality == kind]
        assert counts == {
            "parts": len(spans),
            "learned_parts": sum(span.learned for span in spans),
            "tokens": sum(map(len, spans)),
            "learned_tokens": sum(len(span) for span in spans if span.learned),
        }
    assert train["lengths"]["count"] == sum(map(len, rows))
    assert abs(train["rows"]["count"] - len(rows)) <= 1  # the same windows, another order
    whole = validate(open_inputs("digits", recipe(bad, "data.window=64")[1:])).as_dict()["splits"]["train"]["rows"]
    one = Loader(splits.train, tokenizers, source.recipe.data.model_copy(update={"window": 64}), source.recipe.training)
    assert whole["count"] == sum(map(len, one.one_pass()))


def test_threads_and_a_limit(bad):
    source = open_inputs("digits", recipe(bad)[1:])
    assert validate(source, workers=3).as_dict() == validate(source).as_dict()
    few = validate(source, limit=10).as_dict()["splits"]["train"]
    assert (few["samples"], few["checked"]) == (36, 10) and few == validate(source, 10).as_dict()["splits"]["train"]


def test_a_mixture_is_checked_whole(bad):
    """Also the half that the first epoch does not show."""
    overrides = [f"data.records=[{{path: {bad}, weight: 0.5}}]", *RECIPE, "data.held_out=0.0"]
    train = validate(open_inputs("digits", overrides)).as_dict()["splits"]["train"]
    assert train["checked"] == 36 and train["usable"] == 33


def test_what_stops_training_is_said(bad):
    more = recipe(bad, "training.max_corrupt=2")[1:]
    assert "3 samples are unusable, more than training.max_corrupt=2" in validate(open_inputs("digits", more)).stops
    speech = {"content": [{"type": "text", "text": "t"}, {"type": "audio", "audio": "0.png"}]}
    path = write_lines(bad.with_name("speech.jsonl"), speech, document("x", "0.png", "x"))
    report = validate(open_inputs("digits", recipe(path)[1:]))
    assert report.stops == "speech.jsonl:1: the recipe has no tokenizer for speech"
    tokens = {"image": {"tokens": [1, 2], "fingerprint": "0123456789abcdef"}, "caption": "c"}
    path = write_lines(bad.with_name("tokens.jsonl"), tokens, document("x", "0.png", "x"))
    assert "of tokenizer 0123456789ab, not of" in validate(open_inputs("digits", recipe(path)[1:])).stops


def test_text_is_trained_once_and_pictures_are_not_encoded(bad, monkeypatch):
    from mot_gen.tokenizers.image_patch import PatchImageTokenizer

    trained, train = [], TextTokenizer.train.__func__
    monkeypatch.setattr(TextTokenizer, "train", classmethod(lambda *a, **k: trained.append(1) or train(*a, **k)))
    monkeypatch.setattr(PatchImageTokenizer, "encode", lambda *_: pytest.fail("encoded"))
    validate(open_inputs("digits", recipe(bad)[1:]))
    assert trained == [1]


def test_all_that_was_converted_can_be_trained_on(tmp_path):
    made = []
    for name, makers in SAMPLES.items():
        for make in makers:
            (folder := tmp_path / make.__name__).mkdir()
            source, options = make(folder)
            made.append(folder / ("records.parquet" if "bagel" in name else "records.jsonl"))
            convert(name, source, made[-1], **options)
    paths = "[" + ", ".join(map(str, made)) + "]"
    more = [f"data.records={paths}", *SIZES, "data.held_out=0.0", "training.row_length=160"]
    report = validate(open_inputs("digits", more))
    assert report.first.usable == len(report.first.samples) >= 2 * len(SAMPLES) and not report.first.without_loss.count
    loader = Loader(
        report.first.samples,
        report.first.checker.tokenizers,
        report.first.checker.data,
        Training(row_length=160, rows=2),
    )
    batches = [pack_rows(batch, loader.modalities, 160) for batch in loader.one_pass()]
    assert not loader.skipped and all(batch.learned.any() for batch in batches)


# ---------------------------------------------------------------- the command


def test_the_command_prints_a_table_and_json(bad, capsys):
    assert main(["data", "validate", *recipe(bad)]) == 0
    said = capsys.readouterr().out
    lines = {line.split("  ")[0]: line.split()[-2:] for line in said.splitlines()}
    assert lines["usable"] == ["33", "2"] and lines["dropped: too long"] == ["1", "0"]
    assert "train, missing file: 1\n  missing: " in said and "held out and trained on: 1\n  leak" in said
    assert "█" in said and "how full they get" in said
    assert main(["data", "validate", "--json", *recipe(bad)]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["usable"] == 33


def test_records_are_validated_without_a_recipe(bad, capsys):
    assert main(["data", "validate", str(bad), str(bad.with_name("held.jsonl")), "--json"]) == 0
    split = json.loads(capsys.readouterr().out)["splits"]["records"]
    assert split["samples"] == 38 and split["usable"] == 36 and not split["rows"] and not split["lengths"]
    assert set(split["dropped"]) == {"missing file", "broken media"}
    text = sum(len(t) for t in [*texts(30), "nothing", texts(30)[1], "another text", texts(30)[4], "new", "long " * 60])
    assert split["modalities"]["text"]["tokens"] == text
    assert main(["data", "validate", str(bad)]) == 0
    assert "need tokenizers: mot-gen data validate RECIPE data.records=FILE" in capsys.readouterr().out


def test_nothing_usable_is_exit_code_2(tmp_path, capsys):
    path = write_lines(tmp_path / "none.jsonl", {"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": "y"})
    assert main(["data", "validate", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"no sample can be used; the first: none.jsonl:1: {tmp_path / 'a.png'}: no such file" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("through", ["records", "recipe"])
def test_every_refused_record_is_listed(through, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n{"txet": "x"}\n{broken\n{"text": ""}\n')
    arguments = [str(path)] if through == "records" else ["digits", f"data.records={path}"]
    assert main(["data", "validate", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["splits"]
    side = found["records" if through == "records" else "train"]
    assert (side["samples"], side["checked"], side["usable"]) == (4, 4, 1)
    dropped = side["dropped"]["unreadable record"]["samples"]
    assert [line.split(": ")[0] for line in dropped] == [f"{path}:{n}" for n in (2, 3, 4)]
    path.write_text('{"txet": "x"}\n{broken\n{"text": ""}\n')
    assert main(["data", "validate", *arguments]) == 2
    said = capsys.readouterr()
    assert [line.split(": ")[1] for line in said.out.splitlines()] == [f"{path}:{n}" for n in (1, 2, 3)]
    assert said.err.startswith(f"mot-gen: {path}:1: has none of") and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jsonl"], "none.jsonl: no such file"),
        (["digts"], "digts: no such file or folder (data.records); did you mean the recipe 'digits'?"),
        (["rows.jsonl", "data.window=3"], "data.window=3: KEY=VALUE changes a recipe, and rows.jsonl is none"),
        (["digits", "data.windo=3"], "did you mean 'window'"),
        (["rows.jsonl", "--limit", "-1"], "--limit must be at least 0, got -1"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "rows.jsonl", {"text": "t"})
    for command in ("validate", "stats"):
        assert main(["data", command, *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


# ---------------------------------------------------------------- stats


def test_stats_count_what_was_put_in(tmp_path, capsys):
    import soundfile

    turned = Image.new("RGB", (30, 20)).getexif()
    turned[274] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=turned)
    soundfile.write(tmp_path / "a.wav", np.zeros(4000), 8000)
    (tmp_path / "no.png").write_bytes(b"no picture")
    pair = {"image": "turned.jpg", "captions": ["a b", "ü"]}
    said = {
        "messages": [
            {"role": "user", "content": "abc"},
            {"role": "assistant", "content": [{"type": "audio", "audio": "a.wav"}]},
        ]
    }
    lines = write_lines(tmp_path / "a.jsonl", pair, said, {"image": "no.png"})
    rows = write_table(tmp_path / "b.parquet", {"image": picture(1), "caption": "one two three"})
    assert main(["data", "stats", str(lines), str(rows), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["pairs"], found["documents"]) == (4, 3, 1)
    assert found["sources"] == {str(lines): 3, str(rows): 1}
    assert found["modalities"]["text"] == {"samples": 3, "parts": 4, "learned_parts": 3}
    assert found["modalities"]["image"]["parts"] == 3 and found["modalities"]["speech"]["learned_parts"] == 1
    assert found["images"]["sizes"] == {"20 x 30": 1, "12 x 8": 1} and found["images"]["kinds"] == {"JPEG RGB": 2}
    assert found["seconds"]["sum"] == 0.5 and found["captions"]["sum"] == 3
    assert found["caption_words"]["max"] == 3 and found["caption_bytes"]["min"] == 2
    assert found["text_bytes"]["sum"] == 5 + 3 + 13
    assert found["unreadable"]["count"] == 1 and "a.jsonl:3" in found["unreadable"]["samples"][0]
    assert main(["data", "stats", str(lines), str(rows)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 samples: 3 pairs and 1 documents") and "seconds of sound" in said and "20 x 30" in said


def test_stats_of_a_recipe_and_of_some(bad):
    found = stats(open_inputs("digits", recipe(bad)[1:]).sets, limit=5)
    assert (found.total, found.samples) == (38, 7) and set(found.sources) == {
        str(bad),
        str(bad.with_name("held.jsonl")),
    }


# ---------------------------------------------------------------- numbers for people


@pytest.mark.parametrize(
    "values", [[3], [1, 1, 2], list(range(100)), [1] * 50 + [10_000], [0.5, 0.25, 1.0], [0.1] * 9 + [99.0]]
)
def test_a_histogram_has_every_value_in_one_bin(values):
    lines = histogram(values)
    counts = [int(line.replace("█", "").split()[-1].replace(",", "")) for line in lines]
    assert sum(counts) == len(values) and len(lines) <= 12
    assert max(line.count("█") for line in lines) == 40
    if isinstance(values[0], int):
        ends = [tuple(int(n.replace(",", "")) for n in line.strip().split("  ")[0].split(" - ")) for line in lines]
        expected = [sum(end[0] <= value <= end[-1] for value in values) for end in ends]
        assert counts == expected and all(a[-1] + 1 == b[0] for a, b in pairwise(ends))


def test_a_summary_of_numbers_and_its_table():
    assert summary([]) == {} and histogram([]) == []
    found = summary(list(range(1, 102)))
    assert (found["count"], found["sum"], found["median"], found["5%"], found["max"]) == (101, 5151, 51, 6, 101)
    json.dumps(found)
    assert table([["", "n"], ["a long name", 12345], ["b", 0.97312]]) == [
        "                  n",
        "a long name  12,345",
        "b            0.9731",
    ]
    assert number(12345.6) == "12,346"
