"""`mot-gen generate` over an untrained tiny model: directions, many inputs, going on, what is inside."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_pipelines import build

from mot_gen import checkpoints
from mot_gen.backbone.storage.half_storage import has_fbgemm
from mot_gen.commands.generate_outputs import about_file, save
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.pipelines.directions import DIRECTIONS, OPTIONS, choose


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from mot_gen.pipelines.base import MultimodalPipeline

    folder = tmp_path_factory.mktemp("tiny") / "model"
    MultimodalPipeline(**build(), sampling={"num_inference_steps": 2, "guidance_scale": 2.0}).save_pretrained(folder)
    return folder


@pytest.fixture
def generate(model, capsys):
    """arguments -> the JSON lines printed; `generate.code` and `generate.err` are of the last call."""

    def call(*arguments):
        call.code = main([str(a) for a in ("generate", model, *arguments, "--json")])
        out, call.err = capsys.readouterr()
        return [json.loads(line) for line in out.splitlines()]

    return call


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "green")):
        Image.new("RGB", (6, 4), colour).save(folder / f"{name}.png")
    return folder


def pixels(path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_a_seed_makes_the_same_picture_alone_among_others_and_in_any_batch(generate, tmp_path):
    prompts = ["--prompt", "a seven", "--prompt", "nine", "--prompt", "and a nine"]
    for size in (1, 2, 16):
        generate(
            "--to", "image", *prompts, "--num", 2, "--seed", 5, "--batch-size", size, "--out", tmp_path / f"{size}"
        )
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert names == [f"{item:04d}-{number:04d}.png" for item in range(3) for number in range(2)]
    for name in names:
        assert pixels(tmp_path / "1" / name) == pixels(tmp_path / "2" / name) == pixels(tmp_path / "16" / name)
    generate("--to", "image", "--prompt", "nine", "--seed", 8, "--out", tmp_path / "alone.png")
    assert pixels(tmp_path / "alone.png") == pixels(tmp_path / "16" / "0001-0001.png")
    assert len({pixels(tmp_path / "16" / name) for name in names}) == 6


def test_a_picture_says_what_made_it_with_the_defaults_of_its_checkpoint(generate, model, tmp_path):
    (made,) = generate(
        "--to", "image", "--prompt", "ä nine", "--guidance-scale", 3, "--out", tmp_path / "new" / "x.png"
    )
    about = about_file(tmp_path / "new" / "x.png")
    assert about["prompt"] == made["prompt"] == "ä nine" and about["seed"] == "0"
    assert about["guidance_scale"] == "3.0" and about["num_inference_steps"] == "2"
    assert about["model_sha256"] == checkpoints.fingerprint(model) and about["mot_gen_version"]


def test_a_folder_is_captioned_and_gone_on_with(generate, pictures, tmp_path):
    ask = ["--to", "text", "--image", pictures, "--max-new-tokens", 3, "--out", tmp_path / "texts"]
    first = generate(*ask)
    assert [Path(each["file"]).name for each in first] == ["a.json", "b.json", "c.json"]
    said = json.loads((tmp_path / "texts" / "b.json").read_text())
    assert said["text"] == first[1]["text"] and said["image"] == "b.png" and len(said["image_sha256"]) == 64
    (tmp_path / "texts" / "b.json").unlink()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "texts").iterdir()}
    again = generate(*ask)
    assert [each.get("kept", False) for each in again] == [True, True, False]
    assert "2 of these were there already; --redo makes them again" in generate.err
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert json.loads((tmp_path / "texts" / "b.json").read_text()) == said


def test_a_folder_is_read_with_its_subfolders_and_without_hidden_files(generate, pictures):
    (pictures / "more").mkdir()
    (pictures / "b.png").rename(pictures / "more" / "b.PNG")
    (pictures / "._a.png").write_bytes(b"x")
    made = generate("--to", "text", "--image", pictures, "--max-new-tokens", 1)
    assert [each["id"] for each in made] == ["a", "c", "b"] and generate.code == 0


def test_an_option_of_files_that_is_given_again_adds_files(generate, pictures):
    each = ["--image", pictures / "a.png", "--image", pictures / "b.png"]
    made = generate("--to", "text", *each, "--max-new-tokens", 2)
    assert [Path(sample["image"]).name for sample in made] == ["a.png", "b.png"]


def test_other_settings_are_refused_or_redone(generate, tmp_path):
    ask = ["--to", "image", "--prompt", "nine", "--prompt", "seven", "--out", tmp_path]
    generate(*ask)
    before = pixels(tmp_path / "0000.png")
    assert generate(*ask, "--seed", 3) == [] and generate.code == 2
    assert "was made with seed 0, not 3" in generate.err and "--redo" in generate.err
    assert pixels(tmp_path / "0000.png") == before
    assert len(generate(*ask, "--seed", 3, "--redo")) == 2 and generate.code == 0
    assert pixels(tmp_path / "0000.png") != before
    Image.new("RGB", (6, 4)).save(tmp_path / "0001.png")
    assert generate(*ask, "--seed", 3) == [] and "does not say what made it" in generate.err


def test_records_with_their_own_seeds_and_options(generate, pictures, tmp_path):
    lines = ['"nine"', {"id": "two", "prompt": "nine", "seed": 4}, {"prompt": "nine", "num_inference_steps": 3}]
    file = pictures / "all.jsonl"
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    made = generate("--to", "image", "--records", file, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000.png", "0002.png", "two.png"]
    assert sorted(each["seed"] for each in made) == [0, 0, 4]
    assert about_file(tmp_path / "out" / "0002.png")["num_inference_steps"] == "3"
    file.write_text(json.dumps({"image": "a.png", "prompt": "a"}))
    (made,) = generate("--to", "text", "--records", file, "--max-new-tokens", 2)
    assert Path(made["image"]) == pictures / "a.png" and "text" in made and "file" not in made


def test_records_name_files_outside_of_their_folder_where_that_is_allowed(generate, pictures, tmp_path):
    (tmp_path / "below").mkdir()
    file = tmp_path / "below" / "r.jsonl"
    file.write_text(json.dumps({"image": os.path.relpath(pictures / "a.png", file.parent)}))
    ask = ["--to", "text", "--records", file, "--max-new-tokens", 2]
    assert generate(*ask) == [] and generate.code == 2 and "--outside-media" in generate.err
    assert len(generate(*ask, "--outside-media")) == 1
    assert generate("--to", "text", "--image", "https://a.org/b.png") == [] and generate.code == 2
    assert "https://a.org/b.png: is a URL" in generate.err


def test_what_is_bad_is_named_counted_and_skipped_up_to_a_limit(generate, pictures, tmp_path):
    (pictures / "b.png").write_text("hello")
    ask = ["--to", "text", "--image", pictures, "--max-new-tokens", 2, "--out", tmp_path / "texts"]
    made = generate(*ask)
    assert generate.code == 2 and [each["id"] for each in made] == ["a", "c"]
    skipped, summary = generate.err.splitlines()
    assert skipped.count("b.png") == 1 and "1 of 3" in summary
    generate(*ask, "--max-failures", 0)
    assert generate.code == 2 and "--max-failures 0" in generate.err
    file = pictures / "bad.jsonl"
    bad = '{"promt": "x"}\n[1]\n{"prompt": 3}\n{"id": "../x", "prompt": "a"}\n{\n{"prompt": ""}\n{"caption": "x"}\n'
    file.write_text('\ufeff"nine"\n' + bad)
    assert len(generate("--to", "image", "--records", file, "--out", tmp_path / "out")) == 1
    for line, words in {
        2: "did you mean 'prompt'",
        3: "an object",
        4: "a text",
        5: "../x",
        6: "JSON",
        7: "empty",
        8: "did you mean 'prompt'",
    }.items():
        assert any(f"line {line}:" in error and words in error for error in generate.err.splitlines()), line
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "0000.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "image", "--out", "x.png"], "--prompt"),
        (["--to", "image", "--prompt", "a"], "--out"),
        (["--to", "image", "--prompt", "a", "--out", "x.jpg"], ".png"),
        (["--to", "image", "--prompt", "a", "--prompt", "b", "--out", "x.png"], "give a folder"),
        (["--to", "image", "--prompt", "a", "--out", "x", "--top-p", "0.5"], "does not act on"),
        (["--to", "text", "--image", "nowhere.png"], "nowhere.png"),
        (["--to", "text", "--image", "."], "holds no image"),
        (["--to", "text", "--audio", "x.wav"], "x.wav"),
        (["--to", "speech", "--prompt", "a", "--out", "x.wav"], "no speech"),
        (["--to", "image", "--prompt", "a", "--out", "x", "--num", "0"], "--num"),
        (["--to", "image", "--prompt", "a", "--out", "x", "--seed", 10**20], "--seed must be below 2^63"),
        (["--to", "image", "--prompt", "a", "--mask", "m.png", "--out", "x"], "--prompt and --mask needs --image too"),
        (["--to", "image", "--records", "nowhere.jsonl", "--out", "x"], "nowhere.jsonl"),
        pytest.param(
            ["--to", "image", "--prompt", "a", "--out", "x.png", "--dtype", "fp16", "--compile"],
            "use only one of them",
            marks=pytest.mark.skipif(torch.cuda.is_available() or not has_fbgemm(), reason="is about half storage"),
        ),
    ],
)
def test_refused_before_anything_is_written(generate, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert generate(*arguments) == [] and generate.code == 2
    assert words in generate.err and len(generate.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_documents_are_json_beside_their_pictures(generate, tmp_path, monkeypatch):
    from mot_gen.pipelines.interleaved import InterleavedPipeline

    document = ["a nine ", Image.new("RGB", (6, 4), "red"), " and on"]
    output = type("Output", (), {"documents": [document]})
    monkeypatch.setattr(InterleavedPipeline, "__call__", lambda self, prompt, **options: output)
    (made,) = generate("--to", "any", "--prompt", "a", "--out", tmp_path / "out")
    found = json.loads(Path(made["file"]).read_text())
    assert found["segments"] == [{"text": "a nine "}, {"image": "0000-01.png"}, {"text": " and on"}]
    assert about_file(tmp_path / "out" / "0000-01.png")["prompt"] == found["prompt"] == "a"
    assert generate("--to", "any", "--prompt", "a") == [] and "--out" in generate.err


def test_sound_holds_what_made_it(tmp_path):
    import numpy as np
    import soundfile

    wave = np.sin(np.arange(800) / 9).astype("float32") / 2
    save((wave, 16000), "speech", tmp_path / "x.wav", {"prompt": "sieben, ja", "seed": 3})
    assert about_file(tmp_path / "x.wav") == {"prompt": "sieben, ja", "seed": "3"}
    read, rate = soundfile.read(tmp_path / "x.wav")
    assert rate == 16000 and abs(read - wave).max() < 1e-4 and [p.name for p in tmp_path.iterdir()] == ["x.wav"]


def test_directions_are_unlike_and_their_pipelines_take_what_they_offer():
    import inspect

    for number, direction in enumerate(DIRECTIONS):
        assert choose(direction.to, direction.needs or ("prompt",)) is direction
        parameters = inspect.signature(direction.pipeline_class().__call__).parameters
        gathered = direction.gather([dict.fromkeys((*direction.needs, *direction.takes), "x")])
        assert set(gathered) | set(direction.options) | {"generator"} <= set(parameters), direction.name
        assert set(direction.options) <= set(OPTIONS) and direction.name not in {d.name for d in DIRECTIONS[:number]}
    with pytest.raises(InputError, match="--to text needs"):
        choose("text", ("mask",))


def test_a_shipped_checkpoint_is_found_by_its_name(model, tmp_path, monkeypatch, capsys):
    from mot_gen.pipelines.text_to_image import TextToImagePipeline

    (tmp_path / "tinymoji").symlink_to(model)
    monkeypatch.setattr(checkpoints, "HERE", tmp_path)
    assert checkpoints.names() == ["tinymoji"] and checkpoints.find("tinymoji") == tmp_path / "tinymoji"
    assert TextToImagePipeline.from_pretrained("tinymoji").model.modality_names == ["text", "image"]
    with pytest.raises(InputError, match="did you mean 'tinymoji'"):
        checkpoints.find("tinymoj")
    assert main(["info", "tinymoji", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model_sha256"] == checkpoints.fingerprint(model)
    assert "prompt -> image" in facts["directions"] and "speech" not in facts["directions"]


def test_several_samples_of_several_prompts_share_no_seed(generate, tmp_path):
    made = generate("--to", "image", "--prompt", "a", "--prompt", "b", "--num", 2, "--seed", 5, "--out", tmp_path / "o")
    assert [each["seed"] for each in made] == [5, 6, 7, 8]
    made = generate("--to", "image", "--prompt", "a", "--prompt", "b", "--seed", 5, "--out", tmp_path / "p")
    assert [each["seed"] for each in made] == [5, 5]


def test_a_file_whose_name_is_no_text_is_named_and_the_others_are_made(generate, pictures, tmp_path):
    (pictures / "d\udcff.png").write_bytes((pictures / "a.png").read_bytes())
    made = generate("--to", "text", "--image", pictures, "--max-new-tokens", 2, "--out", tmp_path / "o")
    assert [each["id"] for each in made] == ["a", "b", "c"] and generate.code == 2
    assert "holds characters that are no text; rename the file" in generate.err and "1 of 4" in generate.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[" * 100_000, "nested too deep"),
        (json.dumps({"prompt": "a \ud800"}), "prompt a \\ud800: holds characters that are no text"),
        (json.dumps({"prompt": "a", "id": "b\0"}), "cannot be the name of a file"),
        (json.dumps({"prompt": "a", "id": "b" * 300}), "cannot be the name of a file"),
        (json.dumps({"image": "https://a.org/b.png"}), "https://a.org/b.png: is a URL, and nothing is fetched"),
        (json.dumps({"prompt": "a", "seed": 10**20}), "seed must be a whole number below 2^63"),
        (json.dumps({"image": "../b.png"}), "../b.png: lies outside of the folder of the file"),
        (json.dumps({"image": "/b.png"}), "/b.png: lies outside of the folder of the file; move it there, or allow it"),
    ],
)
def test_records_that_nothing_can_be_made_of(generate, tmp_path, line, says):
    (tmp_path / "r.jsonl").write_text(f'"fine"\n{line}\n')
    made = generate("--to", "text", "--records", tmp_path / "r.jsonl", "--max-new-tokens", 2)
    assert [each["prompt"] for each in made] == ["fine"] and generate.code == 2
    assert says in generate.err and "r.jsonl, line 2" in generate.err


def test_one_input_never_ends_the_others(generate, tmp_path, monkeypatch):
    """Whatever an input makes a pipeline raise, the others are made; a lone one raises it."""
    from mot_gen.pipelines.text_generation import TextGenerationPipeline

    real = TextGenerationPipeline._text

    def broken(self, texts, *more, **given):
        if "b" in texts:
            raise OSError("a decoder gave up")
        return real(self, texts, *more, **given)

    monkeypatch.setattr(TextGenerationPipeline, "_text", broken)
    made = generate("--to", "text", *[x for p in "abc" for x in ("--prompt", p)], "--max-new-tokens", 2)
    assert [each["prompt"] for each in made] == ["a", "c"] and generate.code == 2
    assert "skipped b: OSError: a decoder gave up" in generate.err
    with pytest.raises(OSError, match="gave up"):
        generate("--to", "text", "--prompt", "b")


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe", b'{"sampling": 3}'])
def test_a_damaged_index_is_one_line(generate, model, tmp_path, content, capsys):
    (tmp_path / "model_index.json").write_bytes(content)
    assert main(["generate", str(tmp_path), "--to", "text", "--prompt", "a"]) == 2
    assert "model_index.json" in capsys.readouterr().err


def test_the_advice_on_an_empty_prompt(generate, tmp_path):
    out = tmp_path / "u.png"
    generate("--to", "image", "--prompt", "", "--out", out)
    assert "guidance_scale=0" in generate.err and not out.exists()
    assert generate("--to", "image", "--prompt", "", "--guidance-scale", 0, "--out", out) and out.exists()
