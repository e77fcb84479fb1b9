"""A checkpoint as a source: samples are kept with prompts and seeds, resume, and say what made them."""

import json

import pytest
import torch
from PIL import Image

from mot_gen.commands.main import main
from mot_gen.data.records import Pair
from mot_gen.errors import InputError
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.recipes.recipe import load_recipe
from mot_gen.reports import kept_samples
from mot_gen.reports.hooks import export, pipeline_of
from mot_gen.reports.kept_samples import SampleRequest, draw_images, write_captions
from mot_gen.reports.prompts import prompts_of
from mot_gen.training.loop import prepare


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained model of digits, exported; beside it some digits with captions."""
    folder = tmp_path_factory.mktemp("run")
    tiny = ["backbone.dim=16", "backbone.layers=1", "backbone.heads=2", "tokenizers.text.vocab_size=270"]
    sampling = ["sampling.num_inference_steps=2", "sampling.max_new_tokens=8", "training.device=cpu"]
    run = prepare(load_recipe("digits", [*tiny, *sampling]), folder)
    torch.nn.init.normal_(run.model.patch_layers["image"].proj_out.weight, std=0.5)
    export(run)
    (folder / "real").mkdir()
    for number, pair in enumerate(run.splits.held_out[:7]):
        pair.image.save(folder / "real" / f"{number}.png")
        (folder / "real" / f"{number}.txt").write_text("\n".join(pair.captions))
    run.pairs = [Pair(str(n), pair.image, pair.captions) for n, pair in enumerate(run.splits.held_out[:7])]
    return run


def pixels(folder):
    return {path.name: Image.open(path).tobytes() for path in sorted(folder.glob("*.png"))}


def test_pictures_are_kept_and_an_interruption_changes_none(run, tmp_path, monkeypatch):
    prompts = ["a handwritten seven", "the digit one"]
    whole = draw_images(SampleRequest(str(run.folder), batch_size=5, folder=str(tmp_path / "whole")), prompts, 5)
    rows = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [*prompts, *prompts, prompts[0]] and len(
        {row["seed"] for row in rows}
    ) == 5
    assert Image.open(whole / "000003.png").info["prompt"] == prompts[1]
    generators = [torch.Generator().manual_seed(rows[2]["seed"])]
    (alone,) = pipeline_of(run, TextToImagePipeline)(prompts[0], generator=generators).images
    assert Image.open(whole / "000002.png").tobytes() == alone.tobytes()

    original, saved = kept_samples.save_png, []

    def cut_off(image, path, about):
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(path)
        original(image, path, about)

    order = SampleRequest(str(run.folder), batch_size=2, folder=str(tmp_path / "halves"))
    monkeypatch.setattr(kept_samples, "save_png", cut_off)
    with pytest.raises(KeyboardInterrupt):
        draw_images(order, prompts, 5)
    monkeypatch.setattr(kept_samples, "save_png", lambda *args: saved.append(args) or original(*args))
    halves = draw_images(order, prompts, 5)
    assert len(saved) == 5 and pixels(halves) == pixels(whole)
    with pytest.raises(InputError, match="holds samples of seed 0, not 1; give another --samples folder"):
        draw_images(SampleRequest(str(run.folder), seed=1, folder=str(halves)), prompts, 5)


def test_captions_go_on_after_a_line_that_was_cut_off(run, tmp_path):
    path = write_captions(SampleRequest(str(run.folder), folder=str(tmp_path / "c")), run.pairs)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert [json.loads(line)["references"] for line in lines] == [list(pair.captions) for pair in run.pairs]
    expected = pipeline_of(run, ImageToTextPipeline)([pair.image for pair in run.pairs]).texts
    assert [json.loads(line)["prediction"] for line in lines] == expected
    path.write_text("".join(lines[:4]) + lines[4][:10], encoding="utf-8")
    again = write_captions(SampleRequest(str(run.folder), batch_size=2, folder=str(tmp_path / "c")), run.pairs)
    for line, other in zip(lines, again.read_text(encoding="utf-8").splitlines(), strict=True):
        one, two = json.loads(line), json.loads(other)
        assert one.pop("nats") == pytest.approx(two.pop("nats"), rel=1e-5) and one == two


def test_the_commands_measure_a_checkpoint(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real, images, text = run.folder / "real", tmp_path / "images.json", tmp_path / "text.json"
    words = ["images", real, run.folder, "--metrics", "fd,kd", "--extractor", "pixels", "--num", 9, "--seed", 3]
    assert main(["eval", *map(str, words), "--json", str(images)]) == 0
    found = json.loads(images.read_text())["metrics"]["fd"]
    assert found["n"] == {"real": 7, "fake": 9}
    assert "|fake.seed:3|" in found["signature"] and found["provenance"]["fake.num_inference_steps"] == 2
    words = ["text", real, "--checkpoint", run.folder / "model", "--metrics", "chrf,exact_match,bits_per_byte"]
    assert main(["eval", *map(str, words), "--json", str(text)]) == 0
    metrics = json.loads(text.read_text())["metrics"]
    assert metrics["bits_per_byte"]["value"] > 0 and metrics["chrf"]["n"] == {"sentences": 7}
    models = {each["provenance"][f"{side}.model"] for each, side in ((found, "fake"), (metrics["chrf"], "samples"))}
    assert len(models) == 1 and "samples are kept in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.txt", "\n \n", "holds no prompts"),
        ("p.csv", "text\na cat\n", "prompts are read from a .txt, one a line, or a .jsonl"),
        ("p.jsonl", '{"prompt": "a"}\n{"x": 1}\n', "p.jsonl:2: has no text in any of prompt"),
        (None, "", "--prompts: give a file of them, since "),
    ],
)
def test_bad_prompts_are_refused(tmp_path, name, content, says):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says):
        prompts_of(name and str(tmp_path / name), str(tmp_path / "nowhere"))
