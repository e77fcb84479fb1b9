"""mot-gen tokenizer: train, encode, decode and evaluate on files, and bad input in one line."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizer_examples import chirp, codec_tokenizer

from mot_gen.checkpoints import locate
from mot_gen.commands.main import _parser
from mot_gen.commands.tokenizer import register
from mot_gen.errors import InputError
from mot_gen.files.audio_files import load_audio, save_audio
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.saved import home_of, load_tokenizer
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.tokenizers.vector import VectorTokenizer

TRAINING = ["--set", "steps=4", "batch_size=4", "log_every=2", "checkpoint_every=2", "warmup_steps=1"]
NETWORK = ["--image-size", "16", "--fold", "2", "--widths", "16,16"]


def command(*words):
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    args = parser.parse_args(["tokenizer", *map(str, words)])
    return args.func(args)


@pytest.fixture
def pictures(tmp_path):
    """Twenty pictures of which two cannot be read."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for i in range(18):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if i % 2 else ".") / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    return folder


KINDS = [["vq", "--entries", "16"], ["vq", "--levels", "4,3"], ["kl", "--latent-channels", "4"]]


@pytest.mark.parametrize("kind", KINDS)
def test_image_tokenizers_are_trained_from_a_folder(kind, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert command("train", *kind, "--data", pictures, "--out", out, *NETWORK, *TRAINING) == 0
    printed = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert json.loads(printed.out) == report and report["trained_on"] + report["images"] == 18
    assert {"psnr", "ssim", "psnr_pooled"} <= report.keys() and report["psnr"] >= report["psnr_pooled"] > 0
    assert "broken.jpg" in printed.err and "cut.png" in printed.err
    tokenizer = load_tokenizer(str(out))
    assert tokenizer.grid == (4, 4) and tokenizer.modality.discrete == (kind[0] == "vq")
    if kind[0] == "vq":
        assert report["codebook_size"] == tokenizer.modality.vocab_size == (16 if "--entries" in kind else 12)
        assert 1 <= report["codebook_perplexity"] <= report["codebook_size"] * report["codebook_use"] + 1e-9
    before = tokenizer.fingerprint
    assert command("train", *kind, "--data", pictures, "--out", out, *NETWORK, *TRAINING) == 0  # nothing is left to do
    assert load_tokenizer(str(out)).fingerprint == before


def test_pictures_there_and_back(pictures, tmp_path, capsys):
    PatchImageTokenizer((20, 24), 4).save_pretrained(tmp_path / "tok")
    rows = tmp_path / "rows.jsonl"
    assert command("encode", tmp_path / "tok", pictures, "--out", rows) == 0
    assert capsys.readouterr().err.count("skipped: ") == 2
    assert command("decode", tmp_path / "tok", rows, "--out", tmp_path / "back") == 0
    names = [json.loads(line)["id"] for line in rows.read_text().splitlines()]
    back = sorted((tmp_path / "back").iterdir())
    assert len(names) == len(back) == 18
    for name, picture in zip(names, back):
        assert np.array_equal(np.asarray(Image.open(name)), np.asarray(Image.open(picture)))
    assert command("evaluate", tmp_path / "tok", "--data", pictures, "--json", tmp_path / "r.json") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["psnr"] > 90 and report["ssim"] > 0.9999 and report["images"] == 18


def test_a_shipped_tokenizer_has_a_name(pictures, tmp_path):
    """Every command of tokenizers takes it, and so do the others that take a tokenizer's folder, or a model's."""
    name, rows = "openmoji/image_tokenizer", tmp_path / "rows.jsonl"
    assert command("encode", name, pictures / "0.png", "--out", rows) == 0
    (row,) = map(json.loads, rows.read_text().splitlines())
    assert row["fingerprint"] == load_tokenizer(locate(name)).fingerprint
    assert command("decode", name, rows, "--out", tmp_path / "back") == 0
    assert Image.open(tmp_path / "back" / "000000-0.png").size == (32, 32)
    assert command("evaluate", name, "--data", pictures, "--json", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["images"] == 18
    others = [
        ("fake", "openmoji", "eval images real openmoji"),
        ("images", "openmoji", "eval suite dpg prompts openmoji"),
        ("image_tokenizer", name, f"convert source out --image-tokenizer {name}"),
        ("tokenizer", name, f"data tokenize records --out out --tokenizer {name}"),
    ]
    for field, given, words in others:
        found = getattr(_parser().parse_args(words.split()), field)
        assert found in (locate(given), [locate(given)]) and found != given


def test_a_folder_without_a_tokenizer_says_what_to_give(tmp_path):
    assert locate("openmoji/no_tokenizer") == "openmoji/no_tokenizer"
    with pytest.raises(InputError, match="no such folder; give a tokenizer's folder, or a shipped one"):
        home_of("openmoji/no_tokenizer")
    with pytest.raises(InputError, match=r"is a model; give .*openmoji/image_tokenizer, .*openmoji/text_tokenizer"):
        home_of(locate("openmoji"))


def test_text_is_trained_and_goes_there_and_back(tmp_path, capsys):
    lines = "a seven\n\nthe digit nine </s>\n  é 👩\u200d🚀\n"
    (tmp_path / "a.txt").write_text(lines * 3, "utf-8")
    assert command("train", "text", "--data", tmp_path / "a.txt", "--out", tmp_path / "tok", "--vocab-size", 270) == 0
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 270
    assert isinstance(load_tokenizer(str(tmp_path / "tok")), TextTokenizer)
    assert command("encode", tmp_path / "tok", tmp_path / "a.txt", "--out", tmp_path / "rows.jsonl") == 0
    assert command("decode", tmp_path / "tok", tmp_path / "rows.jsonl", "--out", tmp_path / "b.txt") == 0
    assert (tmp_path / "b.txt").read_text("utf-8") == lines * 3
    with pytest.raises(InputError, match="measures tokenizers of images or speech"):
        command("evaluate", tmp_path / "tok", "--data", tmp_path)


def test_the_frechet_distance_of_reconstructions(pictures, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    means = "class Mean(torch.nn.Module):\n    def forward(self, x):\n        return x.float().mean((2, 3))\n"
    (tmp_path / "my_features.py").write_text(f"import torch\n\n\n{means}")
    PatchImageTokenizer(16).save_pretrained(tmp_path / "tok")
    words = ["evaluate", tmp_path / "tok", "--data", pictures, "--extractor", "my_features:Mean", "--json"]
    assert command(*words, tmp_path / "r.json") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert abs(report["reconstruction_frechet"]) < 1e-3 and report["frechet_extractor"] == "my_features:Mean"


def test_bad_input_is_one_line(pictures, tmp_path, capsys):
    PatchImageTokenizer(16).save_pretrained(tmp_path / "tok")
    PatchImageTokenizer(16, name="other").save_pretrained(tmp_path / "other")
    rows, wrong = tmp_path / "rows.jsonl", tmp_path / "wrong.jsonl"
    command("encode", tmp_path / "tok", pictures, "--out", rows)
    wrong.write_text('{"id": "a", "tokens": "x"}\n')
    no_object, short = tmp_path / "no_object.jsonl", tmp_path / "short.jsonl"
    no_object.write_text("[3]\n")
    row = json.loads(rows.read_text().splitlines()[0])
    short.write_text(json.dumps(row | {"latents": row["latents"][:-1]}) + "\n")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    cases = {
        r"rows\.jsonl:1: made by tokenizer": ["decode", tmp_path / "other", rows, "--out", out],
        r"wrong\.jsonl:1: not a line of tokens: has no modality": ["decode", tmp_path / "tok", wrong, "--out", out],
        r"object\.jsonl:1: not a line .* is no object; give": ["decode", tmp_path / "tok", no_object, "--out", out],
        r"short\.jsonl:1: .*; give a file": ["decode", tmp_path / "tok", short, "--out", out],
        r"cannot be written to": ["decode", tmp_path / "tok", rows, "--out", rows],
        "no tokenizer in this folder": ["encode", tmp_path / "empty", pictures, "--out", out],
        "no such file or folder": ["encode", tmp_path / "tok", tmp_path / "nowhere", "--out", out],
        "more than 1 inputs": ["encode", tmp_path / "tok", pictures, "--out", out, "--max-skipped", 1],
        "no pictures": ["train", "vq", "--data", tmp_path / "empty", "--out", out],
        "did you mean 'steps'": ["train", "vq", "--data", pictures, "--out", out, "--set", "step=3"],
        "takes a number": ["train", "vq", "--data", pictures, "--out", out, "--set", "lr=fast"],
        "augment must be one of": ["train", "vq", "--data", pictures, "--out", out, "--set", "augment=flop"],
        "at least 256": ["train", "text", "--data", pictures / "broken.jpg", "--out", out, "--vocab-size", 10],
        r"rows\.jsonl: a text a line is wanted": ["train", "text", "--data", rows, "--out", out],
        "--image-size must be 1 or more, got 0": ["train", "kl", "--data", pictures, "--out", out, "--image-size", 0],
        "not UTF-8": ["train", "text", "--data", pictures / "broken.jpg", "--out", out],
        "is no folder; give one of pictures": ["train", "vq", "--data", rows, "--out", out],
        "--levels does not act on kl; it is for vq": [
            "train",
            "kl",
            "--data",
            pictures,
            "--out",
            out,
            "--levels",
            "8,5",
        ],
        "must be a multiple of 4": ["train", "vq", "--data", pictures, "--out", out, "--image-size", 18],
    }
    for match, words in cases.items():
        with pytest.raises(InputError, match=match) as error:
            command(*words)
        assert "\n" not in str(error.value) and not out.exists(), match


def test_plain_numbers_are_no_files(tmp_path):
    VectorTokenizer(2).save_pretrained(tmp_path / "numbers")
    (tmp_path / "rows.jsonl").write_text("")
    for name in ("encode", "decode"):
        with pytest.raises(InputError, match="plain numbers stand in records"):
            command(name, tmp_path / "numbers", tmp_path / "rows.jsonl", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "VQImageTokeniser"}')
    with pytest.raises(InputError, match="did you mean 'VQImageTokenizer'"):
        load_tokenizer(str(tmp_path))


@pytest.fixture
def recordings(tmp_path):
    """Sixteen recordings of which one is silent and one is broken; by their names, f1 and f4 are held out."""
    folder = tmp_path / "recordings"
    (folder / "more").mkdir(parents=True)
    for i in range(14):
        save_audio(folder / ("more" if i % 2 else ".") / f"f{i}.wav", chirp(i % 6)[: 2560 + 200 * i], 16000)
    save_audio(folder / "silent.flac", torch.zeros(4000), 16000)
    (folder / "broken.ogg").write_bytes(b"OggS and no more")
    return folder


SPEECH = ["steps=4", "batch_size=2", "log_every=2", "checkpoint_every=2", "warmup_steps=1"]


def test_speech_units_are_trained_and_go_there_and_back(recordings, tmp_path, capsys):
    out, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    assert command("train", "speech", "--data", recordings, "--out", out, "--units", 12, "--set", *SPEECH) == 0
    printed = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert json.loads(printed.out) == report and report["trained_on"] + report["recordings"] == 14
    assert (
        report["gain_agreement"] > 0.9
        and load_tokenizer(str(out)).modality.vocab_size == 12
        and report["units_per_second"] > 24
    )
    assert "broken.ogg" in printed.err and "silent.flac" in printed.err
    assert command("encode", out, recordings, "--out", rows) == 0
    assert capsys.readouterr().err.count("skipped: ") == 2
    assert command("decode", out, rows, "--out", tmp_path / "back") == 0
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    sounds = sorted((tmp_path / "back").iterdir())
    assert len(found) == len(sounds) == 14
    for row, sound in zip(found, sounds):
        assert row["modality"] == "speech" and len(load_audio(sound)[0]) == 640 * len(row["tokens"])
    words = ["evaluate", out, "--data", recordings, "--held-out", "--json", tmp_path / "r.json"]
    assert command(*words) == 0
    assert json.loads((tmp_path / "r.json").read_text()) | {"trained_on": 12} == report
    with pytest.raises(InputError, match="is of a training with vocab_size 12, not 13; give that"):
        command("train", "speech", "--data", recordings, "--out", out, "--units", 13, "--set", *SPEECH)
    with pytest.raises(InputError, match=r"no input can be encoded; .*broken\.ogg"):
        command("encode", out, recordings / "broken.ogg", "--out", tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_codec_is_a_tokenizer_of_the_command(recordings, tmp_path):
    codec_tokenizer(pattern="delayed").save_pretrained(tmp_path / "tok")
    assert command("encode", tmp_path / "tok", recordings / "f0.wav", "--out", tmp_path / "rows.jsonl") == 0
    (row,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert len(row["tokens"]) == 3 * 2560 // 320 and max(row["tokens"]) < 48
    assert command("decode", tmp_path / "tok", tmp_path / "rows.jsonl", "--out", tmp_path / "back") == 0
    (sound,) = (tmp_path / "back").iterdir()
    assert len(load_audio(sound)[0]) == 2560


def test_bad_speech_is_one_line(recordings, tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    cases = {
        "no recordings": ["--data", tmp_path / "empty"],
        "no such file or folder": ["--data", tmp_path / "nowhere"],
        "too few to hold a tenth out": ["--data", recordings / "f0.wav"],
        "too little for 5000 units": ["--data", recordings, "--units", 5000],
        "did you mean 'crop_units'": ["--data", recordings, "--set", "crop_unit=3"],
        "no speech encoder": ["--data", recordings, "--encoder", tmp_path / "empty"],
        "--layer is one of an encoder's": ["--data", recordings, "--layer", 6],
        "at least one entry, got 0": ["--data", recordings, "--units", 0],
        "context: must be at least 0": ["--data", recordings, "--context", -1],
    }
    for match, words in cases.items():
        with pytest.raises(InputError, match=match) as error:
            command("train", "speech", "--out", out, *words)
        assert "\n" not in str(error.value) and not out.exists(), match
